//! Intervals of what an alert says: its ratio, its change point.

/// Quantile of the normal distribution for 95 % intervals.
const Z95: f64 = 1.96;
/// `-ln 0.025`: the upper 97.5 % limit of a Poisson mean when nothing was counted.
const NOTHING_COUNTED: f64 = 3.689;
/// Log-likelihood by which a start of the change must be worse than the best to lie outside its interval.
const CHANGE_POINT_NATS: f64 = 3.0;

/// Ratio `r = sum Y/sum mu` with its 95 % interval `exp(ln r +- 1.96 sqrt(phi/sum mu))`.
/// Edge values: nothing counted: 0, from 0 to the exact Poisson limit; nothing expected: 1, from 0 to infinity's stand-in 1e9.
pub(super) fn ratio_interval(count: f64, expected: f64, phi: f64) -> (f64, f64, f64) {
    if expected <= 0.0 {
        return (1.0, 0.0, 1e9);
    }
    if count <= 0.0 {
        return (0.0, 0.0, NOTHING_COUNTED * phi / expected);
    }
    let ratio = count / expected;
    let width = (Z95 * (phi / expected).sqrt()).exp();
    (ratio, ratio / width, ratio * width)
}

/// Windows from one instant to another, at least 1.
pub(super) fn windows_between(from_ms: i64, to_ms: i64, window_ms: i64) -> u32 {
    u32::try_from(to_ms.saturating_sub(from_ms) / window_ms.max(1)).unwrap_or(1).max(1)
}

/// Half width of the change point's interval: the windows in which the change gathers three nats against
/// "no change yet", `3 / (mu/phi (r ln r - r + 1))`, in ms. At most a year's worth, for changes that show nothing.
#[expect(clippy::cast_possible_truncation, reason = "clamped to 8784 windows")]
pub(super) fn change_point_slack(ratio: f64, information: f64, window_ms: i64) -> i64 {
    let gain = if ratio > 0.0 { ratio * ratio.ln() - ratio + 1.0 } else { 1.0 };
    let windows = (CHANGE_POINT_NATS / (information * gain).max(1e-9)).ceil().min(8784.0);
    window_ms.saturating_mul(windows as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_the_ratio_and_edges_are_finite() {
        let (ratio, low, high) = ratio_interval(30.0, 20.0, 1.0);
        assert!((ratio - 1.5).abs() < 1e-12 && low < ratio && ratio < high && low > 0.9);
        assert_eq!(ratio_interval(0.0, 36.89, 1.0), (0.0, 0.0, 0.1));
        assert!(ratio_interval(1.0, 0.0, 1.0).2.is_finite());
    }

    #[test]
    fn a_loud_change_is_dated_sharply() {
        assert_eq!(change_point_slack(2.0, 100.0, 10), 10);
        assert!(change_point_slack(1.1, 10.0, 10) > 300);
        assert_eq!(change_point_slack(1.0, 10.0, 1), 8784);
    }
}
