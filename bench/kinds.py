"""The kinds of work that are measured, and what is wanted of evenkeel in each."""

import dataclasses
import random
import statistics
import time

import loads
from machine import speed, stolen, system_calls

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Target:
    """evenkeel's work per CPU-second, as a multiple of a peer's: what it must reach, and what is aimed at."""

    peer: str
    must: float | None = None
    goal: float | None = None


@dataclasses.dataclass(frozen=True)
class Kind:
    """One table: the same load through every peer."""

    name: str
    title: str
    # Peer and the mode in which it takes part.
    peers: dict
    # Given (world, port, seconds), sends the load.
    load: object
    # The same before anything is measured; `None`: the load itself.
    warm: object = None
    # A method of the world that starts them.
    endpoints: str = "endpoints"
    targets: tuple = ()
    # How long one run is.
    seconds: float = 3
    # Bytes that a turn carries, where the figure is gigabytes.
    payload: int = 0
    # A fixed rate: CPU per turn and added latency are what counts.
    steady: bool = False
    # Are system calls counted? (Not where opening connections under a tracer takes longer than the run.)
    syscalls: bool = True

    def taking_part(self, quick):
        """Peers and their modes; in a quick run only those that a target names."""
        wanted = {"evenkeel", *(target.peer for target in self.targets)}
        return {peer: mode for peer, mode in self.peers.items() if peer in wanted or not quick}


def wrk(connections, **more):
    return lambda world, port, seconds: loads.wrk(world.directory, port, connections, seconds, **more)


def h2load(connections, streams, **more):
    return lambda world, port, seconds: loads.h2load(world.directory, port, connections, streams, seconds, **more)


# One stream at a time: in a burst HAProxy opens a connection to an endpoint for every stream, and keeps them: hundreds,
# of which each has little to say.
GENTLE = h2load(1, 1)

HTTP = {"evenkeel": "http", "nginx stream": "tcp", "haproxy": "http", "nginx": "http", "nghttpx": "http",
        "envoy": "http"}
HTTP2 = {"evenkeel": "http2", "haproxy": "http2", "nghttpx": "http2", "envoy": "http2"}
TCP = {"evenkeel": "tcp", "nginx stream": "tcp", "haproxy": "tcp", "envoy": "tcp"}

# At full load; elsewhere others are not to be better.
FULL = (Target("haproxy", 2.0), Target("envoy", 4.0), Target("nghttpx", None, 1.1))
NO_WORSE = (Target("haproxy", 1.0), Target("envoy", 1.0), Target("nghttpx", None, 1.0))


def http2(name, title, load, **more):
    more = {"warm": GENTLE, "endpoints": "files", "targets": NO_WORSE, **more}
    return Kind(name, title, HTTP2, load, **more)


KINDS = {
    "http1": [
        Kind("http1-64", "HTTP/1.1 keep-alive, 98-byte answers, 64 connections",
             {"evenkeel": "http", "evenkeel, random": "http", **HTTP}, wrk(64),
             targets=(Target("haproxy", 1.25), Target("nginx stream", 0.92, 1.0), Target("envoy", 2.5))),
        Kind("http1-1000", "HTTP/1.1 keep-alive, 98-byte answers, 1,000 connections",
             {"evenkeel": "http", "evenkeel, random": "http", **HTTP}, wrk(1000), syscalls=False,
             targets=(Target("haproxy", 1.25), Target("nginx stream", 0.92, 1.1), Target("envoy", 2.5))),
    ],
    "tcp": [
        Kind("tcp", "Opaque TCP: the same load, 64 connections, nothing looked at", TCP, wrk(64),
             targets=(Target("nginx stream", 0.97, 1.0),)),
    ],
    "websocket": [
        Kind("websocket", "WebSocket, 64-byte messages back and forth, 64 connections",
             {"evenkeel": "http", "nginx stream": "tcp", "haproxy": "http", "nginx": "http", "envoy": "http"},
             lambda world, port, seconds: loads.sockets("websocket", port, 64, seconds, 64), endpoints="echo",
             targets=(Target("nginx stream", 0.97, 1.0),)),
    ],
    "bulk": [
        Kind("bulk-http", "HTTP/1.1, 1 MiB answers, 16 connections", {**HTTP, "haproxy, splice": "http"},
             wrk(16, path="/1m"), payload=MIB,
             targets=(Target("envoy", 1.0), Target("haproxy, splice", None, 1.0))),
        Kind("bulk-tcp", "Opaque TCP, 1 MiB answers, 16 connections", {**TCP, "haproxy, splice": "tcp"},
             wrk(16, path="/1m"), payload=MIB,
             targets=(Target("envoy", 1.0), Target("haproxy, splice", None, 1.0))),
    ],
    "connections": [
        Kind("connections", "A new connection for each request (Connection: close), 64 at a time", HTTP,
             wrk(64, close=True), targets=(Target("haproxy", 1.0), Target("nginx", None, 1.0))),
    ],
    "latency": [
        Kind("latency", "HTTP/1.1 at 2,000 requests/s, 20 connections", HTTP,
             h2load(20, 1, rate=2000, h1=True),
             seconds=4, steady=True, targets=(Target("haproxy", 1.0), Target("nginx stream", None, 0.83))),
    ],
    "http2": [
        http2("http2-10x100", "HTTP/2, 98-byte answers, 10 connections with 100 streams each", h2load(10, 100),
              targets=FULL),
        http2("http2-1x1", "HTTP/2, 98-byte answers, one after the other", h2load(1, 1)),
        http2("http2-100x10", "HTTP/2, 98-byte answers, 100 connections with 10 streams each", h2load(100, 10)),
        http2("http2-1k", "HTTP/2, 1 KiB answers, 10 connections with 100 streams each", h2load(10, 100, path="/1k")),
        http2("http2-64k", "HTTP/2, 64 KiB answers, 10 connections with 10 streams each", h2load(10, 10, path="/64k"),
              payload=64 * 1024),
    ],
    "grpc": [
        http2("grpc-10x100", "gRPC, unary calls of 64 bytes, 10 connections with 100 streams each",
              h2load(10, 100, call=True), endpoints="calls", targets=FULL),
        http2("grpc-stream", "gRPC, streams of 100 messages of 64 bytes back and forth, 10 connections with 10 each",
              lambda world, port, seconds: loads.messages(port, 10, 10, seconds, 64, 100), endpoints="streams",
              warm=lambda world, port, seconds: loads.messages(port, 1, 1, seconds, 64, 100)),
        http2("grpc-latency", "gRPC, unary calls of 64 bytes, 2,000 a second on 20 connections",
              h2load(20, 10, call=True, rate=2000), endpoints="calls", seconds=4, steady=True),
    ],
}


