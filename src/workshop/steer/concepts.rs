//! Which latents stand for a tag of the items, and which items carry it.
//!
//! Where no reviewed catalogue says so, a latent stands for a tag by two things together: its lift, the share
//! of the tag in what is recommended to the rows it is active in over the share in all rows, and its pull.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::sae::activation::SparseActivations;
use crate::sae::concept::{Concept, ConceptCatalog, LabelState};
use crate::sae::latent::LatentId;
use crate::workshop::dataset::table::Table;

/// Fewest rows a latent must be active in to stand for anything: fewer are one user's taste.
const LEAST_ROWS: u32 = 5;

/// Tags of the items.
#[derive(Clone, Debug, Default)]
pub struct Tags {
    /// Whether each item has the tag.
    pub items: BTreeMap<String, Vec<bool>>,
}

impl Tags {
    /// Reads column `column` of an items table, whose column `item` numbers the rows of the item vectors.
    ///
    /// # Errors
    /// A column is missing, or an item has no number below `n_items`.
    pub fn read(table: &Table, item: &str, column: &str, n_items: usize) -> anyhow::Result<Self> {
        let of = |name: &str| table.column(name).with_context(|| format!("no column {name:?}; there are {}", table.names().join(", ")));
        let (numbers, values) = (of(item)?, of(column)?);
        let mut tags = Self::default();
        for (row, (number, value)) in numbers.iter().zip(values).enumerate() {
            let number = number.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n < n_items);
            let number = number.with_context(|| format!("row {row}: expected an item below {n_items}, found {}", numbers[row]))?;
            let words: Vec<&Value> = value.as_array().map_or_else(|| vec![value], |list| list.iter().collect());
            for word in words.into_iter().filter_map(crate::workshop::dataset::table::key_of) {
                tags.items.entry(word).or_insert_with(|| vec![false; n_items])[number] = true;
            }
        }
        ensure!(!tags.items.is_empty(), "column {column:?} names no tag");
        Ok(tags)
    }
}

/// How a latent stands to a tag.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct TagLatent {
    /// The latent.
    pub latent: LatentId,
    /// Rows it was active in.
    pub rows: u32,
    /// Share of the tag there over the share in all rows.
    pub lift: f64,
    /// What a unit of its activation adds to the share of the tag, to first order.
    pub pull: f64,
}

/// Every latent that is active somewhere, beside a tag whose share in what each row is recommended is
/// `shares`, and on which latents pull by `pulls`.
#[must_use]
pub fn beside_tag(shares: &[f64], activations: &SparseActivations, pulls: &[f64]) -> Vec<TagLatent> {
    let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    let (mut rows, mut sums) = (vec![0u32; pulls.len()], vec![0f64; pulls.len()]);
    for (row, share) in shares.iter().enumerate() {
        for latent in activations.row(row).0 {
            rows[latent.index()] += 1;
            sums[latent.index()] += share;
        }
    }
    let lift = |rows: u32, sum: f64| if mean > 0.0 { sum / f64::from(rows) / mean } else { 0.0 };
    (0u32..)
        .zip(rows.into_iter().zip(sums).zip(pulls))
        .filter(|(_, ((rows, _), _))| *rows > 0)
        .map(|(latent, ((rows, sum), pull))| TagLatent { latent: LatentId(latent), rows, lift: lift(rows, sum), pull: *pull })
        .collect()
}

/// Those that stand for the tag where nobody has said which do: it is met more often where they are active,
/// and they pull for it. Strongest pull first.
#[must_use]
pub fn standing_for(mut latents: Vec<TagLatent>) -> Vec<TagLatent> {
    latents.retain(|latent| latent.rows >= LEAST_ROWS && latent.lift > 1.0 && latent.pull > 0.0);
    by_pull(latents)
}

/// Those that a concept names, without any that pulls against its own tag. Strongest pull first.
#[must_use]
pub fn named(mut latents: Vec<TagLatent>, concept: &[LatentId]) -> Vec<TagLatent> {
    latents.retain(|latent| concept.contains(&latent.latent) && latent.pull > 0.0);
    by_pull(latents)
}

