//! Overdispersion phi: how much more (or less) a stream varies than a Poisson count.
//!
//! One stream's own estimate is too rough on short references, one value for all is wrong: sessions
//! make frequent concepts vary more. So each estimate is drawn towards a line over the streams,
//! as strongly as the spread around that line says sampling alone explains it.

use crate::drift::least_squares::{LeastSquares, count};

/// Above this strength the prior line is as good as exact; unbounded it would erase real differences.
const MAX_STRENGTH: f64 = 3000.0;
/// Weight of the median where the streams share no line.
const FALLBACK_STRENGTH: f64 = 30.0;
/// Fewer streams than this carry no line (families).
const MIN_STREAMS_FOR_LINE: usize = 8;

/// `sum (Y - mu)^2 / mu / df` of one stream over the reference. Windows without expectation are skipped.
#[must_use]
pub fn raw_dispersion(y_and_mu: impl Iterator<Item = (f64, f64)>, df: f64) -> f64 {
    y_and_mu.filter(|&(_, mu)| mu > 0.0).map(|(y, mu)| (y - mu) * (y - mu) / mu).sum::<f64>() / df
}

/// Empirical Bayes over streams: raw `[n]`, mean expected counts `[n]`, degrees of freedom `df > 0`.
///
/// With `v = (2 + 1/mu)/df` (sampling variance of `raw/phi`), the line `f = a + c mu` by least
/// squares trimmed three times at 4 sqrt(v), `tau^2 = mean((raw/f - 1)^2 - v)` and
/// `n0 = min(3000, 2/tau^2)`: `phi = max((df raw + n0 f)/(df + n0), raw/(1 + 3 sqrt v))`; no floor yet.
/// Edge values: fewer than 8 streams, or half of them off the line: drawn to the median instead.
#[must_use]
pub fn shrink(raw: &[f64], mu: &[f64], df: f64) -> Vec<f64> {
    let middle = median(raw);
    let own = || raw.iter().map(|raw| (df * raw + FALLBACK_STRENGTH * middle) / (df + FALLBACK_STRENGTH)).collect();
    if raw.len() < MIN_STREAMS_FOR_LINE {
        return own();
    }
    let v: Vec<f64> = mu.iter().map(|mu| (2.0 + 1.0 / mu.max(0.1)) / df).collect();
    let mut on_line = vec![true; raw.len()];
    let mut line = Vec::new();
    for _ in 0..3 {
        line = fit_line(raw, mu, &v, &on_line, 0.5 * middle);
        for (j, on) in on_line.iter_mut().enumerate() {
            *on = (raw[j] / line[j] - 1.0).abs() < 4.0 * v[j].sqrt();
        }
        if 2 * on_line.iter().filter(|on| **on).count() < raw.len() {
            return own();
        }
    }
    let excess: Vec<f64> = (0..raw.len()).filter(|&j| on_line[j]).map(|j| (raw[j] / line[j] - 1.0).powi(2) - v[j]).collect();
    let tau_sq = (excess.iter().sum::<f64>() / count(excess.len())).max(0.0);
    let strength = MAX_STRENGTH.min(2.0 / tau_sq.max(1e-6));
    (0..raw.len()).map(|j| ((df * raw[j] + strength * line[j]) / (df + strength)).max(raw[j] / (1.0 + 3.0 * v[j].sqrt()))).collect()
}

fn fit_line(raw: &[f64], mu: &[f64], v: &[f64], on_line: &[bool], floor: f64) -> Vec<f64> {
    let used = || (0..raw.len()).filter(|&j| on_line[j]);
    let columns = [used().map(|j| 1.0 / v[j].sqrt()).collect(), used().map(|j| mu[j] / v[j].sqrt()).collect()];
    let target: Vec<f64> = used().map(|j| raw[j] / v[j].sqrt()).collect();
    let line = LeastSquares::new(&columns).solve(&target);
    mu.iter().map(|mu| (line[0] + line[1] * mu).max(floor)).collect()
}

/// Median; 0 for nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Quantile `0 <= p <= 1` with linear interpolation (numpy's default); 0 for nothing.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= position <= len - 1")]
pub fn quantile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = p * count(last);
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (position - count(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_on_a_line_stay_on_it_and_one_above_keeps_its_own() {
        let mu: Vec<f64> = (1..=100).map(f64::from).collect();
        let mut raw: Vec<f64> = mu.iter().map(|mu| 1.0 + 0.01 * mu).collect();
        raw[50] = 20.0;
        let phi = shrink(&raw, &mu, 300.0);
        assert!((phi[10] - 1.11).abs() < 1e-9);
        assert!(phi[50] > 15.0, "never below the 3-sigma bound of its own: {}", phi[50]);
    }

    #[test]
    fn few_streams_are_drawn_to_their_median() {
        let phi = shrink(&[1.0, 4.0], &[5.0, 5.0], 30.0);
        assert!((phi[0] - (1.0 + 2.5) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn quantiles_interpolate_and_nothing_gives_zero() {
        assert_eq!(quantile(&[3.0, 1.0], 0.5), 2.0);
        assert_eq!(median(&[]), 0.0);
    }
}
