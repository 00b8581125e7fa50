#!/usr/bin/env python3
"""`make bench`: CPU per record of the unmodified `recsae run` against a careful Python program.

Both read the same topic from the same broker (its own process), one after the other, in turns. What is
compared is user + system time of the whole process, all threads, from the first record on:

- the peer (a byte-identical copy of the program given with the task) measures itself from its first batch on;
- of both, what the start and the six windows of the stream cost is spread over its records: a million are 46 a second over six
  hours. A shorter stream (--records 300000) charges judging and storing a window to fewer records;
- recsae's process clock is read before every scrape of /metrics; the last reading at which
  `recsae_records_consumed_total` was still 0 is the start, so up to one interval of start-up is charged to
  it; the end is its exit, so judging, checkpoints and the drain are charged to it as well.

recsae runs with its default configuration but for addresses, files, bundle and the record's layout: presence
counting with the user as entity, segments by surface, checkpoints on. Both must report equal activations.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import broker
import stages
import stored
import topics
from process import cpu_model, run_to_end

HERE = Path(__file__).resolve().parent
# Shape by name: files of data/ml100k; what the ratio must reach, and what is aimed at, by format.
SHAPES = {
    "64,1024,8": ("sasrec.sae_k8_s16", {"raw": (2.5, 5.0), "json": (3.2, 5.5)}),
    "64,2048,32": ("sasrec.sae_k32_s32", {"raw": (3.0, 6.0), "json": (3.7, 6.0)}),
}
CONFIGURATION = """[kafka]
brokers = "{address}"
topics = ["{topic}"]
group = "{group}"
[record]
format = "{form}"
[[model]]
bundle = "{bundle}"
[segments]
fields = ["surface"]
[segments.values]
surface = {surfaces}
[store]
path = "{store}"
[metrics]
listen = "127.0.0.1:{metrics}"
[http]
listen = "127.0.0.1:{http}"
"""


def run_peer(address: str, topic: str, form: str, model: Path, n: int) -> tuple[float, int]:
    command = [sys.executable, str(HERE / "python_peer.py"), "--bootstrap", address, "--topic", topic]
    command += ["--format", form, "--model", str(model), "--records", str(n)]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    said = dict(re.findall(r"(\w+)=([\w.]+)", line))
    return float(said["cpu_us_per_record"]), int(said["activations"])


def configured(address: str, topic: str, form: str, bundle: Path, folder: Path) -> tuple[Path, int, int]:
    """Writes the configuration; it, and the ports of its metrics and its API."""
    metrics, http = broker.free_ports(2)
    configuration = folder / "recsae.toml"
    surfaces = "[" + ", ".join(f'"{surface}"' for surface in topics.SURFACES) + "]"
    configuration.write_text(CONFIGURATION.format(address=address, topic=topic, group=folder.name, form=form, bundle=bundle,
                                                  surfaces=surfaces, store=folder / "recsae.db", metrics=metrics, http=http))
    return configuration, metrics, http


def run_recsae(recsae: Path, address: str, topic: str, form: str, bundle: Path, n: int, folder: Path,
               settings: dict[str, str] | None = None) -> tuple[float, int]:
    configuration, metrics, _ = configured(address, topic, form, bundle, folder)
    cpu, _ = run_to_end(recsae, configuration, metrics, settings)
    n_records, n_active = stored.totals(folder / "recsae.db")
    if n_records != n:
        log = configuration.with_suffix(".log").read_text()
        sys.exit(f"benches/peer: expected {n} records in the store, found {n_records}:\n{log[-3000:]}")
    return cpu / n * 1e6, n_active


def stages_of(recsae: Path, address: str, form: str, bundle: Path, folder: Path) -> tuple[str, bool]:
    """The table's line of one more run, in which the stages are read beside, and whether they account for it."""
    folder.mkdir()
    spent, whole, n, configuration = stages.of_run(recsae, *configured(address, form, form, bundle, folder))
    return stages.line(spent, whole, n, configuration), stages.is_accounted(spent, whole)


