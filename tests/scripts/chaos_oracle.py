"""The oracle of the chaos harness: draws its SAE, and counts what the broker acknowledged, slowly.

usage: chaos_oracle.py model SEED OUT_FOLDER [reversed]      weights (raw f32), sae.onnx; its latents in the other order
       chaos_oracle.py count MODEL_FOLDER LEDGER_FOLDER EXPORT.parquet STORE.db [LEFT_OUT]

The ledger holds one number a record and array, in the order of partition and offset. Every rule is
written down again here, record by record; nothing is shared with the program. Exit 0: every count of
(window, segment, stream, bucket) is equal, each window was judged once, every reject has its reason.
LEFT_OUT is JSON of where a store that was lost knows nothing: {"before": start of a window, "incomplete": [starts]}, and
of windows that nothing has closed yet: {"until": start of the first one}; {"lineage": N}: judged in that one, not in the newest.
"""

import json
import sqlite3
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

D_IN, D_SAE, K = 16, 64, 4
MARGIN = 1e-3
LOWER = [1, 2, 3, 4, 5, 7, 9, 13, 19, 28, 45, 80]
REASONS = {1: "malformed_json", 2: "tombstone", 3: "not_finite", 4: "missing_embedding", 5: "wrong_width",
           6: "future", 7: "empty_payload"}


