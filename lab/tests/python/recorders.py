"""Servers by other people that tell what requests they saw.

`recorders.py aiohttp|waitress|uvicorn PORT SINK` serves on PORT, answers every request with its own
target, and before it does so writes one line of JSON to the local port SINK: method, target, host, body.
"""

import json
import logging
import socket
import sys


class Sink:
    def __init__(self, port):
        self.stream = socket.create_connection(("127.0.0.1", port))

    def note(self, method, target, hosts, body):
        seen = {"method": method, "target": target, "host": "|".join(hosts), "body": body.decode("latin-1")}
        self.stream.sendall(json.dumps(seen).encode() + b"\n")


def with_aiohttp(port, sink):
    from aiohttp import http_parser, web

    # The parser in C (llhttp), not the one in Python that stands in for it.
    assert http_parser.HttpRequestParser is http_parser.HttpRequestParserC

    async def answer(request):
        body = await request.read()
        sink.note(request.method, request.raw_path, request.headers.getall("Host", []), body)
        return web.Response(body=request.raw_path.encode())

    async def serve():
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        await asyncio.Future()

    import asyncio

    asyncio.run(serve())


def with_waitress(port, sink):
    import waitress

    def answer(environ, start_response):
        body = environ["wsgi.input"].read()
        target = environ["REQUEST_URI"]
        hosts = [environ["HTTP_HOST"]] if "HTTP_HOST" in environ else []
        sink.note(environ["REQUEST_METHOD"], target, hosts, body)
        content = target.encode("latin-1")
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]

    # One thread, so that requests are told in the order in which they were seen.
    waitress.serve(answer, host="127.0.0.1", port=port, threads=1, backlog=1024, max_request_body_size=1 << 62)


def with_uvicorn(port, sink):
    import uvicorn

    async def answer(scope, receive, send):
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                # The request never became whole.
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        sink.note(scope["method"], target.decode("latin-1"), hosts, body)
        length = str(len(target)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else target})

    uvicorn.run(answer, host="127.0.0.1", port=port, http="h11", ws="none", lifespan="off", log_level="error")


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    serve = {"aiohttp": with_aiohttp, "waitress": with_waitress, "uvicorn": with_uvicorn}[sys.argv[1]]
    serve(int(sys.argv[2]), Sink(int(sys.argv[3])))
