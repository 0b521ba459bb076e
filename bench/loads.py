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


def steady(directory, port, connections, per_second, seconds):
    """h2load in HTTP/1.1 mode, at a fixed rate: every latency of it."""
    log = pathlib.Path(directory) / "h2load.log"
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "-c", connections, "-t", "1", f"--rps={per_second / connections:g}",
               "-D", seconds, f"--log-file={log}", f"http://127.0.0.1:{port}/"]
    done = run(command, "h2load")
    turns = int(re.search(r"(\d+) succeeded", done.stdout).group(1))
    failed = int(re.search(r"(\d+) failed", done.stdout).group(1))
    if failed or not turns:
        raise Broken(f"h2load: {failed} of {turns + failed} requests failed")
    lines = (line.split("\t") for line in log.read_text().splitlines())
    latencies = sorted(int(fields[2]) for fields in lines if len(fields) >= 3)
    at = lambda q: latencies[min(len(latencies) - 1, int(len(latencies) * q))]
    return _shaped({"turns": turns, "seconds": seconds,
                    "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999)})


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
