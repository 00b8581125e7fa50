//! Finding a concept by words: BM25 over labels, families, tags and items, each a field of its own length (Robertson,
//! Zaragoza and Taylor 2004): by one length for all, a latent that has nothing but its family came before the latents
//! whose label is the very words.
//!
//! A label's words weigh most, because they name the concept; an item's least, because an item lies in
//! many concepts. The last word of a query matches the beginnings of words, as one types.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::sae::concept::{ConceptCatalog, LabelState, Verification};
use crate::sae::latent::LatentId;

/// BM25's saturation and length correction, at their usual values (Robertson and Zaragoza 2009).
const K1: f64 = 1.2;
const B: f64 = 0.75;
/// Weights of the fields: times a word of label, family and items counts.
const WEIGHTS: [f64; 3] = [5.0, 2.0, 1.0];

/// One hit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// The latent.
    pub latent: LatentId,
    /// Its name by the catalogue's rule.
    pub name: String,
    /// How far the name may be trusted.
    pub verification: Verification,
    /// Family it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// Share of records it is active in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Relevance; comparable within one search.
    pub score: f64,
    /// The first items.
    pub items: Vec<String>,
}

/// The `n` best hits, best first; ties by latent.
#[must_use]
pub fn search(catalogue: &ConceptCatalog, query: &str, n: usize) -> Vec<Hit> {
    let words = words_of(query);
    let Some((last, others)) = words.split_last() else { return Vec::new() };
    let family_of: BTreeMap<LatentId, &str> =
        catalogue.families.iter().flat_map(|family| family.latents.iter().map(|latent| (*latent, family.name.as_str()))).collect();
    let documents: Vec<(LatentId, [Field; 3])> = catalogue
        .concepts
        .iter()
        .map(|(latent, concept)| {
            // A rejected label is no name to be found by.
            let label = concept.label.iter().filter(|_| concept.state != LabelState::Rejected).map(String::as_str);
            let family = concept.tag.iter().map(String::as_str).chain(family_of.get(latent).copied());
            (*latent, [Field::of(label), Field::of(family), Field::of(concept.top_items.iter().map(String::as_str))])
        })
        .collect();
    let mean_lengths = [0, 1, 2].map(|field| {
        let lengths = documents.iter().map(|(_, fields)| fields[field].length).filter(|length| *length > 0.0);
        lengths.clone().sum::<f64>() / lengths.count().max(1) as f64
    });
    // How often a word stands in a document, each field by its weight and its own usual length.
    let weighted = |fields: &[Field; 3], word: &str, begins: bool| -> f64 {
        let of = |((field, weight), mean): ((&Field, f64), f64)| {
            weight * field.count(word, begins) / (1.0 - B + B * field.length / mean.max(f64::MIN_POSITIVE))
        };
        fields.iter().zip(WEIGHTS).zip(mean_lengths).map(of).sum()
    };
    let asked: Vec<(&str, bool)> = others.iter().map(|word| (word.as_str(), false)).chain([(last.as_str(), true)]).collect();
    let n_documents = documents.len() as f64;
    let idf: Vec<f64> = asked
        .iter()
        .map(|(word, begins)| {
            let with = documents.iter().filter(|(_, fields)| weighted(fields, word, *begins) > 0.0).count() as f64;
            (1.0 + (n_documents - with + 0.5) / (with + 0.5)).ln()
        })
        .collect();
    let mut hits: Vec<(f64, LatentId)> = documents
        .iter()
        .map(|(latent, fields)| {
            let score = asked.iter().zip(&idf).map(|((word, begins), idf)| {
                let n = weighted(fields, word, *begins);
                idf * n * (K1 + 1.0) / (n + K1)
            });
            (score.sum(), *latent)
        })
        .filter(|(score, _)| *score > 0.0)
        .collect();
    hits.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    hits.truncate(n);
    hits.into_iter()
        .map(|(score, latent)| Hit {
            latent,
            name: catalogue.name(latent),
            verification: catalogue.verification(latent),
            family: family_of.get(&latent).map(|name| (*name).to_owned()),
            rate: catalogue.concepts.get(&latent).and_then(|concept| concept.rate),
            score,
            items: catalogue.concepts.get(&latent).map(|concept| concept.top_items.iter().take(3).cloned().collect()).unwrap_or_default(),
        })
        .collect()
}

/// The words of one field of a document.
#[derive(Default)]
struct Field {
    words: BTreeMap<String, f64>,
    length: f64,
}

impl Field {
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut field = Self::default();
        for word in texts.flat_map(words_of) {
            *field.words.entry(word).or_insert(0.0) += 1.0;
            field.length += 1.0;
        }
        field
    }

    fn count(&self, word: &str, begins: bool) -> f64 {
        if begins {
            self.words.range(word.to_owned()..).take_while(|(found, _)| found.starts_with(word)).map(|(_, n)| n).sum()
        } else {
            self.words.get(word).copied().unwrap_or(0.0)
        }
    }
}

fn words_of(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::concept::{Concept, Family, LabelState};

    fn catalogue() -> ConceptCatalog {
        let concept = |label: Option<&str>, items: &[&str]| Concept {
            label: label.map(str::to_owned),
            top_items: items.iter().map(|item| (*item).to_owned()).collect(),
            ..Concept::default()
        };
        ConceptCatalog {
            concepts: BTreeMap::from([
                (LatentId(1), concept(Some("War"), &["Platoon", "Glory"])),
                (LatentId(2), concept(Some("Horror"), &["War of the Worlds", "Carrie"])),
                (LatentId(3), concept(None, &["Star Wars", "Star Trek"])),
            ]),
            families: vec![Family { id: 0, name: "space".into(), latents: vec![LatentId(3)] }],
            ..ConceptCatalog::default()
        }
    }

    #[test]
    fn a_label_ranks_before_an_item_and_beginnings_match() {
        let mut found: Vec<u32> = search(&catalogue(), "war", 10).iter().map(|hit| hit.latent.0).collect();
        assert_eq!(found[0], 1);
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3]);
        let found: Vec<u32> = search(&catalogue(), "SPACE star", 10).iter().map(|hit| hit.latent.0).collect();
        assert_eq!(found, [3]);
        assert_eq!(search(&catalogue(), "war", 1).len(), 1);
    }

    #[test]
    fn a_label_ranks_before_a_family_of_that_name() {
        let mut catalogue = catalogue();
        catalogue.concepts.insert(LatentId(0), Concept::default());
        catalogue.families.push(Family { id: 1, name: "war".into(), latents: vec![LatentId(0), LatentId(1)] });
        let found: Vec<u32> = search(&catalogue, "war", 10).iter().map(|hit| hit.latent.0).collect();
        assert_eq!(found[..2], [1, 0]);
    }

    #[test]
    fn a_rejected_label_is_not_found() {
        let mut catalogue = catalogue();
        catalogue.concepts.get_mut(&LatentId(2)).unwrap().state = LabelState::Rejected;
        assert!(search(&catalogue, "horror", 5).is_empty());
        assert_eq!(search(&catalogue, "carrie", 5)[0].latent, LatentId(2), "its items are");
    }

    #[test]
    fn nothing_asked_or_nothing_there_finds_nothing() {
        assert!(search(&catalogue(), " - ", 5).is_empty());
        assert!(search(&catalogue(), "western", 5).is_empty());
        assert!(search(&ConceptCatalog::default(), "war", 5).is_empty());
    }
}
