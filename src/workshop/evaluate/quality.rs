//! How much of the embeddings an SAE's reconstruction keeps: sums of one pass, in f64.
//!
//! FVU is global: `sum ||x - x_hat||^2 / sum ||x - mean||^2` about the evaluated rows' own mean. The mean
//! of the FVUs of small batches, which published code reports, is larger than it (.077 for .058 at
//! batches of four), because a small batch's variance about its own mean is too small.

use serde::Serialize;

use crate::sae::reconstruction::RowError;

/// Reconstruction quality of some rows. All of them are NaN-free; no row gives all zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Rows.
    pub rows: u64,
    /// Fraction of variance unexplained. 0 where the rows do not vary and nothing is lost, infinite where
    /// they do not vary and something is.
    pub fvu: f64,
    /// `1 - sum ||e - mean e||^2 / sum ||x - mean x||^2`: `1 - fvu`, but for a constant error.
    pub explained_variance: f64,
    /// Mean cosine of embedding and reconstruction.
    pub cosine: f64,
    /// Mean of `||x_hat|| / ||x||`.
    pub norm_ratio: f64,
    /// Mean number of active latents (value > 0).
    pub l0: f64,
}

/// The sums behind [`Quality`]. Differences are taken to the first row, so that a large common mean
/// costs no digits.
#[derive(Clone, Debug, Default)]
pub struct QualitySums {
    n: u64,
    first: Vec<f64>,
    sum: Vec<f64>,
    squared: f64,
    error_sum: Vec<f64>,
    squared_error: f64,
    cosine: f64,
    norm_ratio: f64,
    active: u64,
}

impl QualitySums {
    /// Adds a row `x [d_in]` with its reconstruction `x_hat [d_in]`.
    pub fn add(&mut self, x: &[f32], x_hat: &[f32], error: &RowError, n_active: usize) {
        if self.n == 0 {
            self.first = x.iter().map(|value| f64::from(*value)).collect();
            self.sum = vec![0.0; x.len()];
            self.error_sum = vec![0.0; x.len()];
        }
        self.n += 1;
        for (i, (value, hat)) in x.iter().zip(x_hat).enumerate() {
            let (value, hat) = (f64::from(*value), f64::from(*hat));
            let shifted = value - self.first[i];
            self.sum[i] += shifted;
            self.squared += shifted * shifted;
            self.error_sum[i] += value - hat;
        }
        self.squared_error += error.squared_error;
        self.cosine += error.cosine;
        self.norm_ratio += error.norm_ratio;
        self.active += n_active as u64;
    }

    /// `sum ||x - mean||^2`.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.squared - squared_norm(&self.sum) / (self.n.max(1) as f64)
    }

    /// What the sums say.
    #[must_use]
    pub fn quality(&self) -> Quality {
        if self.n == 0 {
            return Quality::default();
        }
        let n = self.n as f64;
        let total = self.total();
        let of_total = |part: f64| match () {
            () if total > 0.0 => part / total,
            () if part > 0.0 => f64::INFINITY,
            () => 0.0,
        };
        Quality {
            rows: self.n,
            fvu: of_total(self.squared_error),
            explained_variance: 1.0 - of_total(self.squared_error - squared_norm(&self.error_sum) / n),
            cosine: self.cosine / n,
            norm_ratio: self.norm_ratio / n,
            l0: self.active as f64 / n,
        }
    }
}

fn squared_norm(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sums(rows: &[[f32; 3]], hats: &[[f32; 3]]) -> Quality {
        let mut sums = QualitySums::default();
        for (x, x_hat) in rows.iter().zip(hats) {
            let squared_error = x.iter().zip(x_hat).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            sums.add(x, x_hat, &RowError { squared_error, cosine: 0.5, norm_ratio: 2.0, squared_norm: 0.0 }, 3);
        }
        sums.quality()
    }

    proptest! {
        #[test]
        fn one_pass_equals_two_passes_far_from_zero(
            rows in prop::collection::vec(prop::array::uniform3(-1.0f32..1.0), 2..40), offset in prop_oneof![Just(0.0f32), Just(4096.0), -9.0f32..9.0],
        ) {
            let rows: Vec<[f32; 3]> = rows.iter().map(|row| row.map(|value| value + offset)).collect();
            let hats: Vec<[f32; 3]> = rows.iter().map(|row| [row[0] * 0.9, row[1], row[2] + 0.25]).collect();
            let n = rows.len() as f64;
            let about_mean = |values: &[[f64; 3]]| -> f64 {
                (0..3).map(|i| {
                    let mean = values.iter().map(|row| row[i]).sum::<f64>() / n;
                    values.iter().map(|row| (row[i] - mean).powi(2)).sum::<f64>()
                }).sum()
            };
            let wide: Vec<[f64; 3]> = rows.iter().map(|row| row.map(f64::from)).collect();
            let errors: Vec<[f64; 3]> = rows.iter().zip(&hats).map(|(x, h)| std::array::from_fn(|i| f64::from(x[i]) - f64::from(h[i]))).collect();
            let squared: f64 = errors.iter().flatten().map(|e| e * e).sum();
            let (total, got) = (about_mean(&wide), sums(&rows, &hats));
            prop_assume!(total > 1e-3);
            prop_assert!((got.fvu - squared / total).abs() <= 1e-7 * (1.0 + got.fvu), "{} {}", got.fvu, squared / total);
            prop_assert!((got.explained_variance - (1.0 - about_mean(&errors) / total)).abs() <= 1e-7 * (1.0 + squared / total));
            prop_assert_eq!((got.cosine, got.norm_ratio, got.l0), (0.5, 2.0, 3.0));
        }
    }

    #[test]
    fn rows_that_do_not_vary_have_no_variance_to_explain() {
        let same = [[1.0, 2.0, 3.0]; 4];
        assert_eq!(sums(&same, &same).fvu, 0.0);
        assert_eq!(sums(&same, &[[0.0; 3]; 4]).fvu, f64::INFINITY);
        assert_eq!(QualitySums::default().quality(), Quality::default());
    }
}
