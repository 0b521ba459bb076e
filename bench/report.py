"""What was measured, for people: tables for the terminal, Markdown, charts, and the README's figures."""

import json
import re
import sys

from machine import ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- figures: cargo xtask bench -->", "<!-- end of figures -->"
BULK = "bulk"


# ---- text

def tables(group, record):
    """The tables of a group as text, and the targets that were missed."""
    figures = record["figures"]
    if group == "memory":
        return memory_table(figures)
    if group == "growth":
        return growth_table(figures)
    if group == "picks":
        return picks_table(figures)
    texts, missed = [], []
    for name, kind in figures.items():
        text, not_reached = work_table(name, kind)
        texts.append(text)
        missed += not_reached
    return "\n".join(texts), missed


def work_rows(kind):
    """Head and rows of one kind's table."""
    bulk, steady = kind["payload"], kind["steady"]
    if steady:
        head = ["", "µs of CPU a turn", "user", "system", "added p50 ms", "added p99 ms", "p999 ms",
                "evenkeel ÷ it", "system calls a turn"]
    else:
        head = ["", "GB per CPU-s" if bulk else "turns per CPU-s", "user µs", "system µs",
                "GB/s" if bulk else "turns/s", "p50 ms", "p99 ms", "p999 ms", "evenkeel ÷ it", "system calls a turn"]
    rows = []
    for peer, f in kind["peers"].items():
        if "per_cpu_second" not in f:
            continue
        calls = f.get("system_calls", {})
        said = f"{sum(calls.values()):.2f}: " + ", ".join(f"{name} {n:g}" for name, n in list(calls.items())[:5])
        said = said if calls else ""
        share = f"{f['evenkeel_ratio']:.2f}" if peer != "evenkeel" else ""
        if steady:
            rows.append([peer, f"{1e6 / f['per_cpu_second']:.1f}", f"{f['user_us']:.1f}", f"{f['system_us']:.1f}",
                         f"{f['added_p50_ms']:.2f}", f"{f['added_p99_ms']:.2f}", f"{f['p999_ms']:.2f}", share, said])
            continue
        scale = bulk / 1e9 if bulk else 1
        form = "{:,.2f}" if bulk else "{:,.0f}"
        rows.append([peer, form.format(f["per_cpu_second"] * scale), f"{f['user_us']:.2f}", f"{f['system_us']:.2f}",
                     form.format(f["per_second"] * scale), f"{f['p50_ms']:.2f}", f"{f['p99_ms']:.2f}",
                     f"{f['p999_ms']:.2f}", share, said])
    return head, rows


def work_table(name, kind):
    head, rows = work_rows(kind)
    text = f"{kind['title']} ({kind['rounds']} rounds of {kind['seconds']:g} s)\n" + aligned(head, rows)
    verdicts, missed = [], []
    for target in kind["targets"]:
        if target["peer"] not in kind["peers"]:
            continue
        ratio = kind["peers"][target["peer"]]["evenkeel_ratio"]
        verdicts.append(verdict(f"{target['peer']} ×", ratio, target["must"], target["goal"]))
        if target["must"] and ratio < target["must"]:
            missed.append(f"{name}: {ratio:.2f} × {target['peer']}, wanted {target['must']:g}")
    return text + "  " + "; ".join(verdicts) + "\n", missed


def verdict(what, value, must, goal):
    if goal and value >= goal:
        return f"{what} {value:.2f}: goal of {goal:g} reached"
    if must and value < must:
        return f"{what} {value:.2f}: MISSES {must:g}"
    wanted = f"goal {goal:g} not yet" if goal else f"at least {must:g}"
    return f"{what} {value:.2f} ({wanted})"


MEMORY_HEAD = ["", "bytes a session", "kernel", "resident idle KiB", "with all", "after close"]


def memory_rows(kind):
    for peer, f in kind["peers"].items():
        kernel = "" if f["kernel_bytes"] is None else f"{f['kernel_bytes']:,.0f}"
        yield [peer, f"{f['bytes']:,.0f}", kernel, f"{f['idle_resident_kib']:,}", f"{f['full_resident_kib']:,}",
               f"{f['after_resident_kib']:,}"]


