//! `recsae evaluate`: what an SAE keeps of a recommender's vectors, and of its recommendations.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::encode::Encoder;
use crate::encode::native::NativeEncoder;
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::reconstruction::{Decoder, RowError};
use crate::sae::weights::SaeWeights;
use crate::workshop::dataset::Dataset;
use crate::workshop::encoding::{encoder, in_order, n_threads};

pub mod latents;
pub mod page;
pub mod quality;
pub mod ranking;
mod ranking_plots;

use latents::{LatentUse, latent_use};
use quality::{Quality, QualitySums};
use ranking::{Case, Catalogue, ndcg, overlap, rank, top_k};

/// Bins of the histograms of cosine and L0.
const BINS: usize = 40;

/// What is asked beside the quality of the whole.
#[derive(Debug, Default)]
pub struct EvaluateRequest {
    /// Fields by whose values the rows are also evaluated apart.
    pub segments: Vec<String>,
    /// Field that names the user, for the values per user.
    pub entity: Option<String>,
    /// Items and cases (one a row): recommendations are compared too.
    pub ranking: Option<(Catalogue, Vec<Case>)>,
    /// Places of a recommendation.
    pub top: usize,
}

/// The answer, as written to JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// The SAE.
    pub sae: crate::sae::weights::SaeSpec,
    /// All rows.
    pub quality: Quality,
    /// Use of the latents.
    pub latents: LatentUse,
    /// Recommendations before and after, all rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Ranking>,
    /// The same by `field=value`.
    pub segments: BTreeMap<String, Part>,
    /// Rows by cosine of embedding and reconstruction, from 0 (and below) to 1.
    pub cosine_histogram: Vec<u64>,
    /// Rows by number of active latents.
    pub l0_histogram: BTreeMap<usize, u64>,
    /// The same by user, where the user is known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<String, UserValues>,
}

/// Recommendations from the embedding (before) and from its reconstruction (after).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Ranking {
    /// Cases.
    pub rows: u64,
    /// Places looked at.
    pub top: usize,
    /// NDCG from the embedding.
    pub ndcg_before: f64,
    /// NDCG from the reconstruction.
    pub ndcg_after: f64,
    /// Hit rate from the embedding.
    pub hit_rate_before: f64,
    /// Hit rate from the reconstruction.
    pub hit_rate_after: f64,
    /// Share of the first places that hold the same items.
    pub overlap: f64,
}

/// One segment.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Its rows.
    pub quality: Quality,
    /// Its recommendations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Ranking>,
}

/// One user: means over the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct UserValues {
    /// Rows.
    pub rows: u64,
    /// Mean `||x - x_hat||^2`.
    pub squared_error: f64,
    /// Mean cosine.
    pub cosine: f64,
    /// Recommendations; zeros where none were compared.
    #[serde(skip_serializing_if = "is_nothing")]
    pub ranking: Ranking,
}

fn is_nothing(ranking: &Ranking) -> bool {
    ranking.rows == 0
}

