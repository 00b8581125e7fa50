//! Testing labels on users and items they were not made from, and latents on SAEs of another seed.
//!
//! The flow: held-out cases → a sample for each labelled latent → how well its label tells the cases apart →
//! a status by a written rule, which goes into the catalogue and from there to metrics, alerts and page.

pub mod asked;
pub mod detection;
pub mod nearest;
pub mod report;
pub mod sample;
pub mod tested;
pub mod wilson;

use std::collections::HashMap;

use anyhow::{Context, ensure};

use crate::sae::concept::{Concept, ConceptCatalog, HeldOutTest, LabelState};
use crate::sae::weights::SaeWeights;
use crate::workshop::label::cases::Cases;
use crate::workshop::label::gather::Gathered;
use crate::workshop::label::items::Items;
use crate::workshop::label::presence::Presence;
use crate::workshop::label::{held_out_cases, tags_for};
use crate::workshop::verify::detection::detect;
use crate::workshop::verify::nearest::{match_latents, nearest_latents};
use crate::workshop::verify::tested::FreeLabel;

pub use crate::workshop::verify::tested::{LabelTest, Tests};

/// Most similar latents that negatives are also drawn from.
const NEAREST: usize = 5;
/// Least cosine of a pair of latents of two SAEs.
const LEAST_COSINE: f32 = 0.3;

/// Tests every label of the catalogue that is a tag of the items table and is not rejected; those in free words wait for
/// a language model ([`asked`]).
///
/// # Errors
/// The catalogue does not say what was held out, nothing was, or another SAE reads other vectors.
pub fn verify(
    catalogue: &ConceptCatalog,
    sae: &SaeWeights,
    others: &[SaeWeights],
    gathered: &Gathered,
    items: &Items,
    seed: u64,
) -> anyhow::Result<Tests> {
    let hold_out = catalogue
        .hold_out
        .context("the catalogue does not say which users and items its labels were made without: make them with `recsae label`")?;
    let cases = held_out_cases(gathered, items, &hold_out);
    ensure!(!cases.is_empty(), "no case of a held-out user has a held-out item: more rows, or a larger --hold-out in `recsae label`");
    let w_dec = sae.w_dec().context("the SAE has no decoder")?;
    let tags = tags_for(gathered, items, &hold_out);
    let number: HashMap<(&str, &str), usize> =
        tags.tags().iter().enumerate().map(|(at, tag)| ((tag.source.as_str(), tag.value.as_str()), at)).collect();
    // A label that came another way (carried over, edited, a model's) is tested as the tag whose name it is.
    let mut by_name: HashMap<String, Option<usize>> = HashMap::new();
    for (at, tag) in tags.tags().iter().enumerate() {
        by_name.entry(tag.to_string()).and_modify(|other| *other = None).or_insert(Some(at));
    }
    let presence = Presence::new(&cases, &tags, None);
    let alive: Vec<bool> = (0..cases.n_latents()).map(|latent| !cases.active(latent).is_empty()).collect();
    let nearest = nearest_latents(w_dec, &alive, NEAREST);
    let stability = stability(sae, others)?;
    let mut tests = Tests { n_cases: cases.len(), free: Vec::new(), asked: None, tests: Vec::new(), stability, cases: Cases::default() };
    for (latent, concept) in catalogue.concepts.iter().filter(|(_, concept)| concept.state != LabelState::Rejected) {
        let Some(label) = &concept.label else { continue };
        let proposed = concept.evidence.as_ref().and_then(|evidence| number.get(&(evidence.source.as_str(), evidence.value.as_str())));
        // A label that a reviewer put into other words is no longer what the tag says.
        let proposed = proposed.copied().filter(|tag| tags.tags()[*tag].to_string() == *label);
        let sample = sample::draw(&cases, latent.index(), &nearest[latent.index()], seed);
        let Some(tag) = proposed.or_else(|| by_name.get(label).copied().flatten()) else {
            tests.free.push(FreeLabel { latent: *latent, label: label.clone(), source: source_of(concept), sample });
            continue;
        };
        tests.tests.push(LabelTest {
            latent: *latent,
            label: label.clone(),
            source: tags.tags()[tag].source.clone(),
            detection: detect(&sample, &|case| presence.has(tag, case as usize)),
            stability: tests.stability.get(latent.index()).copied().flatten(),
        });
    }
    tests.cases = cases;
    Ok(tests)
}

/// Where a label in free words comes from.
fn source_of(concept: &Concept) -> String {
    match (concept.state, &concept.evidence) {
        (LabelState::Edited, _) => "edited".to_owned(),
        (_, Some(evidence)) => evidence.source.clone(),
        (_, None) => "free words".to_owned(),
    }
}

/// For each latent the least cosine to its partners in the other SAEs, 0 where one has no partner for it.
fn stability(sae: &SaeWeights, others: &[SaeWeights]) -> anyhow::Result<Vec<Option<f64>>> {
    let w_dec = sae.w_dec().context("the SAE has no decoder")?;
    let mut least: Vec<Option<f64>> = vec![None; w_dec.nrows()];
    for other in others {
        let theirs = other.w_dec().context("the other SAE has no decoder")?;
        ensure!(theirs.ncols() == w_dec.ncols(), "the other SAE reads {} values, this one {}", theirs.ncols(), w_dec.ncols());
        for (least, partner) in least.iter_mut().zip(match_latents(w_dec, theirs, LEAST_COSINE)) {
            let cosine = partner.map_or(0.0, |(_, cosine)| f64::from(cosine));
            *least = Some(least.map_or(cosine, |least| least.min(cosine)));
        }
    }
    Ok(least)
}

/// The catalogue with the tests' results, its revision raised by one. Earlier results of labels that were
/// not tested now are removed: they belong to other cases.
#[must_use]
pub fn with_tests(before: &ConceptCatalog, tests: &Tests) -> ConceptCatalog {
    let mut after = before.clone();
    after.revision += 1;
    after.concepts.values_mut().for_each(|concept| concept.tested = None);
    for test in &tests.tests {
        let detection = &test.detection;
        if let Some(concept) = after.concepts.get_mut(&test.latent) {
            concept.tested = Some(HeldOutTest {
                status: detection.status,
                n_positive: detection.recall.n,
                n_negative: detection.specificity.n,
                balanced_accuracy: detection.balanced_accuracy,
                interval: detection.interval,
                against_nearest: detection.against_nearest.map(|(value, [low, _])| [value, low]),
                recsae_confidence: detection.recsae_confidence,
                stability: test.stability,
            });
        }
    }
    after
}