def model(seed, out, is_reversed):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    w_enc = rng.normal(size=(D_SAE, D_IN)).astype(np.float32)
    b_enc = (rng.normal(size=D_SAE) * 0.1 - 0.2).astype(np.float32)
    b_dec = (rng.normal(size=D_IN) * 0.1).astype(np.float32)
    if is_reversed:                                    # another SAE, with the same boundaries
        w_enc, b_enc = w_enc[::-1].copy(), b_enc[::-1].copy()
    w_dec = (w_enc / np.linalg.norm(w_enc, axis=1, keepdims=True)).astype(np.float32)
    for name, array in (("w_enc", w_enc), ("b_enc", b_enc), ("b_dec", b_dec), ("w_dec", w_dec)):
        array.tofile(out / f"{name}.f32")
    named = {"W_enc": w_enc.T.copy(), "b_enc": b_enc, "b_dec": b_dec, "W_dec": w_dec, "zero": np.zeros(1, np.float32),
             "k": np.array([K], np.int64)}
    nodes = [
        helper.make_node("Sub", ["embedding", "b_dec"], ["centred"]),
        helper.make_node("MatMul", ["centred", "W_enc"], ["product"]),
        helper.make_node("Add", ["product", "b_enc"], ["pre"]),
        helper.make_node("Relu", ["pre"], ["dense"]),
        helper.make_node("TopK", ["dense", "k"], ["values", "indices"], axis=1),
        helper.make_node("Mul", ["dense", "zero"], ["nothing"]),
        helper.make_node("ScatterElements", ["nothing", "indices", "values"], ["latents"], axis=1),
        helper.make_node("MatMul", ["latents", "W_dec"], ["sum"]),
        helper.make_node("Add", ["sum", "b_dec"], ["reconstruction"]),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "sae", [tensor("embedding", TensorProto.FLOAT, ["n", D_IN])],
        [tensor("values", TensorProto.FLOAT, ["n", K]), tensor("indices", TensorProto.INT64, ["n", K]),
         tensor("reconstruction", TensorProto.FLOAT, ["n", D_IN])],
        [numpy_helper.from_array(array, name) for name, array in named.items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, str(out / "sae.onnx"))


def select(weights, vectors):
    """Latents of each vector, in f64; refuses a vector that lies near a boundary."""
    w_enc = np.fromfile(weights / "w_enc.f32", np.float32).reshape(D_SAE, D_IN).astype(np.float64)
    b_enc = np.fromfile(weights / "b_enc.f32", np.float32).astype(np.float64)
    b_dec = np.fromfile(weights / "b_dec.f32", np.float32).astype(np.float64)
    chosen = []
    for first in range(0, len(vectors), 8192):
        pre = (vectors[first:first + 8192].astype(np.float64) - b_dec) @ w_enc.T + b_enc
        order = np.argsort(-pre, axis=1, kind="stable")
        ranked = np.take_along_axis(pre, order, axis=1)
        margin = np.minimum(ranked[:, K - 1] - ranked[:, K], np.abs(pre).min(axis=1))
        assert margin.min() >= MARGIN, "a vector lies near a boundary of the selection: the generator is wrong"
        for row, values in zip(order[:, :K], ranked[:, :K]):
            chosen.append([int(j) for j, value in zip(row, values) if value > 0])
    return chosen


def expected(weights, ledger):
    spec = json.loads((ledger / "spec.json").read_text())
    column = lambda name, kind: np.fromfile(ledger / name, kind)
    vectors = column("vectors.f32", np.float32).reshape(-1, D_IN)
    event, entity = column("event.i64", np.int64).tolist(), column("entity.i64", np.int64).tolist()
    surface, kind = column("surface.i64", np.int64).tolist(), column("kind.i64", np.int64).tolist()
    partition = column("partition.i64", np.int64).tolist()
    length, lateness = spec["window_ms"], spec["lateness_ms"]
    latents = select(weights, vectors)
    watermark, rejects, n_counted = {}, Counter(), 0
    shown = defaultdict(lambda: defaultdict(set))      # (window, segment) -> entity -> latents
    records = defaultdict(Counter)                     # (window, segment) -> entity -> records
    for n in range(len(event)):
        known = watermark.get(partition[n])
        edge = None if known is None else (known - lateness) // length * length
        start = event[n] // length * length
        if kind[n] not in (0, 5):                      # cannot be read, or lies in the future: whatever its window
            rejects[REASONS[kind[n]]] += 1
            continue
        if edge is not None and start < edge:
            rejects["late"] += 1
            continue
        if kind[n] == 5:                               # read, in time, and of another width
            rejects[REASONS[5]] += 1
            continue
        watermark[partition[n]] = event[n] if known is None else max(known, event[n])
        n_counted += 1
        names = ["_all"]
        if surface[n] < len(spec["surfaces"]):
            names.append(f"surface={spec['surfaces'][surface[n]]}" if surface[n] < spec["n_configured"] else "_other")
        for name in names:
            shown[start, name][entity[n]].update(latents[n])
            records[start, name][entity[n]] += 1
    cells = Counter()
    for (start, name), of_entity in shown.items():
        for who, seen in of_entity.items():
            bucket = max(edge for edge in LOWER if edge <= records[start, name][who])
            cells[start, name, "entities", bucket] += 1
            for j in seen:
                cells[start, name, f"latent:{j}", bucket if name == "_all" else None] += 1
        cells[start, name, "records", None] += sum(records[start, name].values())
    return cells, rejects, n_counted, len(event)


def exported(path):
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    start = table["window_start"].cast("int64").to_pylist()
    columns = (table[c].to_pylist() for c in ("segment", "stream", "bucket", "value"))
    cells = Counter()
    for s, segment, stream, bucket, value in zip(start, *columns):
        if value and (stream.startswith("latent:") or stream in ("entities", "records")):
            cells[s, segment, stream, bucket] += value
    return cells


def judged(store, lineage):
    """How often each window of a lineage (None: the newest) was judged, by the audit trail."""
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    lineage = lineage or connection.execute("SELECT max(id) FROM lineages").fetchone()[0]
    bodies = [json.loads(body) for (body,) in connection.execute("SELECT body FROM audit WHERE kind = 'judged'")]
    return Counter(body["window_start"] for body in bodies if body["lineage"] == lineage)


def count(weights, ledger, export, store, left_out):
    cells, rejects, n_counted, n_records = expected(weights, ledger)
    until = left_out.get("until", sys.maxsize)
    known = lambda start: left_out["before"] <= start < until and start not in left_out["incomplete"]
    cells, theirs = ({cell: n for cell, n in of.items() if known(cell[0])} for of in (cells, exported(export)))
    faults = []
    differ = [cell for cell in set(cells) | set(theirs) if cells.get(cell, 0) != theirs.get(cell, 0)]
    for cell in sorted(differ, key=str)[:12]:
        faults.append(f"cell {cell}: the oracle counts {cells.get(cell, 0)}, the export says {theirs.get(cell, 0)}")
    windows = {start for start, *_ in cells}
    times = judged(store, left_out.get("lineage"))
    wrong = {start: times.get(start, 0) for start in windows if times.get(start, 0) != 1}
    if wrong:
        faults.append(f"{len(wrong)} windows were not judged exactly once: {dict(list(wrong.items())[:5])}")
    print(json.dumps({
        "records": n_records, "counted": n_counted, "rejected": dict(rejects), "windows": len(windows),
        "cells": len(cells), "cells_differ": len(differ), "faults": faults,
    }))
    return 1 if faults or not cells else 0


if __name__ == "__main__":
    if sys.argv[1] == "model":
        model(int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:] == ["reversed"])
    else:
        nothing = {"before": -sys.maxsize, "incomplete": []}
        left_out = json.loads(sys.argv[6]) if len(sys.argv) > 6 else nothing
        sys.exit(count(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5], left_out))