/// Evaluates `sae` on the rows of `dataset`. `progress` is told the rows done.
///
/// # Errors
/// Widths differ, the SAE has no decoder, or a segment or entity column is missing.
pub fn evaluate(sae: &SaeWeights, dataset: &Dataset, request: &EvaluateRequest, progress: &dyn Fn(usize)) -> anyhow::Result<Evaluation> {
    let d_in = sae.spec().d_in;
    ensure!(dataset.d_in() == d_in.get(), "the embeddings have {} values, the SAE reads {d_in}", dataset.d_in());
    let decoder = Decoder::new(sae).context("expected a decoder (W_dec), found none")?;
    let users = request.entity.as_deref().map(|name| dataset.column(name)?.keys()).transpose()?;
    let mut names = Vec::new();
    for field in &request.segments {
        names.push((field, dataset.column(field)?.keys().with_context(|| format!("--segment {field}"))?));
    }
    let mut total = Sums::default();
    let mut segments: BTreeMap<String, Sums> = BTreeMap::new();
    let mut by_user: BTreeMap<String, UserValues> = BTreeMap::new();
    let mut n_fired = vec![0u64; sae.spec().d_sae.get()];
    let (mut cosines, mut l0) = (vec![0u64; BINS], BTreeMap::new());
    let begin = || Ok((encoder(sae), EmbeddingBatch::new(d_in), Vec::new()));
    let look = |(encoder, batch, scores): &mut (NativeEncoder, EmbeddingBatch, Vec<f32>), rows: Range<usize>| {
        let mut looked = Looked::default();
        dataset.fill(rows.clone(), batch)?;
        encoder.encode(batch, &mut looked.activations)?;
        for row in rows.clone() {
            let (x, mut x_hat) = (dataset.embedding(row), Vec::new());
            let (latents, values) = looked.activations.row(row - rows.start);
            let error = decoder.row_error(x, latents, values, &mut x_hat);
            let ranked = request.ranking.as_ref().map(|(catalogue, cases)| {
                let mut score = |vector: &[f32]| {
                    catalogue.scores(vector, &cases[row].earlier, scores);
                    (rank(scores, cases[row].target), top_k(scores, request.top))
                };
                let ((before, list_before), (after, list_after)) = (score(x), score(&x_hat));
                Ranked { before, after, overlap: overlap(&list_before, &list_after) }
            });
            looked.rows.push((error, x_hat, ranked));
        }
        Ok(looked)
    };
    in_order(dataset.n_rows(), n_threads(), begin, look, |rows, looked| {
        let end = rows.end;
        for (at, (row, (error, x_hat, ranked))) in rows.zip(looked.rows).enumerate() {
            let (x, latents) = (dataset.embedding(row), looked.activations.row(at).0);
            latents.iter().for_each(|latent| n_fired[latent.index()] += 1);
            cosines[bin(error.cosine)] += 1;
            *l0.entry(latents.len()).or_insert(0) += 1;
            let add = |sums: &mut Sums| {
                sums.quality.add(x, &x_hat, &error, latents.len());
                sums.ranking.add(ranked, request.top);
            };
            add(&mut total);
            for (field, values) in &names {
                add(segments.entry(format!("{field}={}", values[row])).or_default());
            }
            if let Some(users) = &users {
                let user = by_user.entry(users[row].clone()).or_default();
                user.rows += 1;
                user.squared_error += error.squared_error;
                user.cosine += error.cosine;
                user.ranking.add(ranked, request.top);
            }
        }
        progress(end);
        Ok(())
    })?;
    for user in by_user.values_mut() {
        user.squared_error /= user.rows as f64;
        user.cosine /= user.rows as f64;
        user.ranking = user.ranking.mean();
    }
    let part = |sums: &Sums| Part { quality: sums.quality.quality(), ranking: sums.ranking() };
    Ok(Evaluation {
        sae: *sae.spec(),
        quality: total.quality.quality(),
        latents: latent_use(sae, &n_fired, dataset.n_rows() as u64),
        ranking: total.ranking(),
        segments: segments.iter().map(|(name, sums)| (name.clone(), part(sums))).collect(),
        cosine_histogram: cosines,
        l0_histogram: l0,
        users: by_user,
    })
}

/// What was seen of a batch.
#[derive(Debug, Default)]
struct Looked {
    activations: SparseActivations,
    /// Error, reconstruction, recommendations of each row.
    rows: Vec<(RowError, Vec<f32>, Option<Ranked>)>,
}

#[derive(Clone, Debug, Default)]
struct Sums {
    quality: QualitySums,
    ranking: Ranking,
}

impl Sums {
    fn ranking(&self) -> Option<Ranking> {
        (self.ranking.rows > 0).then(|| self.ranking.mean())
    }
}

/// One row's recommendations: ranks of the target, and the lists' overlap.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    before: usize,
    after: usize,
    overlap: f64,
}

impl Ranking {
    /// While adding, the fields are sums.
    fn add(&mut self, ranked: Option<Ranked>, top: usize) {
        let Some(ranked) = ranked else { return };
        self.rows += 1;
        self.top = top;
        self.ndcg_before += ndcg(ranked.before, top);
        self.ndcg_after += ndcg(ranked.after, top);
        self.hit_rate_before += f64::from(u8::from(ranked.before < top));
        self.hit_rate_after += f64::from(u8::from(ranked.after < top));
        self.overlap += ranked.overlap;
    }

    fn mean(self) -> Self {
        let mean = |sum: f64| sum / self.rows.max(1) as f64;
        Self {
            ndcg_before: mean(self.ndcg_before),
            ndcg_after: mean(self.ndcg_after),
            hit_rate_before: mean(self.hit_rate_before),
            hit_rate_after: mean(self.hit_rate_after),
            overlap: mean(self.overlap),
            ..self
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..BINS")]
fn bin(cosine: f64) -> usize {
    (cosine * BINS as f64).clamp(0.0, (BINS - 1) as f64) as usize
}
