"""One end of a WebSocket that has been through everything, of the `websockets` package.

`exchange.py serve PORT` echoes. Of a text "close CODE WORDS" it makes a Close; of "ping WORDS" a Ping, and
says "pong WORDS" when that is answered; of "last" it says how the session before was closed.
`exchange.py ask URL` talks to such a server, whoever made it, and exits with 0 if all was right.
`exchange.py stay URL` talks until it is closed, and prints "open", then the code and the reason.
"""

import asyncio
import random
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed

MIB = 1 << 20


async def serve(port):
    last = "nothing"

    async def session(socket):
        nonlocal last
        try:
            async for message in socket:
                word, _, words = message.partition(" ") if isinstance(message, str) else ("", "", "")
                if word == "close":
                    code, _, reason = words.partition(" ")
                    await socket.close(int(code), reason)
                elif word == "ping":
                    await (await socket.ping(words.encode()))
                    await socket.send(f"pong {words}")
                elif word == "last":
                    await socket.send(last)
                else:
                    await socket.send(message)
        except ConnectionClosed:
            pass
        if not socket.request.path.endswith("quiet"):
            last = f"{socket.close_code} {socket.close_reason}"

    await listen(session, "127.0.0.1", port, ping_interval=None, max_size=None)
    await asyncio.Future()


def expect(what, seen, wanted):
    if seen != wanted:
        sys.exit(f"{what}: expected {wanted!r:.200}, saw {seen!r:.200}")


def open_to(url):
    return connect(url, ping_interval=None, max_size=None, open_timeout=30, close_timeout=30)


async def ask(url):
    generator = random.Random(7)
    async with open_to(url) as socket:
        extensions = socket.response.headers.get("Sec-WebSocket-Extensions", "")
        expect("compression", extensions.split(";")[0].strip(), "permessage-deflate")
        for size in (0, 1, 125, 126, 127, 65_535, 65_536, MIB + 1, 3 * MIB):
            for message in ("ä" * (size // 2), b"\0" * size, generator.randbytes(size)):
                await socket.send(message)
                expect(f"{size} bytes", await socket.recv(), message)
        # In fragments, with a Ping between two of them.
        async def fragments():
            for i in range(100):
                yield f"fragment {i} "
                if i == 50:
                    await socket.ping(b"between")

        await socket.send(fragments())
        expect("fragments", await socket.recv(), "".join(f"fragment {i} " for i in range(100)))
        # Many at once, in order.
        async def say():
            for i in range(3_000):
                await socket.send(f"small {i}")

        saying = asyncio.create_task(say())
        for i in range(3_000):
            expect("many", await socket.recv(), f"small {i}")
        await saying
        # Pings of both sides.
        await asyncio.wait_for(await socket.ping(b"p" * 125), 30)
        await socket.send("ping of the server")
        expect("ping", await socket.recv(), "pong of the server")
    # Codes and reasons pass as they are, in both directions.
    for code, reason in ((1000, ""), (1001, "away"), (1011, "ä"), (3000, "x" * 123), (4999, "own")):
        async with open_to(url) as socket:
            await socket.send(f"close {code} {reason}")
            try:
                await socket.recv()
                sys.exit("not closed")
            except ConnectionClosed:
                expect("close of the server", (socket.close_code, socket.close_reason), (code, reason))
        async with open_to(url) as socket:
            await socket.close(code, reason)
        async with open_to(url + "quiet") as socket:
            await socket.send("last")
            expect("close of the client", await socket.recv(), f"{code} {reason}")


async def stay(url):
    async with open_to(url) as socket:
        said = 0
        try:
            while True:
                message = f"message {said} " * 100
                await socket.send(message)
                expect("echo", await socket.recv(), message)
                if said == 0:
                    print("open", flush=True)
                said += 1
                await asyncio.sleep(0.02)
        except ConnectionClosed:
            print(socket.close_code, socket.close_reason, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        # Longer than anything here takes.
        asyncio.run(asyncio.wait_for({"ask": ask, "stay": stay}[sys.argv[1]](sys.argv[2]), 120))
