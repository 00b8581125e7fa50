//! What reviewers said becomes a label's state.
//!
//! A review is bound to what was seen: it names the label and the hash of its evidence, and is refused
//! where either has changed since. Each reviewer's last word counts. Where the words disagree the label
//! needs data: neither accepting nor rejecting it would be honest.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use crate::sae::concept::{Concept, ConceptCatalog, LabelState, Review};
use crate::sae::latent::LatentId;

/// A reviewer's decision on a label.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The latent.
    pub latent: LatentId,
    /// Who.
    pub reviewer: String,
    /// When, ms since 1970 UTC.
    pub at_ms: i64,
    /// What: anything but `proposed`.
    pub state: LabelState,
    /// The label that was seen.
    pub seen: String,
    /// Hash of its evidence; empty where it has none.
    pub evidence: String,
    /// The new label of an edit.
    pub edited: Option<String>,
    /// Why.
    pub note: String,
}

/// Puts a decision into the catalogue. The revision is the caller's to raise.
///
/// # Errors
/// There is no such label, it or its evidence is another by now, the reviewer is nameless, or an edit has
/// no new label.
pub fn decide(catalogue: &mut ConceptCatalog, decision: &Decision) -> anyhow::Result<LabelState> {
    let latent = decision.latent;
    ensure!(!decision.reviewer.trim().is_empty(), "{latent}: a review needs a reviewer's name");
    ensure!(decision.state != LabelState::Proposed, "{latent}: expected accepted, edited, rejected or needs_data, found proposed");
    let concept = catalogue.concepts.get_mut(&latent).with_context(|| format!("{latent} is not in the catalogue"))?;
    let label = concept.label.clone().with_context(|| format!("{latent} has no label to review"))?;
    ensure!(label == decision.seen, "{latent}: the review is of {:?}, the label is {label:?} by now: look at it again", decision.seen);
    let evidence = evidence_of(concept);
    ensure!(evidence == decision.evidence, "{latent}: the evidence for {label:?} has changed since it was reviewed: look at it again");
    let judged = match (decision.state, &decision.edited) {
        (LabelState::Edited, Some(edited)) if !edited.trim().is_empty() => edited.trim().to_owned(),
        (LabelState::Edited, _) => anyhow::bail!("{latent}: an edit needs the new label"),
        _ => label,
    };
    concept.reviews.push(Review {
        reviewer: decision.reviewer.trim().to_owned(),
        at_ms: decision.at_ms,
        state: decision.state,
        label: judged.clone(),
        evidence,
        note: decision.note.clone(),
    });
    settle(concept);
    Ok(concept.state)
}

/// Hash of what a label rests on.
#[must_use]
pub fn evidence_of(concept: &Concept) -> String {
    concept.evidence.as_ref().map(|evidence| evidence.hash.clone()).unwrap_or_default()
}

/// Each reviewer's last word on the evidence as it is now; what was said of earlier evidence is history.
#[must_use]
pub fn last_words(concept: &Concept) -> BTreeMap<&str, &Review> {
    let evidence = evidence_of(concept);
    concept.reviews.iter().filter(|review| review.evidence == evidence).map(|review| (review.reviewer.as_str(), review)).collect()
}

/// | last words                         | state                                  |
/// |------------------------------------|----------------------------------------|
/// | all accepted or edited             | the last one's, with the last edit      |
/// | all rejected                       | rejected                               |
/// | anything else                      | needs data                             |
fn settle(concept: &mut Concept) {
    let words = last_words(concept);
    let all = |states: &[LabelState]| words.values().all(|review| states.contains(&review.state));
    let state = if all(&[LabelState::Accepted, LabelState::Edited]) {
        concept.reviews.last().map_or(LabelState::Proposed, |review| review.state)
    } else if all(&[LabelState::Rejected]) {
        LabelState::Rejected
    } else {
        LabelState::NeedsData
    };
    let edit = words
        .values()
        .filter(|review| review.state == LabelState::Edited)
        .max_by_key(|review| review.at_ms)
        .map(|review| review.label.clone());
    if let (LabelState::Accepted | LabelState::Edited, Some(edit)) = (state, edit)
        && concept.label.as_ref() != Some(&edit)
    {
        concept.label = Some(edit);
        // The test was of other words.
        concept.tested = None;
    }
    concept.state = state;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::concept::LabelEvidence;

    fn catalogue() -> ConceptCatalog {
        let evidence = LabelEvidence { hash: "h1".into(), ..LabelEvidence::default() };
        let concept = Concept { label: Some("War".into()), evidence: Some(evidence), ..Concept::default() };
        ConceptCatalog {
            concepts: BTreeMap::from([(LatentId(7), concept), (LatentId(8), Concept::default())]),
            ..ConceptCatalog::default()
        }
    }

    fn by(reviewer: &str, state: LabelState) -> Decision {
        Decision {
            latent: LatentId(7),
            reviewer: reviewer.into(),
            at_ms: 5,
            state,
            seen: "War".into(),
            evidence: "h1".into(),
            edited: None,
            note: String::new(),
        }
    }

    #[test]
    fn agreement_settles_and_disagreement_needs_data() {
        let mut catalogue = catalogue();
        assert_eq!(decide(&mut catalogue, &by("ann", LabelState::Accepted)).unwrap(), LabelState::Accepted);
        assert_eq!(decide(&mut catalogue, &by("bob", LabelState::Rejected)).unwrap(), LabelState::NeedsData);
        assert_eq!(decide(&mut catalogue, &by("bob", LabelState::Accepted)).unwrap(), LabelState::Accepted, "his last word counts");
        assert_eq!(decide(&mut catalogue, &by("ann", LabelState::Rejected)).unwrap(), LabelState::NeedsData);
        assert_eq!(decide(&mut catalogue, &by("bob", LabelState::Rejected)).unwrap(), LabelState::Rejected);
        assert_eq!(catalogue.concepts[&LatentId(7)].reviews.len(), 5, "nothing said is forgotten");
        assert_eq!(catalogue.name(LatentId(7)), "latent 7");
    }

    #[test]
    fn an_edit_changes_the_label_and_loses_its_test() {
        let mut catalogue = catalogue();
        let edit = Decision { edited: Some("war films ".into()), ..by("ann", LabelState::Edited) };
        decide(&mut catalogue, &edit).unwrap();
        assert_eq!(catalogue.name(LatentId(7)), "war films");
        assert!(decide(&mut catalogue, &by("bob", LabelState::Accepted)).unwrap_err().to_string().contains("look at it again"));
        let seen = Decision { seen: "war films".into(), ..by("bob", LabelState::Accepted) };
        assert_eq!(decide(&mut catalogue, &seen).unwrap(), LabelState::Accepted);
    }

    #[test]
    fn a_review_of_something_else_is_refused() {
        for (decision, says) in [
            (Decision { evidence: "h0".into(), ..by("ann", LabelState::Accepted) }, "evidence"),
            (Decision { seen: "Drama".into(), ..by("ann", LabelState::Accepted) }, "the label is \"War\""),
            (Decision { latent: LatentId(8), ..by("ann", LabelState::Accepted) }, "no label"),
            (Decision { latent: LatentId(9), ..by("ann", LabelState::Accepted) }, "not in the catalogue"),
            (by(" ", LabelState::Accepted), "name"),
            (by("ann", LabelState::Proposed), "expected accepted"),
            (by("ann", LabelState::Edited), "new label"),
        ] {
            let mut catalogue = catalogue();
            let error = decide(&mut catalogue, &decision).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(catalogue.concepts[&LatentId(7)].reviews.is_empty());
        }
    }
}
