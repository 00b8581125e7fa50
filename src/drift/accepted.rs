//! An accepted level: an operator says that what a stream shows now is what is expected from now on.
//!
//! The expectation of that stream in that segment is multiplied by the ratio of the recent windows. That
//! ratio is an estimate from few windows, so the gate is the widest rule's (1 % limits) with its uncertainty in
//! it: `1/C'' = 1/C' + phi/n`, n = what the ratio was counted from. The shape of the season, other streams and
//! other segments stay as the reference has them: what else moved has an alert of its own.

use serde::{Deserialize, Serialize};

use crate::drift::alternatives::StreamModel;
use crate::drift::packed;
use crate::drift::stream::StreamId;

/// Fewest counts a level is taken to rest on, so that a concept that vanished can be accepted.
const LEAST: f64 = 0.5;

/// What is expected of one stream in one segment, relative to the reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcceptedLevel {
    /// Factor on mu.
    #[serde(with = "packed::one")]
    pub factor: f64,
    /// Counts it was measured from.
    #[serde(with = "packed::one")]
    pub count: f64,
}

/// Why a level cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The judge does not test that stream in that segment.
    #[error("expected a stream that is tested, found {stream} in {segment}; the alert is of another reference")]
    NotTested {
        /// Segment.
        segment: String,
        /// Stream.
        stream: StreamId,
    },
    /// The judge does not hold that stream in alert.
    #[error("expected {stream} in {segment} to be in alert, found that it is not; build and approve a new reference instead")]
    NotInAlert {
        /// Segment.
        segment: String,
        /// Stream.
        stream: StreamId,
    },
}

impl AcceptError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotTested { .. } => "not_tested",
            Self::NotInAlert { .. } => "not_in_alert",
        }
    }
}

impl AcceptedLevel {
    /// The level `count / expected`, on top of one that was accepted before.
    #[must_use]
    pub fn measured(count: f64, expected: f64, before: Option<Self>) -> Self {
        let count = count.max(LEAST);
        Self { factor: count / expected.max(LEAST) * before.map_or(1.0, |before| before.factor), count }
    }

    /// What the test is told of the stream.
    #[must_use]
    pub fn applied(&self, model: StreamModel) -> StreamModel {
        StreamModel {
            mean_expected: model.mean_expected * self.factor,
            dispersion: model.dispersion,
            effective_count: 1.0 / (1.0 / model.effective_count.max(LEAST) + model.dispersion / self.count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_multiplies_what_was_expected_and_widens_the_gate() {
        let level = AcceptedLevel::measured(300.0, 200.0, None);
        let model = StreamModel { mean_expected: 20.0, dispersion: 1.2, effective_count: 1000.0 };
        let applied = level.applied(model);
        assert!((applied.mean_expected - 30.0).abs() < 1e-12 && applied.dispersion == 1.2);
        assert!((applied.effective_count - 200.0).abs() < 1e-9, "1/(1/1000 + 1.2/300)");
        let twice = AcceptedLevel::measured(100.0, 200.0, Some(level));
        assert!((twice.factor - 0.75).abs() < 1e-12, "the second ratio is against the first level");
    }

    #[test]
    fn a_concept_that_vanished_keeps_an_expectation_above_zero() {
        let level = AcceptedLevel::measured(0.0, 50.0, None);
        assert!((level.factor - 0.01).abs() < 1e-12);
        assert!(level.applied(StreamModel { mean_expected: 1.0, dispersion: 1.0, effective_count: 0.0 }).effective_count > 0.0);
    }
}
