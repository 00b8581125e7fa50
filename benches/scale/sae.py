"""Random TopK SAEs of any width, as ONNX, built into bundles by the program itself."""
import subprocess
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from streams import DIMENSION

K = 8


class Saes:
    """Bundles by number of latents, each built once."""

    def __init__(self, recsae: Path, folder: Path):
        self.recsae, self.folder, self.bundles = recsae, folder, {}

    def bundle(self, latents: int) -> Path:
        if latents not in self.bundles:
            graph, out = self.folder / f"{latents}.onnx", self.folder / f"bundle-{latents}"
            onnx.save(encoder(latents), graph)
            subprocess.run([self.recsae, "bundle", "build", "--onnx", graph, "--out", out], check=True, capture_output=True)
            self.bundles[latents] = out
        return self.bundles[latents]


def encoder(latents: int) -> onnx.ModelProto:
    """x W + b, ReLU, TopK: unit columns, so that Gaussian vectors activate about half of the latents before the selection."""
    weights = np.random.default_rng(latents).standard_normal((DIMENSION, latents)).astype(np.float32)
    weights /= np.linalg.norm(weights, axis=0)
    tensors = {"W": weights, "b": np.zeros(latents, np.float32), "k": np.array([K], np.int64)}
    nodes = [
        helper.make_node("MatMul", ["embedding", "W"], ["projected"]),
        helper.make_node("Add", ["projected", "b"], ["before"]),
        helper.make_node("Relu", ["before"], ["latents"]),
        helper.make_node("TopK", ["latents", "k"], ["values", "indices"]),
    ]
    graph = helper.make_graph(
        nodes, "sae",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIMENSION])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", K]), helper.make_tensor_value_info("indices", TensorProto.INT64, ["batch", K])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
