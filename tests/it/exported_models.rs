//! The given SAEs of a general, a graph and a sequential model out to every format and back, on the real vectors: what
//! numpy and ONNX Runtime compute from the files is what the given SAE computes.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support;

/// The given SAE and each export of it over every fiftieth vector: FVU, and the values that differ.
const CHECK: &str = r#"
import json, sys
from pathlib import Path
import numpy as np, onnx, onnxruntime as ort
from safetensors.numpy import load_file
given, folder, vectors, k = sys.argv[1], Path(sys.argv[2]), np.load(sys.argv[3]), int(sys.argv[4])
x = vectors[:: 50 if len(vectors) > 5000 else 1].astype(np.float64)
w = {name: tensor.astype(np.float64) for name, tensor in load_file(given).items()}

def topk(pre):
    pre = np.maximum(pre, 0)
    z, top = np.zeros_like(pre), np.argsort(-pre, axis=1, kind="stable")[:, :k]
    np.put_along_axis(z, top, np.take_along_axis(pre, top, 1), 1)
    return z

pre = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
z = topk(pre)
expected = z @ w["W_dec"] + w["b_dec"]

def same(name, found, of):
    # Where the k-th value and the next are one in f32, either latent may be taken.
    off = (np.abs(found - of) > 2e-4 * np.abs(of).max()).any(1).sum()
    assert off <= 1, f"{name}: {off} of {len(of)} rows are others"
    return name

done = []
for name in ("full.onnx", "dense.onnx"):
    onnx.checker.check_model(onnx.load(folder / name), full_check=True)
run = lambda name, output: ort.InferenceSession(folder / name).run([output] if output else None, {"embedding": x.astype(np.float32)})[0]
done.append(same("full", run("full.onnx", "reconstruction"), expected))
done.append(same("dense", run("dense.onnx", None), np.maximum(pre, 0)))
again = load_file(folder / "sae.safetensors")
assert all(np.array_equal(again[name], tensor) for name, tensor in load_file(given).items()), "safetensors"
lens, config = load_file(folder / "saelens/sae_weights.safetensors"), json.loads((folder / "saelens/cfg.json").read_text())
assert (config["architecture"], config["k"], config["apply_b_dec_to_input"], config["normalize_activations"]) == ("topk", k, True, "none")
done.append(same("saelens", topk((x - lens["b_dec"]) @ lens["W_enc"] + lens["b_enc"]) @ lens["W_dec"] + lens["b_dec"], expected))
of, config = load_file(folder / "sparsify/sae.safetensors"), json.loads((folder / "sparsify/cfg.json").read_text())
assert (config["activation"], config["k"], config["num_latents"]) == ("topk", k, len(w["W_dec"]))
done.append(same("sparsify", topk((x - of["b_dec"]) @ of["encoder.weight"].T + of["encoder.bias"]) @ of["W_dec"] + of["b_dec"], expected))
all_x = vectors.astype(np.float64)
all_z = topk((all_x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
error = all_x - all_z @ w["W_dec"] - w["b_dec"]
print(json.dumps({"alike": done, "fvu": (error**2).sum() / ((all_x - all_x.mean(0)) ** 2).sum(), "l0": float((all_z > 0).sum(1).mean())}))
"#;

/// A command that succeeds: its JSON.
fn recsae(library: &Path, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).env("ORT_DYLIB_PATH", library).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn saes_of_three_kinds_of_model_are_the_same_in_every_format() {
    let (Some(data), Some(python), Some(library)) = (support::data(), support::python(), support::onnxruntime()) else { return };
    for (name, k) in [("bprmf.sae_k8_s16", "8"), ("lightgcn.sae_k8_s16", "8"), ("sasrec.sae_k8_s16", "8"), ("sasrec.sae_k32_s32", "32")] {
        let model = name.split('.').next().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let own = |file: &str| folder.path().join(file).display().to_string();
        let given = data.join("ml100k").join(format!("{name}.safetensors")).display().to_string();
        let file = if model == "sasrec" { "embeddings" } else { "user_embeddings" };
        let vectors = data.join("ml100k").join(format!("{model}.{file}.npy")).display().to_string();
        let mut words = vec!["export".to_owned(), "--json".into(), "--sae".into(), given.clone()];
        for (format, file) in [
            ("--onnx", "full.onnx"),
            ("--onnx-dense", "dense.onnx"),
            ("--safetensors", "sae.safetensors"),
            ("--saelens", "saelens"),
            ("--sparsify", "sparsify"),
        ] {
            words.extend([format.to_owned(), own(file)]);
        }
        recsae(&library, &words.iter().map(String::as_str).collect::<Vec<_>>());
        let check = Command::new(&python).args(["-c", CHECK, &given, folder.path().to_str().unwrap(), &vectors, k]).output().unwrap();
        assert!(check.status.success(), "{name}: {}", String::from_utf8_lossy(&check.stderr));
        let numpy: Value = serde_json::from_slice(&check.stdout).unwrap();
        println!("{name}: {numpy}");
        // Back again, checked on the vectors: the digits are those of numpy on the given SAE.
        for from in [given.clone(), own("sae.safetensors"), own("saelens"), own("sparsify")] {
            let imported = recsae(&library, &["import", &from, "--json", "--check-embeddings", &vectors]);
            for number in ["fvu", "l0"] {
                let (ours, theirs) = (imported[number].as_f64().unwrap(), numpy[number].as_f64().unwrap());
                assert!((ours - theirs).abs() < 2e-6 * (1.0 + theirs), "{name} from {from}: {number} {ours}, numpy {theirs}");
            }
        }
    }
}
