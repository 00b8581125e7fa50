"""The same in PyTorch on one CPU thread, where it is installed: the recipe of `recsae train` with gradients by hand.

What a careful user of PyTorch would do: no autograd, the auxiliary loss only while latents are dead,
and of four ways the fastest on this machine (tried on one epoch each): the k latents gathered or all of them in a dense
product, run as they are or through `torch.compile`. Compilation and import are not counted. A way that does not compile
here is left out.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys

import torch

from baseline import AUX_WEIGHT, BATCH, BETA2, DEAD_AFTER, DECAY, EPSILON, WARM_UP, Task, cpu_seconds

torch.set_num_threads(1)
NAMES = ("w_enc", "b_enc", "w_dec", "b_dec")


def gradients(p, centred, target, factor, values, places, dense):
    """Reconstruction, its gradient, and those of W_enc, b_enc, W_dec and the centre by `factor / 2 ||hat - target||^2`."""
    w_enc, b_enc, w_dec, _ = p
    if dense:
        z = torch.zeros(len(centred), len(w_dec)).scatter_(1, places, values)
        hat = z @ w_dec
        gradient = factor * (hat - target)
        slope = (gradient @ w_dec.T) * (z > 0)
        by_latent = slope.sum(0)
        return hat, gradient, slope.T @ centred, by_latent, z.T @ gradient, -(by_latent @ w_enc)
    rows = w_dec[places]
    hat = torch.bmm(values[:, None, :], rows)[:, 0]
    gradient = factor * (hat - target)
    slope = torch.bmm(rows, gradient[:, :, None])[:, :, 0] * (values > 0)
    flat = places.reshape(-1)
    to_enc = torch.zeros_like(w_enc).index_add_(0, flat, (slope[:, :, None] * centred[:, None, :]).reshape(-1, w_enc.shape[1]))
    to_dec = torch.zeros_like(w_dec).index_add_(0, flat, (values[:, :, None] * gradient[:, None, :]).reshape(-1, w_dec.shape[1]))
    by_latent = torch.zeros_like(b_enc).index_add_(0, flat, slope.reshape(-1))
    return hat, gradient, to_enc, by_latent, to_dec, -(by_latent @ w_enc)


def largest(values, k):
    top, places = values.topk(k, dim=1, sorted=False)
    return top.clamp(min=0), places


def forward(p, rows, k, scale, dense):
    centred = rows - p[3]
    pre = torch.addmm(p[1], centred, p[0].T)
    values, places = largest(pre, k)
    hat, gradient, *g = gradients(p, centred, centred, scale, values, places, dense)
    g[3] = g[3] + gradient.sum(0)
    fired = torch.zeros(len(p[1])).index_add_(0, places.reshape(-1), (values > 0).float().reshape(-1)) > 0
    return centred, pre, centred - hat, fired, g


def auxiliary(p, centred, pre, error, dead, g, k_aux, factor, dense):
    values, places = largest(torch.where(dead, pre, -torch.inf), k_aux)
    _, _, *more = gradients(p, centred, error, factor, values, places, dense)
    return [a + b for a, b in zip(g, more)]


def update(p, second, g, rate, correction):
    """Weights and memory after a step: new tensors, since torch.compile fails on these updates in place."""
    w_enc, b_enc, w_dec, b_dec = g
    g = (w_enc, b_enc, w_dec - (w_dec * p[2]).sum(1, keepdim=True) * p[2], b_dec)
    second = [BETA2 * v + (1 - BETA2) * gradient * gradient for v, gradient in zip(second, g)]
    moved = [w - rate * gradient / ((v / correction).sqrt() + EPSILON) for w, v, gradient in zip(p, second, g)]
    moved[2] = moved[2] / moved[2].norm(dim=1, keepdim=True)
    return moved, second


class Run:
    """Training in one way."""

    def __init__(self, task, dense, compiled):
        self.task, self.dense = task, dense
        compile = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.forward, self.auxiliary, self.update = compile(forward), compile(auxiliary), compile(update)
        self.data = torch.from_numpy(task.rows)
        self.begin()

    def begin(self):
        task = self.task
        self.p = [torch.from_numpy(task.w.copy()), torch.zeros(task.m), torch.from_numpy(task.w.copy()), torch.from_numpy(task.centre.copy())]
        self.second = [torch.zeros_like(weights) for weights in self.p]
        self.fired_at, self.t = torch.zeros(task.m, dtype=torch.int64), 0

    def step(self, at):
        task, seen, t = self.task, self.t * BATCH, self.t
        scale = 2 / (BATCH * task.variance)
        dead = seen - self.fired_at >= DEAD_AFTER
        n_dead = int(dead.sum())
        centred, pre, error, fired, g = self.forward(self.p, self.data[at], task.k, scale, self.dense)
        if n_dead > 0:
            factor = scale * AUX_WEIGHT * min(n_dead / task.k_aux, 1.0)
            g = self.auxiliary(self.p, centred, pre, error, dead, g, task.k_aux, torch.tensor(factor), self.dense)
        self.fired_at[fired] = seen + BATCH
        rate = task.learning_rate * min((t + 1) / (WARM_UP * task.n_steps), (task.n_steps - t) / (DECAY * task.n_steps), 1.0)
        self.p, self.second = self.update(self.p, self.second, list(g), torch.tensor(rate), torch.tensor(1 - BETA2 ** (t + 1)))
        self.t += 1

    def epoch(self):
        for at in torch.from_numpy(self.task.order()).long():
            self.step(at)

    def warm(self):
        """Compiles both kinds of step."""
        self.step(torch.arange(BATCH))
        self.t = DEAD_AFTER // BATCH + 1
        self.fired_at.zero_()
        self.step(torch.arange(BATCH))
        self.begin()


@torch.no_grad()
def main():
    task, runs, tried = Task(), {}, {}
    for name, dense, compiled in [("sparse", False, False), ("dense", True, False), ("sparse, compiled", False, True), ("dense, compiled", True, True)]:
        try:
            run = Run(task, dense, compiled)
            run.warm()
        except Exception as error:  # the compiler's many kinds
            if not compiled:
                raise
            print(f"{name}: {type(error).__name__}", file=sys.stderr)
            continue
        began = cpu_seconds()
        run.epoch()
        tried[name], runs[name] = cpu_seconds() - began, run
    name = min(tried, key=tried.get)
    run = runs[name]
    run.begin()
    began = cpu_seconds()
    for _ in range(task.epochs):
        run.epoch()
    seconds = cpu_seconds() - began
    task.done({name: weights.numpy() for name, weights in zip(NAMES, run.p)}, seconds, name, tried, torch.__version__)


if __name__ == "__main__":
    main()
