"""gRPC servers and clients of the `grpcio` package, without code from a schema: messages are bytes.

`fleet.py serve PORT` serves `lab.Calls` until SIGTERM, on which it says GOAWAY, refuses what is new and gives calls
under way `--grace` seconds. Its methods:
  Name    unary; answers with the port. Counted.
  Hold    unary; answers with the port when Release is called. Counted.
  Echo    bidirectional; every message comes back. Counted.
  Counts  unary; calls so far and those under way, by method, as JSON. Not counted.
  Release unary; lets go what Hold holds. Not counted.

`fleet.py streams TARGET N CHANNELS` opens N streams of Echo, says something on each and hears it, prints a line, and
waits until all are over. Then it prints how many ended with which status.
"""

import argparse
import asyncio
import collections
import json
import signal

import grpc


class Calls:
    def __init__(self, port):
        self.name = str(port).encode()
        self.begun = collections.Counter()
        self.open = collections.Counter()
        self.released = asyncio.Event()

    def count(self, method):
        self.begun[method] += 1
        self.open[method] += 1

    async def name_of(self, request, context):
        self.count("Name")
        self.open["Name"] -= 1
        return self.name

    async def hold(self, request, context):
        self.count("Hold")
        try:
            await self.released.wait()
            return self.name
        finally:
            self.open["Hold"] -= 1

    async def echo(self, requests, context):
        self.count("Echo")
        try:
            async for message in requests:
                yield message
        finally:
            self.open["Echo"] -= 1

    async def counts(self, request, context):
        return json.dumps({"begun": self.begun, "open": self.open}).encode()

    async def release(self, request, context):
        self.released.set()
        return b""

    def handlers(self):
        unary = grpc.unary_unary_rpc_method_handler
        methods = {
            "Name": unary(self.name_of),
            "Hold": unary(self.hold),
            "Echo": grpc.stream_stream_rpc_method_handler(self.echo),
            "Counts": unary(self.counts),
            "Release": unary(self.release),
        }
        return grpc.method_handlers_generic_handler("lab.Calls", methods)


async def serve(port, grace):
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Calls(port).handlers(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    await server.start()
    await terminated.wait()
    await server.stop(grace)


async def streams(target, n, channels):
    codes = collections.Counter()
    # Or they would share one connection.
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options=own) for _ in range(channels)]
    calls = []
    for i in range(n):
        call = channels[i % len(channels)].stream_stream("/lab.Calls/Echo")()
        await call.write(b"hello")
        calls.append(call)
    for call in calls:
        assert await call.read() == b"hello"
    print("open", flush=True)
    for call in calls:
        codes[(await call.code()).name] += 1
    print(json.dumps(codes), flush=True)


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("port", type=int)
    serving.add_argument("--grace", type=float, default=5)
    streaming = commands.add_parser("streams")
    streaming.add_argument("target")
    streaming.add_argument("n", type=int)
    streaming.add_argument("channels", type=int)
    options = parser.parse_args()
    if options.command == "serve":
        asyncio.run(serve(options.port, options.grace))
    else:
        asyncio.run(streams(options.target, options.n, options.channels))


main()
