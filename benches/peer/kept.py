#!/usr/bin/env python3
"""`make bench-kept`: what checkpoints and the counting of entities add to a record's CPU.

The unmodified release program reads the topic of `make bench` in turns: with its defaults, and with records counted instead of
entities (no table of who showed what) and no checkpoint but what a closed window forces. CPU is measured as there. More records
than there, so that checkpoints at the default interval fall into a run.
"""
import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import broker
import run
import topics
from process import cpu_model

WITHOUT = {"RECSAE__COUNTING__UNIT": "records", "RECSAE__STORE__CHECKPOINT_EVERY": "1h"}
# What both may add together, by the task.
WANTED = 1.10


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--recsae", type=Path, required=True, help="release program")
    arguments.add_argument("--records", type=int, default=4_000_000)
    arguments.add_argument("--rounds", type=int, default=3, help="turns of each; the median counts")
    a = arguments.parse_args()
    data = Path(os.environ.get("RECSAE_DATA", run.HERE.parents[2] / "shared" / "data")) / "ml100k"
    if not (data / "sasrec.embeddings.npy").is_file():
        sys.exit(f"benches/kept: expected the recorded embeddings in {data}: set RECSAE_DATA")
    jars = Path(os.environ.get("RECSAE_CACHE", Path.home() / ".cache" / "recsae-monitor")) / "kafka-4.3.1" / "jars"
    print(f"{time.strftime('%Y-%m-%d')} · {cpu_model()} · {a.records} records, raw · median of {a.rounds}", flush=True)
    print(f"{'d,m,k':11} {'defaults us':>11} {'without us':>10} {'ratio':>6} {'wanted':>6}  seconds of a run", flush=True)
    n_missed = 0
    with broker.kafka(jars) as address, tempfile.TemporaryDirectory(prefix="recsae-kept-") as folder:
        broker.create_topic(address, "recsae.dead-letters", 1)
        broker.create_topic(address, "raw", topics.PARTITIONS)
        topics.produce(address, "raw", "raw", data, a.records)
        for shape, (name, _) in run.SHAPES.items():
            bundle = Path(folder) / shape
            run.build_bundle(a.recsae.resolve(), data, name, bundle)
            costs, took = {True: [], False: []}, 0.0
            for turn in range(2 * a.rounds):
                is_default = turn % 2 == 0
                own = Path(folder) / f"{shape.replace(',', '-')}-{turn}"
                own.mkdir()
                began = time.monotonic()
                cost, _ = run.run_recsae(a.recsae.resolve(), address, "raw", "raw", bundle, a.records, own, None if is_default else WITHOUT)
                took = max(took, time.monotonic() - began)
                costs[is_default].append(cost)
            kept, bare = statistics.median(costs[True]), statistics.median(costs[False])
            n_missed += kept / bare > WANTED
            print(f"{shape:11} {kept:11.2f} {bare:10.2f} {kept / bare:6.3f} {WANTED:6.2f}  {took:.1f}", flush=True)
    sys.exit(f"{n_missed} ratios above what is wanted" if n_missed else 0)


if __name__ == "__main__":
    main()
