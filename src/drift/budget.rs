//! How segments, concepts and families share the false-alarm budget, and the threshold that follows from it.
//!
//! The budget itself (A, windows between false alarms) is read in `config`.
//!
//! A stream's threshold is `ln(A m_g / share_g)` in its group g of m_g streams; the shares of all groups sum to 1, which is
//! all that the promise needs. Families are a group of their own beside the concepts: they are few and look for shifts
//! that no concept shows alone, so that a fifth of the share takes 1.9 nats off each of 32 families' thresholds (a topic
//! of 32 concepts that loses 10 % is found two windows earlier) and adds 0.2 to each of 1,024 concepts'.

use crate::drift::stream::StreamId;

/// Share of the budget of `_all` with its families: 1 without segments, else 1/2.
#[must_use]
pub fn global_share(n_segments: usize) -> f64 {
    if n_segments == 0 { 1.0 } else { 0.5 }
}

/// Share of each of `n_segments >= 1` segments: the other half, split evenly.
#[must_use]
pub fn segment_share(n_segments: usize) -> f64 {
    0.5 / n_segments.max(1) as f64
}

/// Part of the share of `_all` that its families have, where there are any.
const FAMILIES_PART: f64 = 0.2;

/// `share_g / m_g` of a concept (or pseudo-stream) and of a family, among `streams` that have `share` together:
/// what one stream may spend of the budget. Infinite for a kind that is not there.
fn share_of_one<'a>(streams: impl IntoIterator<Item = &'a StreamId>, share: f64) -> (f64, f64) {
    let (mut n_concepts, mut n_families) = (0.0, 0.0);
    for stream in streams {
        *(if matches!(stream, StreamId::Family(_)) { &mut n_families } else { &mut n_concepts }) += 1.0;
    }
    let part = if n_families > 0.0 { FAMILIES_PART } else { 0.0 };
    (share * (1.0 - part) / n_concepts, share * part / n_families)
}

/// `ln(A m_g / share_g)` of each stream: what its ln M must reach, for A `budget_windows` and what all of `streams` have.
#[must_use]
pub fn thresholds_log(budget_windows: f64, streams: &[StreamId], share: f64) -> Vec<f64> {
    let (concept, family) = share_of_one(streams, share);
    let own = |stream: &StreamId| if matches!(stream, StreamId::Family(_)) { family } else { concept };
    streams.iter().map(|stream| (budget_windows / own(stream)).ln()).collect()
}

/// A, from the threshold of one concept among `streams` that have `share` together.
#[must_use]
pub fn budget_windows<'a>(concept_threshold_log: f64, streams: impl IntoIterator<Item = &'a StreamId>, share: f64) -> f64 {
    concept_threshold_log.exp() * share_of_one(streams, share).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::latent::LatentId;

    /// What the promise of A rests on: `sum over streams of exp(-threshold)` is `share / A`.
    #[test]
    fn all_streams_together_spend_the_share() {
        for (n_concepts, n_families) in [(3, 0), (3, 1), (1024, 32)] {
            let latents = (0..n_concepts).map(|j| StreamId::Latent(LatentId(j)));
            let streams: Vec<StreamId> = latents.chain((0..n_families).map(StreamId::Family)).chain([StreamId::ResidualOutlier]).collect();
            let thresholds = thresholds_log(1000.0, &streams, 0.5);
            let spent: f64 = thresholds.iter().map(|threshold| (-threshold).exp()).sum();
            assert!((spent - 0.5 / 1000.0).abs() < 1e-15, "{n_families} families: {spent}");
            assert!((budget_windows(thresholds[0], &streams, 0.5) - 1000.0).abs() < 1e-9);
        }
    }

    #[test]
    fn shares_sum_to_one() {
        for n in 1..9 {
            assert!((global_share(n) + n as f64 * segment_share(n) - 1.0).abs() < 1e-12);
        }
        assert_eq!(global_share(0), 1.0);
    }
}
