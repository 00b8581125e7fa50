"""How long after a record is produced /metrics tells of it.

Records are produced at a fixed rate, to one partition, so that they are consumed in order; the i-th is visible once a scrape's
answer counts more than i. The scraper
asks again as soon as it was answered, so that its own interval is part of what is measured.
"""
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import broker
import measure
import numpy as np
import streams
from process import n_consumed

SECONDS = 15
RATES = (1_000, 100_000)


def report(where: measure.Place, point) -> None:
    print(f"\n{'records/s':>10} {'reached':>9} {'p50 ms':>8} {'p99 ms':>8}   produced to visible in /metrics", flush=True)
    for rate in RATES:
        reached, delays = delays_at(where, point, rate)
        p50, p99 = np.percentile(delays, [50, 99]) * 1e3
        print(f"{rate:>10} {reached:>9.0f} {p50:>8.1f} {p99:>8.1f}", flush=True)


def delays_at(where: measure.Place, point, rate: int) -> tuple[float, np.ndarray]:
    """Records a second that were really produced, and the delay of each in seconds."""
    topic, n = f"latency-{rate}", rate * SECONDS
    broker.create_topic(where.address, topic, point.partitions)
    with tempfile.TemporaryDirectory(dir=where.folder) as own:
        folder = Path(own)
        path, metrics = measure.configure(point, where, topic, folder)
        with open(folder / "recsae.log", "wb") as log:
            process = subprocess.Popen([where.recsae, "run", "-c", path], stdout=log, stderr=log)
        try:
            warm_up(where, topic, metrics)
            before = n_consumed(metrics)
            times = np.zeros(n)
            writer = threading.Thread(target=write, args=(where, topic, point, times, rate))
            writer.start()
            seen, deadline = [], time.monotonic() + 4 * SECONDS
            while not seen or seen[-1][1] < n:
                count = n_consumed(metrics) - before
                seen.append((time.monotonic(), count))
                if time.monotonic() > deadline:
                    raise SystemExit(f"benches/scale: {seen[-1][1]} of {n} records visible after {4 * SECONDS} s")
            writer.join()
        finally:
            process.terminate()
            process.wait()
    when, counts = np.array([t for t, _ in seen]), np.maximum.accumulate([count for _, count in seen])
    visible = when[np.searchsorted(counts, np.arange(1, n + 1))]
    return n / (times[-1] - times[0]), visible - times


def warm_up(where: measure.Place, topic: str, metrics: int) -> None:
    """One record, until it is counted: partitions are assigned then."""
    out = streams.producer(where.address)
    out.produce(topic, bytes(4 * streams.DIMENSION), b"u0", timestamp=int(time.time() * 1000))
    out.flush()
    deadline = time.monotonic() + 60
    while n_consumed(metrics) < 1:
        if time.monotonic() > deadline:
            raise SystemExit("benches/scale: the first record was not counted within 60 s")
        time.sleep(0.05)


def write(where: measure.Place, topic: str, point, times: np.ndarray, rate: int) -> None:
    """Produces at the rate, a millisecond's records at once; notes when each was handed over."""
    payloads = streams.vectors()
    out = streams.producer(where.address, linger_ms=1)
    keys = [f"u{entity}".encode() for entity in range(point.entities)]
    headers = [[("segment", f"v{segment}".encode())] for segment in range(point.segments)]
    began = time.monotonic()
    for i in range(len(times)):
        if i % max(1, rate // 1000) == 0:
            due = began + i / rate
            while (left := due - time.monotonic()) > 0:
                time.sleep(min(left, 0.001))
            out.poll(0)
        times[i] = time.monotonic()
        entity = i * 7919 % point.entities
        while True:
            try:
                out.produce(topic, payloads[i % streams.VECTORS], keys[entity], headers=headers[i % point.segments])
                break
            except BufferError:
                out.poll(0.01)
    out.flush()
