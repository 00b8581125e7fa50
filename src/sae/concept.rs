//! What a latent is called, and how far the name may be trusted.
//!
//! A name is never missing: an accepted label, else a proposed one marked "?", else the first three
//! distinct items that activate the latent most, else its number. Labels belong to one SAE, so the
//! catalogue carries that SAE's fingerprint, and a revision of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sae::latent::LatentId;

/// Items joined in a name made of items: three tell a theme, more fill an alert's title.
const ITEMS_IN_NAME: usize = 3;

/// Where a label stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelState {
    /// Proposed by a procedure, seen by nobody.
    #[default]
    Proposed,
    /// Accepted by a reviewer.
    Accepted,
    /// Rewritten and accepted by a reviewer.
    Edited,
    /// Rejected: the name falls back to items.
    Rejected,
}

/// How far a name may be trusted: the `verification` of metrics and alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verification {
    /// A reviewer accepted (or wrote) the label.
    Accepted,
    /// A label nobody has reviewed.
    Proposed,
    /// No label: the name is items, or the number.
    Unlabelled,
}

impl Verification {
    /// Stable name: metric label.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Proposed => "proposed",
            Self::Unlabelled => "unlabelled",
        }
    }
}

/// What is known of one latent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Concept {
    /// Label in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Where the label stands; means nothing without one.
    pub state: LabelState,
    /// Titles of the items recommended when the latent is strongest, strongest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_items: Vec<String>,
    /// Share of records the latent was active in when the catalogue was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Tag that stands out among the items, if one was computed: a hint, never a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Latents that are followed together, as one stream `family:ID`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// The number in `family:ID`.
    pub id: u32,
    /// Name in words.
    pub name: String,
    /// Its latents.
    pub latents: Vec<LatentId>,
}

/// Names of an SAE's latents: the content of `concepts.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConceptCatalog {
    /// Fingerprint of the SAE the names belong to; empty in a file that is still to be bound.
    pub fingerprint: String,
    /// Raised by one with every change.
    pub revision: u64,
    /// What is known, by latent.
    pub concepts: BTreeMap<LatentId, Concept>,
    /// Latents followed together.
    pub families: Vec<Family>,
}

impl ConceptCatalog {
    /// Name of a latent by the rule above.
    #[must_use]
    pub fn name(&self, latent: LatentId) -> String {
        let Some(concept) = self.concepts.get(&latent) else { return latent.to_string() };
        match (&concept.label, concept.state) {
            (Some(label), LabelState::Accepted | LabelState::Edited) => label.clone(),
            (Some(label), LabelState::Proposed) => format!("{label}?"),
            _ => items_name(&concept.top_items).unwrap_or_else(|| latent.to_string()),
        }
    }

    /// How far [`Self::name`] may be trusted.
    #[must_use]
    pub fn verification(&self, latent: LatentId) -> Verification {
        match self.concepts.get(&latent) {
            Some(Concept { label: Some(_), state: LabelState::Accepted | LabelState::Edited, .. }) => Verification::Accepted,
            Some(Concept { label: Some(_), state: LabelState::Proposed, .. }) => Verification::Proposed,
            _ => Verification::Unlabelled,
        }
    }

    /// The family with this number.
    #[must_use]
    pub fn family(&self, id: u32) -> Option<&Family> {
        self.families.iter().find(|family| family.id == id)
    }

    /// Name of a family: its own, else "family 7".
    #[must_use]
    pub fn family_name(&self, id: u32) -> String {
        self.family(id).map_or_else(|| format!("family {id}"), |family| family.name.clone())
    }
}

/// The first distinct items joined; `None` without any.
fn items_name(items: &[String]) -> Option<String> {
    let mut distinct: Vec<&str> = Vec::with_capacity(ITEMS_IN_NAME);
    for item in items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
        if !distinct.contains(&item) {
            distinct.push(item);
        }
        if distinct.len() == ITEMS_IN_NAME {
            break;
        }
    }
    (!distinct.is_empty()).then(|| distinct.join(" · "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue(concept: Concept) -> ConceptCatalog {
        ConceptCatalog { concepts: BTreeMap::from([(LatentId(7), concept)]), ..ConceptCatalog::default() }
    }

    fn items(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn an_accepted_label_is_the_name() {
        let concept = Concept { label: Some("war films".into()), state: LabelState::Accepted, ..Concept::default() };
        assert_eq!(catalogue(concept.clone()).name(LatentId(7)), "war films");
        assert_eq!(catalogue(concept).verification(LatentId(7)), Verification::Accepted);
    }

    #[test]
    fn a_proposed_label_is_marked() {
        let concept = Concept { label: Some("war films".into()), ..Concept::default() };
        assert_eq!(catalogue(concept.clone()).name(LatentId(7)), "war films?");
        assert_eq!(catalogue(concept).verification(LatentId(7)), Verification::Proposed);
    }

    #[test]
    fn a_rejected_label_falls_back_to_three_distinct_items() {
        let concept = Concept {
            label: Some("nonsense".into()),
            state: LabelState::Rejected,
            top_items: items(&["Apt Pupil", "Apt Pupil", "Amistad", "", "Good Will Hunting", "Scream"]),
            ..Concept::default()
        };
        assert_eq!(catalogue(concept.clone()).name(LatentId(7)), "Apt Pupil · Amistad · Good Will Hunting");
        assert_eq!(catalogue(concept).verification(LatentId(7)), Verification::Unlabelled);
    }

    #[test]
    fn an_unknown_latent_is_called_by_its_number() {
        assert_eq!(ConceptCatalog::default().name(LatentId(123)), "latent 123");
        assert_eq!(catalogue(Concept::default()).name(LatentId(7)), "latent 7");
        assert_eq!(ConceptCatalog::default().family_name(3), "family 3");
    }

    #[test]
    fn the_catalogue_survives_json_and_refuses_unknown_keys() {
        let mut before = catalogue(Concept { top_items: items(&["a"]), rate: Some(0.25), ..Concept::default() });
        before.families.push(Family { id: 2, name: "late 1997".into(), latents: vec![LatentId(7)] });
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<ConceptCatalog>(&text).unwrap(), before);
        assert!(serde_json::from_str::<ConceptCatalog>(r#"{"concept": {}}"#).is_err());
    }
}
