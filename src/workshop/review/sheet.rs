//! Reviews as a file: labels with their evidence go out, decisions come back in.

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::sae::concept::{ConceptCatalog, HeldOutTest, LabelEvidence, LabelState};
use crate::sae::latent::LatentId;
use crate::workshop::review::decide::{Decision, evidence_of};

/// A sheet of labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    /// Fingerprint of the SAE: decisions on another SAE's sheet are refused.
    pub fingerprint: String,
    /// Labels, those with the most to gain first: proposed ones that tested best.
    pub entries: Vec<Entry>,
}

/// One label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The latent.
    pub latent: LatentId,
    /// The label seen.
    pub label: String,
    /// Hash of its evidence.
    pub evidence: String,
    /// `null`, or the decision: accepted, edited, rejected, needs_data.
    pub decision: Option<LabelState>,
    /// The new label of an edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Where the label stands; for the reader.
    #[serde(default)]
    pub state: LabelState,
    /// Examples; for the reader.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_items: Vec<String>,
    /// What the label rests on; for the reader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<LabelEvidence>,
    /// How it tested; for the reader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tested: Option<HeldOutTest>,
}

/// The sheet of a catalogue: undecided labels, or all.
#[must_use]
pub fn sheet(catalogue: &ConceptCatalog, all: bool) -> Sheet {
    let undecided = |state| matches!(state, LabelState::Proposed | LabelState::NeedsData);
    let mut entries: Vec<Entry> = catalogue
        .concepts
        .iter()
        .filter(|(_, concept)| all || undecided(concept.state))
        .filter_map(|(latent, concept)| {
            Some(Entry {
                latent: *latent,
                label: concept.label.clone()?,
                evidence: evidence_of(concept),
                decision: None,
                edited: None,
                note: String::new(),
                state: concept.state,
                top_items: concept.top_items.clone(),
                made_from: concept.evidence.clone(),
                tested: concept.tested.clone(),
            })
        })
        .collect();
    let low = |entry: &Entry| entry.tested.as_ref().map_or(0.0, |test| test.interval[0]);
    entries.sort_by(|a, b| low(b).total_cmp(&low(a)).then(a.latent.cmp(&b.latent)));
    Sheet { fingerprint: catalogue.fingerprint.clone(), entries }
}

/// The decisions of a sheet that came back.
///
/// # Errors
/// It is of another SAE, or an entry decides nothing that can be decided.
pub fn decisions(sheet: &Sheet, catalogue: &ConceptCatalog, reviewer: &str, at_ms: i64) -> anyhow::Result<Vec<Decision>> {
    ensure!(
        sheet.fingerprint == catalogue.fingerprint,
        "the sheet is of SAE {}, the catalogue of {}: a review holds for one SAE",
        sheet.fingerprint,
        catalogue.fingerprint
    );
    let decided = sheet.entries.iter().filter_map(|entry| Some((entry, entry.decision?)));
    Ok(decided
        .map(|(entry, state)| Decision {
            latent: entry.latent,
            reviewer: reviewer.to_owned(),
            at_ms,
            state,
            seen: entry.label.clone(),
            evidence: entry.evidence.clone(),
            edited: entry.edited.clone(),
            note: entry.note.clone(),
        })
        .collect())
}

/// Parses a sheet.
///
/// # Errors
/// It is no sheet.
pub fn parse(text: &str) -> anyhow::Result<Sheet> {
    serde_json::from_str(text)
        .context("no review sheet: expected {\"fingerprint\": ..., \"entries\": [{\"latent\", \"label\", \"evidence\", \"decision\"}]}")
}
