//! `recsae steer`: targeted tuning by edits of latents, and the measurement of what it does.

use std::collections::BTreeMap;

use anyhow::ensure;
use ndarray::Array2;
use serde::Serialize;

use crate::encode::Encoder;
use crate::sae::activation::SparseActivations;
use crate::sae::concept::{ConceptCatalog, LabelState};
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::latent::LatentId;
use crate::sae::weights::SaeWeights;
use crate::workshop::dataset::Dataset;
use crate::workshop::encoding::encoder;
use crate::workshop::evaluate::ranking::Case;

pub mod apply;
pub mod bootstrap;
pub mod concepts;
pub mod dose;
pub mod lists;
pub mod page;
pub mod payload;
pub mod plan;
pub mod popularity;
pub mod pull;
pub mod request;
pub mod strength;
pub mod tag_response;

use concepts::Tags;
use dose::Scene;
use lists::recommend;
use popularity::{PopularityReport, popularity_report};
use request::SteerRequest;
use strength::Strength;
use tag_response::{TagResponse, tag_response};

/// Everything `recsae steer evaluate` found.
#[derive(Clone, Debug, Serialize)]
pub struct SteerReport {
    /// Places of a list.
    pub top: usize,
    /// Rows latents and doses were chosen on, and rows of the report.
    pub rows: (usize, usize),
    /// Whether tags went by accepted concepts.
    pub by_accepted_concepts: bool,
    /// Every tag, failures included.
    pub tags: Vec<TagResponse>,
    /// Popularity taken back, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub popularity: Option<PopularityReport>,
}

/// Rows made ready: encoded, and recommended to.
///
/// # Errors
/// Widths differ.
pub fn scene(
    sae: &SaeWeights,
    dataset: &Dataset,
    cases: Vec<Case>,
    items: &Array2<f32>,
    padding: Option<usize>,
    top: usize,
) -> anyhow::Result<Scene> {
    let d_in = sae.spec().d_in;
    ensure!(dataset.d_in() == d_in.get() && items.ncols() == d_in.get(), "embeddings, items and SAE must be of one width, {d_in}");
    let mut batch = EmbeddingBatch::new(d_in);
    dataset.fill(0..dataset.n_rows(), &mut batch)?;
    let mut activations = SparseActivations::default();
    encoder(sae).encode(&batch, &mut activations)?;
    let vectors = batch.view().to_owned();
    let before = recommend(vectors.view(), items, padding, &cases, top);
    Ok(Scene { vectors, activations, cases, before })
}

/// Strength of every latent over a scene.
#[must_use]
pub fn strengths(activations: &SparseActivations, d_sae: usize) -> Vec<Strength> {
    let mut values = vec![Vec::new(); d_sae];
    for row in 0..activations.n_rows() {
        let (latents, active) = activations.row(row);
        latents.iter().zip(active).for_each(|(latent, value)| values[latent.index()].push(*value));
    }
    values.into_iter().map(Strength::of).collect()
}

/// Evaluates every tag and, where known, popularity. `progress` is told tags done.
///
/// # Errors
/// The SAE has no decoder.
pub fn evaluate(request: &SteerRequest<'_>, progress: &dyn Fn(usize)) -> anyhow::Result<SteerReport> {
    let mut tags = Vec::new();
    for (done, (tag, has_tag)) in request.tags.items.iter().enumerate() {
        tags.push(tag_response(request, tag, has_tag)?);
        progress(done + 1);
    }
    let popularity = request.popularity.map(|of| popularity_report(request, of)).transpose()?;
    let rows = (request.choose.vectors.nrows(), request.report.vectors.nrows());
    Ok(SteerReport { top: request.world.top, rows, by_accepted_concepts: request.accepted.is_some(), tags, popularity })
}

/// For every tag of a column, the latents of its accepted concepts.
///
/// # Errors
/// No concept of the catalogue is accepted for any of them.
pub fn accepted(catalogue: &ConceptCatalog, column: &str, tags: &Tags) -> anyhow::Result<BTreeMap<String, Vec<LatentId>>> {
    let of = |tag: &String| (tag.clone(), concepts::accepted_latents(catalogue, column, tag));
    let found: BTreeMap<String, Vec<LatentId>> = tags.items.keys().map(of).filter(|(_, latents)| !latents.is_empty()).collect();
    ensure!(
        !found.is_empty(),
        "the catalogue accepts no concept for any of the {} tags in {column:?}: propose with `recsae label`, accept with `recsae review`",
        tags.items.len()
    );
    Ok(found)
}

/// Latents of a catalogue by the accepted or proposed name of their concept. A rejected name is nobody's: what it was
/// rejected for would be steered.
#[must_use]
pub fn latents_by_name(catalogue: &ConceptCatalog) -> BTreeMap<String, Vec<LatentId>> {
    let mut names: BTreeMap<String, Vec<LatentId>> = BTreeMap::new();
    for (latent, concept) in catalogue.concepts.iter().filter(|(_, concept)| concept.state != LabelState::Rejected) {
        if let Some(label) = &concept.label {
            names.entry(label.to_lowercase()).or_default().push(*latent);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::concept::Concept;

    #[test]
    fn a_rejected_name_names_no_latent() {
        let concept = |state| Concept { label: Some("War".into()), state, ..Concept::default() };
        let states = [LabelState::Accepted, LabelState::Rejected, LabelState::Proposed, LabelState::NeedsData];
        let concepts = (0u32..).map(LatentId).zip(states.map(concept)).collect();
        let names = latents_by_name(&ConceptCatalog { concepts, ..ConceptCatalog::default() });
        assert_eq!(names, BTreeMap::from([("war".to_owned(), [0, 2, 3].map(LatentId).to_vec())]));
    }
}
