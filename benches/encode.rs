//! What encoding costs a row, in thread CPU time: the native engine beside the matrix product alone and ONNX
//! Runtime. `make bench-encode`.
//!
//! s1 and s2 are the recorded SAEs on all recorded rows in their order; s3 and s4 are drawn, on Gaussian rows
//! and on correlated ones. The product alone is f32, tiles of 6 x 16 from packed panels, the values stored
//! and nothing done with them; it counts as a yardstick only where it is at least 1.1 times as fast as ONNX
//! Runtime's dense encode. Each figure is the fastest of some turns, the engines taking turns, because
//! everything else on the machine only adds.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "a measuring program"
)]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{Array1, Array2, Axis};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use recsae::bundle::Bundle;
use recsae::bundle::build::{BuildRequest, build};
use recsae::encode::native::{Kernel, NativeEncoder, NativeModel};
use recsae::encode::{self, Encoder, Engine};
use recsae::sae::activation::SparseActivations;
use recsae::sae::embedding::EmbeddingBatch;
use recsae::sae::weights::{SaeSpec, SaeWeights, Selection};

#[path = "encode/product.rs"]
mod product;

/// Rows a batch, as in the monitor.
const BATCH: usize = 512;
/// Rows of a drawn shape.
const DRAWN_ROWS: usize = 2048;

fn main() {
    let data = std::env::var_os("RECSAE_DATA").map_or_else(|| Path::new("../shared/data").into(), PathBuf::from).join("ml100k");
    println!(
        "{:18} {:>7} {:>8} {:>8} {:>8} {:>7} {:>8} {:>9} {:>9} {:>8}   us a row, thread CPU time",
        "d,m,k rows", "native", "in full", "product", "GF/s", "of it", "ORT", "ORT/nat.", "computed", "in full"
    );
    if data.join("sasrec.embeddings.npy").is_file() {
        let rows: Array2<f32> = ndarray_npy::read_npy(data.join("sasrec.embeddings.npy")).unwrap();
        for name in ["sasrec.sae_k8_s16", "sasrec.sae_k32_s32"] {
            let folder = tempfile::tempdir().unwrap();
            let bundle = bundle(&data, name, &folder.path().join("bundle"));
            let model = encode::native_model(&bundle).unwrap();
            let mut ort = encode::open_unchecked(&bundle, Engine::OnnxRuntime, None).unwrap();
            report("recorded", &model, &rows, Some(ort.as_mut()), 7);
        }
    } else {
        println!("no recorded rows in {}: set RECSAE_DATA", data.display());
    }
    for (d_in, d_sae, k) in [(256, 8192, 32), (768, 16384, 64)] {
        let model = Arc::new(NativeModel::new(&drawn(d_in, d_sae, k)));
        report("Gaussian", &model, &normal(DRAWN_ROWS, d_in, 1), None, 3);
        // Few directions carry most of the variance, as embeddings have it.
        let mixing = normal(d_in / 8, d_in, 2);
        let correlated = normal(DRAWN_ROWS, d_in / 8, 3).dot(&mixing) / (d_in as f32 / 8.0).sqrt() + normal(DRAWN_ROWS, d_in, 4) * 0.3;
        report("correlated", &model, &correlated, None, 3);
    }
}

fn report(source: &str, model: &Arc<NativeModel>, rows: &Array2<f32>, mut ort: Option<&mut dyn Encoder>, turns: usize) {
    let spec = *model.spec();
    let batches: Vec<EmbeddingBatch> = rows.axis_chunks_iter(Axis(0), BATCH).map(|rows| batch(spec.d_in, &rows.to_owned())).collect();
    let (mut native, mut full) =
        (NativeEncoder::new(Arc::clone(model), Kernel::best()), NativeEncoder::in_full(Arc::clone(model), Kernel::best()));
    let mut product = product::Product::new(spec.d_in.get(), spec.d_sae.get());
    let mut best = [f64::INFINITY; 4];
    for _ in 0..turns {
        best[0] = best[0].min(cost(&batches, &mut native));
        best[1] = best[1].min(cost(&batches, &mut full));
        best[2] = best[2].min(product.as_mut().map_or(f64::INFINITY, |product| product.cost(rows.nrows(), thread_cpu_ns)));
        if let Some(ort) = ort.as_deref_mut() {
            best[3] = best[3].min(cost(&batches, ort));
        }
    }
    let statistics = native.statistics();
    let per_row = |n: u64| n as f64 / statistics.n_rows as f64;
    let Selection::TopK(k) = spec.selection else { return };
    let gflops = 2e-3 * (spec.d_in.get() * spec.d_sae.get()) as f64 / best[2];
    println!(
        "{:18} {:7.3} {:8.3} {:8.3} {gflops:8.1} {:6.2}x {:8.3} {:8.2}x {:9.1} {:7.3}%",
        format!("{},{},{k} {source}", spec.d_in, spec.d_sae),
        best[0],
        best[1],
        best[2],
        best[0] / best[2],
        best[3],
        best[3] / best[0],
        per_row(statistics.n_computed),
        100.0 * per_row(statistics.n_in_full),
    );
}

fn cost(batches: &[EmbeddingBatch], encoder: &mut dyn Encoder) -> f64 {
    let mut out = SparseActivations::default();
    let began = thread_cpu_ns();
    for batch in batches {
        encoder.encode(black_box(batch), &mut out).unwrap();
        black_box(out.n_active());
    }
    (thread_cpu_ns() - began) as f64 / batches.iter().map(EmbeddingBatch::n_rows).sum::<usize>() as f64 / 1e3
}

fn batch(d_in: NonZeroUsize, rows: &Array2<f32>) -> EmbeddingBatch {
    let mut batch = EmbeddingBatch::new(d_in);
    rows.outer_iter().for_each(|row| batch.push(&row.to_vec()).unwrap());
    batch
}

fn bundle(data: &Path, name: &str, out: &Path) -> Bundle {
    let request = BuildRequest { onnx: data.join(format!("{name}.full.onnx")), out: out.to_owned(), ..BuildRequest::default() };
    build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, None)).unwrap();
    Bundle::open(out).unwrap()
}

fn drawn(d_in: usize, d_sae: usize, k: usize) -> SaeWeights {
    let size = |n| NonZeroUsize::new(n).unwrap();
    let spec = SaeSpec { d_in: size(d_in), d_sae: size(d_sae), selection: Selection::TopK(size(k)), centring: false };
    let w_enc = normal(d_sae, d_in, 5) / (d_in as f32).sqrt();
    SaeWeights::new(spec, w_enc, Array1::zeros(d_sae), None, Array1::zeros(d_in)).unwrap()
}

fn normal(n: usize, width: usize, seed: u64) -> Array2<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((n, width), || StandardNormal.sample(&mut rng))
}

/// CPU time of this thread in nanoseconds: what others on the machine do does not count.
fn thread_cpu_ns() -> u64 {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    schedule.split(' ').next().unwrap().parse().unwrap()
}
