"""The machine: processes with their CPU time and memory, free ports, and how fast it is just now."""

import json
import os
import pathlib
import platform
import re
import resource
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / "target/venv/bin"
LOAD = ROOT / "target/release/load"
TICKS = os.sysconf("SC_CLK_TCK")
# Everything but the proxy that is measured has its place on the other CPU.
PROXY_CPU, LOAD_CPU = 0, 1
DESCRIPTORS = 20_000


def allow_descriptors():
    """As many open files as the machine gives, up to what is needed; processes started later have the same."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def free_ports(count):
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def listening(port, seconds=20):
    """Waits until somebody listens there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.02)
    return False


class Process:
    """A process of ours on one CPU, with what it says in a file."""

    def __init__(self, command, cpu, log):
        self.command, self.log = [str(word) for word in command], log
        with open(log, "wb") as out:
            pinned = ["taskset", "-c", str(cpu), *self.command]
            self.child = subprocess.Popen(pinned, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.pid = self.child.pid

    def cpu(self):
        """User and system seconds so far, of all its threads."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) / TICKS, int(fields[12]) / TICKS

    def memory(self):
        """Kibibytes: resident, and of these its own (not of files, not shared)."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        resident = int(re.search(r"VmRSS:\s+(\d+)", status).group(1))
        rollup = pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return resident, int(re.search(r"Anonymous:\s+(\d+)", rollup).group(1))

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def complaint(self):
        """The end of what it said."""
        return "\n".join(pathlib.Path(self.log).read_text(errors="replace").splitlines()[-5:])


def kernel_memory():
    """Bytes that sockets take in the kernel: their slab objects and the pages of their buffers."""
    objects = {"TCP", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "eventpoll_pwq", "ep_head",
               "tcp_bind_bucket", "tcp_bind2_bucket", "request_sock_TCP"}
    total = 0
    try:
        slabs = pathlib.Path("/proc/slabinfo").read_text().splitlines()
    except PermissionError:
        return None
    for line in slabs:
        fields = line.split()
        if fields[0] in objects:
            total += int(fields[1]) * int(fields[3])
    pages = re.search(r"TCP:.*mem (\d+)", pathlib.Path("/proc/net/sockstat").read_text())
    return total + int(pages.group(1)) * os.sysconf("SC_PAGE_SIZE")


def speed():
    """Nanoseconds of a fixed integer loop's round and of a system call, on the proxy's CPU."""
    out = subprocess.run(["taskset", "-c", str(PROXY_CPU), LOAD, "speed"], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def stolen():
    """Seconds for which other guests had our CPUs, since boot."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) / TICKS


def facts():
    """What figures depend on."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "congestion_control": pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        **speed(),
    }


def system_calls(process, work):
    """Runs `work`, which returns a count of turns, and counts the system calls of the process for each of them."""
    report = pathlib.Path(process.log).with_suffix(".strace")
    tracer = subprocess.Popen(
        ["strace", "-c", "-f", "-U", "name,calls", "-S", "calls", "-o", report, "-p", str(process.pid)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )
    tracer.stderr.readline()  # "attached"
    try:
        turns = work()
    finally:
        tracer.send_signal(2)
        tracer.wait()
    calls = {}
    for line in report.read_text().splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[1].isdigit() and fields[0] != "total":
            calls[fields[0]] = round(int(fields[1]) / max(turns, 1), 2)
    return {name: per_turn for name, per_turn in calls.items() if per_turn >= 0.01}
