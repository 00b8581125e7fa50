//! From crossings to states that do not flap: OK, WARN, ALERT, RECOVERED.
//!
//! A crossing is an event of the mathematics, an alert is told to people. After a crossing R restarts
//! at 0, so the evidence cannot say whether the change is still there; the recent windows can.
//!
//! Hysteresis, and why "three windows inside the gate" is not enough: a series that straddles the gate in
//! blocks of up to 20 windows is alternately out and in by any short look, so it would begin and end an
//! alert at each turn (measured over 20,000 such series: more than two notifications in 200 windows for
//! 84 % of those that alarm at all; with the rules below for 1 in 1,000, and recovery is not later in the median).
//! 1. A window is *inside* where the recent windows say on both sides that the ratio is nearer to 1 than
//!    half-way to the alert's: by three nats against `sqrt(ratio)` and against its inverse.
//! 2. An alert is over after as many windows inside, one after another, as it lasted: 12 to 24; four times
//!    as many after each relapse.
//! 3. A stream that recovered within the last 200 windows is told of again only when it crosses twice.

use serde::{Deserialize, Serialize};

use crate::drift::gate::Gate;
use crate::drift::packed;
use crate::drift::report::{Direction, StreamState};

/// Judged windows kept at most: what a weak change needs to be told from none.
const RECENT: u32 = 48;
/// Windows inside, one after another, until an alert is over: as many as it lasted within these.
/// Fewer: blocks of that length flap. More: alerts of short changes stay up longer than the change.
const INSIDE_TO_RECOVER: (u32, u32) = (12, 24);
/// Each relapse makes the next recovery wait this many times longer, at most [`MAX_RELAPSES`] times.
const RELAPSE_FACTOR: u32 = 4;
const MAX_RELAPSES: u32 = 3;
/// Judged windows for which RECOVERED is shown before it is OK again.
const RECOVERED_WINDOWS: u32 = 12;
/// Judged windows after a recovery until a new alert is no relapse any more.
const RELAPSE_MEMORY: u32 = 200;
/// Windows within which a recovered stream must cross twice to be in alert again.
const CONFIRM_WITHIN: u32 = 12;
/// Log-likelihood by which the recent windows must speak for 1, against half the way to the alert's ratio.
const RECOVERY_NATS: f64 = 3.0;
/// Evidence of a run on either side since the last crossing that makes a window count as outside.
const RUN_NATS: f64 = 4.0;
/// Half the way is taken to lie at least this factor outside the gate.
const EDGE: f64 = 1.05;
/// Ratios beyond these are looked for at these: 0 would make one count in twelve windows a recovery.
const RATIOS: (f64, f64) = (0.05, 8.0);
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
    /// Y and mu of the last windows since the alert opened, at most 48, oldest first, one pair after another.
    #[serde(with = "packed")]
    recent: Vec<f64>,
    /// Windows inside in a row; windows since the recovery.
    calm: u32,
    /// Windows it lasted so far, from the change point on, those inside at the end left out.
    lasted: u32,
    /// Start of the window that opened it.
    pub(super) opened_ms: i64,
    /// The larger alert it is told with.
    pub(super) part_of: Option<String>,
    /// Alerts that followed a recovery by less than 200 windows.
    relapses: u32,
    /// After a recovery: windows since a crossing that a second one would confirm.
    unconfirmed: Option<u32>,
}

/// What is known of a crossing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crossed {
    /// Direction.
    pub direction: Direction,
    /// ln M.
    pub evidence_log: f64,
    /// Ratio since the change point.
    pub ratio: f64,
    /// Windows since the change point, the crossing's included.
    pub windows: u32,
    /// Start of its window.
    pub start_ms: i64,
}

/// What a crossing means for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A new alert.
    Opens,
    /// Written on the alert that is open.
    Again,
    /// Written on the alert that is over: a second one soon opens a new alert.
    Unconfirmed,
}