def measure(world, kind, rounds, seconds, progress, quick):
    """Runs a kind: every peer once in each round, in random order. Figures by peer."""
    backends = getattr(world, kind.endpoints)()
    warm = kind.warm or kind.load
    taking_part = kind.taking_part(quick)
    proxies = {}
    for peer, mode in taking_part.items():
        proxies[peer] = world.proxy(peer, mode, backends)
        # Opens the links, fills the caches.
        progress(kind.name, f"warm-up, {peer}")
        warm(world, proxies[peer].port, 1)
    direct = int(backends[0].rsplit(":", 1)[1])
    samples = {peer: [] for peer in taking_part}
    if kind.steady:
        samples["direct"] = []
    machine = []
    for number in range(rounds):
        before, steal = time.monotonic(), stolen()
        machine.append(speed())
        for peer in random.sample(list(samples), len(samples)):
            progress(kind.name, f"round {number + 1} of {rounds}, {peer}")
            if peer == "direct":
                samples[peer].append(kind.load(world, direct, seconds))
                continue
            if peer == "envoy":
                # It gets slower with age; a fresh one is what its users would measure.
                world.stop(proxies[peer])
                proxies[peer] = world.proxy(peer, kind.peers[peer], backends)
                warm(world, proxies[peer].port, 1)
            samples[peer].append(sample(world, kind, proxies[peer], seconds))
        machine[-1]["stolen_percent"] = round(100 * (stolen() - steal) / (time.monotonic() - before), 1)
    figures = {peer: summary(runs) for peer, runs in samples.items()}
    for peer, process in proxies.items():
        if not quick and kind.syscalls:
            progress(kind.name, f"system calls, {peer}")
            count = lambda port=process.port: kind.load(world, port, 1)["turns"]
            figures[peer]["system_calls"] = system_calls(process, count)
    for peer in taking_part:
        figures[peer]["evenkeel_ratio"] = ratio(samples, peer)
    if kind.steady:
        for peer in taking_part:
            for quantile in ("p50_ms", "p99_ms"):
                added = figures[peer][quantile] - figures["direct"][quantile]
                figures[peer]["added_" + quantile] = added
    world.stop_all()
    return {"title": kind.title, "rounds": rounds, "seconds": seconds, "payload": kind.payload,
            "steady": kind.steady, "machine": machine, "peers": figures,
            "targets": [dataclasses.asdict(target) for target in kind.targets]}


def sample(world, kind, process, seconds):
    before = process.cpu()
    run = kind.load(world, process.port, seconds)
    user, system = (b - a for a, b in zip(before, process.cpu()))
    run["per_cpu_second"] = run["turns"] / (user + system)
    run["user_us"] = user / run["turns"] * 1e6
    run["system_us"] = system / run["turns"] * 1e6
    return run


def summary(runs):
    """The median of each figure, and the least and the most work per CPU-second."""
    figures = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    if "per_cpu_second" in figures:
        work = [run["per_cpu_second"] for run in runs]
        figures["spread"] = [min(work), max(work)]
    return figures


def ratio(samples, peer):
    """evenkeel's work per CPU-second as a multiple of the peer's: the median over the rounds, which are so short
    that the machine is the same for both."""
    pairs = zip(samples["evenkeel"], samples[peer])
    return statistics.median(ours["per_cpu_second"] / theirs["per_cpu_second"] for ours, theirs in pairs)
