//! How far two reviewers agree beyond chance: Cohen's kappa.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::sae::concept::{ConceptCatalog, LabelState, Review};
use crate::workshop::review::decide::last_words;

/// Agreement of two reviewers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// The two.
    pub reviewers: [String; 2],
    /// Labels both judged, on the same evidence.
    pub n: usize,
    /// Share of them judged alike.
    pub observed: f64,
    /// Share that chance would give, by how often each says what.
    pub expected: f64,
    /// `(observed - expected) / (1 - expected)`; 1 where both always say the same one thing.
    pub kappa: f64,
}

/// Agreement of every pair of reviewers with common labels. An accepted and an edited label are two
/// judgements: whoever edits does not accept the words.
#[must_use]
pub fn agreements(catalogue: &ConceptCatalog) -> Vec<Agreement> {
    let mut pairs: BTreeMap<[String; 2], Vec<[LabelState; 2]>> = BTreeMap::new();
    for concept in catalogue.concepts.values() {
        let words: Vec<(&str, &Review)> = last_words(concept).into_iter().collect();
        for (at, (first, a)) in words.iter().enumerate() {
            for (second, b) in words[at + 1..].iter().filter(|(_, b)| a.evidence == b.evidence) {
                pairs.entry([(*first).to_owned(), (*second).to_owned()]).or_default().push([a.state, b.state]);
            }
        }
    }
    pairs.into_iter().map(|(reviewers, judged)| agreement(reviewers, &judged)).collect()
}

fn agreement(reviewers: [String; 2], judged: &[[LabelState; 2]]) -> Agreement {
    let n = judged.len() as f64;
    let observed = judged.iter().filter(|[a, b]| a == b).count() as f64 / n;
    let states = [LabelState::Accepted, LabelState::Edited, LabelState::Rejected, LabelState::NeedsData];
    let says = |who: usize, state: LabelState| judged.iter().filter(|pair| pair[who] == state).count() as f64 / n;
    let expected: f64 = states.into_iter().map(|state| says(0, state) * says(1, state)).sum();
    let kappa = if expected >= 1.0 { 1.0 } else { (observed - expected) / (1.0 - expected) };
    Agreement { reviewers, n: judged.len(), observed, expected, kappa }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kappa_equals_a_published_example() {
        // Cohen's own arithmetic on two raters of 50 proposals: yes-yes 20, yes-no 5, no-yes 10, no-no 15: 0.4.
        let (yes, no) = (LabelState::Accepted, LabelState::Rejected);
        let judged: Vec<[LabelState; 2]> =
            [([yes, yes], 20), ([yes, no], 5), ([no, yes], 10), ([no, no], 15)].into_iter().flat_map(|(pair, n)| vec![pair; n]).collect();
        let found = agreement(["a".into(), "b".into()], &judged);
        assert!((found.kappa - 0.4).abs() < 1e-12 && (found.observed - 0.7).abs() < 1e-12 && (found.expected - 0.5).abs() < 1e-12);
    }

    #[test]
    fn one_word_for_everything_is_agreement() {
        let found = agreement(["a".into(), "b".into()], &[[LabelState::Accepted; 2]; 3]);
        assert_eq!((found.kappa, found.expected), (1.0, 1.0));
    }
}
