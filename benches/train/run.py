"""`make bench-train`: CPU seconds of whole training runs beside JAX on one thread, and PyTorch where it is there; the same
rows, recipe and epochs.

Ours is the whole process, start to run folder; the baselines' import and compilation are left out. Held-out FVU is
measured by `recsae evaluate` for all. Prints a table and the ratios of vectors per CPU second.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).parent
SHAPES = [(16, 8), (32, 32)]


def cpu_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--recsae", required=True)
    parser.add_argument("--jax", required=True, help="Python with benches/train/requirements.txt")
    parser.add_argument("--torch", help="Python with PyTorch, numpy and safetensors")
    parser.add_argument("--data", required=True, help="the folder with ml100k")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    data = pathlib.Path(args.data) / "ml100k"
    embeddings, events = data / "sasrec.embeddings.npy", data / "sasrec.events.parquet"
    split = np.array(pq.read_table(events, columns=["split"])["split"].to_pylist())
    seeds = [int(seed) for seed in args.seeds.split(",")]
    baselines = [("jax", args.jax)] + ([("torch", args.torch)] if args.torch else [])
    one_core = ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[0])]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        np.save(folder / "train.npy", np.load(embeddings)[split == "train"])

        def run(command):
            before = cpu_of_children()
            done = subprocess.run(one_core + [str(word) for word in command], capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(done.stderr)
            return json.loads(done.stdout.strip()), cpu_of_children() - before

        def held_out(sae):
            evaluation, _ = run([args.recsae, "evaluate", "--sae", sae, "--embeddings", embeddings, "--fields", events,
                                 "--where", "split=dev,test", "--json"])
            return evaluation["quality"]["fvu"], evaluation["latents"]["dead"]

        for scale, k in SHAPES:
            latents, rows = 64 * scale, []
            for seed in seeds:
                out = folder / f"run-{k}-{seed}"
                report, cpu = run([args.recsae, "train", "--embeddings", folder / "train.npy", "--hold-out", 0, "--k", k, "--scale", scale,
                                   "--seed", seed, "--epochs", args.epochs, "--threads", 1, "--out", out, "--json"])
                report = report[0]["run"]
                rows.append(("recsae", seed, report["rows_trained"] / cpu, cpu, *held_out(out)))
                for name, python in baselines:
                    weights = folder / f"{name}-{k}-{seed}.safetensors"
                    base, _ = run([python, HERE / f"{name}_baseline.py", folder / "train.npy", weights, "--k", k, "--latents", latents, "--seed",
                                   seed, "--epochs", args.epochs, "--learning-rate", report["recipe"]["learning_rate"]])
                    rows.append((name, seed, base["vectors"] / base["cpu_seconds"], base["cpu_seconds"], *held_out(weights)))
                    print(f"# {name} {base['version']}: {base['way']}; one epoch of each way, s: {base['one_epoch']}", flush=True)
            print(f"64 -> {latents}, k = {k}, {args.epochs} epochs, batch 256, AuxK on, one core")
            print(f"{'':8} {'seed':>4} {'vectors/CPU-s':>14} {'CPU s':>7} {'FVU, dev + test':>16} {'dead':>6}")
            for name, seed, speed, cpu, fvu, dead in rows:
                print(f"{name:8} {seed:>4} {speed:>14,.0f} {cpu:>7.2f} {fvu:>16.4f} {100 * dead:>5.1f}%")
            of = lambda name, at: [row[at] for row in rows if row[0] == name]
            worst, best = max(of("recsae", 4)), min(of("recsae", 4))
            for name, _ in baselines:
                ratio = statistics.median(of("recsae", 2)) / statistics.median(of(name, 2))
                print(f"ratio to {name} {ratio:.1f}x; FVU {best:.4f} to {worst:.4f}, {name} {min(of(name, 4)):.4f} to {max(of(name, 4)):.4f}")
            print(flush=True)


if __name__ == "__main__":
    main()
