"""What the benches read of a running process: its CPU clock and its counter of records."""
import os
import re
import subprocess
import sys
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


def run_to_end(recsae: Path, configuration: Path, metrics: int, settings: dict[str, str] | None = None) -> tuple[float, int]:
    """CPU seconds from the first record on and peak KiB of `recsae run --until-end`; its log lies beside the configuration.
    `settings` lie over the configuration, as variables of the environment."""
    log_file = configuration.with_suffix(".log")
    with open(log_file, "wb") as log:
        process = subprocess.Popen([recsae, "run", "-c", configuration, "--until-end"], stdout=log, stderr=log,
                                   env=os.environ | (settings or {}))
    start, peak, has_begun = 0.0, 0, False
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if has_begun:
            peak = max(peak, peak_kib(process.pid))
            time.sleep(0.02)
            continue
        before = process_cpu(process.pid)
        has_begun = n_consumed(metrics) > 0
        if not has_begun:
            start = before
            time.sleep(0.005)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"benches: recsae ended with {process.returncode}:\n{log_file.read_text()[-3000:]}")
    return usage.ru_utime + usage.ru_stime - start, peak
