//! What encoding costs a row, in thread CPU time: the native engine beside the matrix product alone and ONNX
//! Runtime. `make bench-encode`.
//!
//! s1 and s2 are the recorded SAEs on all recorded rows in their order; s3 and s4 are drawn, on Gaussian rows
//! and on correlated ones. The product alone is f32 with packed operands, the values stored and nothing done
//! with them; it counts as a yardstick only where it is at least 1.1 times as fast as ONNX Runtime's dense
//! encode, which is printed. ONNX Runtime is measured as recsae uses it (dense values, selection in Rust) and,
//! for the recorded SAEs, with TopK in the graph as exported.
//!
//! Each figure is the fastest of some turns, the engines taking turns, because everything else on the machine
//! only adds.

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
use recsae::encode::{self, Encoder, OrtEncoder};
use recsae::sae::activation::SparseActivations;
use recsae::sae::embedding::EmbeddingBatch;
use recsae::sae::weights::{SaeSpec, SaeWeights, Selection};

#[path = "encode/product.rs"]
mod product;

/// Rows a batch, as in the monitor.
const BATCH: usize = 512;
/// All rows are encoded again until this much was spent: the clock ticks every 4 ms.
const LONG_NS: u64 = 400_000_000;
/// Share of rows that may be computed in full.
const MOST_IN_FULL: f64 = 0.01;
/// Rows of a drawn shape.
const DRAWN_ROWS: usize = 2048;

fn main() {
    let data = std::env::var_os("RECSAE_DATA").map_or_else(|| Path::new("../shared/data").into(), PathBuf::from).join("ml100k");
    let turns = std::env::var("TURNS").ok().and_then(|turns| turns.parse().ok()).unwrap_or(9);
    println!("{}; kernel {}; us a row, thread CPU time, best of {turns} turns", cpu_model(), Kernel::best().name());
    let (mut lines, mut too_many) = (Vec::new(), Vec::new());
    if data.join("sasrec.embeddings.npy").is_file() {
        let rows: Array2<f32> = ndarray_npy::read_npy(data.join("sasrec.embeddings.npy")).unwrap();
        for name in ["sasrec.sae_k8_s16", "sasrec.sae_k32_s32"] {
            let folder = tempfile::tempdir().unwrap();
            let bundle = bundle(&data, name, &folder.path().join("bundle"));
            let model = encode::native_model(&bundle).unwrap();
            let dense = OrtEncoder::new(bundle.model(), bundle.spec(), None).unwrap();
            let selecting = OrtEncoder::new(&std::fs::read(data.join(format!("{name}.topk.onnx"))).unwrap(), bundle.spec(), None).unwrap();
            lines.push(report(&mut too_many, "recorded", &model, &rows, (dense, Some(selecting)), turns));
        }
    } else {
        println!("no recorded rows in {}: set RECSAE_DATA", data.display());
    }
    for (d_in, d_sae, k) in [(256, 8192, 32), (768, 16384, 64)] {
        let weights = drawn(d_in, d_sae, k);
        let model = Arc::new(NativeModel::new(&weights));
        let graph = recsae::bundle::onnx::write::dense_graph(&weights).unwrap();
        let dense = || OrtEncoder::new(&graph, weights.spec(), None).unwrap();
        lines.push(report(&mut too_many, "Gaussian", &model, &normal(DRAWN_ROWS, d_in, 1), (dense(), None), turns.min(3)));
        // Few directions carry most of the variance, as embeddings have it.
        let mixing = normal(d_in / 8, d_in, 2);
        let correlated = normal(DRAWN_ROWS, d_in / 8, 3).dot(&mixing) / (d_in as f32 / 8.0).sqrt() + normal(DRAWN_ROWS, d_in, 4) * 0.3;
        lines.push(report(&mut too_many, "correlated", &model, &correlated, (dense(), None), turns.min(3)));
    }
    let heads = ["product", "GF/s", "ORT", "ORT TopK", "native", "of product", "ORT/native", "TopK/native", "computed", "in full"];
    println!("{:20}{}", "d,m,k rows", heads.map(|head| format!("{head:>12}")).concat());
    lines.iter().for_each(|line| println!("{line}"));
    println!(
        "of product: at most 0.65 aimed at for the first two, 0.5 for 256,8192,32, 0.75 for 768,16384,64 (where the product counts); TopK/native: 6x; \
         in full: at most {} %",
        100.0 * MOST_IN_FULL
    );
    assert!(too_many.is_empty(), "too many rows were computed in full: {too_many:?}");
}

