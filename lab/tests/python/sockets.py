"""WebSocket servers and clients of the `websockets` package.

`sockets.py serve PORT...` serves echo on each port; a plain GET of /counts there answers what that
server counted: sessions open and ever opened, and the close codes that it received; of /arrivals: when each
session was opened, in seconds since 1970.

`sockets.py clients URL N` opens N sessions, says something on each every few seconds (`--say`) and expects it
back, and reconnects when told to (1001, 1012) or refused (503) as a browser's application would, unless it is
to come only once (`--once`). It prints a line of JSON when all are open, another for each line on its standard
input, and a last one when that ends: what happened so far.
"""

import argparse
import asyncio
import collections
import json
import random
import resource
import sys
import time

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus


class Pod:
    def __init__(self):
        self.open = 0
        self.arrivals = []
        self.codes = collections.Counter()

    async def session(self, socket):
        self.open += 1
        self.arrivals.append(time.time())
        try:
            async for message in socket:
                await socket.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.open -= 1
            self.codes[str(socket.close_code)] += 1

    def counts(self, connection, request):
        if request.path == "/counts":
            counts = {"open": self.open, "opened": len(self.arrivals), "codes": self.codes}
            return connection.respond(200, json.dumps(counts))
        if request.path == "/arrivals":
            return connection.respond(200, json.dumps(self.arrivals))


async def serve(ports):
    for port in ports:
        pod = Pod()
        await listen(
            pod.session,
            "127.0.0.1",
            int(port),
            process_request=pod.counts,
            open_timeout=60,
            ping_interval=None,
            backlog=4096,
        )
    await asyncio.Future()


class Clients:
    def __init__(self, options):
        self.options = options
        self.now_open = 0
        self.codes = collections.Counter()
        # When sessions were closed by the other side, in seconds since 1970.
        self.closed_at = []
        self.refused = self.unreachable = self.mismatched = 0
        # Of what failed: handshakes that broke off.
        self.failed = self.interrupted = 0
        self.first_failure = None
        self.moves = []
        self.over = False

    def fail(self, why):
        self.failed += 1
        self.first_failure = self.first_failure or why

    async def client(self, number):
        self.moves.append(0)
        while not self.over:
            try:
                async with connect(self.options.url, ping_interval=None, open_timeout=60) as socket:
                    self.now_open += 1
                    try:
                        await self.converse(socket, f"client {number} ")
                    finally:
                        self.now_open -= 1
            except ConnectionClosed:
                pass
            except InvalidStatus as refusal:
                # Nobody comes earlier than told.
                wait = refusal.response.headers.get("Retry-After")
                if refusal.response.status_code == 503 and wait is not None:
                    self.refused += 1
                else:
                    self.fail(f"status {refusal.response.status_code}, Retry-After {wait}")
                await asyncio.sleep(float(wait or 1) + random.random())
                continue
            except InvalidHandshake as error:
                self.interrupted += 1
                self.fail(repr(error))
                await asyncio.sleep(0.2)
                continue
            except (OSError, TimeoutError) as error:
                if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
                    # Nobody listens, or just stopped to.
                    self.unreachable += 1
                else:
                    self.fail(repr(error))
                await asyncio.sleep(0.2)
                continue
            if self.over:
                return
            self.closed_at.append(time.time())
            self.codes[str(socket.close_code)] += 1
            self.moves[number] += 1
            if self.options.once:
                return
            # RFC 6455, section 7.2.3: not all at once.
            await asyncio.sleep(random.uniform(0, self.options.away))

    async def converse(self, socket, name):
        said = 0
        while not self.over:
            text = f"{name}{said}"
            said += 1
            await socket.send(text)
            self.mismatched += await socket.recv() != text
            # Hears the Close between two messages.
            try:
                async with asyncio.timeout(random.uniform(0.5, 1.5) * self.options.say):
                    await socket.recv()
                    self.mismatched += 1
            except TimeoutError:
                pass

    def report(self):
        moved = {
            "moves": sum(self.moves),
            "most_moves": max(self.moves),
            "codes": self.codes,
            "closed_at": self.closed_at,
        }
        seen = ["now_open", "refused", "unreachable", "failed", "interrupted", "first_failure", "mismatched"]
        print(json.dumps(moved | {name: getattr(self, name) for name in seen}), flush=True)


async def clients(options):
    everybody = Clients(options)
    tasks = []
    for number in range(options.n):
        tasks.append(asyncio.create_task(everybody.client(number)))
        if number % 50 == 49:
            await asyncio.sleep(0.02)
    while everybody.now_open < options.n:
        await asyncio.sleep(0.05)
    everybody.report()
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        everybody.report()
    everybody.report()
    everybody.over = True
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve")
    server.add_argument("ports", nargs="+")
    client = commands.add_parser("clients")
    client.add_argument("url")
    client.add_argument("n", type=int)
    client.add_argument("--say", type=float, default=2.0, metavar="SECONDS", help="between two messages")
    client.add_argument("--away", type=float, default=0.5, metavar="SECONDS", help="at most, before it comes back")
    client.add_argument("--once", action="store_true", help="does not come back")
    arguments = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve(arguments.ports) if arguments.command == "serve" else clients(arguments))
