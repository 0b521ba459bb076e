"""How the cost of a turn grows with endpoints and with sessions, and what a change of endpoints costs."""

import json
import statistics
import subprocess
import time
import urllib.error
import urllib.request

import loads
from kinds import Kind, sample
from machine import LOAD_CPU, PROXY_CPU, ROOT

ENDPOINTS = (3, 10, 100, 1_000, 9_999)
SESSIONS = (10, 100, 1_000, 4_000, 9_000)
MICRO = ROOT / "target/release/micro"


def measure(world, rounds, seconds, progress, quick):
    ends = lambda points: (points[0], 1_000) if quick else points
    return {
        "endpoints": endpoints(world, ends(ENDPOINTS), rounds, seconds, progress),
        "sessions": sessions(world, ends(SESSIONS), rounds, seconds, progress),
    }


def endpoints(world, counts, rounds, seconds, progress):
    """Microseconds of CPU per turn at 64 connections, by number of endpoints (all of three servers)."""
    kind = Kind("growth", "", {}, lambda world, port, seconds: loads.wrk(world.directory, port, 64, seconds))
    proxies = {}
    for count in counts:
        progress("growth", f"warm-up, {count:,} endpoints")
        backends = world.endpoints(3, count // 3) if count > 3 else world.endpoints()
        proxies[count] = world.proxy("evenkeel", "http", backends)
        # A link to every endpoint is opened once; how long that takes is not what is asked here.
        loads.wrk(world.directory, proxies[count].port, 64, 1 + count / 1_500)
    samples = {count: [] for count in counts}
    for number in range(rounds):
        for count in counts:
            progress("growth", f"round {number + 1} of {rounds}, {count:,} endpoints")
            samples[count].append(sample(world, kind, proxies[count], seconds))
    world.stop_all()
    return [{"endpoints": count, **shape(runs)} for count, runs in samples.items()]


def sessions(world, counts, rounds, seconds, progress):
    """Microseconds of CPU per turn by number of connections, here and in nginx `stream`."""
    backends = world.endpoints()
    proxies = {"evenkeel": world.proxy("evenkeel", "http", backends),
               "nginx stream": world.proxy("nginx stream", "tcp", backends)}
    samples = {(peer, count): [] for peer in proxies for count in counts}
    for number in range(rounds):
        for count in counts:
            for peer, process in proxies.items():
                progress("growth", f"round {number + 1} of {rounds}, {count:,} sessions, {peer}")
                load = lambda world, port, seconds: loads.wrk(world.directory, port, count, seconds)
                longer = seconds + count / 3_000
                load(world, process.port, 1 + count / 3_000)
                samples[peer, count].append(sample(world, Kind("growth", "", {}, load), process, longer))
    world.stop_all()
    return [{"peer": peer, "sessions": count, **shape(runs)} for (peer, count), runs in samples.items()]


def shape(runs):
    user = statistics.median(run["user_us"] for run in runs)
    return {"user_us": user, "us": statistics.median(1e6 / run["per_cpu_second"] for run in runs)}


def picks():
    """Nanoseconds and allocations of a pick, and of a change of endpoints, without any socket."""
    out = subprocess.run(["taskset", "-c", str(PROXY_CPU), MICRO], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def changes(world, count, times, progress):
    """A file of 10,000 endpoints: the CPU that it takes when one of them changes, and how soon after it was written
    requests go to other ones, if all do."""
    live, lost = world.endpoints(1, count), [f"127.{90 + n // 60_000}.{n // 250 % 240}.{n % 250 + 1}:9" for n in range(count)]
    process = world.proxy("evenkeel", "http", live)

    def write(addresses):
        new = process.home / "endpoints.new"
        new.write_text("".join(f"- {address}\n" for address in addresses))
        new.rename(process.home / "endpoints.yaml")

    time.sleep(2)
    cpu, took = [], []
    for number in range(times):
        progress("changes", f"change {number + 1} of {times}")
        before = sum(process.cpu())
        write([*live, lost[number]])
        time.sleep(1)
        cpu.append(sum(process.cpu()) - before)
    for number in range(times):
        progress("changes", f"all of them, {number + 1} of {times}")
        write(lost)
        until(process.port, 503)
        time.sleep(1)
        write(live)
        began = time.monotonic()
        until(process.port, 200)
        took.append(time.monotonic() - began)
    world.stop_all()
    return {"endpoints": count, "file_cpu_ms": statistics.median(cpu) * 1000,
            "all_visible_ms": statistics.median(took) * 1000}


def until(port, status):
    """Asks until an answer has this status (or another one that nobody answered: no endpoint can be reached)."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).status
        except urllib.error.HTTPError as error:
            answer = error.code
        if (answer >= 500) == (status >= 500):
            return
        time.sleep(0.002)
    raise RuntimeError(f"no answer with status {status}")
