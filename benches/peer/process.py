"""What the benches read of a running process: its CPU clock and its counter of records."""
import os
import re
import time
import urllib.request
from pathlib import Path


def process_cpu(pid: int) -> float:
    """CPU seconds of a process so far, all its threads (the kernel's CPU clock of another process)."""
    return time.clock_gettime((~pid << 3) | 2)


def n_consumed(port: int) -> int:
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        return 0
    found = re.search(r"^recsae_records_consumed_total (\S+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def cpu_model() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{found[1] if found else 'unknown CPU'}, {os.cpu_count()} cores"


def peak_kib(pid: int) -> int:
    """Largest resident set so far; 0 of a process that has ended. (What wait4 tells holds the parent's, taken over at the fork.)"""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
