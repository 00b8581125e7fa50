"""Where the CPU of `recsae run` goes, from the first record on: its own stages beside the process's CPU clock.

Stages come from `recsae_stage_seconds_total`, read every tenth of a second; the last reading counts. "consume" is what
workers poll and what librdkafka's threads do, which is what merely consuming the records costs; "checkpoint" is closing
windows, storing steps and judging; "rest" is what a worker does between batches. What the process used and no stage has
(HTTP, the explainer, the part of a batch that is not booked yet) is left over, and printed as what is accounted for.
"""
import http.client
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from process import process_cpu

ROWS = {
    "consume": ["consume", "client"],
    "decode": ["decode"],
    "encode": ["encode"],
    "count": ["count"],
    "checkpoint": ["close", "step", "judge"],
    "rest": ["rest"],
}


def reading(pid: int, port: int) -> tuple[int, float, dict[str, float]] | None:
    """Records, CPU seconds of the process and of its stages, of one moment as nearly as it can be had."""
    before = process_cpu(pid)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except (OSError, http.client.HTTPException):
        return None
    n = re.search(r"^recsae_records_consumed_total (\S+)$", text, re.MULTILINE)
    stages = {name: float(value) for name, value in re.findall(r'^recsae_stage_seconds_total\{stage="(\w+)"\} (\S+)$', text, re.MULTILINE)}
    return int(float(n[1])), before, stages


def hash_of(api: int) -> str:
    try:
        return json.load(urllib.request.urlopen(f"http://127.0.0.1:{api}/api/v1/status", timeout=5))["config_hash"]
    except (OSError, http.client.HTTPException):
        return ""


def of_run(recsae: Path, configuration: Path, port: int, api: int) -> tuple[dict[str, float], float, int, str]:
    """CPU seconds by row of the table, of the process, and records, between the first reading and the last; the hash of the
    configuration that was in effect."""
    log_file = configuration.with_suffix(".log")
    with open(log_file, "wb") as log:
        process = subprocess.Popen([recsae, "run", "-c", configuration, "--until-end"], stdout=log, stderr=log)
    first = last = None
    configuration_hash = ""
    while process.poll() is None:
        found = reading(process.pid, port)
        if found and found[0] == 0:
            first = found
        # Empty until the configuration is in effect.
        configuration_hash = configuration_hash or hash_of(api)
        last = found or last
        time.sleep(0.005 if not last or last[0] == 0 else 0.1)
    if process.returncode or not configuration_hash or not first or not last or last[0] == 0:
        sys.exit(f"benches: no stages of a run that ended with {process.returncode}:\n{log_file.read_text()[-3000:]}")
    spent = {row: sum(last[2][stage] - first[2][stage] for stage in stages) for row, stages in ROWS.items()}
    return spent, last[1] - first[1], last[0], configuration_hash


# Share of the process's CPU that the stages must account for.
ACCOUNTED = 0.95


def is_accounted(spent: dict[str, float], whole: float) -> bool:
    return sum(spent.values()) >= ACCOUNTED * whole


def line(spent: dict[str, float], whole: float, n: int, configuration: str) -> str:
    """One line of the table: us a record by row, what is accounted for, and the whole in costs of consuming."""
    cells = "".join(f"{seconds / n * 1e6:11.3f}" for seconds in spent.values())
    return f"{cells}{whole / n * 1e6:8.2f}{sum(spent.values()) / whole:10.1%}{whole / spent['consume']:9.2f}x  {configuration}"


def head() -> str:
    return "".join(f"{row:>11}" for row in ROWS) + f"{'whole':>8}{'accounted':>10}{'/consume':>10}  configuration"
