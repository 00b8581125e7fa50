//! Every export form agrees with its own unrewritten graph in Python's onnxruntime, or is refused with a reason.

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;

use ndarray::Array2;
use rand::{Rng, SeedableRng};
use recsae::bundle::Bundle;
use recsae::bundle::build::{BuildRequest, build};
use recsae::bundle::golden::GoldenRows;
use recsae::encode::{self, Engine};
use recsae::sae::activation::SparseActivations;
use recsae::sae::weights::Selection;

use crate::support;

const N_ROWS: usize = 1024;
const K: usize = 16;

/// What Python's onnxruntime says of the rows.
fn python_answer(python: &Path, model: &Path, rows: &Array2<f32>, folder: &Path) -> GoldenRows {
    let (rows_path, out) = (folder.join("rows.npy"), folder.join("out.npz"));
    ndarray_npy::write_npy(&rows_path, rows).unwrap();
    let script = support::repo().join("tests/scripts/onnx_forms.py");
    let output = Command::new(python).arg(script).args([model, &rows_path]).arg(K.to_string()).arg(&out).output().unwrap();
    assert!(output.status.success(), "{}: {}", model.display(), String::from_utf8_lossy(&output.stderr));
    GoldenRows::read(&out).unwrap()
}

#[test]
fn every_export_form_agrees_with_its_unrewritten_graph_or_is_refused() {
    let (Some(data), Some(library), Some(python)) = (support::data(), support::onnxruntime(), support::python()) else { return };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let rows = Array2::from_shape_simple_fn((N_ROWS, 64), || rng.random_range(-2.0f32..2.0));
    let mut files: Vec<_> = std::fs::read_dir(data.join("onnx_export_forms")).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    files.sort();
    assert!(files.len() >= 10, "found {}", files.len());
    for model in &files {
        let name = model.file_name().unwrap().to_string_lossy().into_owned();
        let folder = tempfile::tempdir().unwrap();
        let mut request = BuildRequest { onnx: model.clone(), out: folder.path().join("bundle"), ..BuildRequest::default() };
        let mut run = |spec: &_, model: &[u8], batch: &_| encode::run_graph(spec, model, batch, Some(&library));
        if name.starts_with("dense_relu") {
            let error = build(&request, &mut run).unwrap_err().to_string();
            println!("{name}: {error}");
            assert!(error.contains("--k"), "{error}");
            request.selection = Some(Selection::TopK(NonZeroUsize::new(K).unwrap()));
        }
        let built = build(&request, &mut run).unwrap();
        assert!(!built.golden_verified && built.notes.iter().any(|note| note.contains("unverified")));
        let bundle = Bundle::open(&request.out).unwrap();
        assert_eq!((bundle.spec().d_in.get(), bundle.spec().d_sae.get()), (64, 2048));
        let expected = python_answer(&python, model, &rows, folder.path());
        for engine in [Engine::OnnxRuntime, Engine::Native] {
            let mut encoder = encode::open(&bundle, engine, Some(&library)).unwrap();
            let mut activations = SparseActivations::default();
            encoder.encode(&expected.batch(bundle.spec()).unwrap(), &mut activations).unwrap();
            let report = expected.compare(&activations, bundle.decoder()).unwrap();
            println!("{name} by {}: {report:?}", encoder.engine());
            // Asked after it encoded: one that finds itself wrong gives way to ONNX Runtime.
            assert_eq!(encoder.engine(), if engine == Engine::Native { "native" } else { "onnxruntime" });
            assert_eq!(report.n_rows, N_ROWS);
            assert!(report.n_near_ties <= 3 && report.max_difference < 1e-5);
            assert_eq!(report.reconstruction_compared, expected.reconstruction.is_some());
        }
    }
}
