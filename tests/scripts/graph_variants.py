"""SAE graphs in all the ways one can be written, with what Python's onnxruntime makes of each, unrewritten.

usage: graph_variants.py SEED N OUT_FOLDER

Writes OUT_FOLDER/NNN.onnx and NNN.npz (embedding, values, indices: the layout of a bundle's golden rows)
and OUT_FOLDER/variants.json: for each its name, whether an engine of our own must encode it (`native`)
or must leave it alone, and what a user has to say of it (`k` or `threshold`, else null).
"""

import json
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROWS = 96

# What a graph may do and still be an encoder; one of each kind is drawn.
PRODUCTS = ["gemm_t1", "gemm_t0", "gemm_no_bias", "matmul_add", "add_matmul", "matmul_transposed", "matmul_no_bias"]
CENTRES = ["none", "sub", "add_negative", "folded"]
RELUS = ["none", "before", "after", "both"]
SELECTIONS = ["topk", "topk_1", "topk_all", "topk_decoder", "dense_k", "dense_threshold", "where", "mul", "less", "thresholded"]
# What looks like one and is not.
NOT_ENCODERS = [
    "layer_norm", "unit_norm", "scaled_input", "scaled_values", "two_affines", "gemm_alpha", "gemm_beta", "two_biases",
    "leaky", "sigmoid", "row_mean", "squared", "clipped", "elu", "soft_threshold", "other_compared", "gate_twice",
]


class Builder:
    """A graph under construction."""

    def __init__(self, rng):
        self.rng, self.nodes, self.initialisers, self.n = rng, [], [], 0

    def name(self):
        self.n += 1
        return f"t{self.n}"

    def add(self, op, inputs, **attributes):
        out = self.name()
        self.nodes.append(helper.make_node(op, inputs, [out], **attributes))
        return out

    def constant(self, array):
        """A weight: an initialiser, a Constant node, half precision with a Cast, or behind an Identity."""
        name = self.name()
        kind = self.rng.choice(["initialiser", "initialiser", "node", "half", "identity"])
        if kind == "half":
            self.initialisers.append(numpy_helper.from_array(array.astype(np.float16), name))
            return self.add("Cast", [name], to=TensorProto.FLOAT)
        if kind == "node":
            return self.add("Constant", [], value=numpy_helper.from_array(array.astype(np.float32), name))
        self.initialisers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return self.add("Identity", [name]) if kind == "identity" else name

    def raw(self, array):
        name = self.name()
        self.initialisers.append(numpy_helper.from_array(array, name))
        return name


def product(b, kind, x, w, bias):
    """`x w^T + bias`, w one row an output."""
    if kind == "gemm_t1":
        return b.add("Gemm", [x, b.constant(w), b.constant(bias)], transB=1)
    if kind == "gemm_t0":
        return b.add("Gemm", [x, b.constant(w.T.copy()), b.constant(bias)])
    if kind == "gemm_no_bias":
        return b.add("Gemm", [x, b.constant(w)], transB=1)
    if kind == "matmul_transposed":
        y = b.add("MatMul", [x, b.add("Transpose", [b.constant(w)], perm=[1, 0])])
        return b.add("Add", [y, b.constant(bias)])
    y = b.add("MatMul", [x, b.constant(w.T.copy())])
    if kind == "matmul_no_bias":
        return y
    return b.add("Add", [y, b.constant(bias)] if kind == "matmul_add" else [b.constant(bias), y])


