"""What the baselines of `make bench-train` have in common: the recipe, the rows, and what they print.

usage of each: BASELINE.py ROWS.npy OUT.safetensors --k K --latents M --seed S [--epochs 30]; prints one line of JSON.
"""

import argparse
import json
import resource

import numpy as np
from safetensors.numpy import save_file

BATCH, WARM_UP, DECAY, AUX_WEIGHT, BETA2, DEAD_AFTER, EPSILON = 256, 0.02, 0.3, 1 / 32, 0.9, 10_000, 1e-8


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def geometric_median(rows):
    centre = rows.mean(0)
    for _ in range(40):
        weight = 1 / np.maximum(np.linalg.norm(rows - centre, axis=1), 1e-9)
        centre = (rows * weight[:, None]).sum(0) / weight.sum()
    return centre


class Task:
    """The rows as trained on, the first weights, and how many steps of which size there are."""

    def __init__(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("rows")
        parser.add_argument("out")
        parser.add_argument("--k", type=int, required=True)
        parser.add_argument("--latents", type=int, required=True)
        parser.add_argument("--seed", type=int, required=True)
        parser.add_argument("--epochs", type=int, default=30)
        parser.add_argument("--learning-rate", type=float, required=True)
        args = parser.parse_args()
        self.k, self.m, self.epochs, self.learning_rate, self.out = args.k, args.latents, args.epochs, args.learning_rate, args.out
        rows = np.load(args.rows).astype(np.float64)
        self.d = rows.shape[1]
        self.k_aux = max(self.d // 2, 1)
        self.scale = np.sqrt(self.d / ((rows - rows.mean(0)) ** 2).sum(1).mean())
        rows = rows * self.scale
        self.variance = ((rows - rows.mean(0)) ** 2).sum(1).mean()
        self.rng = np.random.default_rng(args.seed)
        w = self.rng.standard_normal((self.m, self.d))
        self.w = (w / np.linalg.norm(w, axis=1, keepdims=True)).astype(np.float32)
        self.centre = geometric_median(rows).astype(np.float32)
        self.rows = rows.astype(np.float32)
        self.per_epoch = len(rows) // BATCH
        self.n_steps = self.per_epoch * self.epochs

    def order(self):
        """Rows of an epoch, a line a step."""
        return self.rng.permutation(len(self.rows))[: self.per_epoch * BATCH].reshape(self.per_epoch, BATCH).astype(np.int32)

    def done(self, weights, seconds, way, tried, version):
        """Writes the SAE of `weights` (numpy, by name) and prints what training it cost."""
        tensors = {"encoder.weight": weights["w_enc"], "encoder.bias": (weights["b_enc"] / self.scale).astype(np.float32),
                   "W_dec": weights["w_dec"], "b_dec": (weights["b_dec"] / self.scale).astype(np.float32)}
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, self.out, metadata={"k": str(self.k)})
        tried = {name: round(cost, 2) for name, cost in tried.items()}
        print(json.dumps({"cpu_seconds": seconds, "vectors": self.n_steps * BATCH, "way": way, "one_epoch": tried, "version": version}))
