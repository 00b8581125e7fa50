//! All real rows, with numpy as the judge: values within a bound of f64, sets those of ONNX Runtime but for near ties.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ndarray::Array2;
use recsae::encode::native::{Kernel, NativeEncoder, compare};
use recsae::encode::{self, Engine};
use recsae::sae::activation::SparseActivations;
use serde::Deserialize;

use crate::encode_real::{encode_all, real_bundle};
use crate::support;

/// What `encode_f64.py` prints.
#[derive(Debug, Deserialize)]
struct Judged {
    rows: usize,
    active: usize,
    worst_of_bound: f64,
    sets_not_f64: usize,
    sets_not_onnxruntime: usize,
    widest_gap: f64,
}

#[test]
fn every_active_value_of_all_real_rows_is_within_its_bound_of_f64() {
    let (Some(data), Some(library), Some(python)) = (support::data(), support::onnxruntime(), support::python()) else { return };
    let rows_path = data.join("ml100k/sasrec.embeddings.npy");
    let rows: Array2<f32> = ndarray_npy::read_npy(&rows_path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (model, k) in [("sasrec.sae_k8_s16", 8), ("sasrec.sae_k32_s32", 32)] {
        let bundle = real_bundle(&data, model, "full", false, &library, &folder.path().join(model));
        let mut paths = Vec::new();
        let mut answers = Vec::new();
        for engine in [Engine::Native, Engine::OnnxRuntime] {
            let mut encoder = encode::open(&bundle, engine, Some(&library)).unwrap();
            let found = encode_all(encoder.as_mut(), &rows);
            // An encoder that finds itself wrong gives way to ONNX Runtime, and then everything would agree.
            assert_eq!(encoder.engine(), if engine == Engine::Native { "native" } else { "onnxruntime" });
            paths.extend(write(&found, k, &folder.path().join(encoder.engine())));
            answers.push(found);
        }
        let script = support::repo().join("tests/scripts/encode_f64.py");
        let mut command = Command::new(&python);
        command.arg(script).arg(data.join(format!("ml100k/{model}.safetensors"))).arg(k.to_string()).arg(&rows_path).args(&paths);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let judged: Judged = serde_json::from_slice(&output.stdout).unwrap();
        println!("{model}: {judged:?}");
        assert_eq!((judged.rows, judged.active), (53_475, answers[0].iter().map(SparseActivations::n_active).sum()));
        assert!(judged.worst_of_bound <= 1.0, "of 2e-6 (||x - b_dec|| ||w|| + |b|)");
        assert!(judged.sets_not_f64 <= 3 && judged.sets_not_onnxruntime <= 3 && judged.widest_gap < 1e-6);
        // What counts as agreement while running says the same of both.
        let native = encode::native_model(&bundle).unwrap();
        let in_full = encode_all(&mut NativeEncoder::in_full(Arc::clone(&native), Kernel::best()), &rows);
        assert!(in_full == answers[0], "the screen gives the bits of every latent in full");
        let mut near_ties = 0;
        for ((batch, ours), theirs) in crate::encode_real::batches(&rows).zip(&answers[0]).zip(&answers[1]) {
            let agreement = compare(&native, &batch, ours, theirs);
            assert_eq!(agreement.first_mismatch, None);
            near_ties += agreement.n_near_ties;
        }
        assert_eq!(near_ties, judged.sets_not_onnxruntime);
    }
}

/// Values and indices `[n, k]` as two files; a place without an activation holds 0.
fn write(found: &[SparseActivations], k: usize, path: &Path) -> [std::path::PathBuf; 2] {
    let rows: Vec<_> = found.iter().flat_map(|batch| (0..batch.n_rows()).map(|row| batch.row(row))).collect();
    let (mut values, mut indices) = (Array2::<f32>::zeros((rows.len(), k)), Array2::<i64>::zeros((rows.len(), k)));
    for (at, (latents, active)) in rows.iter().enumerate() {
        for (place, (latent, value)) in latents.iter().zip(*active).enumerate() {
            (values[[at, place]], indices[[at, place]]) = (*value, i64::from(latent.0));
        }
    }
    let paths = ["values.npy", "indices.npy"].map(|suffix| path.with_extension(suffix));
    ndarray_npy::write_npy(&paths[0], &values).unwrap();
    ndarray_npy::write_npy(&paths[1], &indices).unwrap();
    paths
}
