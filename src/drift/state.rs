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
/// Judged windows for which RECOVERED is shown before it is OK again.
const RECOVERED_WINDOWS: u32 = 12;
/// WARN from M >= A m / (100 w).
const WARN_PART: f64 = 100.0;

/// What is remembered of a stream in ALERT or RECOVERED.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// ALERT, or RECOVERED.
    recovered: bool,
    /// Direction of the change.
    pub direction: Direction,
    /// ln M at the last crossing: what is exported while in ALERT.
    #[serde(with = "packed::one")]
    pub evidence_log: f64,
    /// Y and mu of the last windows since the alert opened, at most 12, oldest first, one pair after another.
    #[serde(with = "packed")]
    recent: Vec<f64>,
    /// Windows inside in a row; windows since the recovery.
    calm: u32,
}

/// What a judged window did to a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldStep {
    /// Nothing changed.
    Held,
    /// The alert is over.
    Recovered,
    /// RECOVERED has been shown long enough: forget the hold.
    Over,
}

impl Hold {
    /// A stream crosses that was not in ALERT.
    #[must_use]
    pub fn open(direction: Direction, evidence_log: f64) -> Self {
        Self { recovered: false, direction, evidence_log, recent: Vec::new(), calm: 0 }
    }

    /// It crosses again while in ALERT: the newer direction and evidence count.
    pub fn cross_again(&mut self, direction: Direction, evidence_log: f64) {
        self.direction = direction;
        self.evidence_log = evidence_log;
        self.calm = 0;
    }

    /// Whether it is in ALERT.
    #[must_use]
    pub fn is_alert(&self) -> bool {
        !self.recovered
    }

    /// ALERT or RECOVERED.
    #[must_use]
    pub fn state(&self) -> StreamState {
        if self.recovered { StreamState::Recovered } else { StreamState::Alert }
    }

    /// `sum Y`, `sum mu` of the recent windows.
    #[must_use]
    pub fn recent_sums(&self) -> (f64, f64) {
        self.recent.as_chunks::<2>().0.iter().fold((0.0, 0.0), |(y, mu), [y_t, mu_t]| (y + y_t, mu + mu_t))
    }

    /// A judged window, also the one that opened it.
    ///
    /// An alert holds while the ratio of the last 12 windows is outside the gate or in the outer half of
    /// its width: a ratio that comes back to just inside is not called recovered, or a series that
    /// straddles the gate would notify again and again. Three windows inside in a row recover it.
    pub fn step(&mut self, y: f64, mu: f64, gate: Gate) -> HoldStep {
        if self.recovered {
            self.calm += 1;
            return if self.calm >= RECOVERED_WINDOWS { HoldStep::Over } else { HoldStep::Held };
        }
        if self.recent.len() >= 2 * RECENT {
            self.recent.drain(..2);
        }
        self.recent.extend([y, mu]);
        let (count, expected) = self.recent_sums();
        let inside = match self.direction {
            Direction::Up => count <= expected * (1.0 + gate.up) / 2.0,
            Direction::Down => count >= expected * (1.0 + gate.down) / 2.0,
        };
        self.calm = if inside { self.calm + 1 } else { 0 };
        if self.calm < INSIDE_TO_RECOVER {
            return HoldStep::Held;
        }
        self.recovered = true;
        self.calm = 0;
        HoldStep::Recovered
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
    fn an_alert_holds_while_the_shift_lasts_and_recovers_three_windows_after() {
        let mut hold = Hold::open(Direction::Up, 14.0);
        for _ in 0..40 {
            assert_eq!(hold.step(15.0, 10.0, GATE), HoldStep::Held);
        }
        let steps: Vec<HoldStep> = (0..40).map(|_| hold.step(10.0, 10.0, GATE)).collect();
        let recovered = steps.iter().position(|step| *step == HoldStep::Recovered).unwrap();
        assert!((3..=13).contains(&recovered), "{recovered}");
        assert_eq!(steps[recovered + 12], HoldStep::Over);
        assert_eq!(hold.state(), StreamState::Recovered);
    }

    #[test]
    fn a_ratio_just_inside_the_gate_does_not_recover() {
        let mut hold = Hold::open(Direction::Down, 14.0);
        for _ in 0..200 {
            assert_eq!(hold.step(91.0, 100.0, GATE), HoldStep::Held);
        }
    }

    #[test]
    fn warn_begins_at_a_hundredth_of_the_threshold() {
        assert_eq!(unheld_state(10.0, 14.7), StreamState::Ok);
        assert_eq!(unheld_state(10.2, 14.7), StreamState::Warn);
    }

    proptest! {
        #[test]
        fn recoveries_are_at_least_three_windows_after_the_alert_and_never_repeat(
            counts in proptest::collection::vec(0.0..30.0_f64, 1..300),
        ) {
            let mut hold = Hold::open(Direction::Up, 12.0);
            let steps: Vec<HoldStep> = counts.iter().map(|y| hold.step(*y, 10.0, GATE)).collect();
            let recovered: Vec<usize> = (0..steps.len()).filter(|&t| steps[t] == HoldStep::Recovered).collect();
            prop_assert!(recovered.len() <= 1);
            prop_assert!(recovered.iter().all(|t| *t >= 2));
        }
    }
}
