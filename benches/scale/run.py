#!/usr/bin/env python3
"""`make bench-scale`: what a record costs as the deployment grows, and what memory it takes.

The unmodified release `recsae run` reads a topic of Apache Kafka to its end, as `make bench` runs it: default configuration
but for addresses, bundle and what a sweep varies. CPU = user + system time of the whole process from the first record on,
over records; memory = its largest resident set. One thing varies at a time, the rest stays at the base: 1,024 latents, k = 8,
4 segments, 10,000 entities a window, 4 partitions, a worker a core, 600,000 records in six hourly windows.
`one more` is what a unit more of it costs a record, in us. Where what is added to the smallest point's cost grows by more than
half again as much as what varies, the cost grows worse than linearly, and the program ends with 1.
"""
import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peer"))

import broker  # noqa: E402
import chart  # noqa: E402
import latency  # noqa: E402
import measure  # noqa: E402
import sae  # noqa: E402
import streams  # noqa: E402
import waits  # noqa: E402
from process import cpu_model  # noqa: E402


@dataclass(frozen=True)
class Point:
    """One deployment: the stream and how it is read."""

    latents: int = 1024
    segments: int = 4
    entities: int = 10_000
    partitions: int = 4
    workers: int = 0
    records: int = 600_000
    windows: int = 6
    before: int = 0

    def stream(self) -> streams.Stream:
        return streams.Stream(self.segments, self.entities, self.partitions, self.records, self.windows, self.before)


SWEEPS = {
    # Longer, so that what a start costs a worker is little beside it.
    "workers": [Point(workers=w, records=2_000_000) for w in (1, 2)],
    "segments": [Point(segments=n) for n in (1, 4, 16, 64, 100)],
    "latents": [Point(latents=m) for m in (1024, 2048, 4096, 8192, 16384)],
    # One window, so that the entities of the largest have a record each.
    "entities": [Point(entities=n, windows=1, records=1_000_000) for n in (100, 1_000, 10_000, 100_000, 1_000_000)],
    "partitions": [Point(partitions=n) for n in (1, 4, 16, 64, 256)],
}
# What a record may cost at two workers, of one.
SHARED = 1.05
# A deployment of some size, for its memory: every window of it closes with 100,000 entities in 24 segments.
LARGE = Point(latents=2048, segments=24, entities=100_000, records=600_000)
LARGE_MIB = 192
# Two weeks of hours, to which the first reference is fitted by default.
REFERENCE = 336
# Two runs of one program differ by this share on a shared host; what is added by less than it is taken for as much.
NOISE = 0.1


def sweep(name: str, points: list[Point], where: measure.Place, rounds: int) -> tuple[list[tuple[int, float, float]], list[str]]:
    """Rows (value, CPU us a record, MiB) and what is worse than it should be. The points take turns, so that an hour in which
    the host is slow is everybody's."""
    turns = [[measure.run(point, where) for point in points] for _ in range(rounds)]
    rows, faults = [], []
    print(f"\n{name:>10} {'CPU us/record':>14} {'peak MiB':>9} {'one more':>10}", flush=True)
    for n, point in enumerate(points):
        value = getattr(point, name)
        cost, memory = (statistics.median(column) for column in zip(*(turn[n] for turn in turns)))
        slope = (cost - rows[-1][1]) / (value - rows[-1][0]) if rows else None
        print(f"{value:>10} {cost:>14.2f} {memory:>9.0f} {f'{slope:.5f}' if rows else '':>10}", flush=True)
        rows.append((value, cost, memory))
        if n > 1:
            faults += worse_than_linear(name, rows)
    if name == "workers":
        ratio = statistics.median(turn[1][0] / turn[0][0] for turn in turns)
        print(f"a record at 2 workers costs {ratio:.2f} of one at 1 (median of the turns, {SHARED} wanted)", flush=True)
        faults += [f"2 workers: {ratio:.2f} where {SHARED} is wanted"] if ratio > SHARED else []
    return rows, faults


def worse_than_linear(name: str, rows: list[tuple[int, float, float]]) -> list[str]:
    """Of the last step: what is added to the smallest point's cost, against what would be in proportion to the step before."""
    (first, base, _), (before, less, _), (value, cost, _) = rows[0], rows[-2], rows[-1]
    proportion = (value - first) / (before - first)
    allowed = 1.5 * max(less - base, NOISE * base) * proportion
    if cost - base <= allowed:
        return []
    return [f"{name} {before} to {value}: worse than linear ({cost - base:.2f} us are added, {allowed:.2f} allowed)"]


def large(where: measure.Place, rounds: int) -> list[str]:
    """Prints what the large deployment takes, without and with a reference that is fitted in the same run; what is more than
    it should be."""
    faults = []
    for point, what in (LARGE, ""), (replace(LARGE, before=REFERENCE), f", a reference of {REFERENCE} windows fitted before"):
        cost, memory = (statistics.median(column) for column in zip(*(measure.run(point, where) for _ in range(rounds))))
        print(f"\n{LARGE.segments} segments of {LARGE.latents} latents, {LARGE.entities} entities a window{what}: {cost:.2f} us a "
              f"record, {memory:.0f} MiB at most ({LARGE_MIB} wanted)", flush=True)
        faults += [f"{memory:.0f} MiB{what} where {LARGE_MIB} are wanted"] if memory > LARGE_MIB else []
    return faults


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--recsae", type=Path, required=True, help="release program")
    arguments.add_argument("--rounds", type=int, default=3, help="runs of a point; the median counts")
    arguments.add_argument("--sweep", choices=[*SWEEPS, "large", "latency", "waits"], action="append")
    arguments.add_argument("--plot", type=Path, help="write the curves as SVG")
    a = arguments.parse_args()
    jars = Path(os.environ.get("RECSAE_CACHE", Path.home() / ".cache" / "recsae-monitor")) / "kafka-4.3.1" / "jars"
    wanted = a.sweep or [*SWEEPS, "large", "waits", "latency"]
    print(f"{time.strftime('%Y-%m-%d')} · {cpu_model()} · median of {a.rounds}", flush=True)
    faults, curves = [], {}
    with broker.kafka(jars) as address, tempfile.TemporaryDirectory(prefix="recsae-scale-") as folder:
        broker.create_topic(address, "recsae.dead-letters", 1)
        where = measure.Place(a.recsae.resolve(), address, Path(folder), sae.Saes(a.recsae.resolve(), Path(folder)))
        for name in wanted:
            if name == "latency":
                latency.report(where, replace(Point(), records=0, partitions=1))
                continue
            if name == "waits":
                faults += waits.report(where, replace(LARGE, windows=48, records=4_800_000))
                continue
            if name == "large":
                faults += large(where, a.rounds)
                continue
            curves[name], found = sweep(name, SWEEPS[name], where, a.rounds)
            faults += found
    if a.plot and curves:
        a.plot.write_text(chart.draw(curves))
    print("\n" + ("\n".join(faults) if faults else "nothing is more than it should be"))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
