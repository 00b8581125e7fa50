//! The indifference zone: ratios inside it are not drift, because the reference itself cannot tell
//! them from 1 or because it wandered by as much while nothing had changed.
//!
//! A gate fixed at 5 % costs detection (13 windows instead of 7 for +25 % of a frequent concept), no gate
//! alarms in 26 of 1,000 windows of benign wander: it has to be measured from the reference.

use crate::drift::special::{gamma_p_inverse, normal_cdf};

/// Widest gate: the limits of the reference's count at 1 % a side.
const MAX_Z: f64 = 2.33;

/// The gate of one stream: `down <= r <= up` is the null hypothesis on the ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// Upper edge, > 1.
    pub up: f64,
    /// Lower edge, < 1 and > 0.
    pub down: f64,
}

/// What a reference of `n_windows` R and `n_columns` K says about all gates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateRule {
    z: f64,
    half_width: f64,
}

impl GateRule {
    /// `z = min(2.33, 12 K/R)`, `g = max(min_effect, (1.25 + 24 K/R) sigma_w)`: short references get wide gates.
    #[must_use]
    pub fn new(n_windows: f64, n_columns: f64, sigma_w: f64, min_effect: f64) -> Self {
        let share = n_columns / n_windows;
        Self { z: (12.0 * share).min(MAX_Z), half_width: min_effect.max((1.25 + 24.0 * share) * sigma_w) }
    }

    /// The widest such rule, for a level known from a few windows alone.
    #[must_use]
    pub fn widest(self) -> Self {
        Self { z: MAX_Z, ..self }
    }

    /// Gate of a stream with `effective_count` C' = C/(phi K) in the reference:
    /// `up = max(1 + g, upper(C')/max(C', 1/2))`, `down = min(1/(1 + g), lower(C')/max(C', 1/2))`.
    #[must_use]
    pub fn gate(&self, effective_count: f64) -> Gate {
        let (lower, upper) = poisson_limits(effective_count, self.z);
        Gate { up: (1.0 + self.half_width).max(upper), down: (1.0 / (1.0 + self.half_width)).min(lower) }
    }
}

/// Exact (Garwood) one-sided limits of a Poisson mean at level `1 - Phi(z)` given the count `n >= 0`,
/// as factors of `max(n, 1/2)`: (lower, upper). Lower is 0.02 for `n = 0`, and never 0.
#[must_use]
pub fn poisson_limits(n: f64, z: f64) -> (f64, f64) {
    let tail = 1.0 - normal_cdf(z);
    let base = n.max(0.5);
    let upper = gamma_p_inverse(n + 1.0, 1.0 - tail) / base;
    let lower = if n > 0.0 { (gamma_p_inverse(n.max(1e-9), tail) / base).max(1e-300) } else { 0.02 };
    (lower, upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_reference_has_a_wider_gate() {
        let long = GateRule::new(336.0, 7.0, 0.01, 0.01).gate(1000.0);
        let short = GateRule::new(30.0, 7.0, 0.01, 0.01).gate(1000.0);
        assert!(short.up > long.up && short.down < long.down, "{long:?} {short:?}");
    }

    #[test]
    fn a_concept_never_seen_can_only_be_born() {
        let gate = GateRule::new(8.0, 1.0, 0.0, 0.01).gate(0.0);
        assert!(gate.up > 3.0 && gate.down == 0.02, "{gate:?}");
    }

    #[test]
    fn the_limits_of_a_large_count_are_nearly_normal() {
        let (lower, upper) = poisson_limits(1e6, 2.0);
        assert!((upper - 1.002).abs() < 1e-5 && (lower - 0.998).abs() < 1e-5);
    }
}
