//! Checkpoints of other programs: fixtures that the real libraries wrote (`make fixtures`), hostile files, and
//! our exports in ONNX Runtime.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ndarray::Array2;
use rand::{Rng, SeedableRng};
use recsae::sae::weights::{SaeWeights, Selection};
use recsae::workshop::import::{ImportOptions, Imported, Normalisation, import, import_bytes};
use safetensors::SafeTensors;

use crate::support;

fn fixture(name: &str) -> PathBuf {
    support::repo().join("tests/fixtures/checkpoints").join(name)
}

fn matrix(file: &SafeTensors<'_>, name: &str) -> Array2<f32> {
    let view = file.tensor(name).unwrap();
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    Array2::from_shape_vec((view.shape()[0], view.shape()[1]), values).unwrap()
}

/// The library's own forward pass: the same active latents, and the same reconstruction.
fn computes_the_same(name: &str, sae: &SaeWeights) {
    let bytes = std::fs::read(fixture(name).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (x, latents, x_hat) = (matrix(&file, "embedding"), matrix(&file, "latents"), matrix(&file, "reconstruction"));
    for row in 0..x.nrows() {
        let active = sae.encode(x.row(row).as_slice().unwrap());
        let ours: Vec<usize> = active.iter().map(|(latent, _)| latent.index()).collect();
        let theirs: Vec<usize> = (0..latents.ncols()).filter(|latent| latents[[row, *latent]] > 0.0).collect();
        assert_eq!(ours, theirs, "{name}, row {row}: other active latents");
        for (ours, theirs) in sae.decode(&active).unwrap().iter().zip(x_hat.row(row)) {
            assert!((ours - f64::from(*theirs)).abs() < 2e-5, "{name}, row {row}: {ours} {theirs}");
        }
    }
}

fn k(k: usize) -> ImportOptions {
    ImportOptions { k: NonZeroUsize::new(k), ..ImportOptions::default() }
}

fn imports(name: &str, file: &str, options: ImportOptions, family: &str, architecture: &str) -> Imported {
    let path = if file.is_empty() { fixture(name) } else { fixture(name).join(file) };
    let imported = import(&path, &options).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    assert_eq!((imported.family, imported.architecture.as_str()), (family, architecture), "{name}");
    computes_the_same(name, &imported.weights);
    imported
}

#[track_caller]
fn refuses(name: &str, file: &str, options: ImportOptions, says: &str) {
    let path = if file.is_empty() { fixture(name) } else { fixture(name).join(file) };
    let error = format!("{:#}", import(&path, &options).err().unwrap_or_else(|| panic!("{name} was imported")));
    println!("{error}");
    assert!(error.contains(says), "{error}");
}

#[test]
fn every_family_computes_what_its_own_library_computes() {
    let none = ImportOptions::default();
    imports("saelens.standard", "", none, "saelens", "standard");
    imports("saelens.standard_uncentred", "", none, "saelens", "standard");
    imports("saelens.topk", "", none, "saelens", "topk");
    imports("saelens.topk_rescaled", "", none, "saelens", "topk");
    imports("saelens.topk_square", "", none, "saelens", "topk");
    imports("saelens.jumprelu", "", none, "saelens", "jumprelu");
    imports("saelens.gated", "", none, "saelens", "gated");
    imports("saelens.before_6", "", none, "saelens", "topk");
    imports("sparsify.topk", "", none, "sparsify", "topk");
    imports("sparsify.by_factor", "", none, "sparsify", "topk");
    imports("dictionary_learning.standard", "", none, "dictionary_learning", "standard");
    imports("dictionary_learning.standard_new", "", none, "dictionary_learning", "standard");
    imports("dictionary_learning.gated", "", none, "dictionary_learning", "gated");
    imports("dictionary_learning.jumprelu", "", none, "dictionary_learning", "jumprelu");
    imports("dictionary_learning.topk", "", none, "dictionary_learning", "topk");
    imports("dictionary_learning.topk_square", "", none, "dictionary_learning", "topk");
    let batch = imports("dictionary_learning.batchtopk", "", none, "dictionary_learning", "batchtopk");
    assert_eq!(batch.weights.spec().selection, Selection::Threshold(0.6));
    imports("recsae.sasrec", "SASRec_k5.pt", k(5), "recsae", "topk");
    imports("openai.topk", "", ImportOptions { normalisation: Some(Normalisation::None), ..none }, "openai", "topk");
    imports("openai.relu", "", none, "openai", "relu");
}

#[test]
fn what_cannot_be_known_is_asked_for() {
    let none = ImportOptions::default();
    refuses("recsae.sasrec", "SASRec_k5.pt", none, "give --k");
    refuses("openai.topk", "", none, "--normalisation none");
    refuses("saelens.average_norm", "", none, "--normalisation FACTOR");
    refuses("saelens.layer_norm", "", none, "layer_norm");
    refuses("saelens.topk", "", k(7), "--k 7, but the file says k = 5");
    refuses("saelens.topk", "expected.safetensors", none, "expected an SAE's encoder");
    // Away from their configuration the same files say less.
    let folder = tempfile::tempdir().unwrap();
    let alone = |name: &str, file: &str| {
        let to = folder.path().join(format!("{name}.{file}"));
        std::fs::copy(fixture(name).join(file), &to).unwrap();
        to
    };
    for (name, file, says) in [
        ("saelens.topk", "sae_weights.safetensors", "--centring"),
        ("sparsify.topk", "sae.safetensors", "give --k"),
        ("dictionary_learning.topk", "ae.pt", "look alike"),
        ("dictionary_learning.batchtopk", "ae.pt", "look alike"),
    ] {
        let error = format!("{:#}", import(&alone(name, file), &none).unwrap_err());
        assert!(error.contains(says), "{name}: {error}");
    }
    let imported = import(&alone("sparsify.topk", "sae.safetensors"), &k(5)).unwrap();
    computes_the_same("sparsify.topk", &imported.weights);
}

#[test]
fn what_recsae_cannot_compute_is_refused_with_advice() {
    let none = ImportOptions::default();
    refuses("dictionary_learning.batchtopk_raw", "", none, "other rows of a batch");
    refuses("sparsify.groupmax", "", none, "groupmax");
    refuses("sparsify.transcoder", "", none, "transcoder");
    refuses("recsae.sasrec", "legacy.pt", k(5), "before 1.6");
    refuses("recsae.sasrec", "whole.pt", k(5), "state_dict()");
}

/// A zip archive of stored entries, as torch writes them.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let at = u32::try_from(file.len()).unwrap();
        let size = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let name_len = u16::try_from(name.len()).unwrap().to_le_bytes();
        file.extend(b"PK\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00");
        file.extend([size, size].concat());
        file.extend(name_len);
        file.extend(b"\x00\x00");
        file.extend(name.as_bytes());
        file.extend(*bytes);
        directory.extend(b"PK\x01\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00");
        directory.extend([size, size].concat());
        directory.extend(name_len);
        directory.extend([0; 12]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = u32::try_from(file.len()).unwrap().to_le_bytes();
    let n = u16::try_from(entries.len()).unwrap().to_le_bytes();
    let size = u32::try_from(directory.len()).unwrap().to_le_bytes();
    file.extend(directory);
    file.extend(b"PK\x05\x06\x00\x00\x00\x00");
    file.extend([n, n].concat());
    file.extend([size, start].concat());
    file.extend(b"\x00\x00");
    file
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(value: i32) -> Vec<u8> {
    [b"J", &value.to_le_bytes()[..]].concat()
}

/// `{"encoder.weight": tensor}` over storage "0" of `n` floats.
fn tensor_pickle(key: &str, n: i32, offset: i32, shape: [i32; 2], strides: [i32; 2]) -> Vec<u8> {
    let pair = |pair: [i32; 2]| [int(pair[0]), int(pair[1]), vec![0x86]].concat();
    [
        b"\x80\x02}".to_vec(),
        text("encoder.weight"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(key),
        text("cpu"),
        int(n),
        b"tQ".to_vec(),
        int(offset),
        pair(shape),
        pair(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat()
}

fn torch(pickle: &[u8]) -> Vec<u8> {
    zip(&[("m/data.pkl", pickle), ("m/data/0", &[0; 64])])
}

/// Name, bytes, and a word of the refusal.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let call =
        |module: &str, name: &str| torch(&[&b"\x80\x02c"[..], format!("{module}\n{name}\n(").as_bytes(), &text("id"), b"tR."].concat());
    let good = tensor_pickle("0", 16, 0, [4, 4], [4, 1]);
    let patched = |mut file: Vec<u8>, at_end: usize, bytes: &[u8]| {
        let at = file.len() - at_end;
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    // The directory entry of data/0 begins 46 + 8 + 22 bytes before the end.
    let last = 46 + 8 + 22;
    // Each dictionary holds the one before twice: 2^14 paths in 300 bytes.
    let laughs = {
        let mut pickle = b"\x80\x02}q\x000".to_vec();
        for level in 1..15_u8 {
            let held = [&text("a")[..], &[b'h', level - 1, b's'], &text("b"), &[b'h', level - 1, b's']].concat();
            pickle.extend([b"}q", &[level][..], &held, b"0"].concat());
        }
        [&pickle[..], b"h\x0e."].concat()
    };
    vec![
        ("os.system", call("os", "system"), "not allowed"),
        ("posix.system", call("posix", "system"), "not allowed"),
        ("eval", call("builtins", "eval"), "not allowed"),
        ("exec of old", call("__builtin__", "exec"), "not allowed"),
        ("getattr", call("builtins", "getattr"), "not allowed"),
        ("popen", call("subprocess", "Popen"), "not allowed"),
        ("import", call("importlib", "import_module"), "not allowed"),
        ("torch.load itself", call("torch", "load"), "not allowed"),
        ("torch hub", call("torch.hub", "load"), "not allowed"),
        ("stack global", torch(&[b"\x80\x04".to_vec(), text("os"), text("system"), b"\x93.".to_vec()].concat()), "not allowed"),
        ("a word that is called", call("torch", "FloatStorage"), "not allowed"),
        ("a call of a text", torch(&[b"\x80\x02".to_vec(), text("os.system"), b")R.".to_vec()].concat()), "no name"),
        ("an instance", torch(b"\x80\x02ccollections\nOrderedDict\n)\x81."), "not allowed"),
        ("an old instance", torch(b"\x80\x02(ios\nsystem\n."), "not allowed"),
        ("an object", torch(b"\x80\x02(ctorch\nSize\no."), "not allowed"),
        ("an extension", torch(b"\x80\x02\x82\x01."), "not allowed"),
        ("a path as storage", torch(&tensor_pickle("../../../etc/passwd", 16, 0, [4, 4], [4, 1])), "a storage named"),
        ("10 GB of shape", torch(&tensor_pickle("0", 16, 0, [50_000, 50_000], [0, 0])), "more values than the file"),
        ("10 GB of storage", torch(&tensor_pickle("0", 2_000_000_000, 0, [4, 4], [4, 1])), "its storage claims"),
        ("a negative shape", torch(&tensor_pickle("0", 16, 0, [-4, 4], [4, 1])), "shape"),
        ("strides outside", torch(&tensor_pickle("0", 16, 0, [4, 4], [2_000_000_000, 1])), "outside its storage"),
        ("an offset outside", torch(&tensor_pickle("0", 16, 15, [4, 4], [4, 1])), "outside its storage"),
        ("a negative offset", torch(&tensor_pickle("0", 16, -1, [4, 4], [4, 1])), "negative"),
        ("a storage that is not there", torch(&tensor_pickle("7", 16, 0, [4, 4], [4, 1])), "does not have"),
        ("a dictionary within itself", torch(&[b"\x80\x02}q\x00".to_vec(), text("a"), b"h\x00s.".to_vec()].concat()), "nested deeper"),
        ("a billion laughs", torch(&laughs), "more values than bytes"),
        ("a stack without end", torch(&[b"\x80\x02Nq\x00".to_vec(), b"h\x00".repeat(1_100_000), b".".to_vec()].concat()), "too deep"),
        ("values without end", torch(&[b"\x80\x02".to_vec(), b"N0".repeat(1_100_000), b".".to_vec()].concat()), "values"),
        ("marks without values", torch(b"\x80\x02((((t."), ""),
        ("a recall of nothing", torch(b"\x80\x02h\x09."), "remembered"),
        ("a pickle cut off", torch(&good[..good.len() - 9]), "cut off"),
        ("text beyond the end", torch(b"\x80\x02X\xFF\xFF\xFF\x7Fabc."), "cut off"),
        ("an archive in the archive", zip(&[("m/data.pkl", &zip(&[("n/data.pkl", b"N.")])), ("m/data/0", &[0; 64])]), ""),
        ("two pickles", zip(&[("a/data.pkl", &good), ("b/data.pkl", &good), ("a/data/0", &[0; 64])]), "two data.pkl"),
        ("a name twice", zip(&[("m/data.pkl", &good), ("m/data/0", &[0; 64]), ("m/data/0", &[1; 64])]), "twice"),
        ("big-endian", zip(&[("m/data.pkl", &good), ("m/byteorder", b"big"), ("m/data/0", &[0; 64])]), "byte order"),
        ("compressed", patched(torch(&good), last - 10, &[8, 0]), "compressed"),
        ("encrypted", patched(torch(&good), last - 8, &[1, 0]), "encrypted"),
        ("4 GB claimed", patched(torch(&good), last - 20, &[0xFE, 0xFF, 0xFF, 0xFF, 0xFE, 0xFF, 0xFF, 0xFF]), "claims"),
        ("a bomb's ratio", patched(torch(&good), last - 24, &[0xFF, 0xFF, 0xFF, 0x7F]), "claims"),
        ("overlapping", patched(torch(&good), last - 42, &[0, 0, 0, 0]), ""),
        ("outside the file", patched(torch(&good), last - 42, &[0xFF, 0xFF, 0xFF, 0x7F]), "outside"),
        ("an archive of something else", zip(&[("word/document.xml", b"<x/>")]), "torch did not write it"),
        ("an archive cut off", torch(&good)[..80].to_vec(), "no directory"),
        ("a bare pickle", b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00idtR.".to_vec(), "before 1.6"),
        ("10 GB of safetensors header", [&10_000_000_000_u64.to_le_bytes()[..], b"{}"].concat(), "neither"),
        (
            "10 GB of safetensors",
            {
                let header = br#"{"encoder.weight":{"dtype":"F32","shape":[50000,50000],"data_offsets":[0,10000000000]}}"#;
                [&(header.len() as u64).to_le_bytes()[..], header].concat()
            },
            "neither",
        ),
        ("nothing", Vec::new(), "neither"),
    ]
}

#[test]
fn hostile_files_are_refused_in_words_and_run_nothing() {
    let files = hostile();
    assert!(files.len() >= 20);
    let good = tensor_pickle("0", 16, 0, [4, 4], [4, 1]);
    let error = format!("{:#}", import_bytes(&torch(&good), &k(2)).unwrap_err());
    assert!(error.contains("W_dec"), "the file the others are made of is read: {error}");
    for (name, bytes, says) in files {
        let began = std::time::Instant::now();
        let error = format!("{:#}", import_bytes(&bytes, &k(2)).err().unwrap_or_else(|| panic!("{name} was imported")));
        println!("{name}: {error}");
        assert!(error.contains(says), "{name}: {error}");
        assert!(began.elapsed().as_secs() < 10, "{name} took {:?}", began.elapsed());
    }
}

#[test]
fn damaged_checkpoints_are_refused_or_read_and_never_a_panic() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    for file in ["openai.topk/autoencoder.pt", "dictionary_learning.topk/ae.pt", "sparsify.topk/sae.safetensors"] {
        let whole = std::fs::read(fixture(file)).unwrap();
        let structure: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
        for _ in 0..1500 {
            let mut bytes = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                bytes[structure[rng.random_range(0..structure.len())]] = rng.random();
            }
            if rng.random_bool(0.1) {
                bytes.truncate(rng.random_range(0..bytes.len()));
            }
            drop(import_bytes(&bytes, &ImportOptions { normalisation: Some(Normalisation::None), ..k(5) }));
        }
    }
}

fn recsae(arguments: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.args(arguments);
    paths.iter().for_each(|(name, path)| {
        command.arg(name).arg(path);
    });
    command.output().unwrap()
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// onnx.checker, and ONNX Runtime beside the formula.
const CHECK: &str = r#"
import sys, json
import numpy as np, onnx, onnxruntime as ort
from safetensors.numpy import load_file
full, dense, weights, spec = sys.argv[1], sys.argv[2], load_file(sys.argv[3]), json.loads(sys.argv[4])
for path in (full, dense): onnx.checker.check_model(onnx.load(path), full_check=True)
w = {n: t.astype(np.float64) for n, t in weights.items()}
x = (w["b_dec"] + np.random.default_rng(3).standard_normal((200, len(w["b_dec"])))).astype(np.float32)
pre = np.maximum((x - (w["b_dec"] if spec["centring"] else 0)) @ w["encoder.weight"].T + w["encoder.bias"], 0)
assert np.allclose(ort.InferenceSession(dense).run(None, {"embedding": x})[0], pre, atol=1e-4)
if "k" in spec:
    z = np.zeros_like(pre); top = np.argsort(-pre, axis=1, kind="stable")[:, :spec["k"]]
    np.put_along_axis(z, top, np.take_along_axis(pre, top, 1), 1)
else:
    z = pre * (pre > spec["threshold"])
assert np.allclose(ort.InferenceSession(full).run(["reconstruction"], {"embedding": x})[0], z @ w["W_dec"] + w["b_dec"], atol=1e-4)
print("200 rows alike in", ort.__version__)
"#;

#[test]
fn exports_pass_the_checker_and_compute_the_sae_in_onnx_runtime() {
    let (Some(python), Some(_)) = (support::python(), support::onnxruntime()) else { return };
    for (name, asked, spec) in [
        ("sparsify.topk", None, r#"{"k": 5, "centring": true}"#),
        ("dictionary_learning.jumprelu", None, r#"{"threshold": 1.0, "centring": false}"#),
        ("openai.relu", None, r#"{"threshold": 0.0, "centring": true}"#),
        ("recsae.sasrec", Some("SASRec_k5.pt"), r#"{"k": 5, "centring": true}"#),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = |file: &str| folder.path().join(file);
        let path = asked.map_or_else(|| fixture(name), |file| fixture(name).join(file));
        let mut arguments = vec!["import", path.to_str().unwrap()];
        if asked.is_some() {
            arguments.extend(["--k", "5"]);
        }
        let output = recsae(&arguments, &[("--out", &at("sae.safetensors"))]);
        assert_eq!(output.status.code(), Some(0), "{}", words(&output));
        let mut paths = vec![
            ("--onnx", at("full.onnx")),
            ("--onnx-dense", at("dense.onnx")),
            ("--saelens", at("saelens")),
            ("--sae", at("sae.safetensors")),
        ];
        if spec.contains("\"k\"") {
            paths.push(("--sparsify", at("sparsify")));
        }
        let paths: Vec<(&str, &Path)> = paths.iter().map(|(name, path)| (*name, path.as_path())).collect();
        let output = recsae(&["export"], &paths);
        assert_eq!(output.status.code(), Some(0), "{}", words(&output));
        let check = Command::new(&python)
            .args(["-c", CHECK])
            .args([at("full.onnx"), at("dense.onnx"), at("sae.safetensors")])
            .arg(spec)
            .output()
            .unwrap();
        assert!(check.status.success(), "{name}: {}", words(&check));
        println!("{name}: {}", words(&check).trim());
        // What we wrote for others is read back, and computes the same.
        let again = import(&at("saelens"), &ImportOptions::default()).unwrap();
        computes_the_same(name, &again.weights);
        if spec.contains("\"k\"") {
            computes_the_same(name, &import(&at("sparsify"), &ImportOptions::default()).unwrap().weights);
        }
        let twice = recsae(&["export"], &paths);
        assert_eq!(twice.status.code(), Some(2), "nothing is overwritten: {}", words(&twice));
    }
}

#[test]
fn an_import_that_does_not_fit_the_vectors_is_the_answer_no() {
    let Some(data) = support::data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sae.safetensors");
    let sae = data.join("ml100k/sasrec.sae_k8_s16.safetensors");
    let right = data.join("ml100k/sasrec.embeddings.npy");
    let wrong = data.join("ml100k/bprmf.item_embeddings.npy");
    let output = recsae(&["import", sae.to_str().unwrap()], &[("--check-embeddings", &wrong), ("--out", &out)]);
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    assert!(words(&output).contains("worse than their mean") && !out.exists());
    let output = recsae(&["import", sae.to_str().unwrap()], &[("--check-embeddings", &right), ("--out", &out)]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    assert!(out.exists());
}
