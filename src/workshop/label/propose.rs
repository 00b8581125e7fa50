//! Proposals into the catalogue: what reviewers have said stays.

use sha2::{Digest, Sha256};

use crate::sae::concept::{Concept, ConceptCatalog, LabelEvidence, LabelState};
use crate::workshop::label::Labelling;
use crate::workshop::label::items::Items;

/// Items kept beside a concept as examples: an alert shows three, a reviewer wants some more.
const TOP_ITEMS: usize = 10;

/// The catalogue with the labelling's names as proposals, its revision raised by one.
///
/// | concept before            | after                                                      |
/// |---------------------------|------------------------------------------------------------|
/// | accepted, edited          | unchanged                                                  |
/// | rejected                  | the same label stays rejected, another one is proposed     |
/// | proposed, needs data, new | the new label is proposed; without one the old proposal goes |
#[must_use]
pub fn with_proposals(
    before: &ConceptCatalog,
    labelling: &Labelling,
    items: &Items,
    n_rows: usize,
    active_rows: &[usize],
) -> ConceptCatalog {
    let mut after = before.clone();
    after.revision += 1;
    for latent in &labelling.naming.latents {
        let concept = after.concepts.entry(latent.latent).or_default();
        if concept.top_items.is_empty() {
            concept.top_items = latent.items.iter().take(TOP_ITEMS).map(|item| items.title(*item).to_owned()).collect();
        }
        if concept.rate.is_none() && n_rows > 0 {
            concept.rate = Some(active_rows.get(latent.latent.index()).copied().unwrap_or(0) as f64 / n_rows as f64);
        }
        let best = latent.name.ok().and_then(|_| latent.candidates.first());
        let proposal = best.map(|best| {
            let tag = &labelling.tags.tags()[best.tag];
            let mut evidence = LabelEvidence {
                source: tag.source.clone(),
                value: tag.value.clone(),
                at_least: Some(labelling.naming.at_least[best.tag]),
                n_active: latent.n_active as u64,
                precision: best.cases.precision(),
                recall: best.cases.recall(),
                lift: best.cases.lift(),
                auc: best.auc,
                q_value: best.ln_q.exp(),
                hash: String::new(),
            };
            let ids: Vec<&str> = latent.items.iter().map(|item| items.id(*item)).collect();
            evidence.hash = evidence_hash(&before.fingerprint, latent.latent.0, &evidence, &ids);
            (tag.to_string(), evidence)
        });
        propose(concept, proposal);
    }
    after.concepts.retain(|_, concept| *concept != Concept::default() && (concept.label.is_some() || concept.rate != Some(0.0)));
    after
}

/// Puts a proposal into a concept, by the table above.
pub fn propose(concept: &mut Concept, proposal: Option<(String, LabelEvidence)>) {
    let decided = match concept.state {
        LabelState::Accepted | LabelState::Edited => concept.label.is_some(),
        LabelState::Rejected => concept.label.is_some() && proposal.as_ref().is_none_or(|(label, _)| concept.label.as_ref() == Some(label)),
        LabelState::Proposed | LabelState::NeedsData => false,
    };
    if decided {
        return;
    }
    if concept.label.as_ref() != proposal.as_ref().map(|(label, _)| label) {
        concept.tested = None;
    }
    concept.state = LabelState::Proposed;
    (concept.label, concept.evidence) = proposal.map_or((None, None), |(label, evidence)| (Some(label), Some(evidence)));
}

/// sha256 of an SAE, a latent, the numbers and the items a label rests on.
#[must_use]
pub fn evidence_hash(fingerprint: &str, latent: u32, evidence: &LabelEvidence, items: &[&str]) -> String {
    let numbers = [evidence.precision, evidence.recall, evidence.lift, evidence.auc, evidence.q_value].map(f64::to_bits);
    let text = format!(
        "{fingerprint}\n{latent}\n{}\n{}\n{:?}\n{}\n{numbers:?}\n{}",
        evidence.source,
        evidence.value,
        evidence.at_least,
        evidence.n_active,
        items.join("\n")
    );
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concept(label: Option<&str>, state: LabelState) -> Concept {
        Concept { label: label.map(str::to_owned), state, ..Concept::default() }
    }

    fn after(mut concept: Concept, label: Option<&str>) -> (Option<String>, LabelState) {
        propose(&mut concept, label.map(|label| (label.to_owned(), LabelEvidence::default())));
        (concept.label, concept.state)
    }

    #[test]
    fn what_a_reviewer_decided_stays() {
        for state in [LabelState::Accepted, LabelState::Edited] {
            assert_eq!(after(concept(Some("war"), state), Some("drama")), (Some("war".into()), state));
        }
        assert_eq!(after(concept(Some("war"), LabelState::Rejected), Some("war")), (Some("war".into()), LabelState::Rejected));
        assert_eq!(after(concept(Some("war"), LabelState::Rejected), Some("drama")), (Some("drama".into()), LabelState::Proposed));
    }

    #[test]
    fn a_proposal_is_replaced_and_may_go() {
        assert_eq!(after(concept(Some("war"), LabelState::Proposed), Some("drama")), (Some("drama".into()), LabelState::Proposed));
        assert_eq!(after(concept(Some("war"), LabelState::NeedsData), None), (None, LabelState::Proposed));
        assert_eq!(after(concept(None, LabelState::Proposed), None), (None, LabelState::Proposed));
    }

    #[test]
    fn the_evidence_hash_changes_with_everything_behind_it() {
        let evidence = LabelEvidence { source: "genres".into(), value: "War".into(), precision: 0.5, ..LabelEvidence::default() };
        let hash = evidence_hash("f", 1, &evidence, &["a"]);
        assert_eq!(hash, evidence_hash("f", 1, &evidence, &["a"]));
        for other in [
            evidence_hash("g", 1, &evidence, &["a"]),
            evidence_hash("f", 2, &evidence, &["a"]),
            evidence_hash("f", 1, &LabelEvidence { precision: 0.6, ..evidence.clone() }, &["a"]),
            evidence_hash("f", 1, &evidence, &["a", "b"]),
        ] {
            assert_ne!(hash, other);
        }
    }
}
