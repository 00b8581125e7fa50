//! Encoders are recognised by what their graphs compute, not by how they are written: graphs drawn anew for each
//! run are encoded natively and as Python's onnxruntime has them, and look-alike graphs are left to ONNX Runtime.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::process::Command;

use recsae::bundle::Bundle;
use recsae::bundle::build::{BuildRequest, build};
use recsae::bundle::golden::GoldenRows;
use recsae::encode::{self, Engine};
use recsae::sae::activation::SparseActivations;
use recsae::sae::weights::Selection;
use serde::Deserialize;

use crate::support;

const N_VARIANTS: usize = 200;

/// A graph as the script drew it.
#[derive(Deserialize)]
struct Variant {
    file: String,
    name: String,
    native: bool,
    k: Option<NonZeroUsize>,
    threshold: Option<f32>,
}

#[test]
fn drawn_graphs_are_native_and_agree_and_what_looks_alike_is_left_to_onnx_runtime() {
    let (Some(library), Some(python)) = (support::onnxruntime(), support::python()) else { return };
    let seed: u32 = rand::random();
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let script = support::repo().join("tests/scripts/graph_variants.py");
    let output = Command::new(python).arg(script).args([seed.to_string(), N_VARIANTS.to_string()]).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let variants: Vec<Variant> = serde_json::from_slice(&std::fs::read(folder.path().join("variants.json")).unwrap()).unwrap();
    assert_eq!(variants.len(), N_VARIANTS);

    let (mut n_native, mut reasons, mut faults) = (0, BTreeMap::new(), Vec::new());
    for Variant { file, name, native, k, threshold } in &variants {
        let path = |extension: &str| folder.path().join(format!("{file}.{extension}"));
        let request = BuildRequest {
            onnx: path("onnx"),
            golden: Some(path("npz")),
            out: path("bundle"),
            selection: k.map(Selection::TopK).or(threshold.map(Selection::Threshold)),
            ..BuildRequest::default()
        };
        // Building compares with the golden rows, which are Python's answers to the graph as it was written.
        let built = build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, Some(&library)));
        let bundle = match built {
            Ok(_) => Bundle::open(&request.out).unwrap(),
            Err(refused) if !native => {
                *reasons.entry(format!("refused: {}", kind_of(&refused.to_string()))).or_insert(0) += 1;
                continue;
            }
            Err(refused) => {
                faults.push(format!("{file} {name}: refused: {refused}"));
                continue;
            }
        };
        let mut encoder = encode::open(&bundle, Engine::Auto, Some(&library)).unwrap();
        let golden = GoldenRows::read(&path("npz")).unwrap();
        let mut activations = SparseActivations::default();
        encoder.encode(&golden.batch(bundle.spec()).unwrap(), &mut activations).unwrap();
        if let Err(mismatch) = golden.compare(&activations, None) {
            faults.push(format!("{file} {name}: {}: {mismatch}", encoder.engine()));
        }
        match (encode::native_model(&bundle), encoder.engine(), native) {
            (Ok(_), "native", true) => n_native += 1,
            (Err(why), "onnxruntime", false) => *reasons.entry(format!("ONNX Runtime: {}", kind_of(&why.to_string()))).or_insert(0) += 1,
            (found, engine, _) => faults.push(format!("{file} {name}: {engine}, {:?}", found.map(|_| "native weights"))),
        }
    }
    println!("{n_native} native, and {} not:", variants.len() - n_native);
    for (reason, n) in reasons {
        println!("{n:3} {reason}");
    }
    assert!(faults.is_empty(), "{} of {N_VARIANTS}:\n{}", faults.len(), faults.join("\n"));
}

/// The part of a message that says what was found.
fn kind_of(message: &str) -> &str {
    let from = message.find('(').or_else(|| message.find("found ")).unwrap_or(0);
    message[from..].split([';', ')']).next().unwrap_or_default()
}
