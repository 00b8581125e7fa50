//! Real SAEs encode as their trainer says: golden rows of PyTorch, and all rows against f64.

use std::path::{Path, PathBuf};

use ndarray::{Array2, Axis, s};
use recsae::bundle::Bundle;
use recsae::bundle::build::{BuildRequest, build};
use recsae::bundle::golden::GoldenRows;
use recsae::config::settings::{ModelSettings, Settings};
use recsae::drift::stream::StreamId;
use recsae::encode::{self, Encoder, Engine, PlainEncoder};
use recsae::monitor::models::Models;
use recsae::sae::activation::SparseActivations;
use recsae::sae::embedding::EmbeddingBatch;
use recsae::sae::latent::LatentId;
use recsae::sae::weights::{SaeWeights, Selection};

use crate::support;

const MODELS: [&str; 4] = ["bprmf.sae_k8_s16", "lightgcn.sae_k8_s16", "sasrec.sae_k8_s16", "sasrec.sae_k32_s32"];

/// Builds a bundle from real files, with their golden rows and, where there is one, their catalogue.
pub(crate) fn real_bundle(data: &Path, model: &str, form: &str, weights: bool, library: &Path, out: &Path) -> Bundle {
    let file = |suffix: &str| data.join("ml100k").join(format!("{model}.{suffix}"));
    let request = BuildRequest {
        onnx: file(&format!("{form}.onnx")),
        weights: weights.then(|| file("safetensors")),
        golden: Some(file("golden.npz")),
        concepts: Some(file("concepts.parquet")).filter(|path| path.exists()),
        model_version: Some("v1".into()),
        out: out.to_owned(),
        ..BuildRequest::default()
    };
    let built = build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, Some(library))).unwrap();
    assert!(built.golden_verified);
    Bundle::open(out).unwrap()
}

/// The rows in batches of 512.
pub(crate) fn batches(rows: &Array2<f32>) -> impl Iterator<Item = EmbeddingBatch> {
    rows.axis_chunks_iter(Axis(0), 512).map(|chunk| {
        let mut batch = EmbeddingBatch::new(chunk.ncols().try_into().unwrap());
        chunk.axis_iter(Axis(0)).for_each(|row| batch.push(&row.to_vec()).unwrap());
        batch
    })
}

/// What an encoder makes of each batch.
pub(crate) fn encode_all(encoder: &mut dyn Encoder, rows: &Array2<f32>) -> Vec<SparseActivations> {
    let encoded = batches(rows).map(|batch| {
        let mut activations = SparseActivations::default();
        encoder.encode(&batch, &mut activations).unwrap();
        activations
    });
    encoded.collect()
}