/// A judged window of a held stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldWindow {
    /// Y.
    pub count: f64,
    /// mu.
    pub expected: f64,
    /// The gate.
    pub gate: Gate,
    /// phi.
    pub dispersion: f64,
    /// Largest Lorden sum of both sides since the last crossing, in nats.
    pub run_nats: f64,
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
    pub fn open(crossed: Crossed) -> Self {
        let Crossed { direction, evidence_log, ratio, windows, start_ms } = crossed;
        Self {
            recovered: false,
            direction,
            evidence_log,
            ratio,
            recent: Vec::new(),
            calm: 0,
            lasted: windows.saturating_sub(1),
            opened_ms: start_ms,
            part_of: None,
            relapses: 0,
            unconfirmed: None,
        }
    }

    /// It crosses once more: the newer direction and evidence count.
    pub fn cross_again(&mut self, crossed: Crossed) -> Told {
        if !self.recovered {
            (self.direction, self.evidence_log, self.ratio, self.calm) = (crossed.direction, crossed.evidence_log, crossed.ratio, 0);
            return Told::Again;
        }
        if self.unconfirmed.is_none_or(|since| since > CONFIRM_WITHIN) {
            self.unconfirmed = Some(0);
            return Told::Unconfirmed;
        }
        *self = Self { relapses: self.relapses + 1, ..Self::open(crossed) };
        Told::Opens
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
        self.last_sums(RECENT)
    }

    /// A judged window, also the one that opened it. See the module for the rules.
    pub fn step(&mut self, window: HeldWindow) -> HoldStep {
        if self.recovered {
            self.calm += 1;
            self.unconfirmed = self.unconfirmed.map(|since| since + 1);
            return if self.calm >= RELAPSE_MEMORY { HoldStep::Over } else { HoldStep::Held };
        }
        if self.recent.len() >= 2 * RECENT as usize {
            self.recent.drain(..2);
        }
        self.recent.extend([window.count, window.expected]);
        if self.is_inside(window) {
            self.calm += 1;
        } else {
            self.lasted = self.lasted.saturating_add(self.calm + 1);
            self.calm = 0;
        }
        let (least, most) = INSIDE_TO_RECOVER;
        if self.calm < self.lasted.clamp(least, most) * RELAPSE_FACTOR.pow(self.relapses.min(MAX_RELAPSES)) {
            return HoldStep::Held;
        }
        self.recovered = true;
        self.calm = 0;
        HoldStep::Recovered
    }

    /// The last n windows speak by `min(3, half of what they could)` nats for 1, against half the way to the
    /// alert's ratio and against its inverse; n is what six nats need at this volume, 12 to 48.
    fn is_inside(&self, window: HeldWindow) -> bool {
        let HeldWindow { gate, dispersion, .. } = window;
        let ratio = self.ratio.clamp(RATIOS.0, RATIOS.1);
        let (above, below) = match self.direction {
            Direction::Up => {
                let above = ratio.sqrt().max(gate.up * EDGE);
                (above, above.recip().min(gate.down / EDGE))
            }
            Direction::Down => {
                let below = ratio.sqrt().min(gate.down / EDGE);
                (below.recip().max(gate.up * EDGE), below)
            }
        };
        let nats_at_one = |ratio: f64, expected: f64| expected * (ratio - 1.0 - ratio.ln()) / dispersion;
        let a_window = nats_at_one(above, window.expected).min(nats_at_one(below, window.expected));
        let (count, expected) = self.last_sums(windows_for(2.0 * RECOVERY_NATS, a_window));
        let speaks_for_one = |ratio: f64| {
            let for_the_ratio = (count * ratio.ln() - expected * (ratio - 1.0)) / dispersion;
            for_the_ratio <= -RECOVERY_NATS.min(nats_at_one(ratio, expected) / 2.0)
        };
        window.run_nats <= RUN_NATS && speaks_for_one(above) && speaks_for_one(below)
    }

    fn last_sums(&self, windows: u32) -> (f64, f64) {
        let pairs = self.recent.as_chunks::<2>().0;
        let from = pairs.len().saturating_sub(windows as usize);
        pairs[from..].iter().fold((0.0, 0.0), |(y, mu), [y_t, mu_t]| (y + y_t, mu + mu_t))
    }
}

/// Windows that gather `nats` at `a_window` each, 12 to 48.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 12..=48")]
fn windows_for(nats: f64, a_window: f64) -> u32 {
    (nats / a_window.max(1e-9)).ceil().clamp(f64::from(INSIDE_TO_RECOVER.0), f64::from(RECENT)) as u32
}

/// State of a stream that is not held: WARN from a hundredth of the threshold on.
#[must_use]
pub fn unheld_state(log_evidence: f64, threshold_log: f64) -> StreamState {
    if log_evidence >= threshold_log - WARN_PART.ln() { StreamState::Warn } else { StreamState::Ok }
}

#[cfg(test)]
mod tests;
