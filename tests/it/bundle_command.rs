//! `recsae bundle` as a user meets it: exit codes, words, JSON; broken bundles and broken libraries.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support;

/// A bundle of a real SAE, built by the program itself.
fn built(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let (data, library) = (support::data()?, support::onnxruntime()?);
    let file = |suffix: &str| data.join("ml100k").join(format!("sasrec.sae_k8_s16.{suffix}"));
    let dir = folder.join("bundle");
    let output = recsae(&library)
        .args(["bundle", "build", "--model-version", "v12", "--onnx"])
        .arg(file("full.onnx"))
        .arg("--golden")
        .arg(file("golden.npz"))
        .arg("--concepts")
        .arg(file("concepts.parquet"))
        .arg("--out")
        .arg(&dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some((dir, library))
}

fn recsae(library: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.env("ORT_DYLIB_PATH", library);
    command
}

fn verify(dir: &Path, library: &Path) -> Output {
    recsae(library).args(["bundle", "verify"]).arg(dir).output().unwrap()
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// One line, no panic, and the exit code.
#[track_caller]
fn fails(output: &Output, code: i32, says: &str) {
    let words = words(output);
    println!("{words}");
    assert_eq!(output.status.code(), Some(code), "{words}");
    assert!(words.contains(says), "{words}");
    assert!(!words.contains("panicked") && words.trim_end().lines().count() == 1, "{words}");
}

#[test]
fn a_bundle_is_built_inspected_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let Some((dir, library)) = built(folder.path()) else { return };
    let output = recsae(&library).args(["bundle", "inspect", "--json"]).arg(&dir).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["manifest"]["sae"], serde_json::json!({"d_in": 64, "d_sae": 1024, "selection": {"top_k": 8}, "centring": true}));
    assert_eq!((json["manifest"]["model_version"].as_str(), json["concepts"].as_u64()), (Some("v12"), Some(600)));
    assert_eq!(json["golden"]["verified"], true);
    let output = verify(&dir, &library);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    let again = recsae(&library).args(["bundle", "build", "--onnx", "x.onnx", "--out"]).arg(&dir).output().unwrap();
    fails(&again, 2, "exists already");
}

#[test]
fn a_threshold_that_no_value_or_every_value_passes_is_refused() {
    let (Some(data), Some(library)) = (support::data(), support::onnxruntime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let onnx = data.join("ml100k/sasrec.sae_k8_s16.full.onnx");
    for threshold in ["nan", "inf", "-inf"] {
        let out = folder.path().join(threshold);
        let command =
            |arguments: &[&str]| recsae(&library).args(arguments).arg(format!("--threshold={threshold}")).arg("--out").arg(&out).output();
        let built = command(&["bundle", "build", "--onnx", onnx.to_str().unwrap()]).unwrap();
        fails(&built, 2, "expected a finite threshold, found");
        fails(&command(&["import", "weights.pt"]).unwrap(), 2, "expected --threshold to be finite and at least 0, found");
        assert!(!out.exists(), "nothing is written");
    }
}

#[test]
fn every_damage_to_a_bundle_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let Some((dir, library)) = built(folder.path()) else { return };
    let path = |name: &str| dir.join(name);
    for name in ["sae.onnx", "weights.safetensors", "golden.safetensors", "concepts.json"] {
        let whole = std::fs::read(path(name)).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        std::fs::write(path(name), flipped).unwrap();
        fails(&verify(&dir, &library), 1, "sha256 is");
        std::fs::write(path(name), &whole[..whole.len() / 2]).unwrap();
        fails(&verify(&dir, &library), 1, "sha256 is");
        std::fs::remove_file(path(name)).unwrap();
        fails(&verify(&dir, &library), 2, "No such file");
        std::os::unix::fs::symlink("/etc/passwd", path(name)).unwrap();
        fails(&verify(&dir, &library), 1, "found a link");
        std::fs::remove_file(path(name)).unwrap();
        std::fs::write(path(name), whole).unwrap();
    }
    assert!(verify(&dir, &library).status.success());
}

