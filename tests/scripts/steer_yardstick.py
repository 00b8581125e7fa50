"""What the doses that `recsae steer evaluate` chose do to the lists, by numpy: the vectors moved, all items ranked.

usage: steer_yardstick.py < question.json > answer.json     the question names the files and holds the report's tags
"""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
from workshop_yardstick import encode, sae_of

TOP, RANDOM, RESAMPLES = 10, 12, 2000


class Rows:
    """The rows of a split: vectors, activations, targets, and what their users met before."""

    def __init__(self, question, events, earlier, sae, k, split):
        users = set(question["users"])
        rows = [row for row, of in enumerate(events["split"]) if of == split and events["user_id"][row] in users]
        at = [events["user_id"][row] if question["by_user"] else row for row in rows]
        self.x = np.load(question["vectors"])[at].astype(np.float64)
        self.z = encode(self.x, sae, k)
        self.earlier = [earlier[row] for row in rows]
        self.target = np.array([events["target_item"][row] for row in rows])


def earlier_items(events):
    met, earlier = {}, []
    for user, history, target in zip(events["user_id"], events["history"], events["target_item"]):
        seen = met.setdefault(user, set())
        seen.update(history)
        earlier.append([item for item in seen if item != target])
        seen.add(target)
    return earlier


def lists(x, rows, items):
    scores = x @ items.T
    for score, earlier in zip(scores, rows.earlier):
        score[0] = -np.inf
        score[earlier] = -np.inf
    rank = (scores > scores[np.arange(len(x)), rows.target][:, None]).sum(1)
    return np.argpartition(-scores, TOP, axis=1)[:, :TOP], np.where(rank < TOP, 1 / np.log2(rank + 2.0), 0)


def gini(counts):
    x, n = np.sort(counts), len(counts)
    return ((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * x.sum())


def what_lists_are(tops, ndcg, before, n_items):
    shown = np.bincount(tops.ravel(), minlength=n_items)[1:]
    overlap = np.mean([len(set(a) & set(b)) / TOP for a, b in zip(tops, before)])
    return {"ndcg": ndcg.mean(), "overlap": overlap, "coverage": (shown > 0).mean(), "gini": gini(shown)}


def main():
    question = json.load(sys.stdin)
    sae, k = sae_of(question["sae"])
    items = np.load(question["item_vectors"]).astype(np.float64)
    events = pq.read_table(question["events"]).to_pydict()
    earlier = earlier_items(events)
    dev, test = (Rows(question, events, earlier, sae, k, split) for split in ("dev", "test"))
    genres = [set()] * len(items)
    for row in pq.read_table(question["items"]).to_pylist():
        genres[row["item_id"]] = set(row["genres"])
    before, ndcg = lists(test.x, test, items)
    rng, answer = np.random.default_rng(question["seed"]), {}
    for tag in question["tags"]:
        if "chosen" not in tag:
            continue
        has = np.array([tag["tag"] in of for of in genres])
        delta = np.zeros(items.shape[1])
        for latent in (of["latent"] for of in tag["latents"]):
            active = np.sort(dev.z[dev.z[:, latent] > 0, latent])
            p99 = active[int((len(active) - 1) * 0.99 + 0.5)]
            delta += tag["chosen"]["dose"] * p99 * sae["W_dec"][latent]
        tops, steered = lists(test.x + delta, test, items)
        shares = has[tops].mean(1)
        means = np.sort([rng.choice(shares, len(shares)).mean() for _ in range(RESAMPLES)])
        random = []
        for _ in range(RANDOM):
            direction = rng.standard_normal(len(delta))
            moved = lists(test.x + direction * np.linalg.norm(delta) / np.linalg.norm(direction), test, items)[0]
            random.append(has[moved].mean())
        answer[tag["tag"]] = {
            "before": has[before].mean(), "share": shares.mean(), "interval": [np.quantile(means, 0.025), np.quantile(means, 0.975)],
            "moved": (np.linalg.norm(delta) / np.linalg.norm(test.x, axis=1)).mean(), "random": [np.min(random), np.max(random)],
            "lists": what_lists_are(tops, steered, before, len(items)), "ndcg_before": ndcg.mean(),
        }
    json.dump(answer, sys.stdout, default=float)


if __name__ == "__main__":
    main()
