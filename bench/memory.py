"""What a session costs that is open and says nothing: 9,000 of them, through one worker, after one exchange each."""

import socket
import ssl
import time

from machine import kernel_memory

PEERS = {
    "tcp": {"evenkeel": "tcp", "nginx stream": "tcp", "haproxy": "tcp", "envoy": "tcp"},
    "http1": {"evenkeel": "http", "nginx": "http", "haproxy": "http", "envoy": "http"},
    "websocket": {"evenkeel": "http", "nginx": "http", "haproxy": "http", "envoy": "http"},
    "http2": {"evenkeel": "http2", "nginx": "http2", "haproxy": "http2", "envoy": "http2"},
    "tls": {"evenkeel": "tls", "nginx": "tls", "haproxy": "tls", "envoy": "tls"},
}
TITLES = {"tcp": "TCP, with its link", "http1": "HTTP/1.1", "websocket": "WebSocket, with its link", "http2": "HTTP/2",
          "tls": "HTTP/1.1 over TLS 1.3"}
# Bytes; of `tls`: more than `http1`.
MUST = {"tcp": 1024, "http1": 1024, "websocket": 2048, "http2": 6 * 1024, "tls": 16 * 1024}
GOAL = {"tcp": 512, "http1": 512}
RESIDENT_MUST, RESIDENT_GOAL = 6 * 1024, 4 * 1024

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n"
UPGRADE = (b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
# Preface, SETTINGS, and a request whose authority comes into the server's table.
STREAM = (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
          b"\0\0\x0a\x01\x05\0\0\0\x01" + b"\x82\x86\x84\x41\x05bench")
SETTINGS_ACK = b"\0\0\0\x04\x01\0\0\0\0"
MESSAGE = b"\x82\x90abcd" + b"y" * 16


# What a quick run looks at.
QUICK = ("tcp", "http1", "http2")


def measure(world, count, certificate, progress, quick):
    """Idle memory and bytes per idle session, for each kind and peer."""
    kinds = {}
    # Time to come to rest.
    rest = 0.5 if quick else 2
    for kind, peers in PEERS.items():
        if quick and kind not in QUICK:
            continue
        backends = {"tcp": world.echo, "websocket": world.echo, "http2": world.files}.get(kind, world.endpoints)()
        figures = {}
        for peer, mode in peers.items():
            if quick and peer != "evenkeel":
                continue
            progress("memory", f"{count:,} idle {kind} sessions, {peer}")
            process = world.proxy(peer, mode, backends, certificate)
            # It gives back its code three seconds after the start.
            time.sleep(4 if kind == "http1" else rest)
            resident, own = process.memory()
            kernel = kernel_memory()
            sessions = [talk(kind, process.port, certificate) for _ in range(count)]
            time.sleep(rest)
            resident_full, own_full = process.memory()
            kernel_full = kernel_memory()
            for session in sessions:
                session.close()
            del sessions
            time.sleep(rest)
            resident_after, own_after = process.memory()
            figures[peer] = {
                "idle_resident_kib": resident,
                "bytes": (own_full - own) * 1024 / count,
                # Client's and endpoint's sockets are on this machine, too: a half of it is the proxy's.
                "kernel_bytes": None if kernel is None else (kernel_full - kernel) / 2 / count,
                "full_resident_kib": resident_full,
                "after_resident_kib": resident_after,
                "after_bytes": (own_after - own) * 1024 / count,
            }
            world.stop(process)
        world.stop_all()
        kinds[kind] = {"title": TITLES[kind], "must": MUST[kind], "goal": GOAL.get(kind), "peers": figures}
    return {"sessions": count, "resident_must_kib": RESIDENT_MUST, "resident_goal_kib": RESIDENT_GOAL, "kinds": kinds}


def talk(kind, port, certificate):
    """A session after its first exchange."""
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    if kind == "tls":
        context = talk.context = getattr(talk, "context", None) or ssl.create_default_context(cafile=certificate[0])
        client = context.wrap_socket(client, server_hostname="localhost")
    if kind == "http2":
        return talk_http2(client)
    exchanges = {"tcp": [(b"x" * 100, b"x")], "websocket": [(UPGRADE, b"HTTP/1.1 101"), (MESSAGE, b"\x82")]}
    for say, expect in exchanges.get(kind, [(REQUEST, b"HTTP/1.1 200")]):
        client.sendall(say)
        heard = client.recv(4096)
        if not heard.startswith(expect):
            raise RuntimeError(f"{kind}: {heard[:100]!r} came back")
    return client


def talk_http2(client):
    """A session after one stream."""
    client.sendall(STREAM)
    heard = b""
    while True:
        while len(heard) >= 9 and len(heard) >= 9 + int.from_bytes(heard[:3], "big"):
            kind, flags, stream = heard[3], heard[4], int.from_bytes(heard[5:9], "big")
            heard = heard[9 + int.from_bytes(heard[:3], "big"):]
            if kind == 4 and not flags & 1:
                client.sendall(SETTINGS_ACK)
            if kind in (3, 7):
                raise RuntimeError("http2: the stream or the connection was reset")
            if stream == 1 and flags & 1:
                return client
        more = client.recv(4096)
        if not more:
            raise RuntimeError("http2: the connection was closed")
        heard += more
