"""What is sent through the proxies. Every load returns the same figures; latencies are milliseconds."""

import json
import math
import pathlib
import re
import subprocess

from machine import LOAD, LOAD_CPU


class Broken(Exception):
    """A load that did not go as it should: its figures would not mean anything."""


def run(command, what):
    command = ["taskset", "-c", str(LOAD_CPU), *[str(word) for word in command]]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Broken(f"{what}: {done.stderr.strip() or done.stdout.strip()}")
    return done


# wrk prints percentiles up to 99 %; this prints what it knows exactly.
REPORT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.stderr:write(string.format(
    '{"turns": %d, "seconds": %.6f, "bytes": %.0f, "p50_us": %d, "p99_us": %d, "p999_us": %d, "errors": %d}',
    summary.requests, summary.duration / 1e6, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def wrk(directory, port, connections, seconds, path="/", close=False):
    """wrk: each connection asks, waits for the answer, asks again."""
    script = pathlib.Path(directory) / "report.lua"
    script.write_text(REPORT)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, math.ceil(seconds))}s", "--timeout", "10s", "-s", script]
    if close:
        command += ["-H", "Connection: close"]
    done = run([*command, f"http://127.0.0.1:{port}{path}"], "wrk")
    figures = json.loads(done.stderr.strip().splitlines()[-1])
    if figures["errors"] or not figures["turns"]:
        raise Broken(f"wrk: {figures['errors']} of {figures['turns']} requests failed")
    return _shaped(figures)


def sockets(kind, port, connections, seconds, size):
    """Our own closed loop of small messages: WebSocket, or bytes."""
    done = run([LOAD, kind, f"127.0.0.1:{port}", connections, seconds, size], "load")
    return _shaped(json.loads(done.stdout))


def messages(port, connections, streams, seconds, size, each):
    """Our own closed loop over HTTP/2: streams of so many messages, each of which waits for its echo."""
    done = run([LOAD, "http2", f"127.0.0.1:{port}", connections, seconds, size, streams, each], "load")
    return _shaped(json.loads(done.stdout))


# What a unary call of gRPC sends: as many bytes as a small message has.
CALL = bytes(64)


def h2load(directory, port, connections, streams, seconds, path="/", call=False, rate=None, h1=False):
    """h2load: each connection has so many requests under way, or sends them at a fixed rate; every latency of it."""
    log, body = pathlib.Path(directory) / "h2load.log", pathlib.Path(directory) / "call"
    log.unlink(missing_ok=True)
    command = ["h2load", "-c", connections, "-t", "1", "-D", max(1, math.ceil(seconds)), f"--log-file={log}"]
    command += ["--h1"] if h1 else ["-p", "h2c", "-m", streams]
    if rate:
        command.append(f"--rps={rate / connections:g}")
    if call:
        body.write_bytes(CALL)
        command += ["-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers"]
    done = run([*command, f"http://127.0.0.1:{port}{path}"], "h2load")
    turns = int(re.search(r"(\d+) succeeded", done.stdout).group(1))
    failed, errors = (int(re.search(rf"(\d+) {what}", done.stdout).group(1)) for what in ("failed", "errored"))
    if failed or errors or not turns:
        raise Broken(f"h2load: {failed + errors} of {turns + failed} requests failed")
    if int(re.search(r"status codes: (\d+) 2xx", done.stdout).group(1)) < turns:
        raise Broken(f"h2load: {re.search('status codes.*', done.stdout).group(0)}")
    with log.open() as lines:
        latencies = sorted(int(line.rsplit("\t", 1)[1]) for line in lines)
    at = lambda q: latencies[min(len(latencies) - 1, int(len(latencies) * q))]
    took = float(re.search(r"finished in ([\d.]+)s", done.stdout).group(1))
    return _shaped({"turns": turns, "seconds": took, "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999)})


def _shaped(figures):
    return {
        "turns": figures["turns"],
        "per_second": figures["turns"] / figures["seconds"],
        "p50_ms": figures["p50_us"] / 1000,
        "p99_ms": figures["p99_us"] / 1000,
        "p999_ms": figures["p999_us"] / 1000,
    }


def programs():
    """What must be there."""
    return ["wrk", "h2load", "taskset", "strace"]