def memory_table(figures):
    texts, missed = [], []
    plain = figures["kinds"]["http1"]["peers"]["evenkeel"]["bytes"]
    for name, kind in figures["kinds"].items():
        texts.append(f"{figures['sessions']:,} idle sessions: {kind['title']}\n"
                     + aligned(MEMORY_HEAD, list(memory_rows(kind))))
        cost = kind["peers"]["evenkeel"]["bytes"] - (plain if name == "tls" else 0)
        if cost > kind["must"]:
            missed.append(f"memory: {cost:,.0f} bytes per idle {name} session, wanted {kind['must']:,}")
    idle = figures["kinds"]["http1"]["peers"]["evenkeel"]["idle_resident_kib"]
    if idle > figures["resident_must_kib"]:
        missed.append(f"memory: {idle:,} KiB resident when idle, wanted {figures['resident_must_kib']:,}")
    return "\n".join(texts), missed


def growth_table(figures):
    head = ["endpoints", "µs of CPU a turn", "user µs"]
    rows = [[f"{p['endpoints']:,}", f"{p['us']:.1f}", f"{p['user_us']:.1f}"] for p in figures["endpoints"]]
    text = "HTTP/1.1, 64 connections, by endpoints\n" + aligned(head, rows)
    counts = sorted({p["sessions"] for p in figures["sessions"]})
    by = {(p["peer"], p["sessions"]): p for p in figures["sessions"]}
    peers = list(dict.fromkeys(p["peer"] for p in figures["sessions"]))
    head = ["connections", *(f"{peer}: µs of CPU a turn (user)" for peer in peers)]
    rows = [[f"{n:,}", *(f"{by[peer, n]['us']:.1f} ({by[peer, n]['user_us']:.1f})" for peer in peers)] for n in counts]
    return text + "\nHTTP/1.1, by connections\n" + aligned(head, rows), []


def picks_table(figures):
    changes = {change["policy"]: change for change in figures["changes"]}
    head = ["", "ns a turn", "pick", "completion", "allocations", "ms a change", "longest call"]
    rows = [[p["policy"], f"{p['turn_ns']:.0f}", f"{p['pick_ns']:.0f}", f"{p['complete_ns']:.0f}",
             f"{p['allocations']:.0f}", f"{changes[p['policy']]['change_ms']:.2f}",
             f"{changes[p['policy']]['longest_call_ms']:.2f}"] for p in figures["picks"]]
    text = (f"A turn of {figures['endpoints']:,} endpoints (its pick and its completion); a change of one endpoint of "
            f"{figures['changed_endpoints']:,}\n" + aligned(head, rows))
    text += (f"The same change in a file, with reading it: {figures['file']['file_cpu_ms']:.0f} ms of CPU. "
             f"All of them changed: requests go to the new ones after {figures['file']['all_visible_ms']:.0f} ms\n")
    missed = [f"picks: {p['policy']} {p['pick_ns']:.0f} ns, wanted 100"
              for p in figures["picks"] if p["pick_ns"] > 100 or p["allocations"]]
    missed += [f"picks: a change takes {c['change_ms']:.1f} ms with {c['policy']}, wanted 5"
               for c in figures["changes"] if c["change_ms"] > 5]
    return text, missed


