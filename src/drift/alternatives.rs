//! The ratios the test looks for in each stream, and the constants a window's likelihood needs.

use crate::drift::gate::{Gate, GateRule};

/// Delays in windows whose detectable ratio is an alternative: a fast one for large shifts, a patient one for small.
pub const DELAYS: [f64; N_PER_SIDE] = [6.0, 20.0];
/// Alternatives a side.
pub const N_PER_SIDE: usize = 2;
/// Alternatives a stream, up then down.
pub const N_ALTERNATIVES: usize = 2 * N_PER_SIDE;
/// An alternative lies at least this factor outside the gate; closer ones gather evidence too slowly to matter.
const EDGE: f64 = 1.1;
/// Largest ratio looked for (or three times the gate): beyond it any larger shift is found as fast.
const MAX_RATIO: f64 = 8.0;
/// Smallest ratio looked for (or a third of the gate).
const MIN_RATIO: f64 = 0.05;
/// `ln L` is capped at this part of the threshold, so that no single window can cross alone.
const CAP_PART: f64 = 0.5;

/// What the reference says of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamModel {
    /// Mean mu over the reference's windows.
    pub mean_expected: f64,
    /// phi.
    pub dispersion: f64,
    /// C' = C/(phi K).
    pub effective_count: f64,
}

/// One stream's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamAlternatives {
    /// `ln(rho/b)/phi` of each alternative.
    pub per_count: [f64; N_ALTERNATIVES],
    /// `(rho - b)/phi`.
    pub per_expected: [f64; N_ALTERNATIVES],
    /// The gate.
    pub gate: Gate,
    /// phi.
    pub dispersion: f64,
    /// `ln(A m / w)`.
    pub threshold_log: f64,
    /// Largest `ln L` of one window.
    pub cap: f64,
}

/// All streams' constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternatives {
    /// By stream, `[n]`.
    pub streams: Vec<StreamAlternatives>,
}

impl Alternatives {
    /// `rho` solves `(mu/phi)(rho ln(rho/b) - (rho - b)) = ln(4 A m/w)/n` for each delay n, at least `1.1 b`
    /// (at most `b/1.1`), within `[min(.05, b/3), max(8, 3 b)]`.
    #[must_use]
    pub fn new(models: &[StreamModel], rule: GateRule, thresholds_log: &[f64]) -> Self {
        let streams = models.iter().zip(thresholds_log).map(|(model, &threshold_log)| StreamAlternatives::new(*model, rule, threshold_log));
        Self { streams: streams.collect() }
    }

    /// Looks for other ratios in one stream: its model has changed.
    pub fn replace(&mut self, stream: usize, model: StreamModel, rule: GateRule) {
        let threshold_log = self.streams[stream].threshold_log;
        self.streams[stream] = StreamAlternatives::new(model, rule, threshold_log);
    }
}

impl StreamAlternatives {
    fn new(model: StreamModel, rule: GateRule, threshold_log: f64) -> Self {
        let gate = rule.gate(model.effective_count);
        let mut this = Self {
            per_count: [0.0; N_ALTERNATIVES],
            per_expected: [0.0; N_ALTERNATIVES],
            gate,
            dispersion: model.dispersion,
            threshold_log,
            cap: CAP_PART * threshold_log,
        };
        let nats = this.needed() * model.dispersion / model.mean_expected.max(1e-9);
        for (i, delay) in DELAYS.iter().enumerate() {
            let up = clip(ratio_above(nats / delay, gate.up), gate.up * EDGE, MAX_RATIO.max(3.0 * gate.up));
            let down = clip(ratio_below(nats / delay, gate.down), MIN_RATIO.min(gate.down / 3.0), gate.down / EDGE);
            for (k, ratio, edge) in [(i, up, gate.up), (N_PER_SIDE + i, down, gate.down)] {
                this.per_count[k] = (ratio / edge).ln() / model.dispersion;
                this.per_expected[k] = (ratio - edge) / model.dispersion;
            }
        }
        this
    }

    /// Nats that must be gathered for a crossing: `ln(4 A m / w)`.
    #[must_use]
    pub fn needed(&self) -> f64 {
        (N_ALTERNATIVES as f64).ln() + self.threshold_log
    }

    /// Minimum detectable ratio above 1: what 20 windows with `expected` mu each would show.
    /// Newton's iteration `u <- (u - 1 + x)/ln u` for `u ln u - u + 1 = x`, which falls to the root from above;
    /// four steps are exact to 0.1 % for ratios below 8. Capped at 1000, also for nothing expected.
    #[must_use]
    pub fn detectable_ratio(&self, expected: f64) -> f64 {
        let x = self.needed() / DELAYS[N_PER_SIDE - 1] * self.dispersion / (expected * self.gate.up).max(1e-9);
        let mut u = 1.0 + (2.0 * x).sqrt() + x / 3.0;
        for _ in 0..4 {
            u = (u - 1.0 + x) / u.ln();
        }
        (u * self.gate.up).min(1000.0)
    }
}

/// Within `low..=high`; the lower bound gives way where they cross.
fn clip(value: f64, low: f64, high: f64) -> f64 {
    value.max(low).min(high)
}

/// `r > b` with `r ln(r/b) - (r - b) = x`, by bisection of the logarithm; `1e4 b` where it lies beyond.
fn ratio_above(x: f64, b: f64) -> f64 {
    bisect(b, b * 1e4, |r| divergence(r, b) < x)
}

/// `r < b` with the same equation; 1e-6 where there is none.
fn ratio_below(x: f64, b: f64) -> f64 {
    bisect(1e-6, b, |r| divergence(r, b) > x)
}

fn divergence(r: f64, b: f64) -> f64 {
    r * (r / b).ln() - (r - b)
}

fn bisect(mut low: f64, mut high: f64, root_is_above: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..50 {
        let middle = (low * high).sqrt();
        if root_is_above(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low * high).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alternatives(mu: f64) -> StreamAlternatives {
        let model = StreamModel { mean_expected: mu, dispersion: 1.5, effective_count: 300.0 * mu };
        StreamAlternatives::new(model, GateRule::new(336.0, 7.0, 0.0, 0.01), 1e6_f64.ln())
    }

    #[test]
    fn ratios_solve_their_equation() {
        for (x, b) in [(0.01, 1.05), (0.5, 1.2), (3.0, 1.01)] {
            assert!((divergence(ratio_above(x, b), b) - x).abs() < 1e-9);
        }
        assert!((divergence(ratio_below(0.1, 0.9), 0.9) - 0.1).abs() < 1e-9);
        assert!(ratio_below(5.0, 0.9) < 1.1e-6, "more than b nats cannot be shown downward");
    }

    #[test]
    fn the_detectable_ratio_solves_its_equation_and_falls_with_volume() {
        let found = alternatives(50.0);
        let ratio = found.detectable_ratio(50.0);
        let nats = 50.0 / 1.5 * divergence(ratio, found.gate.up);
        assert!((nats - found.needed() / 20.0).abs() < 1e-3 * nats, "{nats}");
        assert!(found.detectable_ratio(500.0) < ratio);
        assert_eq!(found.detectable_ratio(0.0), 1000.0);
    }
}