def variant(rng, index, look_alike):
    b = Builder(rng)
    d, m = int(rng.integers(4, 80)), int(rng.integers(90, 700))
    w = rng.normal(size=(m, d)).astype(np.float32) / np.sqrt(d)
    bias, centre = rng.normal(size=m).astype(np.float32) * 0.2, rng.normal(size=d).astype(np.float32) * 0.5
    thresholds = np.abs(rng.normal(size=m)).astype(np.float32)
    drawn = {"product": rng.choice(PRODUCTS), "centre": rng.choice(CENTRES), "relu": rng.choice(RELUS), "selection": rng.choice(SELECTIONS)}
    if look_alike:
        drawn["look_alike"] = NOT_ENCODERS[index % len(NOT_ENCODERS)]
        if drawn["look_alike"] in ("soft_threshold", "other_compared", "gate_twice"):
            drawn["selection"] = "dense_threshold"
    odd = drawn.get("look_alike")
    say = {"k": None, "threshold": None}

    x = "embedding"
    if odd == "layer_norm":
        x = b.add("LayerNormalization", [x, b.raw(np.ones(d, np.float32))], axis=-1)
    elif odd == "unit_norm":
        x = b.add("Div", [x, b.add("ReduceL2", [x, b.raw(np.array([1], np.int64))], keepdims=1)])
    elif odd == "scaled_input":
        x = b.add("Mul", [x, b.raw(np.float32([1.0001]))])
    elif odd == "row_mean":
        x = b.add("Sub", [x, b.add("ReduceMean", [x, b.raw(np.array([1], np.int64))], keepdims=1)])
    elif odd == "squared":
        x = b.add("Mul", [x, x])
    elif odd == "clipped":
        x = b.add("Clip", [x, b.raw(np.float32(-1.0)), b.raw(np.float32(1.0))])
    if drawn["centre"] == "sub":
        x = b.add("Sub", [x, b.constant(centre)])
    elif drawn["centre"] == "add_negative":
        x = b.add("Add", [x, b.constant(-centre)])
    elif drawn["centre"] == "folded":
        bias = bias - w @ centre

    if odd == "two_affines":
        x = product(b, "gemm_t1", x, np.eye(d, dtype=np.float32), np.zeros(d, np.float32))
    if odd in ("gemm_alpha", "gemm_beta"):
        scale = {"alpha": 1.0001} if odd == "gemm_alpha" else {"beta": 0.5}
        dense = b.add("Gemm", [x, b.constant(w), b.constant(bias)], transB=1, **scale)
    else:
        dense = product(b, drawn["product"], x, w, bias)
    if odd == "two_biases":
        dense = b.add("Add", [b.add("Add", [dense, b.constant(bias)]), b.constant(bias)])
    elif odd == "scaled_values":
        dense = b.add("Mul", [dense, b.raw(np.float32([1.0001]))])
    elif odd == "leaky":
        dense = b.add("LeakyRelu", [dense], alpha=0.5)
    elif odd == "sigmoid":
        dense = b.add("Sigmoid", [dense])
    elif odd == "elu":
        dense = b.add("Elu", [dense])
    elif odd == "soft_threshold":
        dense = b.add("Relu", [b.add("Sub", [dense, b.raw(thresholds)])])
    elif odd == "other_compared":
        # What is compared is not what passes.
        mask = b.add("Greater", [b.add("Mul", [dense, b.raw(np.float32([2.0]))]), b.raw(thresholds)])
        dense = b.add("Where", [mask, dense, b.raw(np.float32([0.0]))])
    elif odd == "gate_twice":
        for _ in range(2):
            dense = b.add("Where", [b.add("Greater", [dense, b.raw(thresholds)]), dense, b.raw(np.float32([0.0]))])

    if drawn["relu"] in ("before", "both"):
        dense = b.add("Relu", [dense])
    outputs = select(b, drawn, dense, d, m, thresholds, say)
    return finish(b, rng, drawn, outputs, d, m), d, say, drawn


