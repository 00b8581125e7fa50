//! From crossings to states that do not flap: OK, WARN, ALERT, RECOVERED.
//!
//! A crossing is an event of the mathematics, an alert is told to people. After a crossing R restarts
//! at 0, so the evidence cannot say whether the change is still there; the ratio of recent windows can.

use serde::{Deserialize, Serialize};

use crate::drift::gate::Gate;
use crate::drift::packed;
use crate::drift::report::{Direction, StreamState};

/// Judged windows whose ratio says whether an alert holds.
const RECENT: usize = 12;
/// Windows inside, one after another, until an alert is over.
const INSIDE_TO_RECOVER: u32 = 3;
/// Each relapse makes the next recovery wait this many times longer, at most [`MAX_RELAPSES`] times.
const RELAPSE_FACTOR: u32 = 4;
const MAX_RELAPSES: u32 = 3;
/// Judged windows for which RECOVERED is shown before it is OK again.
const RECOVERED_WINDOWS: u32 = 12;
/// Judged windows after a recovery until a new alert is no relapse any more.
const RELAPSE_MEMORY: u32 = 200;
/// Log-likelihood by which the recent windows must speak against the alert's ratio and for 1.
const RECOVERY_NATS: f64 = 3.0;
/// The alert's ratio is taken to be at least this factor outside the gate, and not below [`MIN_RATIO`].
const EDGE: f64 = 1.1;
/// Ratio of a concept that vanished: 0 would make one count in twelve windows a recovery.
const MIN_RATIO: f64 = 0.05;
/// WARN from M >= A m / (100 w).
const WARN_PART: f64 = 100.0;

/// What is remembered of a stream that is, or lately was, in ALERT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    recovered: bool,
    /// Direction of the change.
    pub direction: Direction,
    /// ln M at the last crossing: what is exported while in ALERT.
    #[serde(with = "packed::one")]
    pub evidence_log: f64,
    /// Ratio since the change point at the last crossing.
    #[serde(with = "packed::one")]
    ratio: f64,
    /// Y and mu of the last windows since the alert opened, at most 12, oldest first, one pair after another.
    #[serde(with = "packed")]
    recent: Vec<f64>,
    /// Windows inside in a row; windows since the recovery.
    calm: u32,
    /// Alerts that followed a recovery by less than 200 windows.
    relapses: u32,
}

/// What a judged window did to a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldStep {
    /// Nothing changed.
    Held,
    /// The alert is over.
    Recovered,
    /// The alert was over long ago: forget the hold.
    Over,
}

impl Hold {
    /// A stream crosses that was never in ALERT, or not lately.
    #[must_use]
    pub fn open(direction: Direction, evidence_log: f64, ratio: f64) -> Self {
        Self { recovered: false, direction, evidence_log, ratio, recent: Vec::new(), calm: 0, relapses: 0 }
    }

    /// It crosses once more. Returns whether that opens a new alert; else it was in ALERT and the newer
    /// direction and evidence count.
    pub fn cross_again(&mut self, direction: Direction, evidence_log: f64, ratio: f64) -> bool {
        let relapses = self.relapses + u32::from(self.recovered);
        if self.recovered {
            *self = Self { relapses, ..Self::open(direction, evidence_log, ratio) };
            return true;
        }
        (self.direction, self.evidence_log, self.ratio, self.calm) = (direction, evidence_log, ratio, 0);
        false
    }

    /// Whether it is in ALERT.
    #[must_use]
    pub fn is_alert(&self) -> bool {
        !self.recovered
    }

    /// ALERT or RECOVERED; `None` where the recovery has been shown long enough.
    #[must_use]
    pub fn state(&self) -> Option<StreamState> {
        match (self.recovered, self.calm) {
            (false, _) => Some(StreamState::Alert),
            (true, calm) if calm < RECOVERED_WINDOWS => Some(StreamState::Recovered),
            (true, _) => None,
        }
    }

    /// `sum Y`, `sum mu` of the recent windows.
    #[must_use]
    pub fn recent_sums(&self) -> (f64, f64) {
        self.recent.as_chunks::<2>().0.iter().fold((0.0, 0.0), |(y, mu), [y_t, mu_t]| (y + y_t, mu + mu_t))
    }

    /// A judged window, also the one that opened it.
    ///
    /// A window is inside where the ratio of the last 12 lies inside the gate and these windows speak by
    /// three nats for 1 against the alert's ratio (or, where twelve windows cannot say so much, lie at 1
    /// or beyond it). The gate alone would not do: for a stream whose gate is narrower than the noise of
    /// 12 windows an alert would end and begin again by chance. Three windows inside in a row recover
    /// it, after a relapse 12, then 48, then 192.
    pub fn step(&mut self, y: f64, mu: f64, gate: Gate, dispersion: f64) -> HoldStep {
        if self.recovered {
            self.calm += 1;
            return if self.calm >= RELAPSE_MEMORY { HoldStep::Over } else { HoldStep::Held };
        }
        if self.recent.len() >= 2 * RECENT {
            self.recent.drain(..2);
        }
        self.recent.extend([y, mu]);
        self.calm = if self.is_inside(gate, dispersion) { self.calm + 1 } else { 0 };
        if self.calm < INSIDE_TO_RECOVER * RELAPSE_FACTOR.pow(self.relapses.min(MAX_RELAPSES)) {
            return HoldStep::Held;
        }
        self.recovered = true;
        self.calm = 0;
        HoldStep::Recovered
    }

