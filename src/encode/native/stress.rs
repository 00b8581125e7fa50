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
            let (a, b) = (along(latent(rng), 1.0), along(latent(rng), 1.0));
            a.iter().zip(&b).map(|(a, b)| (f64::midpoint(f64::from(*a), f64::from(*b))) as f32).collect()
        }
        _ => {
            // Few levels, so that many products are equal.
            (0..d_in).map(|_| f32::from(rng.random_range(-1i8..=1)) * 0.5).collect()
        }
    }
}
