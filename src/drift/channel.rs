//! One segment's test: its alternatives, its evidence, the streams it holds in ALERT, what waits to be merged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::drift::alternatives::Alternatives;
use crate::drift::concentration;
use crate::drift::evidence::{Evidence, Run};
use crate::drift::report::{AlertChange, Crossing, Direction, StreamReport};
use crate::drift::state::{Hold, HoldStep, unheld_state};
use crate::drift::stream::StreamId;
use crate::drift::thin::Merged;

/// Quantile of the normal distribution for 95 % intervals.
const Z95: f64 = 1.96;
/// `-ln 0.025`: the upper 97.5 % limit of a Poisson mean when nothing was counted.
const NOTHING_COUNTED: f64 = 3.689;
/// Log-likelihood by which a start of the change must be worse than the best to lie outside its interval.
const CHANGE_POINT_NATS: f64 = 3.0;

/// What does not change from window to window.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    pub(super) segment: String,
    pub(super) streams: Vec<StreamId>,
    pub(super) alternatives: Alternatives,
    /// Positions the concentration factor is measured on; empty = no factor.
    pub(super) frequent: Vec<usize>,
    /// Concepts (latents) that the factor applies to: the first of the streams.
    pub(super) n_shared: usize,
    pub(super) state: ChannelState,
    log_evidence: Vec<f64>,
}

/// What must survive a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ChannelState {
    pub(super) evidence: Evidence,
    pub(super) holds: BTreeMap<usize, Hold>,
    pub(super) pending: Merged,
}

/// Where and when a step happens, for what is written about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    pub(super) window_ms: i64,
    pub(super) model_version: &'a str,
    pub(super) reference: &'a str,
}

impl Channel {
    pub(super) fn new(segment: &str, streams: Vec<StreamId>, alternatives: Alternatives, frequent: Vec<usize>, n_shared: usize) -> Self {
        let state = ChannelState { evidence: Evidence::new(streams.len()), holds: BTreeMap::new(), pending: Merged::default() };
        Self { segment: segment.to_owned(), streams, alternatives, frequent, n_shared, state, log_evidence: Vec::new() }
    }

    /// Judges what was merged. Returns the streams' reports, the concentration factor, and adds to `changes`.
    pub(super) fn step(
        &mut self,
        mut window: Merged,
        place: Place<'_>,
        changes: &mut Vec<AlertChange>,
    ) -> (Vec<StreamReport>, Option<f64>) {
        let factor = (!self.frequent.is_empty()).then(|| concentration::factor(&window.y, &window.mu, &self.frequent));
        if let Some(factor) = factor {
            window.mu.iter_mut().take(self.n_shared).for_each(|mu| *mu *= factor);
        }
        let state = &mut self.state;
        state.evidence.step(&self.alternatives, &window.y, &window.mu, window.start_ms, &mut self.log_evidence);

        let threshold = self.alternatives.threshold_log;
        let crossed: Vec<usize> = (0..self.streams.len()).filter(|&j| self.log_evidence[j] >= threshold).collect();
        let crossings: Vec<(usize, Crossing)> = crossed.iter().map(|&j| (j, self.crossing(j, &window, place))).collect();
        let mut reports: Vec<StreamReport> = (0..self.streams.len()).map(|j| self.report(j, &window)).collect();
        for (j, crossing) in crossings {
            self.state.evidence.reset(j);
            let of = (crossing.direction, crossing.evidence_log, crossing.ratio);
            let opens = match self.state.holds.get_mut(&j) {
                Some(hold) => hold.cross_again(of.0, of.1, of.2),
                None => {
                    self.state.holds.insert(j, Hold::open(of.0, of.1, of.2));
                    true
                }
            };
            changes.push(if opens { AlertChange::Opened(crossing) } else { AlertChange::CrossedAgain(crossing) });
        }
        self.step_holds(&window, place, &mut reports, changes);
        (reports, factor)
    }

    fn step_holds(&mut self, window: &Merged, place: Place<'_>, reports: &mut [StreamReport], changes: &mut Vec<AlertChange>) {
        let mut over = Vec::new();
        for (&j, hold) in &mut self.state.holds {
            let of = &self.alternatives.streams[j];
            match hold.step(window.y[j], window.mu[j], of.gate, of.dispersion) {
                HoldStep::Held => {}
                HoldStep::Recovered => changes.push(AlertChange::Recovered {
                    segment: self.segment.clone(),
                    stream: self.streams[j],
                    window_end_ms: place.end_ms,
                }),
                HoldStep::Over => over.push(j),
            }
            if let Some(state) = hold.state() {
                reports[j].state = state;
            }
            if hold.is_alert() {
                reports[j].evidence_log = hold.evidence_log;
            }
        }
        over.iter().for_each(|j| drop(self.state.holds.remove(j)));
    }

