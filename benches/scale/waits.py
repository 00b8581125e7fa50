"""How long a worker waits for the judge, a lock, the store or a core while everything else goes on.

A topic is read to its end as fast as it goes while 50,000 series are scraped every second, windows of 24 segments of 2,048 latents
close, and checkpoints run. What counts is `recsae_worker_wait_seconds`: of every turn of a worker, the time at which it
was off the CPU and not waiting for records, so that a shared host's own waits are in it.
"""
import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import measure

# 99.9 % of turns are to wait no longer.
LONGEST = 0.02
SHARE = 0.999
# Less than this was not what was to go on meanwhile.
SERIES, SCRAPES = 45_000, 10
# Every concept of every segment has its series, up to the cap of 50,000.
ALL_SERIES = {"RECSAE__METRICS__TOP_CONCEPTS": "2048", "RECSAE__DRIFT__REFERENCE": "first:8 windows", "RECSAE__DRIFT__HARMONICS": "0"}
BUCKET = re.compile(r'^recsae_worker_wait_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


def report(where: measure.Place, point) -> list[str]:
    """Prints the buckets; what is more than it should be."""
    topic = where.topic(point.stream())
    with tempfile.TemporaryDirectory(dir=where.folder) as own:
        folder = Path(own)
        path, port = measure.configure(point, where, topic, folder)
        with open(folder / "recsae.log", "wb") as log:
            process = subprocess.Popen([where.recsae, "run", "-c", path, "--until-end"], stdout=log, stderr=log, env=os.environ | ALL_SERIES)
        texts, began = [], time.monotonic()
        while process.poll() is None:
            time.sleep(max(0.0, began + len(texts) - time.monotonic()))
            try:
                texts.append(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode())
            except (OSError, http.client.HTTPException):
                began += 0.05
        if process.returncode or not texts:
            sys.exit(f"benches/scale: waits: ended with {process.returncode}:\n{(folder / 'recsae.log').read_text()[-3000:]}")
    n_series = max(sum(not line.startswith("#") for line in text.splitlines()) for text in texts)
    buckets = [(float(le), float(n)) for le, n in BUCKET.findall(texts[-1])]
    turns = buckets[-1][1]
    print(f"\n{len(texts)} scrapes, a second apart, of up to {n_series} series; {turns:.0f} turns of {point.latents} latents in "
          f"{point.segments} segments, {point.windows} windows", flush=True)
    print("waited at most " + ", ".join(f"{le * 1e3:g} ms: {n / turns:.4%}" for le, n in buckets[:-1]), flush=True)
    share = next(n for le, n in buckets if le >= LONGEST) / turns
    faults = [] if n_series >= SERIES and len(texts) >= SCRAPES else [f"{n_series} series in {len(texts)} scrapes are not the load that is wanted"]
    return faults if share >= SHARE else [*faults, f"{share:.4%} of turns wait at most {LONGEST * 1e3:.0f} ms where {SHARE:.1%} are wanted"]
