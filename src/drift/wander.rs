//! Self-measured wander: the relative fluctuation that lasts from window to window in a reference
//! where nothing is known to have changed.

use ndarray::ArrayView2;

use crate::drift::least_squares::{LeastSquares, count};

/// Lags in windows over which the correlation is averaged. One lag alone is rough, more than three
/// miss wander that fades in hours.
const LAGS: usize = 3;
/// Above this, on references of [`MIN_WINDOWS_TO_REFUSE`] or more, a season is not modelled (a planted wander of 3.6 % reads 2.6 %).
pub const MAX_WANDER: f64 = 0.05;
/// A shorter reference cannot tell wander from chance: it is not refused, but marked as not self-checked.
pub const MIN_WINDOWS_TO_REFUSE: usize = 168;

/// `sigma_w^2 = max(0, mean over lags l = 1..3 of sum_j w_j (mean_t z_t z_{t+l} + h_l) / sum_j w_j^2)`.
///
/// `z` `[R, n]` = residuals (Y - mu)/sqrt(phi mu), `weight` `[n]` = mean mu/phi, `h_l` = mean of the hat matrix
/// on that diagonal: fitting a season makes residuals correlate by -h_l. Returns sigma_w.
/// Edge values: 0 for references too short for a lag, or without expectation.
#[must_use]
pub fn wander(z: ArrayView2<'_, f64>, weight: &[f64], fit: &LeastSquares) -> f64 {
    let windows = z.nrows();
    let total: f64 = weight.iter().map(|w| w * w).sum();
    if windows <= LAGS || total <= 0.0 {
        return 0.0;
    }
    let mut sum = 0.0;
    for lag in 1..=LAGS {
        let hat = fit.mean_hat(lag);
        let mut products = vec![0.0; weight.len()];
        for t in 0..windows - lag {
            let pairs = z.row(t).into_iter().zip(z.row(t + lag));
            products.iter_mut().zip(pairs).for_each(|(p, (now, later))| *p += now * later);
        }
        sum += products.iter().zip(weight).map(|(p, w)| w * (p / count(windows - lag) + hat)).sum::<f64>() / total;
    }
    (sum / LAGS as f64).max(0.0).sqrt()
}

/// Whether the measured wander is more than a stationary stream with the fitted season shows:
/// `sigma_w^2 > 0.05^2 + 3 SE`, `SE = 1/sqrt(3 R sum_j w_j^2)` its standard error with no wander.
///
/// Without the error's part, a quiet stream (a few users a window) would be refused for what is chance.
#[must_use]
pub fn is_unmodelled(sigma_w: f64, weight: impl Iterator<Item = f64>, n_windows: usize) -> bool {
    let information: f64 = weight.map(|w| w * w).sum::<f64>() * count(LAGS * n_windows);
    n_windows >= MIN_WINDOWS_TO_REFUSE && sigma_w * sigma_w > MAX_WANDER * MAX_WANDER + 3.0 / information.max(1e-12).sqrt()
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn a_quiet_stream_is_not_refused_for_chance() {
        assert!(is_unmodelled(0.06, [100.0; 50].into_iter(), 336));
        assert!(!is_unmodelled(0.06, [0.5; 50].into_iter(), 336));
        assert!(!is_unmodelled(0.06, [100.0; 50].into_iter(), 100));
    }

    #[test]
    fn a_common_slow_wave_is_measured_and_alternation_is_not() {
        let fit = LeastSquares::new(&[vec![1.0; 400]]);
        let wave = Array2::from_shape_fn((400, 3), |(t, _)| (0.02 * t as f64).sin());
        let found = wander(wave.view(), &[100.0; 3], &fit);
        assert!((found - (0.5_f64 / 100.0).sqrt()).abs() < 0.01, "{found}");
        let alternating = Array2::from_shape_fn((400, 3), |(t, _)| if t % 2 == 0 { 1.0 } else { -1.0 });
        assert_eq!(wander(alternating.view(), &[100.0; 3], &fit), 0.0);
        assert_eq!(wander(Array2::zeros((2, 3)).view(), &[100.0; 3], &fit), 0.0);
    }
}
