"""Judges encoded rows by numpy in f64: active sets, values, and how near the ties are where two engines differ.

usage: encode_f64.py WEIGHTS.safetensors K ROWS.npy OURS_VALUES.npy OURS_INDICES.npy ORT_VALUES.npy ORT_INDICES.npy

Values are [n, k], places that are not > 0 hold no activation. The bound asked for, on every active latent:
    |value - f64| <= 2e-6 (||x - b_dec|| ||w_j|| + |b_j|)
Prints one JSON object.
"""

import json
import sys

import numpy as np

ROWS_AT_ONCE = 1024


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__":
            begin, end = about["data_offsets"]
            assert about["dtype"] == "F32", about
            tensors[name] = np.frombuffer(data[begin:end], "<f4").reshape(about["shape"]).astype(np.float64)
    return tensors


def sets(values, indices):
    return [frozenset(i[v > 0].tolist()) for v, i in zip(values, indices)]


def main(weights_path, k, rows_path, *answers):
    weights, rows = read_safetensors(weights_path), np.load(rows_path).astype(np.float64)
    values, indices, ort_values, ort_indices = map(np.load, answers)
    w, b, centre = weights["encoder.weight"], weights["encoder.bias"], weights["b_dec"]
    norms = np.linalg.norm(w, axis=1)
    found = {"rows": len(rows), "active": 0, "worst_of_bound": 0.0, "sets_not_f64": 0, "sets_not_onnxruntime": 0, "widest_gap": 0.0}
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(begin, begin + ROWS_AT_ONCE)
        centred = rows[part] - centre
        pre = centred @ w.T + b
        active = values[part] > 0
        bound = 2e-6 * (np.linalg.norm(centred, axis=1)[:, None] * norms + np.abs(b))
        error = np.abs(values[part] - np.take_along_axis(pre, indices[part], axis=1))
        share = (error / np.take_along_axis(bound, indices[part], axis=1))[active]
        found["active"] += int(active.sum())
        found["worst_of_bound"] = max(found["worst_of_bound"], float(share.max()))
        order = np.argsort(-pre, axis=1, kind="stable")[:, : k + 1]
        largest = np.take_along_axis(pre, order, axis=1)
        gaps = (largest[:, k - 1] - largest[:, k]) / largest[:, k - 1]
        ours, theirs = sets(values[part], indices[part]), sets(ort_values[part], ort_indices[part])
        exact = sets(largest[:, :k], order[:, :k])
        for row, gap in enumerate(gaps):
            differs = (ours[row] != exact[row], ours[row] != theirs[row])
            found["sets_not_f64"] += differs[0]
            found["sets_not_onnxruntime"] += differs[1]
            if any(differs):
                found["widest_gap"] = max(found["widest_gap"], float(gap))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
