"""Both ends of gRPC, by grpcio: `serve PORT` and `ask ADDRESS KIND PATH [MESSAGE ...]`.

Messages are bytes as they come: no generated code. What the client saw is one JSON object. `health ADDRESS SERVICE`
asks as `grpcio-health-checking` does.
"""

import argparse
import itertools
import json
import sys
import threading
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

CODES = {code.value[0]: code for code in grpc.StatusCode}


class Calls(grpc.GenericRpcHandler):
    """The methods of `test.Calls`."""

    def __init__(self, name, checks):
        self.name = name.encode()
        self.checks = checks
        self.cancelled = 0

    def service(self, details):
        _, service, method = details.method.split("/")
        if service != "test.Calls":
            return None
        unary, server = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return {
            "Echo": unary(lambda message, _: message),
            "Name": unary(lambda *_: self.name),
            "Left": unary(lambda _, context: str(context.time_remaining()).encode()),
            "Metadata": unary(lambda _, context: json.dumps(dict(context.invocation_metadata())).encode()),
            "Serve": unary(self.serve),
            "Fail": unary(self.fail),
            "Wait": unary(self.wait),
            "Cancelled": unary(lambda *_: str(self.cancelled).encode()),
            "Many": server(self.many),
            "Begin": server(self.begin),
            "Sum": grpc.stream_unary_rpc_method_handler(lambda all, _: str(sum(map(len, all))).encode()),
            "Chat": grpc.stream_stream_rpc_method_handler(lambda all, _: all),
        }.get(method)

    def serve(self, message, _):
        """Says of itself that it serves, or does not."""
        self.checks.set("test.Calls", int(message))
        return message

    def fail(self, message, context):
        context.abort(CODES[int(message)], "as it was asked to")

    def wait(self, _, context):
        """Until the client has enough of it."""
        over = threading.Event()
        context.add_callback(over.set)
        over.wait()
        self.cancelled += 1
        return b"nobody hears this"

    def many(self, message, _):
        for number in range(int(message)):
            yield str(number).encode()

    def begin(self, message, context):
        """Says so much, then nothing any more."""
        yield from self.many(message, context)
        self.wait(message, context)


def serve(arguments):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
    checks = health.HealthServicer()
    server.add_generic_rpc_handlers((Calls(str(arguments.port), checks),))
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    checks.set("test.Calls", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(("test.Calls", health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    if arguments.key:
        with open(arguments.key, "rb") as key, open(arguments.cert, "rb") as cert:
            credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
        bound = server.add_secure_port(f"127.0.0.1:{arguments.port}", credentials)
    else:
        bound = server.add_insecure_port(f"127.0.0.1:{arguments.port}")
    assert bound == arguments.port
    server.start()
    server.wait_for_termination()


def ask(arguments):
    channel = grpc.insecure_channel(arguments.address, [("grpc.enable_retries", 0)])
    messages = [message.encode() for message in arguments.message]
    streams = arguments.kind in ("client", "bidi")
    call = getattr(
        channel,
        {"unary": "unary_unary", "server": "unary_stream", "client": "stream_unary", "bidi": "stream_stream"}[
            arguments.kind
        ],
    )(arguments.path)
    metadata = [tuple(pair.split("=", 1)) for pair in arguments.metadata]
    request = iter(messages) if streams else (messages or [b""])[0]
    heard = []
    if arguments.kind in ("server", "bidi"):
        outcome = call(request, timeout=arguments.timeout, metadata=metadata)
        try:
            for message in outcome:
                heard.append(message.decode())
                print(f"heard {message.decode()}", file=sys.stderr, flush=True)
        except grpc.RpcError:
            pass
    else:
        outcome = call.future(request, timeout=arguments.timeout, metadata=metadata)
        if outcome.exception() is None:
            heard.append(outcome.result().decode())
    print(
        json.dumps(
            {
                "code": outcome.code().value[0],
                "details": outcome.details(),
                "messages": heard,
                "trailers": {key: str(value) for key, value in outcome.trailing_metadata() or ()},
            }
        )
    )


def ask_health(arguments):
    """Prints what the service is, once or that many times, a line each."""
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(arguments.address))
    request = health_pb2.HealthCheckRequest(service=arguments.service)
    name = health_pb2.HealthCheckResponse.ServingStatus.Name
    try:
        if arguments.watch:
            for said in itertools.islice(stub.Watch(request), arguments.watch):
                print(name(said.status), flush=True)
        else:
            print(name(stub.Check(request).status))
    except grpc.RpcError as error:
        print(error.code().name)


def reflect(arguments):
    """The services that a server says it has, and the methods of one, from its descriptor."""
    channel = grpc.insecure_channel(arguments.address)
    database = ProtoReflectionDescriptorDatabase(channel)
    print(*sorted(database.get_services()))
    described = DescriptorPool(database).FindServiceByName(health.SERVICE_NAME)
    print(*sorted(method.name for method in described.methods))


def main():
    parser = argparse.ArgumentParser()
    parts = parser.add_subparsers(required=True)
    server = parts.add_parser("serve")
    server.add_argument("port", type=int)
    server.add_argument("--key")
    server.add_argument("--cert")
    server.set_defaults(run=serve)
    healthy = parts.add_parser("health")
    healthy.add_argument("address")
    healthy.add_argument("service")
    healthy.add_argument("--watch", type=int, default=0)
    healthy.set_defaults(run=ask_health)
    reflection_client = parts.add_parser("reflect")
    reflection_client.add_argument("address")
    reflection_client.set_defaults(run=reflect)
    client = parts.add_parser("ask")
    client.add_argument("address")
    client.add_argument("kind", choices=["unary", "server", "client", "bidi"])
    client.add_argument("path")
    client.add_argument("message", nargs="*")
    client.add_argument("--timeout", type=float)
    client.add_argument("--metadata", action="append", default=[])
    client.set_defaults(run=ask)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
