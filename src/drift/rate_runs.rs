//! How often a concept fires a record, beside its presence: presence saturates (+100 % of activations reads
//! 1.76 at most), so an alert says both ratios. Description: the test does not read it.

use serde::{Deserialize, Serialize};

use crate::drift::evidence::Evidence;
use crate::drift::intervals::ratio_interval;
use crate::drift::packed;
use crate::drift::report::Direction;
use crate::drift::thin::Merged;

/// Numbers of a latent: fired and expected since the change point, up then down.
const KEPT: usize = 4;

/// Activations since the change point of each latent's runs; empty where activations are not counted apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RateRuns {
    #[serde(with = "packed")]
    sums: Vec<f64>,
}

impl RateRuns {
    /// A window, after the evidence took it: runs that began with it begin here too.
    pub(super) fn step(&mut self, evidence: &Evidence, window: &Merged) {
        self.sums.resize(KEPT * window.fired.len(), 0.0);
        for (j, sums) in self.sums.as_chunks_mut::<KEPT>().0.iter_mut().enumerate() {
            let (fired, expected) = (window.fired[j], window.fired_expected[j]);
            for (side, direction) in [Direction::Up, Direction::Down].into_iter().enumerate() {
                let run = &mut sums[2 * side..2 * side + 2];
                match evidence.run(j, direction) {
                    None => run.fill(0.0),
                    Some(began) if began.began_ms == window.start_ms => run.copy_from_slice(&[fired, expected]),
                    Some(_) => {
                        run[0] += fired;
                        run[1] += expected;
                    }
                }
            }
        }
    }

    /// Ratio of activations a record since the change point with its 95 % interval; `None` where they are not counted.
    pub(super) fn ratio(&self, j: usize, direction: Direction, dispersion: f64) -> Option<(f64, f64, f64)> {
        let of = self.sums.get(KEPT * j..KEPT * (j + 1))?;
        let side = 2 * usize::from(direction == Direction::Down);
        (of[side + 1] > 0.0).then(|| ratio_interval(of[side], of[side + 1], dispersion))
    }
}
