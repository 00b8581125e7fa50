//! `recsae steer`: targeted tuning by edits of latents, and the measurement of what it does.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use ndarray::Array2;
use serde::Serialize;

use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::latent::LatentId;
use crate::sae::weights::SaeWeights;
use crate::workshop::dataset::Dataset;
use crate::workshop::evaluate::ranking::Case;
use crate::workshop::sparse::SparseEncoder;

pub mod apply;
pub mod bootstrap;
pub mod concepts;
pub mod dose;
pub mod lists;
pub mod page;
pub mod payload;
pub mod plan;
pub mod strength;

use concepts::{TagLatent, Tags, cohens_d, latents_of};
use dose::{DOSES, Dose, Scene, World, steer, try_dose};
use lists::{ListReport, recommend, report, tag_shares};
use plan::{Action, Edit, Plan, Unit};
use strength::Strength;

/// Popularity latents ablated together.
const ABLATED: [usize; 5] = [0, 5, 10, 20, 40];

/// One tag: its latents, its doses on the rows of the choice, and the chosen one on the rows of the report.
#[derive(Clone, Debug, Serialize)]
pub struct TagResponse {
    /// The tag.
    pub tag: String,
    /// What stands for it.
    pub latents: Vec<TagLatent>,
    /// Every dose, on the rows it was chosen on.
    pub doses: Vec<Dose>,
    /// Without steering, on the rows of the report.
    pub before: Dose,
    /// The chosen dose there; absent where nothing stands for the tag or no dose is worth its cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Dose>,
    /// Whether the tag's share moved beyond both controls.
    pub moved: bool,
}

/// Ablation of the latents that lean most to popular recommendations.
#[derive(Clone, Debug, Serialize)]
pub struct PopularityResponse {
    /// Latents ablated.
    pub n_latents: usize,
    /// Smallest Cohen's d among them.
    pub cohens_d: f64,
    /// Mean `||x' - x|| / ||x||`.
    pub moved: f64,
    /// The lists.
    pub lists: ListReport,
}

/// Everything `recsae steer evaluate` found.
#[derive(Clone, Debug, Serialize)]
pub struct SteerReport {
    /// Places of a list.
    pub top: usize,
    /// Rows the doses were chosen on, and rows of the report.
    pub rows: (usize, usize),
    /// Every tag, failures included.
    pub tags: Vec<TagResponse>,
    /// Popularity latents, where a popularity is known.
    pub popularity: Vec<PopularityResponse>,
}

/// What a steering evaluation is made of.
pub struct SteerRequest<'a> {
    /// The fixed part.
    pub world: World<'a>,
    /// Rows the doses are chosen on.
    pub choose: &'a Scene,
    /// Rows of the report.
    pub report: &'a Scene,
    /// Tags of the items.
    pub tags: &'a Tags,
    /// How popular each item is.
    pub popularity: Option<&'a [f64]>,
    /// Latents that stand for a tag, at most.
    pub latents_per_tag: usize,
    /// A dose may cost NDCG down to this share of the unsteered.
    pub keep_ndcg: f64,
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
    SparseEncoder::new(sae).encode(&batch, &mut activations);
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
    let popularity = request.popularity.map(|of| popularity_responses(request, of)).transpose()?.unwrap_or_default();
    let rows = (request.choose.vectors.nrows(), request.report.vectors.nrows());
    Ok(SteerReport { top: request.world.top, rows, tags, popularity })
}

fn tag_response(request: &SteerRequest<'_>, tag: &str, has_tag: &[bool]) -> anyhow::Result<TagResponse> {
    let (world, choose) = (request.world, request.choose);
    let d_sae = world.sae.spec().d_sae.get();
    let shares = tag_shares(&choose.before, has_tag);
    let latents = latents_of(&shares, &choose.activations, d_sae, request.latents_per_tag);
    let ids: Vec<LatentId> = latents.iter().map(|latent| latent.latent).collect();
    let others: Vec<LatentId> =
        (0u32..).take(d_sae).map(LatentId).filter(|latent| !ids.contains(latent) && (world.strength)(*latent).n > 0).collect();
    let attempt =
        |scene: &Scene, dose: f32| try_dose(world, scene, &ids, &others, has_tag, dose).context("expected a decoder (W_dec), found none");
    let before = attempt(request.report, 0.0)?;
    let mut response = TagResponse { tag: tag.to_owned(), latents, doses: Vec::new(), before, chosen: None, moved: false };
    if ids.is_empty() {
        return Ok(response);
    }
    for dose in DOSES {
        response.doses.push(attempt(choose, dose)?);
    }
    let floor = request.keep_ndcg * response.doses[0].lists.ndcg;
    let worth = response.doses.iter().filter(|dose| dose.dose > 0.0 && dose.lists.ndcg >= floor);
    let best = worth.max_by(|a, b| a.share.mean.total_cmp(&b.share.mean)).filter(|best| best.share.mean > response.doses[0].share.mean);
    if let Some(best) = best.copied() {
        let chosen = attempt(request.report, best.dose)?;
        response.moved = chosen.beyond_controls();
        response.chosen = Some(chosen);
    }
    Ok(response)
}

fn popularity_responses(request: &SteerRequest<'_>, popularity: &[f64]) -> anyhow::Result<Vec<PopularityResponse>> {
    let (world, choose) = (request.world, request.choose);
    let mean = |items: &Vec<usize>| items.iter().map(|item| popularity[*item]).sum::<f64>() / items.len().max(1) as f64;
    let of_rows: Vec<f64> = choose.before.items.iter().map(mean).collect();
    let mut sorted = of_rows.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    let high: Vec<bool> = of_rows.iter().map(|value| *value > median).collect();
    let leaning = cohens_d(&high, &choose.activations, world.sae.spec().d_sae.get());
    let mut order: Vec<LatentId> = (0u32..).zip(&leaning).filter(|(_, d)| **d > 0.0).map(|(latent, _)| LatentId(latent)).collect();
    order.sort_by(|a, b| leaning[b.index()].total_cmp(&leaning[a.index()]).then(a.cmp(b)));
    let mut responses = Vec::new();
    for n in ABLATED.into_iter().filter(|n| *n <= order.len()) {
        let edit = Edit { concept: Some("popularity".into()), latents: order[..n].to_vec(), action: Action::Ablate, unit: Unit::Absolute };
        let plan = Plan { edits: vec![edit], cap: world.cap, ..Plan::default() };
        let (steered, moved) = steer(world, request.report, &plan).context("expected a decoder (W_dec), found none")?;
        let lists = recommend(steered.view(), world.items, world.padding, &request.report.cases, world.top);
        responses.push(PopularityResponse {
            n_latents: n,
            cohens_d: n.checked_sub(1).map_or(0.0, |last| leaning[order[last].index()]),
            moved,
            lists: report(&lists, &request.report.before, world.items.nrows(), world.padding),
        });
    }
    Ok(responses)
}

/// Latents of a catalogue by the accepted or proposed name of their concept.
#[must_use]
pub fn latents_by_name(catalogue: &crate::sae::concept::ConceptCatalog) -> BTreeMap<String, Vec<LatentId>> {
    let mut names: BTreeMap<String, Vec<LatentId>> = BTreeMap::new();
    for (latent, concept) in &catalogue.concepts {
        if let Some(label) = &concept.label {
            names.entry(label.to_lowercase()).or_default().push(*latent);
        }
    }
    names
}
