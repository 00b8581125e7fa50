//! Whether a label tells a latent's cases from others, on users and items it was not made from.
//!
//! The label is read as a prediction: a case that carries its tag should be one where the latent is active.
//! That is the detection score of automatic interpretability, with a rule as the judge (or, of a label in free
//! words, a language model), who sees neither the activation nor the cases the label was made from.

use serde::Serialize;

use crate::sae::concept::Verification;
use crate::workshop::verify::sample::Sample;
use crate::workshop::verify::wilson::{Share, balanced_accuracy};

/// Cases a class must have for the full rule.
pub const CASES_FOR_VERIFIED: u64 = 50;
/// And for anything to be said at all.
pub const CASES_FOR_WEAK: u64 = 20;
/// Lower bound of the balanced accuracy that makes a label verified: 0.5 is a coin, 0.65 holds for a label
/// that misses half of its cases and raises a false alarm in one of ten others (0.70) with 200 cases.
pub const VERIFIED_FROM: f64 = 0.65;
/// Lower bound above which a label is better than a coin.
pub const WEAK_FROM: f64 = 0.5;
/// Cases of each class in RecSAE's confidence.
const RECSAE_CASES: usize = 5;
const DECILES: usize = 10;

/// The result of one label's test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// By the rule of [`status`].
    pub status: Verification,
    /// P(carries the tag | active).
    pub recall: Share,
    /// P(does not carry it | inactive), random negatives.
    pub specificity: Share,
    /// The same against cases of the nearest latents.
    pub specificity_nearest: Share,
    /// P(active | carries the tag), with as many negatives as positives.
    pub precision: f64,
    /// Its 95 % interval.
    pub precision_interval: [f64; 2],
    /// Balanced accuracy, random negatives.
    pub balanced_accuracy: f64,
    /// Its 95 % interval.
    pub interval: [f64; 2],
    /// Balanced accuracy against the nearest, and its interval.
    pub against_nearest: Option<(f64, [f64; 2])>,
    /// Recall by decile of the activation, the weakest first.
    pub by_decile: Vec<Share>,
    /// RecSAE's confidence: share of the five strongest cases and five random others told rightly. In the
    /// published code the ten may be cases the label was made from; here they never are.
    pub recsae_confidence: Option<f64>,
}

/// Tests a label on a sample of held-out cases, given which of them it fits.
#[must_use]
pub fn detect(sample: &Sample, carries: &dyn Fn(u32) -> bool) -> Detection {
    let share = |cases: &mut dyn Iterator<Item = bool>| {
        cases.fold(Share::default(), |share, right| Share { n_right: share.n_right + u64::from(right), n: share.n + 1 })
    };
    let recall = share(&mut sample.positive.iter().map(|(case, _)| carries(*case)));
    let specificity = share(&mut sample.random.iter().map(|case| !carries(*case)));
    let specificity_nearest = share(&mut sample.nearest.iter().map(|case| !carries(*case)));
    let (accuracy, interval) = balanced_accuracy(recall, specificity);
    let against_nearest = (specificity_nearest.n > 0).then(|| balanced_accuracy(recall, specificity_nearest));

    // As many of either class, so that the share does not depend on how rare the latent is.
    let n = recall.n.min(specificity.n);
    let even = usize::try_from(n).unwrap_or(usize::MAX);
    let hits = share(&mut sample.positive.iter().take(even).map(|(case, _)| carries(*case))).n_right;
    let alarms = share(&mut sample.random.iter().take(even).map(|case| carries(*case))).n_right;
    let precision = Share { n_right: hits, n: hits + alarms };

    let mut by_value = sample.positive.clone();
    by_value.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let edge = |decile: usize| decile * by_value.len() / DECILES;
    let by_decile =
        (0..DECILES).map(|decile| share(&mut by_value[edge(decile)..edge(decile + 1)].iter().map(|(case, _)| carries(*case)))).collect();
    let enough = by_value.len() >= RECSAE_CASES && sample.random.len() >= RECSAE_CASES;
    let recsae_confidence = enough.then(|| {
        let strongest = share(&mut by_value.iter().rev().take(RECSAE_CASES).map(|(case, _)| carries(*case)));
        let others = share(&mut sample.random.iter().take(RECSAE_CASES).map(|case| !carries(*case)));
        (strongest.n_right + others.n_right) as f64 / (2 * RECSAE_CASES) as f64
    });
    let mut detection = Detection {
        status: Verification::Unverified,
        recall,
        specificity,
        specificity_nearest,
        precision: precision.value(),
        precision_interval: precision.interval(),
        balanced_accuracy: accuracy,
        interval,
        against_nearest,
        by_decile,
        recsae_confidence,
    };
    detection.status = status(&detection);
    detection
}