fn by_pull(mut latents: Vec<TagLatent>) -> Vec<TagLatent> {
    latents.sort_by(|a, b| b.pull.total_cmp(&a.pull).then(a.latent.cmp(&b.latent)));
    latents
}

/// Latents of the concepts that reviewers accepted for tag `value` of column `column`: the tag is what the label
/// was proposed for, or an accepted label is the tag itself, in capitals or not.
#[must_use]
pub fn accepted_latents(catalogue: &ConceptCatalog, column: &str, value: &str) -> Vec<LatentId> {
    let is_of_tag = |concept: &Concept| {
        let proposed = concept.evidence.as_ref().is_some_and(|evidence| evidence.source == column && evidence.value == value);
        let says = concept.label.as_ref().is_some_and(|label| label.to_lowercase() == value.to_lowercase());
        match concept.state {
            LabelState::Accepted => concept.label.is_some() && (proposed || says),
            // What it was proposed for is not what the reviewer called it.
            LabelState::Edited => says,
            _ => false,
        }
    };
    catalogue.concepts.iter().filter(|(_, concept)| is_of_tag(concept)).map(|(latent, _)| *latent).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sae::concept::LabelEvidence;

    /// Three latents in 200 rows.
    pub(in crate::workshop::steer) fn activations() -> SparseActivations {
        let mut of = SparseActivations::default();
        for row in 0..200u32 {
            // Latent 0 in the first half, latent 1 in every other row, latent 2 in three rows.
            if row < 100 {
                of.push(LatentId(0), 1.0 + (row % 3) as f32);
            }
            if row % 2 == 0 {
                of.push(LatentId(1), 2.0);
            }
            if row < 3 {
                of.push(LatentId(2), 9.0);
            }
            of.end_row();
        }
        of
    }

    #[test]
    fn a_latent_stands_for_a_tag_by_lift_and_pull_over_enough_rows() {
        let shares: Vec<f64> = (0..200).map(|row| if row < 100 { 0.6 } else { 0.2 }).collect();
        let all = beside_tag(&shares, &activations(), &[0.5, 0.25, 0.75, 1.0]);
        assert_eq!(all.iter().map(|latent| (latent.latent.0, latent.rows)).collect::<Vec<_>>(), [(0, 100), (1, 100), (2, 3)]);
        assert!((all[0].lift - 1.5).abs() < 1e-12 && (all[1].lift - 1.0).abs() < 1e-12);
        let ids = |latents: Vec<TagLatent>| latents.iter().map(|latent| latent.latent.0).collect::<Vec<_>>();
        assert_eq!(ids(standing_for(all.clone())), [0]);
        assert_eq!(ids(named(all.clone(), &[LatentId(0), LatentId(2), LatentId(3)])), [2, 0]);
        assert!(standing_for(beside_tag(&shares, &activations(), &[-0.5, 0.0, 0.0, 0.0])).is_empty(), "it pulls the other way");
    }

    #[test]
    fn only_accepted_concepts_of_the_tag_count() {
        let concept = |label: &str, state, value: &str| {
            let evidence = LabelEvidence { source: "genres".into(), value: value.into(), ..LabelEvidence::default() };
            Concept { label: Some(label.into()), state, evidence: Some(evidence), ..Concept::default() }
        };
        let concepts = [
            concept("War", LabelState::Accepted, "War"),
            concept("War", LabelState::Proposed, "War"),
            concept("War", LabelState::Rejected, "War"),
            concept("war", LabelState::Edited, "Drama"),
            concept("Vietnam", LabelState::Edited, "War"),
            concept("Drama", LabelState::Accepted, "Drama"),
            Concept { evidence: None, ..concept("WAR", LabelState::Accepted, "") },
        ];
        let concepts = (0u32..).map(LatentId).zip(concepts).collect();
        let catalogue = ConceptCatalog { concepts, ..ConceptCatalog::default() };
        assert_eq!(accepted_latents(&catalogue, "genres", "War"), [0, 3, 6].map(LatentId));
        assert_eq!(accepted_latents(&catalogue, "artist", "Drama"), [LatentId(5)], "by the label alone");
        assert!(accepted_latents(&catalogue, "genres", "Western").is_empty());
    }
}
