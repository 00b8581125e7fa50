//! The input contract: an SAE fed what it was not trained on gives concepts that mean nothing, so that
//! is said first and drift is not judged.
//!
//! Measured: the wrong layer had FVU 5.07 against 0.079 while L0, dead share and the top concept looked
//! healthy. Scaling alone can leave FVU low (a small error of a small vector), hence the squared norm.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::drift::closed::ALL;
use crate::drift::counts::ContractSums;
use crate::drift::dispersion::median;
use crate::drift::observed::{Observed, ObservedWindow};
use crate::drift::report::ContractReport;

/// Fewer records say nothing certain about the mean error.
const MIN_RECORDS: u64 = 20;
/// FVU may be this many times the reference's, plus [`FVU_MARGIN`].
const FVU_FACTOR: f64 = 2.0;
/// An SAE that reconstructs almost exactly would else break on nothing.
const FVU_MARGIN: f64 = 0.05;
/// Mean squared norm and norm ratio may differ by this factor either way.
const SCALE_FACTOR: f64 = 2.0;

/// What a segment's input was like in the reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContractLevel {
    /// Fraction of variance unexplained.
    pub fvu: f64,
    /// Mean cosine of x and its reconstruction.
    pub cosine: f64,
    /// Mean `||x_hat||/||x||`.
    pub norm_ratio: f64,
    /// Mean `||x||^2`.
    pub squared_norm: f64,
}

/// The contract's terms, from a reference's windows. Empty without a decoder: then nothing can break it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContractReference {
    /// Total variance of the embeddings; FVU is relative to it, also in segments.
    pub variance: Option<f64>,
    /// Segment to level.
    pub levels: BTreeMap<String, ContractLevel>,
}

impl ContractReference {
    /// From the windows of a reference: `_all` alone.
    #[must_use]
    pub fn fit(windows: &[&ObservedWindow]) -> Self {
        let mut all = ContractSums::default();
        windows.iter().filter_map(|window| window.segments.get(ALL)).for_each(|observed| all.merge(&observed.contract));
        let Some(variance) = all.variance().filter(|variance| *variance > 0.0) else { return Self::default() };
        let levels = level(&all, variance).into_iter().map(|level| (ALL.to_owned(), level)).collect();
        Self { variance: Some(variance), levels }
    }

    /// The segments that the same windows hold.
    pub fn add_segments(&mut self, windows: &[&ObservedWindow]) {
        let Some(variance) = self.variance else { return };
        let mut sums: BTreeMap<&str, ContractSums> = BTreeMap::new();
        for (name, observed) in windows.iter().flat_map(|window| &window.segments).filter(|(name, _)| *name != ALL) {
            sums.entry(name).or_default().merge(&observed.contract);
        }
        self.levels.extend(sums.into_iter().filter_map(|(name, sums)| Some((name.to_owned(), level(&sums, variance)?))));
    }

    /// The state of a segment's input in a window. `max_fvu`: the configured limit, if any.
    ///
    /// Broken where FVU exceeds `max_fvu` (default 2 x the reference's + 0.05), the cosine's distance
    /// from 1 does the same, or norm ratio or squared norm leave [1/2, 2] times the reference's.
    /// With fewer than 20 records nothing is said to be broken.
    #[must_use]
    pub fn assess(&self, segment: &str, observed: &Observed, max_fvu: Option<f64>) -> ContractReport {
        let mut report = unreferenced(observed);
        let found = self.variance.and_then(|variance| level(&observed.contract, variance));
        let expected = self.levels.get(segment).or_else(|| self.levels.get(ALL));
        let (Some(found), Some(expected)) = (found, expected) else { return report };
        report.fvu = Some(found.fvu);
        if observed.contract.n < MIN_RECORDS {
            return report;
        }
        let global = self.levels.get(ALL).map_or(expected.fvu, |all| all.fvu);
        let fvu_limit = max_fvu.unwrap_or(FVU_FACTOR * expected.fvu.max(global) + FVU_MARGIN);
        let cosine_limit = 1.0 - (FVU_FACTOR * (1.0 - expected.cosine) + FVU_MARGIN);
        let near = |found: f64, expected: f64| found <= expected * SCALE_FACTOR && found * SCALE_FACTOR >= expected;
        report.broken = if found.fvu.is_nan() || found.fvu > fvu_limit {
            Some(format!("FVU {:.3} is above {fvu_limit:.3} (reference {:.3})", found.fvu, expected.fvu))
        } else if found.cosine < cosine_limit {
            Some(format!("cosine {:.3} is below {cosine_limit:.3} (reference {:.3})", found.cosine, expected.cosine))
        } else if !near(found.norm_ratio, expected.norm_ratio) {
            Some(format!("norm ratio {:.3} is not within a factor 2 of {:.3}", found.norm_ratio, expected.norm_ratio))
        } else if !near(found.squared_norm, expected.squared_norm) {
            Some(format!("mean squared norm {:.4} is not within a factor 2 of {:.4}", found.squared_norm, expected.squared_norm))
        } else {
            None
        };
        report
    }