#[test]
fn every_real_file_meets_its_golden_rows_and_safetensors() {
    let (Some(data), Some(library)) = (support::data(), support::onnxruntime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    for model in MODELS {
        let mut fingerprints = Vec::new();
        for (form, weights) in [("full", false), ("full", true), ("topk", false), ("topk", true)] {
            let bundle = real_bundle(&data, model, form, weights, &library, &folder.path().join(format!("{model}.{form}.{weights}")));
            let mut encoder = encode::open(&bundle, Engine::Auto, Some(&library)).unwrap();
            assert_eq!(encoder.engine(), "native");
            let report = encode::check_golden(encoder.as_mut(), &bundle).unwrap();
            println!("{model}.{form} weights {weights}: {report:?}");
            assert_eq!((report.n_rows, report.n_near_ties), (256, 0));
            assert!(report.max_difference < 2e-6);
            assert_eq!(report.reconstruction_compared, form == "full" || weights);
            assert_eq!(bundle.decoder().is_some(), form == "full" || weights);
            let plain = encode::check_golden(&mut PlainEncoder::new(bundle.weights().unwrap().clone()), &bundle).unwrap();
            assert_eq!(plain.n_near_ties, 0);
            if bundle.decoder().is_some() {
                fingerprints.push(bundle.fingerprint().to_owned());
            }
        }
        fingerprints.dedup();
        assert_eq!(fingerprints.len(), 1, "the same SAE has one fingerprint, whatever file it came from");
    }
}

/// What is taken is bounded by the golden rows: every real row is, and one of another world is not.
#[test]
fn all_real_rows_are_within_the_golden_rows_range_and_an_absurd_one_is_not() {
    let (Some(data), Some(library)) = (support::data(), support::onnxruntime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let rows: Array2<f32> = ndarray_npy::read_npy(data.join("ml100k/sasrec.embeddings.npy")).unwrap();
    let out = folder.path().join("bundle");
    real_bundle(&data, "sasrec.sae_k8_s16", "full", false, &library, &out);
    let settings = Settings { model: vec![ModelSettings { version: None, bundle: out }], ..Settings::default() };
    let mut batch = Models::open(&settings).unwrap().empty_batches().remove(0);
    for row in rows.axis_iter(Axis(0)) {
        batch.push(&row.to_vec()).unwrap();
        batch.clear();
    }
    for absurd in [1e4, 1e20, f32::MAX] {
        let refused = batch.push(&vec![absurd; rows.ncols()]).unwrap_err();
        assert!(refused.to_string().contains("beyond the"), "{refused}");
    }
}

#[test]
fn names_of_real_latents_follow_the_rule() {
    let (Some(data), Some(library)) = (support::data(), support::onnxruntime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let bundle = real_bundle(&data, "sasrec.sae_k32_s32", "full", false, &library, &folder.path().join("b"));
    assert_eq!(bundle.stream_name(StreamId::Latent(LatentId(2004))), "Apt Pupil · Amistad · Good Will Hunting");
    assert_eq!(bundle.stream_name(StreamId::Latent(LatentId(0))), "latent 0");
}

#[test]
fn all_sasrec_rows_encode_as_in_f64_but_for_near_ties() {
    let (Some(data), Some(library)) = (support::data(), support::onnxruntime()) else { return };
    let rows: Array2<f32> = ndarray_npy::read_npy(data.join("ml100k/sasrec.embeddings.npy")).unwrap();
    assert_eq!(rows.nrows(), 53_475);
    let folder = tempfile::tempdir().unwrap();
    for model in ["sasrec.sae_k8_s16", "sasrec.sae_k32_s32"] {
        let bundle = real_bundle(&data, model, "full", false, &library, &folder.path().join(model));
        let mut encoder = encode::open(&bundle, Engine::Auto, Some(&library)).unwrap();
        let found = encode_all(encoder.as_mut(), &rows);
        let (mut n_differ, mut n_active) = (0, 0);
        for (chunk, activations) in rows.axis_chunks_iter(Axis(0), 512).zip(&found) {
            for (row, pre) in pre_activations(bundle.weights().unwrap(), &chunk.to_owned()).axis_iter(Axis(0)).enumerate() {
                let Selection::TopK(k) = bundle.spec().selection else { panic!("a TopK SAE") };
                let (expected, relative_gap) = top_k(&pre.to_vec(), k.get());
                let (latents, values) = activations.row(row);
                n_active += latents.len();
                if latents.iter().map(|latent| latent.index()).ne(expected.iter().copied()) {
                    n_differ += 1;
                    assert!(relative_gap < 1e-6, "{model}: a row differs whose k-th gap is {relative_gap:e}");
                } else {
                    let scale = expected.iter().map(|latent| pre[*latent]).fold(0.0, f64::max);
                    assert!(expected.iter().zip(values).all(|(latent, value)| (pre[*latent] - f64::from(*value)).abs() < 1e-5 * scale));
                }
            }
        }
        println!(
            "{model}: {n_differ} of {} rows differ from f64 (near ties), mean L0 {:.3}",
            rows.nrows(),
            n_active as f64 / rows.nrows() as f64
        );
        assert!(n_differ <= 3);
    }
}

/// `(x - b_dec) W_enc^T + b_enc` in f64, as a matrix product: the yardstick row by row would take minutes.
fn pre_activations(weights: &SaeWeights, rows: &Array2<f32>) -> Array2<f64> {
    let centred = rows.mapv(f64::from) - weights.b_dec().mapv(f64::from);
    centred.dot(&weights.w_enc().mapv(f64::from).t()) + weights.b_enc().mapv(f64::from)
}

/// The k largest values > 0 by full sorting, ascending, and the gap between the k-th and the next relative to the k-th.
fn top_k(pre: &[f64], k: usize) -> (Vec<usize>, f64) {
    let mut order: Vec<usize> = (0..pre.len()).filter(|latent| pre[*latent] > 0.0).collect();
    order.sort_by(|a, b| pre[*b].total_cmp(&pre[*a]).then(a.cmp(b)));
    let gap = if order.len() > k { (pre[order[k - 1]] - pre[order[k]]) / pre[order[k - 1]] } else { f64::INFINITY };
    order.truncate(k);
    order.sort_unstable();
    (order, gap)
}

#[test]
fn a_wrong_sae_fails_its_golden_rows_in_words() {
    let (Some(data), Some(library)) = (support::data(), support::onnxruntime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let request = BuildRequest {
        onnx: data.join("ml100k/bprmf.sae_k8_s16.full.onnx"),
        golden: Some(data.join("ml100k/sasrec.sae_k8_s16.golden.npz")),
        out: folder.path().join("b"),
        ..BuildRequest::default()
    };
    let error = build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, Some(&library))).unwrap_err();
    println!("{error}");
    assert!(error.to_string().contains("golden row 0: expected latents"), "{error}");
    assert!(!request.out.exists(), "nothing is left behind");
}

#[test]
fn an_encoder_of_other_weights_is_refused_at_the_start() {
    let (Some(data), Some(library)) = (support::data(), support::onnxruntime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let bundle = real_bundle(&data, "sasrec.sae_k8_s16", "full", false, &library, &folder.path().join("a"));
    let mut other = PlainEncoder::new(
        real_bundle(&data, "bprmf.sae_k8_s16", "full", false, &library, &folder.path().join("b")).weights().unwrap().clone(),
    );
    let error = encode::check_golden(&mut other, &bundle).unwrap_err();
    assert_eq!(error.kind(), "golden");
    // One flipped sign among 65,536 weights of the first active latent is seen too.
    let golden = bundle.golden();
    let latent = usize::try_from(golden.indices[[0, 0]]).unwrap();
    let weights = bundle.weights().unwrap();
    let mut w_enc = weights.w_enc().clone();
    w_enc.slice_mut(s![latent, ..]).mapv_inplace(|w| -w);
    let changed = SaeWeights::new(*weights.spec(), w_enc, weights.b_enc().clone(), None, weights.b_dec().clone()).unwrap();
    assert_eq!(encode::check_golden(&mut PlainEncoder::new(changed), &bundle).unwrap_err().kind(), "golden");
}

#[test]
fn golden_rows_survive_the_bundle_bit_for_bit() {
    let (Some(data), Some(library)) = (support::data(), support::onnxruntime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let out: PathBuf = folder.path().join("b");
    let bundle = real_bundle(&data, "sasrec.sae_k8_s16", "topk", false, &library, &out);
    let given = GoldenRows::read(&data.join("ml100k/sasrec.sae_k8_s16.golden.npz")).unwrap();
    assert_eq!(*bundle.golden(), given);
    assert_eq!(GoldenRows::read(&out.join("golden.safetensors")).unwrap(), given);
}
