"""WebSocket servers and clients of the `websockets` package.

`sockets.py serve PORT...` serves echo on each port; a plain GET of /counts there answers what that
server counted: sessions open and ever opened, and the close codes that it received.

`sockets.py clients URL N` opens N sessions, says something on each every few seconds and expects it
back, and reconnects when told to (1001, 1012) or refused (503) as a browser's application would. It prints
a line of JSON when all are open, and another, with what happened, when its standard input ends.
"""

import asyncio
import collections
import json
import random
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed, InvalidStatus


class Pod:
    def __init__(self):
        self.open = self.opened = 0
        self.codes = collections.Counter()

    async def session(self, socket):
        self.open += 1
        self.opened += 1
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
            counts = {"open": self.open, "opened": self.opened, "codes": self.codes}
            return connection.respond(200, json.dumps(counts))


async def serve(ports):
    for port in ports:
        pod = Pod()
        await listen(
            pod.session, "127.0.0.1", int(port), process_request=pod.counts, ping_interval=None, backlog=4096
        )
    await asyncio.Future()


class Clients:
    def __init__(self, url):
        self.url = url
        self.now_open = 0
        self.codes = collections.Counter()
        self.refused = self.mismatched = self.unanswered = self.failed = 0
        self.moves = []
        self.over = False

    async def client(self, number):
        moves = 0
        self.moves.append(0)
        while not self.over:
            try:
                async with connect(self.url, ping_interval=None, open_timeout=30) as socket:
                    self.now_open += 1
                    try:
                        await self.converse(socket, f"client {number} ")
                    finally:
                        self.now_open -= 1
            except ConnectionClosed:
                pass
            except InvalidStatus as refusal:
                self.refused += refusal.response.status_code == 503
                self.failed += refusal.response.status_code != 503
                await asyncio.sleep(float(refusal.response.headers.get("Retry-After", 1)) * random.random())
                continue
            except (OSError, TimeoutError, EOFError):
                self.failed += 1
                await asyncio.sleep(0.2)
                continue
            if self.over:
                return
            code = socket.close_code
            self.codes[str(code)] += 1
            moves += 1
            self.moves[number] = moves
            # RFC 6455, section 7.2.3: not all at once.
            await asyncio.sleep(random.uniform(0, 0.5))

    async def converse(self, socket, name):
        said = 0
        while not self.over:
            text = f"{name}{said}"
            said += 1
            waits = True
            try:
                await socket.send(text)
                answer = await socket.recv()
                waits = False
                self.mismatched += answer != text
                # Hears the Close between two messages.
                try:
                    async with asyncio.timeout(random.uniform(1, 3)):
                        await socket.recv()
                        self.mismatched += 1
                except TimeoutError:
                    pass
            except ConnectionClosed:
                # A question that crossed the Close is asked again of the next one.
                self.unanswered += waits
                raise


async def clients(url, n):
    all_clients = Clients(url)
    tasks = []
    for number in range(n):
        tasks.append(asyncio.create_task(all_clients.client(number)))
        if number % 50 == 49:
            await asyncio.sleep(0.02)
    while all_clients.now_open < n:
        await asyncio.sleep(0.05)
    print(json.dumps({"open": all_clients.now_open}), flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)
    print(
        json.dumps(
            {
                "open": all_clients.now_open,
                "codes": all_clients.codes,
                "refused": all_clients.refused,
                "failed": all_clients.failed,
                "mismatched": all_clients.mismatched,
                "unanswered": all_clients.unanswered,
                "moves": sum(all_clients.moves),
                "most_moves": max(all_clients.moves),
            }
        ),
        flush=True,
    )
    all_clients.over = True
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(sys.argv[2:]))
    else:
        asyncio.run(clients(sys.argv[2], int(sys.argv[3])))
