"""What `recsae evaluate` must print, by numpy alone: no code is shared with it.

usage: evaluate_yardstick.py ML100K_FOLDER > yardstick.json
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open

DATA = Path(sys.argv[1])
TOP = 10


def load(name):
    with safe_open(DATA / f"{name}.safetensors", "np") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, int(file.metadata()["k"])


def encode(x, sae, k):
    pre = np.maximum((x - sae["b_dec"]) @ sae["encoder.weight"].T + sae["encoder.bias"], 0)
    z = np.zeros_like(pre)
    kept = np.argsort(-pre, axis=1, kind="stable")[:, :k]
    np.put_along_axis(z, kept, np.take_along_axis(pre, kept, 1), 1)
    return z, z @ sae["W_dec"] + sae["b_dec"]


def quality(x, x_hat, z):
    x, x_hat = x.astype(np.float64), x_hat.astype(np.float64)
    error, norm, norm_hat = x - x_hat, np.linalg.norm(x, axis=1), np.linalg.norm(x_hat, axis=1)
    total = ((x - x.mean(0)) ** 2).sum()
    return {
        "rows": len(x),
        "fvu": (error**2).sum() / total,
        "explained_variance": 1 - ((error - error.mean(0)) ** 2).sum() / total,
        "cosine": ((x * x_hat).sum(1) / (norm * norm_hat)).mean(),
        "norm_ratio": (norm_hat / norm).mean(),
        "l0": (z > 0).sum(1).mean(),
        "dead": ((z > 0).sum(0) == 0).mean(),
    }


def earlier_items(events):
    """Before each row: everything in the user's histories so far and every earlier target, without the row's own."""
    met, earlier = {}, []
    for user, history, target in zip(events["user_id"], events["history"], events["target_item"]):
        seen = met.setdefault(user, set())
        seen.update(history)
        earlier.append([item for item in seen if item != target])
        seen.add(target)
    return earlier


def ranking(x, x_hat, items, rows, events, earlier):
    out = {}
    lists = []
    for when, vectors in (("before", x), ("after", x_hat)):
        scores = vectors @ items.T
        ranks, tops = [], []
        for score, row in zip(scores, rows):
            score[0] = -np.inf
            score[earlier[row]] = -np.inf
            ranks.append((score > score[events["target_item"][row]]).sum())
            tops.append(set(np.argsort(-score, kind="stable")[:TOP]))
        ranks = np.array(ranks)
        out[f"ndcg_{when}"] = np.where(ranks < TOP, 1 / np.log2(ranks + 2.0), 0).mean()
        out[f"hit_rate_{when}"] = (ranks < TOP).mean()
        lists.append(tops)
    out["overlap"] = np.mean([len(a & b) / TOP for a, b in zip(*lists)])
    return out


def main():
    events = pq.read_table(DATA / "sasrec.events.parquet").to_pydict()
    split, user = np.array(events["split"]), np.array(events["user_id"])
    earlier = earlier_items(events)
    answer = {}
    for name in ("sasrec.sae_k8_s16", "sasrec.sae_k32_s32", "bprmf.sae_k8_s16", "lightgcn.sae_k8_s16"):
        model = name.split(".")[0]
        sae, k = load(name)
        vectors = np.load(DATA / (f"{model}.embeddings.npy" if model == "sasrec" else f"{model}.user_embeddings.npy"))
        vectors = vectors if model == "sasrec" else vectors[user]
        rows = np.flatnonzero((split == "dev") | (split == "test"))
        z, x_hat = encode(vectors[rows], sae, k)
        answer[name] = {"quality": quality(vectors[rows], x_hat, z)}
        rows = np.flatnonzero(split == "test")
        z, x_hat = encode(vectors[rows], sae, k)
        items = np.load(DATA / f"{model}.item_embeddings.npy")
        answer[name]["ranking"] = ranking(vectors[rows], x_hat, items, rows, events, earlier)
    json.dump(answer, sys.stdout, default=float)


main()