    /// Reports of the streams held in ALERT or RECOVERED, for a window without a verdict: an alert must not
    /// vanish from the metrics because a window was skipped.
    pub(super) fn held_reports(&self) -> Vec<StreamReport> {
        let report = |(&j, hold): (&usize, &Hold)| {
            let state = hold.state()?;
            let (count, expected) = hold.recent_sums();
            let phi = self.alternatives.streams[j].dispersion;
            let (ratio, ratio_low, ratio_high) = ratio_interval(count, expected, phi);
            Some(StreamReport {
                stream: self.streams[j],
                state,
                evidence_log: if hold.is_alert() { hold.evidence_log } else { 0.0 },
                threshold_log: self.alternatives.threshold_log,
                count: 0.0,
                expected: 0.0,
                exposure: 0.0,
                dispersion: phi,
                ratio,
                ratio_low,
                ratio_high,
                mde_ratio: self.alternatives.detectable_ratio(j, 0.0),
            })
        };
        self.state.holds.iter().filter_map(report).collect()
    }

    fn report(&self, j: usize, window: &Merged) -> StreamReport {
        let of = &self.alternatives.streams[j];
        let (y, mu) = (window.y[j], window.mu[j]);
        let run = |direction| self.state.evidence.run(j, direction);
        let longest = match (run(Direction::Up), run(Direction::Down)) {
            (Some(up), Some(down)) => Some(if up.began_ms <= down.began_ms { up } else { down }),
            (up, down) => up.or(down),
        };
        let (count, expected) = match (longest, self.state.holds.get(&j)) {
            (Some(run), _) => (run.count, run.expected),
            (None, Some(hold)) if hold.is_alert() => hold.recent_sums(),
            (None, _) => (y, mu),
        };
        let (ratio, ratio_low, ratio_high) = ratio_interval(count, expected, of.dispersion);
        let log_evidence = self.log_evidence[j];
        StreamReport {
            stream: self.streams[j],
            state: unheld_state(log_evidence, self.alternatives.threshold_log),
            evidence_log: log_evidence.max(0.0),
            threshold_log: self.alternatives.threshold_log,
            count: y,
            expected: mu,
            exposure: window.exposure[j],
            dispersion: of.dispersion,
            ratio,
            ratio_low,
            ratio_high,
            mde_ratio: self.alternatives.detectable_ratio(j, mu),
        }
    }

    fn crossing(&self, j: usize, window: &Merged, place: Place<'_>) -> Crossing {
        let of = &self.alternatives.streams[j];
        let direction = self.state.evidence.direction(j);
        let this_window = Run { began_ms: window.start_ms, count: window.y[j], expected: window.mu[j] };
        let run = self.state.evidence.run(j, direction).unwrap_or(this_window);
        let (ratio, ratio_low, ratio_high) = ratio_interval(run.count, run.expected, of.dispersion);
        let slack = change_point_slack(ratio, window.mu[j] / of.dispersion, place.window_ms);
        Crossing {
            window_start_ms: place.start_ms,
            window_end_ms: place.end_ms,
            model_version: place.model_version.to_owned(),
            segment: self.segment.clone(),
            stream: self.streams[j],
            direction,
            evidence_log: self.log_evidence[j],
            threshold_log: self.alternatives.threshold_log,
            ratio,
            ratio_low,
            ratio_high,
            began_ms: run.began_ms,
            began_low_ms: run.began_ms.saturating_sub(slack),
            began_high_ms: run.began_ms.saturating_add(slack).min(place.start_ms),
            exposure: window.exposure[j],
            mde_ratio: self.alternatives.detectable_ratio(j, window.mu[j]),
            reference: place.reference.to_owned(),
        }
    }
}

/// Ratio `r = sum Y/sum mu` with its 95 % interval `exp(ln r +- 1.96 sqrt(phi/sum mu))`.
/// Edge values: nothing counted: 0, from 0 to the exact Poisson limit; nothing expected: 1, from 0 to infinity's stand-in 1e9.
fn ratio_interval(count: f64, expected: f64, phi: f64) -> (f64, f64, f64) {
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

/// Half width of the change point's interval: the windows in which the change gathers three nats against
/// "no change yet", `3 / (mu/phi (r ln r - r + 1))`, in ms. At most a year's worth, for changes that show nothing.
#[expect(clippy::cast_possible_truncation, reason = "clamped to 8784 windows")]
fn change_point_slack(ratio: f64, information: f64, window_ms: i64) -> i64 {
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
