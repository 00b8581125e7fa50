"""What Python's onnxruntime makes of an exported SAE, unrewritten and at the graph's own batch size.

usage: onnx_forms.py MODEL.onnx ROWS.npy K OUT.npz

OUT holds embedding, values, indices and, where the graph gives it, reconstruction: the layout of a
bundle's golden rows. Latents that exist only inside the graph are added to its outputs, nothing else
is touched.
"""

import os
import sys

import numpy as np
import onnx
import onnxruntime as ort


def main(model_path, rows_path, k, out_path):
    rows = np.load(rows_path)
    width = rows.shape[1]
    session = open_session(model_path)
    if not any(is_latents(output, width) for output in session.get_outputs()):
        # A reconstruction alone: the tensor that ScatterElements fills holds the latents.
        model = onnx.load(model_path)
        scatters = [node for node in model.graph.node if node.op_type == "ScatterElements"]
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(scatters[-1].output[0]))
        session = ort.InferenceSession(model.SerializeToString(), one_thread(), providers=["CPUExecutionProvider"])
    outputs = run(session, rows)

    floats = [a for a in outputs if a.dtype == np.float32]
    integers = [a for a in outputs if a.dtype == np.int64]
    arrays = {"embedding": rows}
    if integers:
        indices = integers[0]
        values = next(a for a in floats if a.shape == indices.shape)
    else:
        dense = next(a for a in floats if a.shape[1] > width)
        indices = np.argsort(-dense, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(dense, indices, axis=1)
    arrays["values"], arrays["indices"] = values, indices.astype(np.int64)
    reconstruction = [a for a in floats if a.shape[1] == width]
    if reconstruction:
        arrays["reconstruction"] = reconstruction[0]
    np.savez(out_path, **arrays)


def one_thread():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return options


def open_session(path):
    # External data is looked up beside the model.
    os.chdir(os.path.dirname(os.path.abspath(path)))
    return ort.InferenceSession(os.path.basename(path), one_thread(), providers=["CPUExecutionProvider"])


def is_latents(output, width):
    last = output.shape[-1] if output.shape else None
    return output.type == "tensor(int64)" or (isinstance(last, int) and last > width)


def run(session, rows):
    batch = session.get_inputs()[0].shape[0]
    size = batch if isinstance(batch, int) else len(rows)
    name = session.get_inputs()[0].name
    assert len(rows) % size == 0, f"{len(rows)} rows in batches of {size}"
    parts = [session.run(None, {name: rows[i : i + size]}) for i in range(0, len(rows), size)]
    return [np.concatenate(column) for column in zip(*parts)]


if __name__ == "__main__":
    main(sys.argv[1], os.path.abspath(sys.argv[2]), int(sys.argv[3]), os.path.abspath(sys.argv[4]))
