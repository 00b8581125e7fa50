//! What a latent is called, and how far the name may be trusted.
//!
//! A name is never missing: an accepted label, else a proposed one marked "?", else the first three
//! distinct items that activate the latent most, else its number. Labels belong to one SAE, so the
//! catalogue carries that SAE's fingerprint, and a revision of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sae::hold_out::HoldOut;
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
    /// A reviewer could not decide: more cases are needed. Named as if proposed.
    NeedsData,
}

/// How far a name may be trusted: the `verification` of metrics, alerts and page. What a reviewer said is
/// another thing and stands in the name itself: an accepted label bears no "?".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verification {
    /// The label told held-out cases apart, by the rule of `recsae verify`.
    Verified,
    /// It did so better than chance, but not by the rule.
    Weak,
    /// It was not tested, there were too few cases, or it failed.
    #[default]
    Unverified,
    /// No label: the name is items, or the number.
    Unlabelled,
}

impl Verification {
    /// Stable name: metric label.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Weak => "weak",
            Self::Unverified => "unverified",
            Self::Unlabelled => "unlabelled",
        }
    }
}

/// Why a label was proposed: the tag and its numbers on the cases it was made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelEvidence {
    /// Where the label comes from: a tag source (`genres`, `title:words`, ...), `llm`, `carried over`.
    pub source: String,
    /// The tag's value in its source; empty for a label in free words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Items a case needs to carry the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<u32>,
    /// Cases the latent is active in.
    pub n_active: u64,
    /// P(tag | active).
    pub precision: f64,
    /// P(active | tag).
    pub recall: f64,
    /// P(tag | active) / P(tag).
    pub lift: f64,
    /// AUC of the activation for the tag.
    pub auc: f64,
    /// Share of false names expected at its level.
    pub q_value: f64,
    /// sha256 of the cases, tags and rule behind it: what a reviewer's word refers to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// How a label did on cases it was not made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutTest {
    /// By the rule of `recsae verify`.
    pub status: Verification,
    /// Held-out cases the latent is active in.
    pub n_positive: u64,
    /// Held-out cases it is not active in.
    pub n_negative: u64,
    /// Mean of the two classes' shares told rightly, random negatives.
    pub balanced_accuracy: f64,
    /// Lower and upper end of its 95 % interval.
    pub interval: [f64; 2],
    /// The same against cases of the nearest latents, with its lower end; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against_nearest: Option<[f64; 2]>,
    /// RecSAE's confidence: share of five active and five other cases told rightly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recsae_confidence: Option<f64>,
    /// Cosine to the best matching decoder row of an SAE of another seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stability: Option<f64>,
}

/// What one reviewer said of a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// Who.
    pub reviewer: String,
    /// When, ms since 1970 UTC.
    pub at_ms: i64,
    /// What: never `proposed`.
    pub state: LabelState,
    /// The label that was judged.
    pub label: String,
    /// [`LabelEvidence::hash`] of what was seen; empty where there was no evidence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
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
    /// Why the label was proposed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<LabelEvidence>,
    /// How it did on held-out cases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tested: Option<HeldOutTest>,
    /// What reviewers said, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reviews: Vec<Review>,
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
    /// Users and items no label was made from; absent where labels came from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_out: Option<HoldOut>,
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
            (Some(label), LabelState::Proposed | LabelState::NeedsData) => format!("{label}?"),
            _ => items_name(&concept.top_items).unwrap_or_else(|| latent.to_string()),
        }
    }

    /// How far [`Self::name`] may be trusted.
    #[must_use]
    pub fn verification(&self, latent: LatentId) -> Verification {
        match self.concepts.get(&latent) {
            None | Some(Concept { label: None, .. } | Concept { state: LabelState::Rejected, .. }) => Verification::Unlabelled,
            Some(Concept { tested, .. }) => tested.as_ref().map_or(Verification::Unverified, |test| test.status),
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
        assert_eq!(catalogue(concept).verification(LatentId(7)), Verification::Unverified, "a reviewer's word is no test");
    }

    #[test]
    fn a_proposed_label_is_marked() {
        let concept = Concept { label: Some("war films".into()), ..Concept::default() };
        assert_eq!(catalogue(concept.clone()).name(LatentId(7)), "war films?");
        assert_eq!(catalogue(concept).verification(LatentId(7)), Verification::Unverified);
    }

    #[test]
    fn the_held_out_test_says_how_far_a_label_is_trusted() {
        let tested = HeldOutTest {
            status: Verification::Weak,
            n_positive: 60,
            n_negative: 60,
            balanced_accuracy: 0.7,
            interval: [0.6, 0.8],
            against_nearest: None,
            recsae_confidence: Some(0.8),
            stability: None,
        };
        let concept = Concept { label: Some("war films".into()), tested: Some(tested.clone()), ..Concept::default() };
        assert_eq!(catalogue(concept).verification(LatentId(7)), Verification::Weak);
        let rejected = Concept { label: Some("x".into()), state: LabelState::Rejected, tested: Some(tested), ..Concept::default() };
        assert_eq!(catalogue(rejected).verification(LatentId(7)), Verification::Unlabelled);
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
