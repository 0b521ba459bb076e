"""Charts of the figures, as SVG."""

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

# The same text and the same drawing give the same file.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "evenkeel", "font.size": 9,
                            "axes.spines.top": False, "axes.spines.right": False})
COLOURS = {"evenkeel": "#0a6c74", "nginx stream": "#8bb174", "nginx": "#5b8c5a", "haproxy": "#d08c3f",
           "haproxy, splice": "#a86a24", "nghttpx": "#8d77ab", "envoy": "#b5525c"}
NAMES = {"http1-64": "HTTP/1.1\n64 conn.", "http1-1000": "HTTP/1.1\n1,000 conn.", "tcp": "TCP",
         "websocket": "WebSocket", "bulk-http": "1 MiB\nHTTP/1.1", "bulk-tcp": "1 MiB\nTCP",
         "connections": "new\nconnections", "latency": "2,000/s", "http2-10x100": "HTTP/2\n10 × 100",
         "http2-64k": "HTTP/2\n64 KiB", "grpc-10x100": "gRPC\n10 × 100", "grpc-stream": "gRPC\nstreams"}


def save(figure, path):
    figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)


def draw(records, directory):
    work(records, directory / "work.svg")
    if "memory" in records:
        memory(records["memory"]["figures"], directory / "memory.svg")
    if "growth" in records:
        growth(records["growth"]["figures"], directory / "growth.svg")


def work(records, path):
    """Work per CPU-second of every peer in every kind; evenkeel is 1."""
    kinds = {name: kind["peers"] for record in records.values() for name, kind in record["figures"].items()
             if name in NAMES}
    if not kinds:
        return
    figure, axes = plt.subplots(figsize=(10, 3.6))
    peers = [peer for peer in COLOURS if any(peer in shown for shown in kinds.values())]
    width = 0.85 / len(peers)
    for i, peer in enumerate(peers):
        places, heights = [], []
        for at, shown in enumerate(kinds.values()):
            if peer in shown:
                places.append(at + (i - (len(peers) - 1) / 2) * width)
                heights.append(1.0 if peer == "evenkeel" else 1 / shown[peer]["evenkeel_ratio"])
        axes.bar(places, heights, width, label=peer, color=COLOURS[peer])
    axes.axhline(1, color=COLOURS["evenkeel"], linewidth=0.8)
    axes.set_xticks(range(len(kinds)), [NAMES[name] for name in kinds])
    axes.set_ylabel("work per second of proxy CPU\n(evenkeel = 1)")
    axes.legend(ncols=len(peers), loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False)
    save(figure, path)


def memory(figures, path):
    """Bytes for each idle session, on a logarithmic scale."""
    figure, axes = plt.subplots(figsize=(8, 3.2))
    kinds = figures["kinds"]
    peers = [peer for peer in COLOURS if any(peer in kind["peers"] for kind in kinds.values())]
    width = 0.85 / len(peers)
    for i, peer in enumerate(peers):
        shown = [(at, kind["peers"][peer]["bytes"]) for at, kind in enumerate(kinds.values()) if peer in kind["peers"]]
        axes.bar([at + (i - (len(peers) - 1) / 2) * width for at, _ in shown], [max(b, 1) for _, b in shown], width,
                 label=peer, color=COLOURS[peer])
    axes.set_yscale("log")
    axes.set_xticks(range(len(kinds)), [kind["title"].replace(", ", ",\n") for kind in kinds.values()])
    axes.set_ylabel("bytes for an idle session")
    axes.legend(ncols=len(peers), loc="upper center", bbox_to_anchor=(0.5, 1.18), frameon=False)
    save(figure, path)


def growth(figures, path):
    """CPU per turn by endpoints and by connections."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    points = figures["endpoints"]
    left.plot([p["endpoints"] for p in points], [p["us"] for p in points], "o-", color=COLOURS["evenkeel"])
    left.set_xlabel("endpoints (64 connections)")
    left.set_ylabel("µs of CPU a request")
    for peer in dict.fromkeys(p["peer"] for p in figures["sessions"]):
        points = [p for p in figures["sessions"] if p["peer"] == peer]
        right.plot([p["sessions"] for p in points], [p["us"] for p in points], "o-", color=COLOURS[peer], label=peer)
    right.set_xlabel("connections (3 endpoints)")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
    save(figure, path)