def aligned(head, rows):
    """A table for a terminal."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    line = lambda row: "  " + "  ".join(
        cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths))).rstrip()
    return "\n".join(line(row) for row in [head, *rows]) + "\n"


# ---- Markdown

def markdown(head, rows):
    line = lambda cells: "| " + " | ".join(cells) + " |\n"
    return line(head) + line(["---"] * len(head)) + "".join(line(row) for row in rows)


def provenance(record):
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    facts = record["machine"]
    return (f"{record['date']}, `{record['command']}`; {versions}; {facts['cpu']}, {facts['cpus']} CPUs, "
            f"Linux {facts['kernel']}, {facts['congestion_control']}.")


def document(records):
    """All tables, as a page."""
    parts = ["# Figures\n\nWritten by `cargo xtask bench` from the JSON beside it. What the columns mean, and what "
             "was learned: [../performance.md](../performance.md).\n"]
    for group, record in records.items():
        figures = record["figures"]
        parts.append(f"## {group}\n\n{provenance(record)}\n")
        if group == "memory":
            for kind in figures["kinds"].values():
                parts.append(f"{figures['sessions']:,} idle sessions: {kind['title']}.\n\n"
                             + markdown(MEMORY_HEAD, memory_rows(kind)))
        elif group in ("growth", "picks"):
            parts.append("```text\n" + tables(group, record)[0] + "```\n")
        else:
            for kind in figures.values():
                rounds = f"{kind['rounds']} rounds of {kind['seconds']:g} s"
                parts.append(f"{kind['title']}; {rounds}.\n\n" + markdown(*work_rows(kind)))
    return "\n".join(parts)


README_PEERS = ["nginx stream", "nginx", "haproxy", "nghttpx", "envoy"]
README_KINDS = [("http1", "http1-64", "HTTP/1.1, 64 connections"), ("http1", "http1-1000", "HTTP/1.1, 1,000 connections"),
                ("tcp", "tcp", "opaque TCP"), ("websocket", "websocket", "WebSocket messages"),
                ("bulk", "bulk-http", "1 MiB answers"), ("connections", "connections", "a connection a request"),
                ("latency", "latency", "2,000 requests/s"),
                ("http2", "http2-10x100", "HTTP/2, 10 × 100 streams"), ("http2", "http2-64k", "HTTP/2, 64 KiB answers"),
                ("grpc", "grpc-10x100", "gRPC calls, 10 × 100 streams"), ("grpc", "grpc-stream", "gRPC messages of streams"),
                ("grpc", "grpc-latency", "2,000 gRPC calls/s")]


def readme(records):
    """The README's figures."""
    rows = []
    for group, name, title in README_KINDS:
        if group not in records:
            continue
        peers = records[group]["figures"][name]["peers"]
        cells = []
        for peer in README_PEERS:
            with_splice = f"{peer}, splice"
            f = peers.get(with_splice if with_splice in peers else peer)
            cells.append(f"{f['evenkeel_ratio']:.2f}" if f else "")
        rows.append([title, *cells])
    if not rows:
        return ""
    text = ("Work per second of proxy CPU, as a multiple of what others do with it (above 1: evenkeel does more; nginx\n"
            "`stream` only copies bytes; HAProxy splices the 1 MiB answers):\n\n")
    text += markdown(["evenkeel ÷", *README_PEERS], rows)
    if "memory" in records:
        figures = records["memory"]["figures"]
        peers = ["evenkeel", "nginx", "haproxy", "envoy"]
        rows = []
        for kind in figures["kinds"].values():
            f = kind["peers"]
            cells = [f.get(peer) or f.get(f"{peer} stream") for peer in peers]
            rows.append([kind["title"], *(f"{cell['bytes']:,.0f}" if cell else "" for cell in cells)])
        idle = figures["kinds"]["http1"]["peers"]
        rows.append(["the process before that, KiB", *(f"{idle[peer]['idle_resident_kib']:,}" for peer in peers)])
        text += f"\nBytes of memory for each idle session (of {figures['sessions']:,}):\n\n" + markdown(["", *peers], rows)
    first = next(iter(records.values()))
    dates = sorted({record["date"] for record in records.values()})
    versions = ", ".join(f"{name} {v}" for name, v in first["versions"].items() if v and name not in ("wrk", "h2load"))
    text += (f"\n`cargo xtask bench`, {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, {first['machine']['cpus']} CPUs "
             f"({first['machine']['cpu']}), {versions}. All figures:\n"
             "[docs/performance/figures.md](docs/performance/figures.md); how, and where the time goes:\n"
             "[docs/performance.md](docs/performance.md).\n")
    return text


def render(directory, check=False):
    """Writes page, charts and README from the JSON files; with `check`, says what differs instead (status 1)."""
    order = ["http1", "tcp", "websocket", "bulk", "connections", "latency", "http2", "grpc", "memory", "growth",
             "picks"]
    records = {group: json.loads((directory / f"{group}.json").read_text())
               for group in order if (directory / f"{group}.json").exists()}
    files = {directory / "figures.md": document(records)}
    if directory == ROOT / "docs/performance":
        old = README.read_text()
        inside = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
        if not inside.search(old):
            sys.exit(f"README.md has no {BEGIN}")
        files[README] = inside.sub(lambda _: f"{BEGIN}\n\n{readme(records)}\n{END}", old)
    if check:
        stale = [path.relative_to(ROOT) for path, text in files.items() if path.read_text() != text]
        if stale:
            print(f"not what the JSON says: {', '.join(map(str, stale))}. cargo xtask bench --render")
        return 1 if stale else 0
    for path, text in files.items():
        path.write_text(text)
    import charts
    charts.draw(records, directory)
    return 0
