//! Rows that are hard to encode alike: what two engines are tried on before one is trusted.
//!
//! Ordinary rows never meet the corners (a stale padding was once found by these and by nothing
//! else): ties, duplicates, heavy tails, scales of 1e-6 beside 1e6 in neighbouring rows, zero rows, few
//! positives, rows along a latent or between two that are nearly the same.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::encode::native::model::NativeModel;
use crate::sae::embedding::EmbeddingBatch;

/// Kinds of rows, in turn, so that neighbours are of different kinds.
const KINDS: usize = 10;
/// Latents among which the one most like another is looked for.
const ALIKE: usize = 32;

/// `n_rows` rows of all kinds in turn, the same for the same seed.
#[must_use]
pub fn rows(model: &NativeModel, n_rows: usize, seed: u64) -> EmbeddingBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut batch = EmbeddingBatch::new(model.spec().d_in);
    let mut last = vec![0.0; batch.d_in()];
    for at in 0..n_rows {
        let mut row = row(model, at % KINDS, &last, &mut rng);
        row.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
        // Every value was made finite, and the width is the model's.
        if batch.push(&row).is_ok() {
            last = row;
        }
    }
    batch
}

#[expect(clippy::cast_possible_truncation, reason = "noise, rounded to f32")]
fn row(model: &NativeModel, kind: usize, last: &[f32], rng: &mut ChaCha8Rng) -> Vec<f32> {
    let spec = *model.spec();
    let mut normal = |scale: f32| -> f32 {
        let value: f32 = StandardNormal.sample(rng);
        value * scale
    };
    let d_in = spec.d_in.get();
    let around: Vec<f32> = model.centre_vector().iter().map(|c| c + normal(0.1)).collect();
    let latent = |rng: &mut ChaCha8Rng| rng.random_range(0..spec.d_sae.get());
    let along = |latent: usize, scale: f32| -> Vec<f32> {
        model.centre_vector().iter().zip(model.row(latent)).map(|(c, w)| c + scale * w).collect()
    };
    match kind {
        0 => around,
        1 => last.to_vec(),
        2 => {
            let exponent = rng.random_range(-6..=6);
            around.iter().map(|value| value * 10f32.powi(exponent)).collect()
        }
        3 => model.centre_vector().to_vec(),
        4 => vec![0.0; d_in],
        // Heavy tails: a Cauchy value is a quotient of two normal ones.
        5 => (0..d_in).map(|_| normal(1.0) / normal(1.0)).collect(),
        6 => along(latent(rng), rng.random_range(0.01..10.0)),
        7 => along(latent(rng), -rng.random_range(0.01..10.0)),
        8 => {
            let first = latent(rng);
            // Of a few, the one most like it: two that are nearly the same come close to a tie between them.
            let similar = |other: &usize| model.row(first).iter().zip(model.row(*other)).map(|(a, b)| a * b).sum::<f32>();
            let others: Vec<usize> = (0..ALIKE).map(|_| latent(rng)).filter(|other| *other != first).collect();
            let second = others.into_iter().max_by(|a, b| similar(a).total_cmp(&similar(b))).unwrap_or(first);
            let (a, b) = (along(first, 1.0), along(second, 1.0));
            a.iter().zip(&b).map(|(a, b)| (f64::midpoint(f64::from(*a), f64::from(*b))) as f32).collect()
        }
        _ => {
            // Few levels, so that many products are equal.
            (0..d_in).map(|_| f32::from(rng.random_range(-1i8..=1)) * 0.5).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::{Array1, Array2};

    use super::*;
    use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

    #[test]
    fn rows_are_of_every_kind() {
        let size = |n| NonZeroUsize::new(n).unwrap();
        let spec = SaeSpec { d_in: size(8), d_sae: size(64), selection: Selection::TopK(size(4)), centring: true };
        let mut rng = ChaCha8Rng::seed_from_u64(jiff::Timestamp::now().as_millisecond().unsigned_abs());
        let encoder = Array2::from_shape_fn((64, 8), |_| StandardNormal.sample(&mut rng));
        let centre: Array1<f32> = Array1::from_elem(8, 0.5);
        let sae = SaeWeights::new(spec, encoder, Array1::zeros(64), None, centre.clone()).unwrap();
        let model = NativeModel::new(&sae);
        let batch = rows(&model, 200, 3);
        let kind = |kind: usize| (0..200).filter(move |at| at % KINDS == kind).map(|at| batch.row(at));
        let norm = |row: &[f32]| row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        assert!((0..200).filter(|at| at % KINDS == 1).all(|at| batch.row(at) == batch.row(at - 1)), "duplicates");
        let scales: Vec<f64> = kind(2).map(norm).collect();
        assert!(scales.iter().any(|norm| *norm < 1e-3) && scales.iter().any(|norm| *norm > 1e3), "scales: {scales:?}");
        assert!(kind(3).all(|row| row == centre.as_slice().unwrap()), "the centre: nothing but biases");
        assert!(kind(4).all(|row| row.iter().all(|value| *value == 0.0)), "zero rows");
        let tail = kind(5).flatten().map(|value| value.abs()).fold(0.0, f32::max);
        assert!(tail > 10.0, "heavy tails: {tail}");
        let product = |row: &[f32], j: usize| -> f32 { row.iter().zip(&centre).zip(model.row(j)).map(|((x, c), w)| (x - c) * w).sum() };
        assert!(kind(6).all(|row| (0..64).any(|j| product(row, j) > 0.0)), "along a latent");
        assert!(kind(7).all(|row| (0..64).any(|j| product(row, j) < 0.0)), "against one");
        let levels: std::collections::BTreeSet<u32> = kind(9).flatten().map(|value| (value + 1.0).to_bits()).collect();
        assert!(levels.len() <= 3, "few levels: {levels:?}");
    }
}
