#!/usr/bin/env python3
"""HTTP/1.1 keep-alive through evenkeel, nginx `stream` and HAProxy, side by side.

Every proxy has one worker on CPU 0; three nginx backends and wrk share CPU 1. The proxies take turns
in random order, round after round, so that a drift of the machine hits all of them. What counts is
requests per second of CPU that the proxy used (user and system), given as the median over the rounds
and as its ratio to nginx `stream`, which only copies bytes.

Run it with `cargo xtask bench`; it needs nothing but what that installs.
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


def free_ports(count):
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def cpu(pid):
    """User and system seconds of a process, all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def wait_for(port):
    for _ in range(200):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def nginx_stream_module():
    for directory in ("/usr/lib/nginx/modules", "/usr/share/nginx/modules"):
        module = pathlib.Path(directory) / "ngx_stream_module.so"
        if module.exists():
            return f"load_module {module};\n"
    return ""


class Bench:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.processes = []

    def start(self, core, command):
        log = open(self.directory / f"{len(self.processes)}.log", "wb")
        process = subprocess.Popen(["taskset", "-c", str(core), *map(str, command)], stdout=log, stderr=log)
        self.processes.append(process)
        return process.pid

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()

    def nginx(self, core, name, body):
        home = self.directory / name
        home.mkdir()
        config = home / "nginx.conf"
        config.write_text(
            f"{nginx_stream_module()}daemon off; master_process off; worker_processes 1; pid {home}/pid;\n"
            f"error_log {home}/error.log; events {{ worker_connections 10000; }}\n{body}\n"
        )
        return self.start(core, ["nginx", "-p", home, "-c", config])

    def backend(self, port, name):
        home = self.directory / f"{name}-www"
        home.mkdir()
        (home / "index.html").write_text("x" * 98)
        temporary = " ".join(
            f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.nginx(
            1,
            name,
            f"http {{ access_log off; {temporary} keepalive_requests 100000000; keepalive_timeout 3600; "
            f"server {{ listen 127.0.0.1:{port} backlog=4096; root {home}; }} }}",
        )
        wait_for(port)

    def nginx_stream(self, port, backends):
        servers = " ".join(f"server 127.0.0.1:{b};" for b in backends)
        pid = self.nginx(
            0,
            "stream",
            f"stream {{ upstream b {{ {servers} }} "
            f"server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass b; proxy_timeout 1h; }} }}",
        )
        wait_for(port)
        return pid

    def haproxy(self, port, backends):
        servers = "\n".join(f"  server s{i} 127.0.0.1:{b}" for i, b in enumerate(backends))
        config = self.directory / "haproxy.cfg"
        config.write_text(
            "global\n  maxconn 9000\n  nbthread 1\n"
            "defaults\n  mode http\n  timeout client 1h\n  timeout server 1h\n  timeout connect 5s\n"
            "  http-reuse always\n"
            f"frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n"
            f"backend b\n  balance leastconn\n{servers}\n"
        )
        pid = self.start(0, ["haproxy", "-db", "-f", config])
        wait_for(port)
        return pid

    def evenkeel(self, port, backends, policy):
        pid = self.start(
            0,
            [
                ROOT / "target/release/evenkeel", "proxy", "--workers", "1", "--policy", policy,
                "--admin", f"127.0.0.1:{free_ports(1)[0]}",
                "--listen", f"127.0.0.1:{port}", "--to", ",".join(f"127.0.0.1:{b}" for b in backends),
            ],
        )
        wait_for(port)
        return pid


def wrk(port, connections, seconds):
    out = subprocess.run(
        ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s",
         f"http://127.0.0.1:{port}/"],
        capture_output=True, text=True, check=True,
    ).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"errors through port {port}:\n{out}")
    unit = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    return {
        "requests": int(re.search(r"(\d+) requests in", out).group(1)),
        "per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)),
        "p99_ms": float(p99.group(1)) * unit[p99.group(2)],
    }


def measure(peers, connections, seconds, rounds):
    samples = {name: [] for name in peers}
    for port, _ in peers.values():
        wrk(port, connections, 1)
    for _ in range(rounds):
        for name, (port, pid) in random.sample(list(peers.items()), len(peers)):
            before = cpu(pid)
            run = wrk(port, connections, seconds)
            user, system = (b - a for a, b in zip(before, cpu(pid)))
            samples[name].append({
                "per_cpu_second": run["requests"] / (user + system),
                "user_us": user / run["requests"] * 1e6,
                "system_us": system / run["requests"] * 1e6,
                **run,
            })
    return {
        name: {key: statistics.median(s[key] for s in runs) for key in runs[0]} for name, runs in samples.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 1000])
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path, help="write every figure to this file")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        sys.exit("two CPUs are needed: one for the proxy, one for everything else")
    for program in ("nginx", "haproxy", "wrk", "taskset"):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin"):
            sys.exit(f"{program} is not installed: cargo xtask install")
    os.environ["PATH"] += ":/usr/sbin"
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(directory)
        try:
            ports = free_ports(7)
            backends = ports[:3]
            for i, port in enumerate(backends):
                bench.backend(port, f"backend{i}")
            peers = {
                "nginx stream": (ports[3], bench.nginx_stream(ports[3], backends)),
                "haproxy": (ports[4], bench.haproxy(ports[4], backends)),
                "evenkeel": (ports[5], bench.evenkeel(ports[5], backends, "peak-ewma")),
                "evenkeel, random": (ports[6], bench.evenkeel(ports[6], backends, "random")),
            }
            for connections in arguments.connections:
                figures = measure(peers, connections, arguments.seconds, arguments.rounds)
                results[connections] = figures
                base = figures["nginx stream"]["per_cpu_second"]
                print(f"\n{connections} connections, {arguments.rounds} rounds of {arguments.seconds} s")
                print(f"{'':18} {'requests/CPU-s':>14} {'ratio':>6} {'user µs':>8} {'sys µs':>8} "
                      f"{'requests/s':>11} {'p99 ms':>7}")
                for name, f in figures.items():
                    print(f"{name:18} {f['per_cpu_second']:14,.0f} {f['per_cpu_second'] / base:6.2f} "
                          f"{f['user_us']:8.2f} {f['system_us']:8.2f} {f['per_second']:11,.0f} {f['p99_ms']:7.2f}")
        finally:
            bench.stop()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