    fn is_inside(&self, gate: Gate, dispersion: f64) -> bool {
        let (count, expected) = self.recent_sums();
        let (within, ratio) = match self.direction {
            Direction::Up => (count <= expected * gate.up, self.ratio.max(gate.up * EDGE)),
            Direction::Down => (count >= expected * gate.down, self.ratio.min(gate.down / EDGE).max(MIN_RATIO.min(gate.down / EDGE))),
        };
        let for_the_alert = (count * ratio.ln() - expected * (ratio - 1.0)) / dispersion;
        let at_one = expected * (ratio - 1.0 - ratio.ln()) / dispersion;
        within && for_the_alert <= -RECOVERY_NATS.min(at_one)
    }
}

/// State of a stream that is not held: WARN from a hundredth of the threshold on.
#[must_use]
pub fn unheld_state(log_evidence: f64, threshold_log: f64) -> StreamState {
    if log_evidence >= threshold_log - WARN_PART.ln() { StreamState::Warn } else { StreamState::Ok }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GATE: Gate = Gate { up: 1.1, down: 0.9 };

    #[test]
    fn an_alert_holds_while_the_shift_lasts_and_recovers_soon_after() {
        let mut hold = Hold::open(Direction::Up, 14.0, 1.5);
        for _ in 0..40 {
            assert_eq!(hold.step(15.0, 10.0, GATE, 1.0), HoldStep::Held);
        }
        let steps: Vec<HoldStep> = (0..300).map(|_| hold.step(10.0, 10.0, GATE, 1.0)).collect();
        let recovered = steps.iter().position(|step| *step == HoldStep::Recovered).unwrap();
        assert!((3..=14).contains(&recovered), "{recovered}");
        assert_eq!(steps[recovered + 200], HoldStep::Over);
    }

    #[test]
    fn recovered_is_shown_for_twelve_windows() {
        let mut hold = Hold::open(Direction::Up, 14.0, 2.0);
        while hold.step(10.0, 10.0, GATE, 1.0) != HoldStep::Recovered {}
        for _ in 0..12 {
            assert_eq!(hold.state(), Some(StreamState::Recovered));
            hold.step(10.0, 10.0, GATE, 1.0);
        }
        assert_eq!(hold.state(), None);
    }

    #[test]
    fn a_ratio_just_outside_the_gate_does_not_recover() {
        let mut hold = Hold::open(Direction::Down, 14.0, 0.5);
        for _ in 0..200 {
            assert_eq!(hold.step(89.0, 100.0, GATE, 1.0), HoldStep::Held);
        }
    }

    #[test]
    fn a_concept_that_vanished_recovers_when_it_is_back() {
        let mut hold = Hold::open(Direction::Down, 14.0, 0.0);
        for _ in 0..20 {
            assert_eq!(hold.step(0.0, 2.0, GATE, 1.0), HoldStep::Held);
        }
        assert!((0..20).any(|_| hold.step(2.0, 2.0, GATE, 1.0) == HoldStep::Recovered));
    }

    #[test]
    fn each_relapse_makes_the_next_recovery_slower() {
        let mut hold = Hold::open(Direction::Up, 14.0, 2.0);
        let mut waits = Vec::new();
        for _ in 0..4 {
            waits.push((1..).find(|_| hold.step(10.0, 10.0, GATE, 1.0) == HoldStep::Recovered).unwrap());
            assert!(hold.cross_again(Direction::Up, 14.0, 2.0));
        }
        assert_eq!(waits, [3, 12, 48, 192]);
        assert!(!hold.cross_again(Direction::Down, 15.0, 0.5), "written on the same alert");
    }

    #[test]
    fn warn_begins_at_a_hundredth_of_the_threshold() {
        assert_eq!(unheld_state(10.0, 14.7), StreamState::Ok);
        assert_eq!(unheld_state(10.2, 14.7), StreamState::Warn);
    }

    proptest! {
        #[test]
        fn no_path_of_counts_flaps(
            path in proptest::collection::vec((0.0..30.0_f64, proptest::bool::weighted(0.1)), 1..1000),
        ) {
            let mut hold: Option<Hold> = None;
            let (mut notifications, mut last_change): (usize, Option<usize>) = (0, None);
            for (t, (y, crosses)) in path.into_iter().enumerate() {
                if crosses {
                    notifications += usize::from(match &mut hold {
                        Some(hold) => hold.cross_again(Direction::Up, 12.0, 1.6),
                        none => { *none = Some(Hold::open(Direction::Up, 12.0, 1.6)); true }
                    });
                    last_change = Some(t);
                }
                match hold.as_mut().map(|hold| hold.step(y, 10.0, GATE, 1.0)) {
                    Some(HoldStep::Recovered) => {
                        prop_assert!(last_change.is_some_and(|last| t - last >= 2), "a recovery takes three windows");
                        notifications += 1;
                    }
                    Some(HoldStep::Over) => hold = None,
                    _ => {}
                }
            }
            // Recoveries wait 3, 12, 48 and from then on 192 windows: at most six and a half alerts in 1,000 windows.
            prop_assert!(notifications <= 18, "{notifications}");
        }
    }
}
