//! Labels of an earlier SAE as proposals for a new one, by the decoder rows that match.
//!
//! A match is a likeness, not an identity: whatever the earlier label was worth, here it is a proposal that
//! nobody has tested or accepted, and its evidence says where it comes from.

use crate::sae::concept::{ConceptCatalog, LabelEvidence, LabelState};
use crate::sae::latent::LatentId;
use crate::sae::weights::SaeWeights;
use crate::workshop::label::propose::evidence_hash;
use crate::workshop::verify::nearest::match_latents;

/// Source of such a label.
pub const CARRIED_OVER: &str = "carried over";

/// The new catalogue with the earlier one's labels as proposals where decoder rows match with at least
/// `least` cosine; latents that have a label already keep it. Says how many were carried over.
#[must_use]
pub fn carry_over(before: (&SaeWeights, &ConceptCatalog), after: (&SaeWeights, &ConceptCatalog), least: f32) -> (ConceptCatalog, usize) {
    let mut catalogue = after.1.clone();
    let (Some(theirs), Some(ours)) = (before.0.w_dec(), after.0.w_dec()) else { return (catalogue, 0) };
    let mut n_carried = 0;
    for (latent, partner) in (0u32..).zip(match_latents(ours, theirs, least)) {
        let Some((from, cosine)) = partner else { continue };
        let Ok(from) = u32::try_from(from).map(LatentId) else { continue };
        let Some(old) = before.1.concepts.get(&from).filter(|old| old.state != LabelState::Rejected) else { continue };
        let Some(label) = &old.label else { continue };
        let concept = catalogue.concepts.entry(LatentId(latent)).or_default();
        if concept.label.is_some() {
            continue;
        }
        let mut evidence = LabelEvidence {
            source: CARRIED_OVER.into(),
            value: format!("{from} of {}, cosine {cosine:.3}", before.1.fingerprint),
            ..LabelEvidence::default()
        };
        evidence.hash = evidence_hash(&after.1.fingerprint, latent, &evidence, &[label]);
        concept.label = Some(label.clone());
        concept.state = LabelState::Proposed;
        concept.evidence = Some(evidence);
        concept.tested = None;
        concept.reviews.clear();
        n_carried += 1;
    }
    catalogue.revision += 1;
    (catalogue, n_carried)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroUsize;

    use ndarray::{Array1, Array2, array};

    use super::*;
    use crate::sae::concept::Concept;
    use crate::sae::weights::{SaeSpec, Selection};

    fn sae(w: Array2<f32>) -> SaeWeights {
        let size = |n| NonZeroUsize::new(n).unwrap();
        let spec = SaeSpec { d_in: size(w.ncols()), d_sae: size(w.nrows()), selection: Selection::TopK(size(1)), centring: true };
        SaeWeights::new(spec, w.clone(), Array1::zeros(w.nrows()), Some(w.clone()), Array1::zeros(w.ncols())).unwrap()
    }

    #[test]
    fn accepted_labels_arrive_as_proposals_and_rejected_ones_do_not() {
        let concept = |label: &str, state| Concept { label: Some(label.into()), state, ..Concept::default() };
        let old = ConceptCatalog {
            fingerprint: "old".into(),
            concepts: BTreeMap::from([
                (LatentId(0), concept("War", LabelState::Accepted)),
                (LatentId(1), concept("Drama", LabelState::Rejected)),
                (LatentId(2), concept("Noir", LabelState::Proposed)),
            ]),
            ..ConceptCatalog::default()
        };
        let new = ConceptCatalog {
            fingerprint: "new".into(),
            concepts: BTreeMap::from([(LatentId(2), concept("Own", LabelState::Edited))]),
            ..ConceptCatalog::default()
        };
        let before = sae(array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]);
        let after = sae(array![[0.0, 2.0, 0.0], [3.0, 0.1, 0.0], [0.0, 0.1, 1.0], [0.6, 0.6, 0.6]]);
        let (catalogue, n) = carry_over((&before, &old), (&after, &new), 0.9);
        assert_eq!(n, 1);
        let carried = &catalogue.concepts[&LatentId(1)];
        assert_eq!((carried.label.as_deref(), carried.state), (Some("War"), LabelState::Proposed));
        assert!(carried.evidence.as_ref().unwrap().value.starts_with("latent 0 of old"));
        assert_eq!(catalogue.name(LatentId(2)), "Own");
        assert!(!catalogue.concepts.contains_key(&LatentId(0)) && !catalogue.concepts.contains_key(&LatentId(3)));
    }
}