def select(b, drawn, dense, d, m, thresholds, say):
    """The selection, and the graph's outputs by role."""
    kind, rng, after = drawn["selection"], b.rng, drawn["relu"] in ("after", "both")
    if kind.startswith("topk"):
        k = {"topk_1": 1, "topk_all": m}.get(kind, int(rng.integers(2, 60)))
        values, indices = b.name(), b.name()
        count = b.raw(np.array([k], np.int64))
        b.nodes.append(helper.make_node("TopK", [dense, count], [values, indices], axis=int(rng.choice([-1, 1])), sorted=int(rng.integers(2))))
        values = b.add("Relu", [values]) if after else values
        if kind != "topk_decoder":
            return {"values": values, "indices": indices}
        latents = b.add("ScatterElements", [b.add("Mul", [dense, b.raw(np.float32([0.0]))]), indices, values], axis=1)
        decoder = rng.normal(size=(m, d)).astype(np.float32)
        return {"latents": latents, "reconstruction": b.add("MatMul", [latents, b.constant(decoder)])}
    if kind.startswith("dense"):
        say[{"dense_k": "k", "dense_threshold": "threshold"}[kind]] = int(rng.integers(1, 60)) if kind == "dense_k" else 0.75
        return {"latents": b.add("Relu", [dense]) if after else dense}
    uniform = rng.random() < 0.3
    own = np.float32([thresholds[0]]) if uniform else thresholds
    if kind == "thresholded":
        latents = b.add("ThresholdedRelu", [dense], alpha=float(thresholds[0]))
    elif kind == "mul":
        mask = b.add("Cast", [b.add(str(rng.choice(["Greater", "GreaterOrEqual"])), [dense, b.constant(own)])], to=TensorProto.FLOAT)
        kept = b.add("Relu", [dense]) if rng.random() < 0.5 else dense
        latents = b.add("Mul", [mask, kept] if rng.random() < 0.5 else [kept, mask])
    elif kind == "less":
        zero = b.raw(np.zeros(1, np.float32))
        if rng.random() < 0.5:
            latents = b.add("Where", [b.add("LessOrEqual", [dense, b.constant(own)]), zero, dense])
        else:
            latents = b.add("Where", [b.add("Less", [b.constant(own), dense]), dense, zero])
    else:
        latents = b.add("Where", [b.add("Greater", [dense, b.constant(own)]), dense, b.raw(np.zeros(1, np.float32))])
    return {"latents": b.add("Relu", [latents]) if after else latents}


def finish(b, rng, drawn, outputs, d, m):
    batch = int(rng.choice([0, 0, 32]))
    drawn["batch"] = batch
    value = lambda name, kind, width: helper.make_tensor_value_info(name, kind, [batch or "n", width])
    kinds = {"indices": TensorProto.INT64}
    widths = {"latents": m, "reconstruction": d}
    infos = [value(name, kinds.get(role, TensorProto.FLOAT), widths.get(role, "k")) for role, name in outputs.items()]
    if rng.random() < 0.5:
        infos.reverse()
    graph = helper.make_graph(b.nodes, "sae", [value("embedding", TensorProto.FLOAT, d)], infos, b.initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model, outputs


def answer(path, outputs, rows, batch, say):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    size = batch or len(rows)
    names = list(outputs.values())
    parts = [session.run(names, {"embedding": rows[i : i + size]}) for i in range(0, len(rows), size)]
    found = dict(zip(outputs, [np.concatenate(column) for column in zip(*parts)]))
    if "indices" in found:
        return found["values"], found["indices"]
    latents = found["latents"]
    if say["threshold"] is not None:
        latents = np.where(latents > say["threshold"], latents, 0)
    k = say["k"] or latents.shape[1]
    indices = np.argsort(-latents, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(latents, indices, axis=1), indices.astype(np.int64)


def main(seed, n, folder):
    rng, listed = np.random.default_rng(seed), []
    for index in range(n):
        look_alike = index % 4 == 3
        (model, outputs), d, say, drawn = variant(rng, index // 4 if look_alike else index, look_alike)
        path = os.path.join(folder, f"{index:03}")
        onnx.save(model, path + ".onnx")
        rows = rng.normal(size=(ROWS, d)).astype(np.float32) * np.exp(rng.normal(size=(ROWS, 1))).astype(np.float32)
        values, indices = answer(path + ".onnx", outputs, rows, drawn["batch"], say)
        np.savez(path + ".npz", embedding=rows, values=values, indices=indices)
        name = " ".join(f"{key}={value}" for key, value in drawn.items())
        listed.append({"file": f"{index:03}", "name": name, "native": not look_alike, **say})
    with open(os.path.join(folder, "variants.json"), "w") as file:
        json.dump(listed, file)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
