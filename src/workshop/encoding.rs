//! Recorded rows through the encoder: on all cores, with the results in the order of the rows.
//!
//! A row's activations do not depend on which rows share its batch, and what is summed over rows is summed in one
//! place in their order: any number of cores gives the same bytes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::Context;

use crate::encode::native::{Kernel, NativeEncoder, NativeModel};
use crate::sae::weights::SaeWeights;

/// Rows encoded at a time.
pub const BATCH: usize = 512;
/// Results a thread may be ahead of what is taken.
const AHEAD: usize = 2;

/// The engine's encoder of these weights.
#[must_use]
pub fn encoder(sae: &SaeWeights) -> NativeEncoder {
    NativeEncoder::new(Arc::new(NativeModel::new(sae)), Kernel::best())
}

/// Threads for work on recorded rows: one a core.
#[must_use]
pub fn n_threads() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// [`each_in_order`] of the rows `0..n_rows`, [`BATCH`] at a time.
///
/// # Errors
/// As there.
pub fn in_order<S, T: Send>(
    n_rows: usize,
    threads: usize,
    begin: impl Fn() -> anyhow::Result<S> + Sync,
    work: impl Fn(&mut S, Range<usize>) -> anyhow::Result<T> + Sync,
    mut take: impl FnMut(Range<usize>, T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let rows = |batch: usize| batch * BATCH..((batch + 1) * BATCH).min(n_rows);
    let work = |state: &mut S, batch| work(state, rows(batch));
    each_in_order(n_rows.div_ceil(BATCH), threads, begin, work, |batch, done| take(rows(batch), done))
}

/// Works on `0..n` on `threads` threads, each with a state of its own made by `begin`; `take` is handed every result in
/// order, on this thread.
///
/// # Errors
/// The first error in order, or that of `begin`.
pub fn each_in_order<S, T: Send>(
    n: usize,
    threads: usize,
    begin: impl Fn() -> anyhow::Result<S> + Sync,
    work: impl Fn(&mut S, usize) -> anyhow::Result<T> + Sync,
    mut take: impl FnMut(usize, T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let threads = threads.clamp(1, n.max(1));
    if threads == 1 {
        let mut state = begin()?;
        return (0..n).try_for_each(|at| take(at, work(&mut state, at)?));
    }
    thread::scope(|scope| {
        let results: Vec<_> = (0..threads)
            .map(|first| {
                let (sender, receiver) = sync_channel(AHEAD);
                let (begin, work) = (&begin, &work);
                scope.spawn(move || {
                    let mut state = begin();
                    for at in (first..n).step_by(threads) {
                        let result = match &mut state {
                            Ok(state) => work(state, at),
                            Err(error) => Err(std::mem::replace(error, anyhow::anyhow!("could not begin"))),
                        };
                        // Nobody takes what comes after the first error.
                        if sender.send(result).is_err() {
                            return;
                        }
                    }
                });
                receiver
            })
            .collect();
        (0..n).try_for_each(|at| take(at, results[at % threads].recv().context("a thread ended early")??))
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::{Array1, Array2};
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::encode::Encoder;
    use crate::sae::activation::SparseActivations;
    use crate::sae::embedding::EmbeddingBatch;
    use crate::sae::weights::{SaeSpec, Selection};

    #[test]
    fn the_encoder_agrees_with_the_yardstick_and_with_itself_row_by_row() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let size = |n| NonZeroUsize::new(n).unwrap();
        for centring in [true, false] {
            let spec = SaeSpec { d_in: size(24), d_sae: size(300), selection: Selection::TopK(size(7)), centring };
            let mut matrix = |a, b| Array2::from_shape_simple_fn((a, b), || rng.random_range(-1.0f32..1.0));
            let (w, x, b) = (matrix(300, 24), matrix(70, 24), matrix(1, 24).row(0).to_owned());
            let sae = SaeWeights::new(spec, w.clone(), Array1::from_elem(300, 0.1), Some(w), b).unwrap();
            let mut encoder = encoder(&sae);
            let mut batch = EmbeddingBatch::new(spec.d_in);
            x.rows().into_iter().for_each(|row| batch.push(row.as_slice().unwrap()).unwrap());
            let (mut all, mut one) = (SparseActivations::default(), SparseActivations::default());
            encoder.encode(&batch, &mut all).unwrap();
            for row in 0..x.nrows() {
                batch.clear();
                batch.push(x.row(row).as_slice().unwrap()).unwrap();
                encoder.encode(&batch, &mut one).unwrap();
                assert_eq!(one.row(0), all.row(row), "the same bytes in any batch");
                let expected = sae.encode(batch.row(0));
                assert_eq!(expected.len(), 7);
                for ((latent, value), (by_hand, exact)) in all.row(row).0.iter().zip(all.row(row).1).zip(&expected) {
                    // Another latent only where two are equal within rounding.
                    assert!((f64::from(*value) - exact).abs() < 1e-4, "{latent} {by_hand}");
                }
            }
        }
    }

    #[test]
    fn every_number_of_threads_takes_every_row_once_and_in_order() {
        for (n_rows, threads) in [(0, 3), (1, 4), (BATCH, 2), (BATCH + 1, 2), (20 * BATCH + 7, 1), (20 * BATCH + 7, 3), (3 * BATCH, 8)] {
            let mut taken = Vec::new();
            let work = |worked: &mut usize, rows: Range<usize>| {
                *worked += rows.len();
                Ok(rows.map(|row| row * 2).collect::<Vec<_>>())
            };
            in_order(
                n_rows,
                threads,
                || Ok(0),
                work,
                |rows, doubled| {
                    assert_eq!(rows.len(), doubled.len());
                    taken.extend(doubled);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(taken, (0..n_rows).map(|row| row * 2).collect::<Vec<_>>(), "{n_rows} rows, {threads} threads");
        }
    }

    #[test]
    fn the_first_error_in_order_ends_it_whoever_meets_it() {
        for threads in [1, 2, 5] {
            let mut n_taken = 0;
            // Batches 4 and 5 fail; the fifth thread meets the later one first.
            let work = |(): &mut (), rows: Range<usize>| {
                anyhow::ensure!(!(4 * BATCH..6 * BATCH).contains(&rows.start), "row {}", rows.start);
                Ok(())
            };
            let error = in_order(
                40 * BATCH,
                threads,
                || Ok(()),
                work,
                |rows, ()| {
                    n_taken += rows.len();
                    Ok(())
                },
            )
            .unwrap_err();
            assert_eq!((error.to_string(), n_taken), (format!("row {}", 4 * BATCH), 4 * BATCH));
            let begun = in_order(5, threads, || anyhow::bail!("no library"), |(): &mut (), _| Ok(()), |_, ()| Ok(()));
            assert_eq!(begun.unwrap_err().to_string(), "no library");
            let refused = in_order(9 * BATCH, threads, || Ok(()), |(): &mut (), _| Ok(()), |_, ()| anyhow::bail!("enough"));
            assert_eq!(refused.unwrap_err().to_string(), "enough");
        }
    }
}
