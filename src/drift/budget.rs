//! How segments share the false-alarm budget, and the threshold that follows from it.
//!
//! The budget itself (A, windows between false alarms) is read in `config`.

/// Share of the budget of `_all` with its families: 1 without segments, else 1/2.
#[must_use]
pub fn global_share(n_segments: usize) -> f64 {
    if n_segments == 0 { 1.0 } else { 0.5 }
}

/// Share of each of `n_segments >= 1` segments: the other half, split evenly.
#[must_use]
pub fn segment_share(n_segments: usize) -> f64 {
    0.5 / n_segments.max(1) as f64
}

/// `ln(A m / share)`: what ln M must reach in a group of `n_streams` m that has that share.
#[must_use]
pub fn threshold_log(budget_windows: f64, n_streams: usize, share: f64) -> f64 {
    (budget_windows * n_streams as f64 / share).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_one() {
        for n in 1..9 {
            assert!((global_share(n) + n as f64 * segment_share(n) - 1.0).abs() < 1e-12);
        }
        assert_eq!(global_share(0), 1.0);
    }
}
