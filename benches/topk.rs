//! What selecting the top k costs a row, in thread CPU time: the path of this CPU, the portable one, and
//! `select_nth`. `make bench-topk`. Rows are recorded pre-activations where the data is, else Gaussian.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a measuring program"
)]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, s};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use recsae::sae::activation::SparseActivations;
use recsae::sae::latent::LatentId;
use recsae::sae::topk::Selector;
use recsae::sae::weights::Selection;

/// Rows in turn: more than fit the first cache, as behind a matrix product.
const ROWS: usize = 512;
/// Turns over all rows; the fastest counts, because everything else on the machine only adds.
const TURNS: usize = 40;

fn main() {
    let data = std::env::var_os("RECSAE_DATA").map_or_else(|| Path::new("../shared/data").into(), PathBuf::from).join("ml100k");
    println!("{:22} {:>10} {:>10} {:>12}   us a row, thread CPU time", "d,m,k", "this CPU", "portable", "select_nth");
    for (name, m, k) in [("sasrec.sae_k8_s16", 1024, 8), ("sasrec.sae_k32_s32", 2048, 32)] {
        let (dense, source) = recorded(&data, name).map_or_else(|| (gaussian(m), "Gaussian"), |dense| (dense, "recorded"));
        let selection = Selection::TopK(NonZeroUsize::new(k).unwrap());
        let (mut fast, mut portable) = (Selector::new(selection), Selector::portable(selection));
        let by_fast = cost(&dense, |row, out| fast.select(row, out));
        let by_portable = cost(&dense, |row, out| portable.select(row, out));
        let mut order = Vec::new();
        let by_nth = cost(&dense, |row, out| select_nth(row, k, &mut order, out));
        println!(
            "{:22} {by_fast:10.3} {by_portable:10.3} {by_nth:12.3}   {:.1}x, {:.1}x",
            format!("64,{m},{k} {source}"),
            by_portable / by_fast,
            by_nth / by_fast
        );
    }
}

/// CPU microseconds a row of the fastest turn.
fn cost(dense: &Array2<f32>, mut select: impl FnMut(&[f32], &mut SparseActivations)) -> f64 {
    let mut out = SparseActivations::default();
    let turn = |out: &mut SparseActivations, select: &mut dyn FnMut(&[f32], &mut SparseActivations)| {
        out.clear();
        let began = thread_cpu_ns();
        dense.outer_iter().for_each(|row| select(black_box(row.as_slice().unwrap()), out));
        black_box(out.n_active());
        (thread_cpu_ns() - began) as f64
    };
    (0..TURNS).map(|_| turn(&mut out, &mut select)).fold(f64::INFINITY, f64::min) / dense.nrows() as f64 / 1e3
}

/// The obvious way: positions, partly sorted by value.
fn select_nth(row: &[f32], k: usize, order: &mut Vec<u32>, out: &mut SparseActivations) {
    order.clear();
    order.extend(0..row.len() as u32);
    order.select_nth_unstable_by(k - 1, |a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
    order.truncate(k);
    order.sort_unstable();
    order.iter().for_each(|latent| out.push(LatentId(*latent), row[*latent as usize]));
    out.end_row();
}

/// Pre-activations `[ROWS, m]` of recorded embeddings.
fn recorded(data: &Path, name: &str) -> Option<Array2<f32>> {
    let embeddings: Array2<f32> = ndarray_npy::read_npy(data.join("sasrec.embeddings.npy")).ok()?;
    let bytes = std::fs::read(data.join(format!("{name}.safetensors"))).ok()?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes).ok()?;
    let floats = |name: &str| {
        let view = tensors.tensor(name).unwrap();
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (view.shape().to_vec(), values)
    };
    let ((shape, w_enc), (_, b_enc), (_, b_dec)) = (floats("encoder.weight"), floats("encoder.bias"), floats("b_dec"));
    let w_enc = Array2::from_shape_vec((shape[0], shape[1]), w_enc).ok()?;
    // Rows from the whole stream, not from its first users only.
    let step = (embeddings.nrows() / ROWS).max(1);
    let x = &embeddings.slice(s![..;step, ..]) - &Array1::from(b_dec);
    let x = x.slice(s![..ROWS, ..]);
    let product = if w_enc.nrows() == x.ncols() { x.dot(&w_enc) } else { x.dot(&w_enc.t()) };
    Some(product + &Array1::from(b_enc))
}

fn gaussian(m: usize) -> Array2<f32> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    Array2::from_shape_simple_fn((ROWS, m), || StandardNormal.sample(&mut random))
}

/// Nanoseconds this thread has been on a CPU.
fn thread_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
