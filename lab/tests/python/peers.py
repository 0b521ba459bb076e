"""A server and clients by other people, through a proxy.

`peers.py serve PORT` runs an aiohttp server; `peers.py ask URL` runs aiohttp and requests against a
proxy in front of it, and exits with 0 if every answer was right; `peers.py request URL` does so without
WebSocket; `peers.py metrics URL` parses an OpenMetrics page and prints the names in it.
"""

import asyncio
import sys
import zlib

from aiohttp import ClientSession, ClientTimeout, TCPConnector, WSMsgType, web


async def echo(request):
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.path_qs,
            "headers": {k.lower(): v for k, v in request.headers.items()},
            "length": len(body),
            "crc": zlib.crc32(body),
        }
    )


async def stream(request):
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for i in range(int(request.query["n"])):
        await response.write(f"piece {i}\n".encode())
    await response.write_eof()
    return response


async def compressed(request):
    response = web.Response(text="again and again " * 1000)
    response.enable_compression()
    return response


async def nothing(request):
    return web.Response(status=204)


async def elsewhere(request):
    raise web.HTTPFound("/echo?moved")


async def chat(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(message.data[::-1])
        elif message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


def serve(port):
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/echo", echo)
    app.router.add_get("/stream", stream)
    app.router.add_get("/compressed", compressed)
    app.router.add_get("/nothing", nothing)
    app.router.add_get("/elsewhere", elsewhere)
    app.router.add_get("/chat", chat)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def expect(what, seen, wanted):
    if seen != wanted:
        sys.exit(f"{what}: expected {wanted!r}, saw {seen!r}")


async def with_aiohttp(url, sockets):
    body = bytes(range(256)) * 4096

    async def pieces():
        for i in range(0, len(body), 10_000):
            yield body[i : i + 10_000]

    async with ClientSession(timeout=ClientTimeout(total=30), connector=TCPConnector(limit=8)) as session:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            async with session.request(method, f"{url}/echo?q=%C3%A4", headers={"X-Own": "kept"}) as r:
                seen = await r.json()
                expect(method, (r.status, seen["method"], seen["path"]), (200, method, "/echo?q=%C3%A4"))
                expect("own header", seen["headers"].get("x-own"), "kept")
                expect("client address", seen["headers"].get("x-forwarded-for"), "127.0.0.1")
        async with session.post(f"{url}/echo", data=body) as r:
            seen = await r.json()
            expect("body", (seen["length"], seen["crc"]), (len(body), zlib.crc32(body)))
        async with session.post(f"{url}/echo", data=pieces()) as r:
            seen = await r.json()
            expect("chunked body", (seen["length"], seen["crc"]), (len(body), zlib.crc32(body)))
        async with session.post(f"{url}/echo", data=body, expect100=True) as r:
            seen = await r.json()
            expect("100-continue", (seen["length"], seen["crc"]), (len(body), zlib.crc32(body)))
        async with session.get(f"{url}/stream?n=500") as r:
            text = await r.text()
            expect("stream", text, "".join(f"piece {i}\n" for i in range(500)))
        async with session.get(f"{url}/compressed", headers={"Accept-Encoding": "gzip"}) as r:
            expect("compressed", (r.headers["Content-Encoding"], len(await r.text())), ("gzip", 16_000))
        async with session.head(f"{url}/compressed") as r:
            expect("HEAD", (r.status, await r.read()), (200, b""))
        async with session.get(f"{url}/nothing") as r:
            expect("204", (r.status, await r.read()), (204, b""))
        async with session.get(f"{url}/elsewhere") as r:
            expect("redirect", (r.status, (await r.json())["path"]), (200, "/echo?moved"))
        if sockets:
            await with_sockets(session, url)
        answers = await asyncio.gather(*(one(session, f"{url}/echo?{i}") for i in range(200)))
        expect("200 at once", answers, [f"/echo?{i}" for i in range(200)])


async def with_sockets(session, url):
    async with session.ws_connect(f"{url}/chat") as socket:
        for n in (1, 125, 126, 65_535, 65_536, 1_000_000):
            await socket.send_bytes(b"x" * n)
            message = await socket.receive()
            expect("WebSocket", len(message.data), n)
        await socket.send_str("abc")
        expect("WebSocket text", (await socket.receive()).data, "cba")


async def one(session, url):
    async with session.get(url) as r:
        return (await r.json())["path"]


def with_requests(url):
    import requests

    session = requests.Session()
    for i in range(50):
        seen = session.post(f"{url}/echo?{i}", data=b"y" * i, timeout=30).json()
        expect("requests", (seen["path"], seen["length"]), (f"/echo?{i}", i))
    seen = session.post(f"{url}/echo", data=(b"z" * 1000 for _ in range(100)), timeout=30).json()
    expect("generator", seen["length"], 100_000)
    text = session.get(f"{url}/stream?n=100", timeout=30).text
    expect("chunked", text.count("\n"), 100)
    expect("204", session.get(f"{url}/nothing", timeout=30).status_code, 204)
    response = session.head(f"{url}/echo", timeout=30)
    expect("HEAD", (response.status_code, response.content), (200, b""))


def metrics(url):
    import requests
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

    response = requests.get(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"}, timeout=30)
    expect("type", response.headers["Content-Type"].split(";")[0], "application/openmetrics-text")
    for family in parse(response.text):
        print(family.name, family.type, len(family.samples))


if __name__ == "__main__":
    command, argument = sys.argv[1:]
    if command == "serve":
        serve(int(argument))
    elif command in ("ask", "request"):
        asyncio.run(with_aiohttp(argument, sockets=command == "ask"))
        with_requests(argument)
    else:
        metrics(argument)
