//! Intervals by the bootstrap over rows.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Resamples: the ends of a 95 % interval then rest on 25 of them.
const RESAMPLES: usize = 1_000;

/// A mean and its 95 % percentile interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// 2.5 %.
    pub low: f64,
    /// 97.5 %.
    pub high: f64,
}

/// Interval of the mean of one value a row; the same seed draws the same rows, so that two calls of as
/// many rows are paired. No row gives zeros.
#[must_use]
pub fn interval(values: &[f64], seed: u64) -> Interval {
    let n = values.len();
    if n == 0 {
        return Interval::default();
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| (0..n).map(|_| values[rng.random_range(0..n)]).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    let at = |permille: usize| means[(RESAMPLES - 1) * permille / 1000];
    Interval { mean: values.iter().sum::<f64>() / n as f64, low: at(25), high: at(975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_covers_the_normal_one() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let found = interval(&values, rand::random());
        // Standard error of the mean: sd of 0..20 over 20.
        let error = ((20.0f64 * 20.0 - 1.0) / 12.0).sqrt() / 20.0;
        assert!((found.mean - 9.5).abs() < 1e-12);
        assert!((found.high - found.low - 2.0 * 1.96 * error).abs() < 0.4 * error, "{found:?}");
    }
}
