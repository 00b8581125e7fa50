//! Thin windows: too few entities for a verdict are merged with the next, up to six. The merged window is one step of the test.

use serde::{Deserialize, Serialize};

use crate::drift::counts::N_BUCKETS;
use crate::drift::observed::add_dense;
use crate::drift::packed;

/// Windows merged at most: then they are judged as they are, or quiet segments never would be.
const MAX_MERGED: u32 = 6;
/// Volume outside `[1/10, 10]` of expectation gets no verdict: something else than drift happened.
const VOLUME_FACTOR: f64 = 10.0;

/// Sums of one or more windows that wait for a verdict; vectors `[n]` by stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// Windows in it.
    pub n_windows: u32,
    /// Start of the first.
    pub start_ms: i64,
    /// Counts.
    #[serde(with = "packed")]
    pub y: Vec<f64>,
    /// Expectations.
    #[serde(with = "packed")]
    pub mu: Vec<f64>,
    /// Exposures.
    #[serde(with = "packed")]
    pub exposure: Vec<f64>,
    /// Records in which each latent fired; empty where that is not counted apart.
    #[serde(with = "packed", default)]
    pub fired: Vec<f64>,
    /// Expected of those.
    #[serde(with = "packed", default)]
    pub fired_expected: Vec<f64>,
    /// Entities by bucket.
    pub entities: [f64; N_BUCKETS],
    /// Units (entities or records).
    #[serde(with = "packed::one")]
    pub units: f64,
    /// Units expected.
    #[serde(with = "packed::one")]
    pub expected_units: f64,
}

/// What is to be done with what has been merged so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Judge it.
    Ready,
    /// Wait for the next window.
    Thin,
    /// No verdict: the volume is far from expectation.
    OddVolume,
}

impl Merged {
    /// Adds another window's sums; it takes the start of the first.
    pub fn add(&mut self, other: &Self) {
        if self.n_windows == 0 {
            self.clone_from(other);
            return;
        }
        self.n_windows += other.n_windows;
        add_dense(&mut self.y, &other.y);
        add_dense(&mut self.mu, &other.mu);
        add_dense(&mut self.exposure, &other.exposure);
        add_dense(&mut self.fired, &other.fired);
        add_dense(&mut self.fired_expected, &other.fired_expected);
        self.entities.iter_mut().zip(other.entities).for_each(|(a, b)| *a += b);
        self.units += other.units;
        self.expected_units += other.expected_units;
    }

    /// Whether it can be judged with at least `min_units` in it. A volume is odd only where at least
    /// that much was expected: a segment of two users an hour is thin, not odd.
    #[must_use]
    pub fn readiness(&self, min_units: f64) -> Readiness {
        let odd = self.units > VOLUME_FACTOR * self.expected_units || self.units * VOLUME_FACTOR < self.expected_units;
        if odd && self.expected_units >= min_units {
            Readiness::OddVolume
        } else if self.units < min_units && self.n_windows < MAX_MERGED {
            Readiness::Thin
        } else {
            Readiness::Ready
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(units: f64, expected_units: f64, start_ms: i64) -> Merged {
        Merged { n_windows: 1, start_ms, units, expected_units, y: vec![units], ..Merged::default() }
    }

    #[test]
    fn thin_windows_wait_until_there_is_enough_or_six_of_them() {
        let mut merged = window(15.0, 15.0, 7);
        assert_eq!(merged.readiness(20.0), Readiness::Thin);
        merged.add(&window(6.0, 15.0, 8));
        assert_eq!((merged.readiness(20.0), merged.start_ms, merged.y[0]), (Readiness::Ready, 7, 21.0));
        let mut quiet = window(1.0, 1.0, 0);
        for t in 1..5 {
            quiet.add(&window(1.0, 1.0, t));
            assert_eq!(quiet.readiness(20.0), Readiness::Thin);
        }
        quiet.add(&window(0.0, 1.0, 5));
        assert_eq!(quiet.readiness(20.0), Readiness::Ready);
    }

    #[test]
    fn a_tenth_or_ten_times_the_volume_gets_no_verdict() {
        assert_eq!(window(9.0, 100.0, 0).readiness(20.0), Readiness::OddVolume);
        assert_eq!(window(1001.0, 100.0, 0).readiness(20.0), Readiness::OddVolume);
        assert_eq!(window(999.0, 100.0, 0).readiness(20.0), Readiness::Ready);
        assert_eq!(window(11.0, 100.0, 0).readiness(20.0), Readiness::Thin);
    }
}