/// One line of the table; those of the other kernels are printed at once. A shape of which too many rows are computed in full is added.
fn report(
    too_many: &mut Vec<String>,
    source: &str,
    model: &Arc<NativeModel>,
    rows: &Array2<f32>,
    ort: (OrtEncoder, Option<OrtEncoder>),
    turns: usize,
) -> String {
    let spec = *model.spec();
    let (mut dense, mut selecting) = ort;
    let batches: Vec<EmbeddingBatch> = rows.axis_chunks_iter(Axis(0), BATCH).map(|rows| batch(spec.d_in, &rows.to_owned())).collect();
    let mut kernels: Vec<(Kernel, NativeEncoder, NativeEncoder, f64, f64)> = Kernel::all()
        .into_iter()
        .filter(|kernel| kernel.is_fast())
        .map(|kernel| {
            let full = NativeEncoder::in_full(Arc::clone(model), kernel);
            (kernel, NativeEncoder::new(Arc::clone(model), kernel), full, f64::INFINITY, f64::INFINITY)
        })
        .collect();
    let mut product = product::Product::new(spec.d_in.get(), spec.d_sae.get());
    let (mut of_product, mut of_dense, mut of_selecting) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    for _ in 0..turns {
        of_product = of_product.min(product.as_mut().map_or(f64::INFINITY, |product| product.cost(rows.nrows(), thread_cpu_ns)));
        for (_, native, full, screened, in_full) in &mut kernels {
            *screened = screened.min(cost(&batches, |batch, out| native.encode(batch, out).unwrap()));
            *in_full = in_full.min(cost(&batches, |batch, out| full.encode(batch, out).unwrap()));
        }
        of_dense = of_dense.min(cost(&batches, |batch, out| dense.encode(batch, out).unwrap()));
        if let Some(selecting) = &mut selecting {
            of_selecting = of_selecting.min(cost(&batches, |batch, _| selecting.run(batch).unwrap()));
        }
    }
    let Selection::TopK(k) = spec.selection else { panic!("a TopK SAE") };
    let name = format!("{},{},{k} {source}", spec.d_in, spec.d_sae);
    for (kernel, native, _, screened, in_full) in &kernels {
        let ratio = |cost: &f64| format!("{cost:.3} = {:.2}x of the product", cost / of_product);
        let left = if native.is_screened() { "" } else { " (the screen was given up: it did not pay)" };
        let statistics = native.statistics();
        let computed = statistics.n_computed as f64 / statistics.n_rows as f64;
        println!("{name}: {} {}, {computed:.1} computed of a row{left}; every latent {}", kernel.name(), ratio(screened), ratio(in_full));
    }
    let counts = of_dense / of_product >= 1.1;
    println!(
        "{name}: the product is {:.2}x as fast as ONNX Runtime's dense encode{}",
        of_dense / of_product,
        if counts { "" } else { ": TOO SLOW TO COUNT" }
    );
    let Some((_, native, _, best, _)) = kernels.last() else { return format!("{name}: no fast kernel on this CPU") };
    let statistics = native.statistics();
    let per_row = |n: u64| n as f64 / statistics.n_rows as f64;
    if per_row(statistics.n_in_full) > MOST_IN_FULL {
        too_many.push(name.clone());
    }
    let every = encode::COMPARE_EVERY.get();
    println!("{name}: one batch in {every} by ONNX Runtime too adds {:.1} %", 100.0 * of_dense / best / f64::from(every));
    let selected = |value: f64, format: &dyn Fn(f64) -> String| if value.is_finite() { format(value) } else { "-".into() };
    let cells = [
        format!("{of_product:.3}"),
        format!("{:.1}", 2e-3 * (spec.d_in.get() * spec.d_sae.get()) as f64 / of_product),
        format!("{of_dense:.3}"),
        selected(of_selecting, &|value| format!("{value:.3}")),
        format!("{best:.3}"),
        format!("{:.2}x", best / of_product),
        format!("{:.2}x", of_dense / best),
        selected(of_selecting, &|value| format!("{:.2}x", value / best)),
        format!("{:.1}", per_row(statistics.n_computed)),
        format!("{:.3}%", 100.0 * per_row(statistics.n_in_full)),
    ];
    format!("{name:20}{}", cells.map(|cell| format!("{cell:>12}")).concat())
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.split_once(": ")).map_or("?", |(_, value)| value);
    format!("{} family {} model {}", field("model name"), field("cpu family"), field("model\t"))
}

fn cost(batches: &[EmbeddingBatch], mut encode: impl FnMut(&EmbeddingBatch, &mut SparseActivations)) -> f64 {
    let mut out = SparseActivations::default();
    let began = thread_cpu_ns();
    let (mut n_rows, mut spent) = (0, 0);
    while spent < LONG_NS {
        for batch in batches {
            encode(black_box(batch), &mut out);
            black_box(out.n_active());
            n_rows += batch.n_rows();
        }
        spent = thread_cpu_ns() - began;
    }
    spent as f64 / n_rows as f64 / 1e3
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