    /// The typical FVU of windows that might become a reference, so that odd ones can be left out.
    #[must_use]
    pub fn typical_fvu(windows: &[ObservedWindow]) -> TypicalFvu {
        let errors: Vec<f64> = windows.iter().filter_map(|window| relative_error(window.segments.get(ALL)?)).collect();
        TypicalFvu(median(&errors))
    }
}

/// Median over windows of squared error over squared norm; 0 without a decoder.
#[derive(Clone, Copy, Debug)]
pub struct TypicalFvu(f64);

impl TypicalFvu {
    /// Whether a window's error is beyond the margin above the typical one.
    #[must_use]
    pub fn is_broken(self, all: &Observed) -> bool {
        relative_error(all).is_some_and(|error| error > FVU_FACTOR * self.0 + FVU_MARGIN)
    }
}

/// What can be said of a segment's input before there is a reference: no FVU, nothing broken.
#[must_use]
pub fn unreferenced(observed: &Observed) -> ContractReport {
    let sums = &observed.contract;
    let mean = |sum: f64| (sums.n > 0).then(|| sum / sums.n as f64);
    let dead = observed.latents.iter().filter(|count| **count <= 0.0).count();
    ContractReport {
        fvu: None,
        cosine: mean(sums.cosine),
        norm_ratio: mean(sums.norm_ratio),
        l0: if observed.records > 0.0 { sums.n_active as f64 / observed.records } else { 0.0 },
        dead_latents: u64::try_from(dead).unwrap_or(u64::MAX),
        broken: None,
    }
}

fn level(sums: &ContractSums, variance: f64) -> Option<ContractLevel> {
    let n = sums.n as f64;
    (sums.n > 0).then(|| ContractLevel {
        fvu: sums.squared_error / n / variance,
        cosine: sums.cosine / n,
        norm_ratio: sums.norm_ratio / n,
        squared_norm: sums.squared_norm / n,
    })
}

fn relative_error(all: &Observed) -> Option<f64> {
    (all.contract.n >= MIN_RECORDS && all.contract.squared_norm > 0.0).then(|| all.contract.squared_error / all.contract.squared_norm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(error: f64, scale: f64) -> ObservedWindow {
        let contract = ContractSums {
            n: 100,
            squared_error: 100.0 * error,
            cosine: 95.0,
            norm_ratio: 98.0,
            n_active: 800,
            squared_norm: 100.0 * scale,
            sum: vec![0.0; 4],
        };
        let all = Observed { contract, records: 100.0, latents: vec![1.0, 0.0], ..Observed::default() };
        let segments = [(ALL.to_owned(), all)].into();
        ObservedWindow { start_ms: 0, end_ms: 1, model_version: String::new(), incomplete: None, segments }
    }

    #[test]
    fn the_wrong_layer_and_a_scaled_input_break_it_and_the_same_input_does_not() {
        let reference = ContractReference::fit(&[&window(0.08, 1.0)]);
        let assess = |window: &ObservedWindow| reference.assess(ALL, &window.segments[ALL], None);
        let same = assess(&window(0.08, 1.0));
        assert_eq!(same.broken, None);
        assert!((same.fvu.unwrap() - 0.08).abs() < 1e-12 && same.l0 == 8.0 && same.dead_latents == 1);
        assert!(assess(&window(5.0, 1.0)).broken.unwrap().starts_with("FVU 5.000"));
        assert!(assess(&window(0.02, 0.25)).broken.unwrap().starts_with("mean squared norm"));
        let strict = reference.assess(ALL, &window(0.08, 1.0).segments[ALL], Some(0.05));
        assert!(strict.broken.is_some());
    }

    #[test]
    fn without_a_decoder_nothing_breaks() {
        let mut bare = window(0.0, 1.0);
        bare.segments.get_mut(ALL).unwrap().contract = ContractSums::default();
        let reference = ContractReference::fit(&[&bare]);
        assert_eq!(reference.assess(ALL, &window(9.0, 1.0).segments[ALL], None).broken, None);
    }

    #[test]
    fn an_odd_window_is_left_out_of_a_reference() {
        let windows = [window(0.08, 1.0), window(0.09, 1.0), window(3.0, 1.0)];
        let typical = ContractReference::typical_fvu(&windows);
        let broken: Vec<bool> = windows.iter().map(|w| typical.is_broken(&w.segments[ALL])).collect();
        assert_eq!(broken, [false, false, true]);
    }
}
