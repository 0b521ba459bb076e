"""OpenTelemetry by other people, on every side of a proxy.

`traces.py collect PORT [CERT KEY]` is a collector: it takes OTLP/HTTP in JSON, reads it strictly with the
protobuf messages of `opentelemetry-proto`, and shows what it has at `/spans`. `traces.py serve PORT` is a
backend whose SDK continues the trace of each request and answers where it stands in it. `traces.py ask URL` is
a client whose SDK begins a trace, asks the backend, and prints both sides.
"""

import base64
import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests
from google.protobuf import json_format
from opentelemetry import propagate
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

TRACER = TracerProvider().get_tracer("lab")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(pairs):
    found = {pair.key: value(pair.value) for pair in pairs}
    assert len(found) == len(pairs), "an attribute is there twice"
    return found


def plain(resource, scope, span):
    # The JSON of protobuf has bytes in base64, that of OTLP in hexadecimal, whose digits are also digits of
    # base64: what was read can be written back.
    digits = lambda field: base64.b64encode(field).decode()
    lengths = [len(digits(field)) for field in (span.trace_id, span.span_id, span.parent_span_id)]
    assert lengths in ([32, 16, 16], [32, 16, 0]), lengths
    return {
        "trace": digits(span.trace_id),
        "span": digits(span.span_id),
        "parent": digits(span.parent_span_id),
        "name": span.name,
        "kind": span.kind,
        "flags": span.flags,
        "began": span.start_time_unix_nano,
        "ended": span.end_time_unix_nano,
        "status": span.status.code,
        "attributes": attributes(span.attributes),
        "resource": attributes(resource.attributes),
        "scope": scope.name,
    }


class Collector(Handler):
    spans = []
    errors = []
    fields = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            assert self.path == "/v1/traces", self.path
            assert self.headers["Content-Type"] == "application/json", self.headers
            # Unknown fields, wrong types and numbers out of range are errors.
            export = json_format.Parse(body, ExportTraceServiceRequest())
            found = [
                plain(of.resource, scoped.scope, span)
                for of in export.resource_spans
                for scoped in of.scope_spans
                for span in scoped.spans
            ]
        except Exception as error:  # noqa: BLE001: shown to the test, whatever it is
            self.errors.append(f"{error!r} in {body!r}")
            return self.answer(400, "{}")
        self.fields.update(self.headers.items())
        self.spans.extend(found)
        self.answer(200, json_format.MessageToJson(ExportTraceServiceResponse()))

    def do_GET(self):
        self.answer(200, json.dumps({"spans": self.spans, "errors": self.errors, "fields": self.fields}))


class Backend(Handler):
    def do_GET(self):
        context = propagate.extract(self.headers)
        with TRACER.start_as_current_span("backend", context=context, kind=SpanKind.SERVER) as span:
            here = span.get_span_context()
            # A span that is not recorded does not know its parent.
            parent = getattr(span, "parent", None)
            seen = {
                "trace": format_trace_id(here.trace_id),
                "span": format_span_id(here.span_id),
                "parent": format_span_id(parent.span_id) if parent else None,
                "sampled": here.trace_flags.sampled,
                "state": here.trace_state.to_header(),
            }
        self.answer(200, json.dumps(seen))


def ask(url):
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context

    # Somebody before the client has left something in the state of the trace.
    before = SpanContext(
        trace_id=0x4BF92F3577B34DA6A3CE929D0E0E4736,
        span_id=0x00F067AA0BA902B7,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState([("vendor", "opaque"), ("other", "1")]),
    )
    context = set_span_in_context(NonRecordingSpan(before))
    with TRACER.start_as_current_span("client", context=context, kind=SpanKind.CLIENT) as span:
        fields = {}
        propagate.inject(fields)
        answer = requests.get(url, headers=fields, timeout=20)
        answer.raise_for_status()
        here = span.get_span_context()
        client = {"trace": format_trace_id(here.trace_id), "span": format_span_id(here.span_id)}
    print(json.dumps({"client": client, "backend": answer.json()}))


def serve(handler, port, files):
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    if files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["collect", port, *files]:
            serve(Collector, int(port), files)
        case ["serve", port]:
            serve(Backend, int(port), [])
        case ["ask", url]:
            ask(url)
        case _:
            sys.exit(__doc__)
