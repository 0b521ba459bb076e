"""A conversation with a server of calls.py, or one that has its methods: `calls_exchange.py sync|aio ADDRESS`.

Every kind of call, messages of many sizes, statuses, metadata. What is not as it should be is said on standard
error, with exit code 1.
"""

import asyncio
import json
import sys

import grpc

SIZES = [0, 1, 16_384, 70_000, 3 << 20]
CODES = [1, 2, 5, 14, 16]
OPTIONS = [("grpc.enable_retries", 0)]


def expect(what, seen, wanted):
    if seen != wanted:
        sys.exit(f"{what}: expected {str(wanted)[:200]}, saw {str(seen)[:200]}")


def expect_failure(error, code):
    expect("status", (error.code().value[0], error.details()), (code, "as it was asked to"))


def of_metadata(answer):
    return json.loads(answer).get("x-own")


def sync(address):
    channel = grpc.insecure_channel(address, OPTIONS)
    echo, fail = channel.unary_unary("/test.Calls/Echo"), channel.unary_unary("/test.Calls/Fail")
    for size in SIZES:
        expect(f"echo of {size}", echo(b"x" * size) == b"x" * size, True)
    for code in CODES:
        try:
            fail(str(code).encode())
            expect("status", 0, code)
        except grpc.RpcError as error:
            expect_failure(error, code)
    metadata = channel.unary_unary("/test.Calls/Metadata")(b"", metadata=[("x-own", "of the client")])
    expect("metadata", of_metadata(metadata), "of the client")
    many = [int(message) for message in channel.unary_stream("/test.Calls/Many")(b"1000")]
    expect("many", many, list(range(1000)))
    expect("sum", channel.stream_unary("/test.Calls/Sum")(b"x" * 1000 for _ in range(100)), b"100000")
    messages = [str(i).encode() for i in range(100)]
    expect("chat", list(channel.stream_stream("/test.Calls/Chat")(iter(messages))), messages)


async def aio(address):
    async with grpc.aio.insecure_channel(address, OPTIONS) as channel:
        echo, fail = channel.unary_unary("/test.Calls/Echo"), channel.unary_unary("/test.Calls/Fail")
        # All at once.
        answers = await asyncio.gather(*(echo(b"x" * size) for size in SIZES))
        expect("echo", [len(answer) for answer in answers], SIZES)
        for code in CODES:
            try:
                await fail(str(code).encode())
                expect("status", 0, code)
            except grpc.aio.AioRpcError as error:
                expect_failure(error, code)
        metadata = await channel.unary_unary("/test.Calls/Metadata")(b"", metadata=[("x-own", "of the client")])
        expect("metadata", of_metadata(metadata), "of the client")
        many = [int(message) async for message in channel.unary_stream("/test.Calls/Many")(b"1000")]
        expect("many", many, list(range(1000)))
        expect("sum", await channel.stream_unary("/test.Calls/Sum")(b"x" * 1000 for _ in range(100)), b"100000")
        chat = channel.stream_stream("/test.Calls/Chat")()
        for i in range(100):
            await chat.write(str(i).encode())
            expect("chat", await chat.read(), str(i).encode())
        await chat.done_writing()
        expect("end of the chat", await chat.read(), grpc.aio.EOF)


if sys.argv[1] == "sync":
    sync(sys.argv[2])
else:
    asyncio.run(aio(sys.argv[2]))