#[test]
fn garbage_manifests_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let Some((dir, library)) = built(folder.path()) else { return };
    let path = dir.join("manifest.json");
    let whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed = whole.clone();
        change(&mut changed);
        std::fs::write(&path, serde_json::to_vec(&changed).unwrap()).unwrap();
        verify(&dir, &library)
    };
    fails(&with(&|m| m["format_version"] = 2.into()), 1, "manifest of format version 2, this recsae reads version 1");
    fails(&with(&|m| m["format_version"] = "1".into()), 1, "manifest of format version");
    fails(&with(&|m| m["extra"] = 1.into()), 1, "unknown field `extra`");
    fails(&with(&|m| m["sae"]["d_sae"] = 0.into()), 1, "nonzero");
    fails(&with(&|m| m["sae"]["d_sae"] = 2048.into()), 1, "expected a graph from [batch, 64] to [batch, 2048]");
    fails(&with(&|m| m["sae"]["selection"]["top_k"] = 9.into()), 1, "belongs to another SAE");
    fails(&with(&|m| m["fingerprint"] = "00".into()), 1, "belongs to another SAE");
    fails(&with(&|m| m["files"]["../../etc/passwd"] = "00".into()), 1, "expected only");
    fails(&with(&|m| m["files"] = serde_json::json!({})), 1, "must list");
    for garbage in ["", "{", "[]", "null", "\u{0}\u{1}", "{\"format_version\": 1}"] {
        std::fs::write(&path, garbage).unwrap();
        fails(&verify(&dir, &library), 1, "not a manifest");
    }
    std::fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    fails(&verify(&dir, &library), 1, "expected at most");
    std::fs::remove_file(&path).unwrap();
    fails(&verify(&dir, &library), 2, "No such file");
}

#[test]
fn a_hostile_graph_in_a_well_hashed_bundle_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let Some((dir, library)) = built(folder.path()) else { return };
    let data = support::data().unwrap();
    let replace = |bytes: &[u8]| {
        std::fs::write(dir.join("sae.onnx"), bytes).unwrap();
        let path = dir.join("manifest.json");
        let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        manifest["files"]["sae.onnx"] = recsae::bundle::manifest::sha256(bytes).into();
        std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
        verify(&dir, &library)
    };
    let forms = data.join("onnx_export_forms");
    fails(&replace(&std::fs::read(forms.join("dense_relu.dynamo_dynamic.onnx")).unwrap()), 1, "a bundle's graph holds its weights itself");
    // Another SAE's encoder under this manifest: same widths, so only the golden rows tell.
    let other = folder.path().join("other");
    let onnx = data.join("ml100k/bprmf.sae_k8_s16.topk.onnx");
    let output = recsae(&library).args(["bundle", "build", "--onnx"]).arg(onnx).arg("--out").arg(&other).output().unwrap();
    assert!(output.status.success());
    fails(&replace(&std::fs::read(other.join("sae.onnx")).unwrap()), 1, "golden row 0");
}

#[test]
fn a_library_that_is_missing_wrong_or_too_old_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let Some((dir, _)) = built(folder.path()) else { return };
    fails(
        &verify(&dir, Path::new("/nowhere/libonnxruntime.so")),
        2,
        "ORT_DYLIB_PATH names /nowhere/libonnxruntime.so, which is not a file",
    );
    let text = folder.path().join("text.so");
    std::fs::write(&text, "not a library").unwrap();
    fails(&verify(&dir, &text), 2, "cannot be used");
    let Some(compiler) = support::program("cc") else { return };
    let library = |name: &str, source: &str| {
        let (source_path, path) = (folder.path().join(format!("{name}.c")), folder.path().join(format!("{name}.so")));
        std::fs::write(&source_path, source).unwrap();
        let status = Command::new(&compiler).args(["-shared", "-fPIC", "-o"]).args([&path, &source_path]).status().unwrap();
        assert!(status.success());
        path
    };
    fails(&verify(&dir, &library("other", "int answer(void) { return 42; }")), 2, "it is not ONNX Runtime");
    let old = "typedef struct { const void *(*api)(unsigned); const char *(*version)(void); } Base;
        static const void *api(unsigned v) { return 0; }
        static const char *version(void) { return \"1.17.3\"; }
        static Base base = { api, version };
        const Base *OrtGetApiBase(void) { return &base; }";
    fails(&verify(&dir, &library("old", old)), 2, "it is version 1.17.3, which is too old");
    let lying = old.replace("1.17.3", "1.99.0");
    let null = "const void *OrtGetApiBase(void) { return 0; }";
    for path in [library("lying", &lying), library("null", null)] {
        // `ort` panics inside on these; what the user gets is still the sentence and the exit code.
        let output = verify(&dir, &path);
        assert_eq!(output.status.code(), Some(2));
        assert!(words(&output).contains("cannot be used: it does not have the interface of version 1.22"), "{}", words(&output));
    }
    // Beside the executable and on the system there is none in a bare environment.
    let bare = Command::new(env!("CARGO_BIN_EXE_recsae")).env_clear().args(["bundle", "verify"]).arg(&dir).output().unwrap();
    if bare.status.code() != Some(0) {
        fails(&bare, 2, "ONNX Runtime was not found");
    }
}