/// The rule, on the lower ends of 95 % intervals of the balanced accuracy:
///
/// | status     | cases of each class | against random   | against the nearest latents                 |
/// |------------|---------------------|------------------|---------------------------------------------|
/// | verified   | >= 50               | >= 0.65          | > 0.5, where there are 50 such cases        |
/// | weak       | >= 20               | > 0.5            | anything                                    |
/// | unverified | otherwise           |                  |                                             |
#[must_use]
pub fn status(detection: &Detection) -> Verification {
    let n = detection.recall.n.min(detection.specificity.n);
    let low = detection.interval[0];
    let own = match detection.against_nearest {
        Some((_, [low, _])) if detection.specificity_nearest.n >= CASES_FOR_VERIFIED => low > WEAK_FROM,
        _ => true,
    };
    if n >= CASES_FOR_VERIFIED && low >= VERIFIED_FROM && own {
        Verification::Verified
    } else if n >= CASES_FOR_WEAK && low > WEAK_FROM {
        Verification::Weak
    } else {
        Verification::Unverified
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` active cases with the tag in `hits`, `n` random with it in `alarms`, `n` near with it in `near`.
    fn test(n: u32, hits: u32, alarms: u32, near: u32) -> Detection {
        let carries = |case: u32| match case / n {
            0 => case % n < hits,
            1 => case % n < alarms,
            _ => case % n < near,
        };
        let sample = Sample {
            positive: (0..n).map(|case| (case, 1.0 + case as f32)).collect(),
            random: (n..2 * n).collect(),
            nearest: (2 * n..3 * n).collect(),
        };
        detect(&sample, &carries)
    }

    #[test]
    fn the_status_follows_the_written_rule() {
        assert_eq!(test(100, 95, 5, 20).status, Verification::Verified);
        assert_eq!(test(100, 95, 5, 95).status, Verification::Weak, "its neighbours carry the tag as often");
        assert_eq!(test(40, 39, 1, 1).status, Verification::Weak, "too few cases to be verified");
        assert_eq!(test(15, 15, 0, 0).status, Verification::Unverified, "too few to say anything");
        assert_eq!(test(100, 60, 30, 30).status, Verification::Weak);
        assert_eq!(test(100, 50, 50, 50).status, Verification::Unverified, "a coin");
    }

    #[test]
    fn shares_equal_counting_by_hand() {
        let detection = test(100, 80, 10, 40);
        assert_eq!(detection.recall, Share { n_right: 80, n: 100 });
        assert_eq!(detection.specificity, Share { n_right: 90, n: 100 });
        assert_eq!((detection.balanced_accuracy, detection.precision), (f64::midpoint(0.8, 0.9), 80.0 / 90.0));
        assert_eq!(detection.against_nearest.map(|(value, _)| value), Some(f64::midpoint(0.8, 0.6)));
        // The strongest fifth does not carry the tag.
        assert_eq!(detection.by_decile.iter().map(|share| share.n_right).collect::<Vec<_>>(), [10, 10, 10, 10, 10, 10, 10, 10, 0, 0]);
        assert_eq!(detection.recsae_confidence, Some(0.0), "five strongest without it, five others with it");
    }

    #[test]
    fn a_coin_passes_for_recsae_and_not_here() {
        // 8 of 10 by chance happens in 5.5 % of latents; 50 cases a class with a lower bound do not let it.
        let detection = test(50, 27, 22, 22);
        assert_eq!(detection.status, Verification::Unverified);
    }
}
