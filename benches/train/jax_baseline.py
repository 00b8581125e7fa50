"""The yardstick of `make bench-train`: the same recipe as `recsae train`, in JAX on one CPU thread.

Everything a careful user of JAX would do: one compiled scan over an epoch, donated buffers, the auxiliary loss
only while latents are dead, and of three ways to select and decode the fastest on this machine (tried on one epoch
each, on copies). Compilation and import are not counted.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["OMP_NUM_THREADS"] = "1"

import jax
import jax.numpy as jnp
import numpy as np

from baseline import AUX_WEIGHT, BATCH, BETA2, DEAD_AFTER, DECAY, EPSILON, WARM_UP, Task, cpu_seconds


def largest(values, k, by_bisection):
    """The k largest of each row: values where they are, 0 elsewhere ([B, M]), and their places ([B, k])."""
    if not by_bisection:
        top, places = jax.lax.top_k(values, k)
        return jnp.maximum(top, 0), places
    low, high = jnp.zeros(values.shape[0]), jnp.maximum(values.max(1), 0) + 1e-30

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = (values >= middle[:, None]).sum(1) >= k
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = jax.lax.fori_loop(0, 24, halve, (low, high))
    return jnp.where((values >= low[:, None]) & (values > 0), values, 0), None


def make_step(k, m, k_aux, variance, learning_rate, n_steps, dense, by_bisection):
    def spread(values, places):
        if places is None:
            return values
        return jnp.zeros((values.shape[0], m)).at[jnp.arange(values.shape[0])[:, None], places].set(values)

    def part(centred, gradient_of, values, places, p):
        """Gradients of one loss by W_enc, b_enc, W_dec and the centre, given that of the reconstruction."""
        if dense:
            z = spread(values, places)
            hat = z @ p["w_dec"]
            gradient = gradient_of(hat)
            slope = (gradient @ p["w_dec"].T) * (z > 0)
            return hat, gradient, slope.T @ centred, slope.sum(0), z.T @ gradient, -(slope.sum(0) @ p["w_enc"])
        rows = p["w_dec"][places]
        hat = jnp.einsum("bk,bkd->bd", values, rows)
        gradient = gradient_of(hat)
        slope = jnp.einsum("bd,bkd->bk", gradient, rows) * (values > 0)
        flat = places.reshape(-1)
        zero = jnp.zeros_like(p["w_dec"])
        w_enc = zero.at[flat].add((slope[:, :, None] * centred[:, None, :]).reshape(-1, zero.shape[1]))
        w_dec = zero.at[flat].add((values[:, :, None] * gradient[:, None, :]).reshape(-1, zero.shape[1]))
        b_enc = jnp.zeros(m).at[flat].add(slope.reshape(-1))
        return hat, gradient, w_enc, b_enc, w_dec, -(b_enc @ p["w_enc"])

    def step(state, rows):
        p, second, fired_at, t = state
        seen = t * BATCH
        centred = rows - p["b_dec"]
        pre = centred @ p["w_enc"].T + p["b_enc"]
        values, places = largest(pre, k, by_bisection)
        scale = 2 / (BATCH * variance)
        hat, gradient, w_enc, b_enc, w_dec, centre = part(centred, lambda hat: scale * (hat - centred), values, places, p)
        error = jax.lax.stop_gradient(centred - hat)
        dead = seen - fired_at >= DEAD_AFTER
        n_dead = dead.sum()

        def with_aux(_):
            share = jnp.minimum(n_dead / k_aux, 1.0)
            asleep, at = largest(jnp.where(dead, pre, -jnp.inf), k_aux, by_bisection)
            factor = scale * AUX_WEIGHT * share
            _, _, a, b, c, d = part(centred, lambda hat: factor * (hat - error), asleep, at, p)
            return w_enc + a, b_enc + b, w_dec + c, centre + d

        w_enc, b_enc, w_dec, centre = jax.lax.cond(n_dead > 0, with_aux, lambda _: (w_enc, b_enc, w_dec, centre), None)
        if places is None:
            fired = (values > 0).any(0)
        else:
            fired = jnp.zeros(m, bool).at[places].max(values > 0)
        fired_at = jnp.where(fired, seen + BATCH, fired_at)
        w_dec = w_dec - (w_dec * p["w_dec"]).sum(1, keepdims=True) * p["w_dec"]
        g = {"w_enc": w_enc, "b_enc": b_enc, "w_dec": w_dec, "b_dec": centre + gradient.sum(0)}
        done, left = t + 1.0, n_steps - t
        rate = learning_rate * jnp.minimum(jnp.minimum(done / (WARM_UP * n_steps), left / (DECAY * n_steps)), 1.0)
        correction = 1 - BETA2 ** (t + 1.0)
        second = {name: BETA2 * second[name] + (1 - BETA2) * g[name] ** 2 for name in g}
        p = {name: p[name] - rate * g[name] / (jnp.sqrt(second[name] / correction) + EPSILON) for name in g}
        p["w_dec"] = p["w_dec"] / jnp.linalg.norm(p["w_dec"], axis=1, keepdims=True)
        return (p, second, fired_at, t + 1), None

    return step


def main():
    task = Task()

    def fresh():
        p = {"w_enc": jnp.array(task.w), "b_enc": jnp.zeros(task.m), "w_dec": jnp.array(task.w), "b_dec": jnp.array(task.centre)}
        second = {name: jnp.zeros_like(value) for name, value in p.items()}
        return p, second, jnp.zeros(task.m, jnp.int32), jnp.int32(0)

    data = jnp.array(task.rows)
    order = lambda: jnp.array(task.order())
    ways = {}
    for name, dense, by_bisection in [("top_k, sparse", False, False), ("top_k, dense", True, False), ("bisection, dense", True, True)]:
        step = make_step(task.k, task.m, task.k_aux, task.variance, task.learning_rate, task.n_steps, dense, by_bisection)

        def epoch(state, data, order, step=step):
            return jax.lax.scan(lambda state, at: step(state, data[at]), state, order)[0]

        compiled = jax.jit(epoch, donate_argnums=0).lower(fresh(), data, order()).compile()
        began = cpu_seconds()
        jax.block_until_ready(compiled(fresh(), data, order()))
        ways[name] = (cpu_seconds() - began, compiled)
    name = min(ways, key=lambda name: ways[name][0])
    compiled, state = ways[name][1], fresh()
    began = cpu_seconds()
    for _ in range(task.epochs):
        state = compiled(state, data, order())
    jax.block_until_ready(state)
    seconds = cpu_seconds() - began
    tried = {way: cost for way, (cost, _) in ways.items()}
    task.done({name: np.asarray(value) for name, value in state[0].items()}, seconds, name, tried, jax.__version__)


if __name__ == "__main__":
    main()
