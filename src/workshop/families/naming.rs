//! Ids and names of families.
//!
//! An id is the position of a family in the catalogue's list, which is how windows count it (`family:7`),
//! so the list has no gaps: a family that is found again keeps its place, one that is gone leaves an empty
//! family there, and a new one is put behind. References and alerts of the others stay valid.

use std::collections::BTreeMap;

use crate::sae::concept::{ConceptCatalog, Family, LabelState};
use crate::sae::latent::LatentId;

/// Share of common members from which a family is the one it was: more than half, so that it is unique.
const SAME_FAMILY: f64 = 0.5;
/// Labels joined in a name.
const LABELS_IN_NAME: usize = 2;

/// The catalogue with these groups as its families, its revision raised by one.
#[must_use]
pub fn with_families(before: &ConceptCatalog, groups: &[Vec<usize>]) -> ConceptCatalog {
    let groups: Vec<Vec<LatentId>> =
        groups.iter().map(|group| group.iter().filter_map(|latent| u32::try_from(*latent).ok()).map(LatentId).collect()).collect();
    let mut after = before.clone();
    after.revision += 1;
    let n_before = before.families.iter().map(|family| family.id as usize + 1).max().unwrap_or(0);
    let mut places: Vec<Option<&Vec<LatentId>>> = vec![None; n_before];
    let mut new = Vec::new();
    for group in &groups {
        match before.families.iter().find(|family| jaccard(&family.latents, group) > SAME_FAMILY) {
            Some(family) => places[family.id as usize] = Some(group),
            None => new.push(Some(group)),
        }
    }
    places.extend(new);
    let family = |(id, members): (u32, Option<&Vec<LatentId>>)| {
        let latents = members.cloned().unwrap_or_default();
        let name = if latents.is_empty() { format!("family {id} (gone)") } else { family_name(&after, &latents) };
        Family { id, name, latents }
    };
    after.families = (0u32..).zip(places).map(family).collect();
    after
}

fn jaccard(a: &[LatentId], b: &[LatentId]) -> f64 {
    let both = a.iter().filter(|latent| b.contains(latent)).count();
    let either = a.len() + b.len() - both;
    if either == 0 { 0.0 } else { both as f64 / either as f64 }
}

/// The label that most members bear, and a second one that a third of them bear; without labels the name
/// of the member that is active most.
fn family_name(catalogue: &ConceptCatalog, members: &[LatentId]) -> String {
    let mut labels: BTreeMap<&str, usize> = BTreeMap::new();
    for concept in
        members.iter().filter_map(|latent| catalogue.concepts.get(latent)).filter(|concept| concept.state != LabelState::Rejected)
    {
        if let Some(label) = &concept.label {
            *labels.entry(label).or_default() += 1;
        }
    }
    let mut labels: Vec<(&str, usize)> = labels.into_iter().collect();
    labels.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let n_labelled: usize = labels.iter().map(|(_, n)| n).sum();
    let telling: Vec<&str> = labels
        .iter()
        .enumerate()
        .filter(|(at, (_, n))| *at == 0 || 3 * n >= n_labelled)
        .map(|(_, (label, _))| *label)
        .take(LABELS_IN_NAME)
        .collect();
    if !telling.is_empty() {
        return telling.join(" / ");
    }
    let rate = |latent: &&LatentId| catalogue.concepts.get(latent).and_then(|concept| concept.rate).unwrap_or(0.0);
    members.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)).then(b.cmp(a))).map_or_else(String::new, |latent| catalogue.name(*latent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::concept::Concept;

    fn catalogue(labels: &[(u32, &str)]) -> ConceptCatalog {
        let concept = |label: &str| Concept { label: Some(label.to_owned()), ..Concept::default() };
        ConceptCatalog {
            concepts: labels.iter().map(|(latent, label)| (LatentId(*latent), concept(label))).collect(),
            ..ConceptCatalog::default()
        }
    }

    #[test]
    fn a_family_is_named_by_its_members_labels() {
        let labels = [(0, "Horror"), (1, "Horror"), (2, "1980s"), (5, "War"), (6, "War"), (7, "War"), (8, "Drama")];
        let after = with_families(&catalogue(&labels), &[vec![0, 1, 2, 3], vec![5, 6, 7, 8], vec![10, 11]]);
        let names: Vec<&str> = after.families.iter().map(|family| family.name.as_str()).collect();
        assert_eq!(names, ["Horror / 1980s", "War", "latent 10"]);
        assert_eq!(after.revision, 1);
    }

    #[test]
    fn ids_stay_where_members_do_and_are_never_given_twice() {
        let first = with_families(&catalogue(&[]), &[vec![0, 1, 2], vec![5, 6], vec![8, 9]]);
        let second = with_families(&first, &[vec![0, 1, 3, 2], vec![8, 9], vec![20, 21]]);
        let ids: Vec<(u32, Vec<u32>)> =
            second.families.iter().map(|family| (family.id, family.latents.iter().map(|latent| latent.0).collect())).collect();
        assert_eq!(ids, [(0, vec![0, 1, 3, 2]), (1, vec![]), (2, vec![8, 9]), (3, vec![20, 21])]);
        let third = with_families(&second, &[vec![5, 6]]);
        assert_eq!(third.families.iter().filter(|family| !family.latents.is_empty()).map(|family| family.id).collect::<Vec<_>>(), [4]);
    }
}
