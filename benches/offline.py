#!/usr/bin/env python3
"""`make bench-offline`: a million recorded embeddings, encoded and counted: seconds of whole commands, and CPU.

The recorded rows of data/ml100k (SASRec), over and over in their order, as one `.npy` with a Parquet of fields: an entity, one of
three surfaces, times spread over two weeks. `reference build` encodes and counts them by window, entity and segment and fits
a reference; `evaluate` measures what the SAE keeps of them. Reading the files is part of it. CPU above the seconds shows more than
one core at work.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent / "peer"))

import run  # noqa: E402
from process import cpu_model  # noqa: E402

START_MS = 1_790_000_000_000 // 3_600_000 * 3_600_000
FORTNIGHT_MS = 14 * 86_400_000
ENTITIES = 50_000
CONFIGURATION = """[kafka]
brokers = "127.0.0.1:1"
topics = ["recorded"]
[[model]]
bundle = "{bundle}"
[segments]
fields = ["surface"]
[store]
path = "{folder}/recsae.db"
"""


def write(rows: np.ndarray, n: int, folder: Path) -> None:
    np.save(folder / "rows.npy", np.concatenate([rows] * -(-n // len(rows)))[:n])
    at = np.arange(n, dtype=np.int64)
    pq.write_table(pa.table({
        "entity": np.char.add("u", (at * 7919 % ENTITIES).astype(str)),
        "timestamp": START_MS + at * FORTNIGHT_MS // n,
        "surface": np.array(["home", "search", "mail"])[at // 3 % 3],
    }), folder / "fields.parquet")


def timed(name: str, command: list) -> dict:
    """Runs it, prints what it took; what it printed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"benches/offline: {name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name:34} {took:8.1f} {cpu:8.1f}", flush=True)
    return json.loads(done.stdout)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--recsae", type=Path, required=True, help="release program")
    arguments.add_argument("--rows", type=int, default=1_000_000)
    a = arguments.parse_args()
    data = Path(os.environ.get("RECSAE_DATA", run.HERE.parents[2] / "shared" / "data")) / "ml100k"
    if not (data / "sasrec.embeddings.npy").is_file():
        sys.exit(f"benches/offline: expected the recorded embeddings in {data}: set RECSAE_DATA")
    recsae = a.recsae.resolve()
    print(f"{time.strftime('%Y-%m-%d')} · {cpu_model()} · {a.rows} rows\n{'':34} {'seconds':>8} {'CPU s':>8}", flush=True)
    for shape, (name, _) in run.SHAPES.items():
        with tempfile.TemporaryDirectory(prefix="recsae-offline-") as own:
            folder = Path(own)
            write(np.load(data / "sasrec.embeddings.npy"), a.rows, folder)
            run.build_bundle(recsae, data, name, folder / "bundle")
            (folder / "recsae.toml").write_text(CONFIGURATION.format(bundle=folder / "bundle", folder=folder))
            files = ["--embeddings", folder / "rows.npy", "--fields", folder / "fields.parquet"]
            built = timed(f"{shape} reference build", [recsae, "reference", "build", "-c", folder / "recsae.toml", "--name", "all", *files, "--json"])
            assert built["windows"] + built["left_out"] == 336, built
            evaluated = timed(f"{shape} evaluate", [recsae, "evaluate", "--sae", folder / "bundle", *files[:2], "--json"])
            assert evaluated["quality"]["rows"] == a.rows, evaluated["quality"]


if __name__ == "__main__":
    main()