def not_default() -> list[str]:
    """Keys that the configuration sets, dotted; its hash covers their values, ports and folders among them."""
    section, keys = "", []
    for text in CONFIGURATION.splitlines():
        if text.startswith("["):
            section = text.strip("[]")
        else:
            keys.append(f"{section}.{text.split(' = ')[0]}")
    return keys


def build_bundle(recsae: Path, data: Path, name: str, out: Path) -> None:
    files = ["--onnx", f"{name}.full.onnx", "--golden", f"{name}.golden.npz", "--concepts", f"{name}.concepts.parquet"]
    command = [str(data / word) if word.startswith(name) else word for word in files]
    subprocess.run([recsae, "bundle", "build", *command, "--out", out], check=True, capture_output=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--recsae", type=Path, required=True, help="release program")
    arguments.add_argument("--records", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=3, help="turns of each program; the median counts")
    arguments.add_argument("--shape", choices=SHAPES, action="append")
    arguments.add_argument("--format", choices=["raw", "json"], action="append")
    arguments.add_argument("--compression", choices=["none", "lz4", "zstd"], default="none", help="of the batches both programs read")
    a = arguments.parse_args()
    recsae = a.recsae.resolve()
    data = Path(os.environ.get("RECSAE_DATA", HERE.parents[2] / "shared" / "data")) / "ml100k"
    if not (data / "sasrec.embeddings.npy").is_file():
        sys.exit(f"benches/peer: expected the recorded embeddings in {data}: set RECSAE_DATA")
    jars = Path(os.environ.get("RECSAE_CACHE", Path.home() / ".cache" / "recsae-monitor")) / "kafka-4.3.1" / "jars"
    print(f"{time.strftime('%Y-%m-%d')} · {cpu_model()} · {a.records} records, compression {a.compression} · median of {a.rounds}", flush=True)
    print(f"{'format':6} {'d,m,k':11} {'bytes':>5} {'peer us':>8} {'recsae us':>9} {'ratio':>6} {'wanted':>6} {'aim':>4}  activations")
    print("set besides what is default: " + ", ".join(not_default()), flush=True)
    n_missed, n_unaccounted, table = 0, 0, []
    with broker.kafka(jars) as address, tempfile.TemporaryDirectory(prefix="recsae-bench-") as folder:
        broker.create_topic(address, "recsae.dead-letters", 1)
        for shape in a.shape or SHAPES:
            build_bundle(recsae, data, SHAPES[shape][0], Path(folder) / shape)
        for form in a.format or ["raw", "json"]:
            broker.create_topic(address, form, topics.PARTITIONS)
            size = topics.produce(address, form, form, data, a.records, a.compression)
            for shape in a.shape or SHAPES:
                name, wanted = SHAPES[shape]
                peers, ours = [], []
                for turn in range(a.rounds):
                    peers.append(run_peer(address, form, form, data / f"{name}.topk.onnx", a.records))
                    own = Path(folder) / f"{form}-{shape.replace(',', '-')}-{turn}"
                    own.mkdir()
                    ours.append(run_recsae(recsae, address, form, form, Path(folder) / shape, a.records, own))
                if len({active for _, active in peers + ours}) != 1:
                    sys.exit(f"benches/peer: activations differ: peer {peers}, recsae {ours}")
                peer, mine = (statistics.median(cost for cost, _ in runs) for runs in (peers, ours))
                floor, aim = wanted[form]
                n_missed += peer / mine < floor
                print(f"{form:6} {shape:11} {size:5} {peer:8.2f} {mine:9.2f} {peer / mine:6.2f} {floor:6.1f} {aim:4.1f}  {ours[0][1]}", flush=True)
                line, is_accounted = stages_of(recsae, address, form, Path(folder) / shape, Path(folder) / f"{form}-{shape.replace(',', '-')}-stages")
                n_unaccounted += not is_accounted
                table.append(f"{form:6} {shape:11}{line}")
    print("\nCPU us a record by stage, one more run each\n" + f"{'format':6} {'d,m,k':11}{stages.head()}\n" + "\n".join(table), flush=True)
    faults = [f"{n_missed} ratios below what is wanted"] if n_missed else []
    faults += [f"{n_unaccounted} runs of which the stages account for less than {stages.ACCOUNTED:.0%}"] if n_unaccounted else []
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
