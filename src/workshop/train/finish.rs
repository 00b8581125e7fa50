//! From the state of a run to the SAE a user gets: the scaling taken back, a threshold found.

use std::num::NonZeroUsize;

use anyhow::Context;
use ndarray::{Array1, Array2};

use crate::encode::Encoder;
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::reconstruction::Decoder;
use crate::sae::weights::{SaeSpec, SaeWeights, Selection};
use crate::workshop::dataset::Dataset;
use crate::workshop::encoding::encoder;
use crate::workshop::evaluate::quality::{Quality, QualitySums};
use crate::workshop::train::recipe::Recipe;
use crate::workshop::train::state::TrainingState;

/// Rows behind the threshold.
const THRESHOLD_ROWS: usize = 20_000;
/// Values of a row that may lie above the threshold, in multiples of k.
const THRESHOLD_WIDTH: usize = 4;
/// Rows encoded together.
const BATCH: usize = 1024;

/// The SAE of a state that was trained on rows times `scale`: `z` and the biases are divided by it, which
/// leaves the selection as it is.
///
/// # Errors
/// Never with a state of the recipe's shapes.
pub fn weights(recipe: &Recipe, state: &TrainingState, scale: f32) -> anyhow::Result<SaeWeights> {
    let d_in = state.b_dec.weights.len();
    let size = |n: usize| NonZeroUsize::new(n).context("an SAE of no size");
    let spec = SaeSpec { d_in: size(d_in)?, d_sae: size(recipe.d_sae)?, selection: Selection::TopK(size(recipe.k)?), centring: true };
    let matrix = |values: &[f32]| Array2::from_shape_vec((recipe.d_sae, d_in), values.to_vec());
    let unscaled = |values: &[f32]| values.iter().map(|value| value / scale).collect::<Array1<f32>>();
    let (w_enc, w_dec) = (matrix(&state.w_enc.weights)?, matrix(&state.w_dec.weights)?);
    Ok(SaeWeights::new(spec, w_enc, unscaled(&state.b_enc.weights), Some(w_dec), unscaled(&state.b_dec.weights))?)
}

/// Quality of `sae` on some rows, and in how many each latent fired.
///
/// # Errors
/// Never where the widths agree.
pub fn quality(sae: &SaeWeights, dataset: &Dataset, rows: &[usize]) -> anyhow::Result<(Quality, Vec<u64>)> {
    let decoder = Decoder::new(sae).context("an SAE without decoder")?;
    let (mut encoder, mut batch) = (encoder(sae), EmbeddingBatch::new(sae.spec().d_in));
    let (mut activations, mut x_hat, mut sums) = (SparseActivations::default(), Vec::new(), QualitySums::default());
    let mut fired = vec![0; sae.spec().d_sae.get()];
    for rows in rows.chunks(BATCH) {
        batch.clear();
        rows.iter().try_for_each(|row| batch.push(dataset.embedding(*row)))?;
        encoder.encode(&batch, &mut activations)?;
        for at in 0..rows.len() {
            let (latents, values) = activations.row(at);
            latents.iter().for_each(|latent| fired[latent.index()] += 1);
            let error = decoder.row_error(batch.row(at), latents, values, &mut x_hat);
            sums.add(batch.row(at), &x_hat, &error, latents.len());
        }
    }
    Ok((sums.quality(), fired))
}

/// The value above which a latent counts as active, such that a row has `k` on average: what an engine
/// without TopK uses.
///
/// # Errors
/// Never where the widths agree.
pub fn threshold(sae: &SaeWeights, k: usize, dataset: &Dataset, rows: &[usize]) -> anyhow::Result<f32> {
    let wide = (k * THRESHOLD_WIDTH).min(sae.spec().d_sae.get());
    let selection = Selection::TopK(NonZeroUsize::new(wide).context("k is 0")?);
    let mut encoder = encoder(&with_selection(sae, selection)?);
    let (mut batch, mut activations, mut values) = (EmbeddingBatch::new(sae.spec().d_in), SparseActivations::default(), Vec::new());
    let stride = rows.len().div_ceil(THRESHOLD_ROWS).max(1);
    let sample: Vec<usize> = rows.iter().copied().step_by(stride).collect();
    for rows in sample.chunks(BATCH) {
        batch.clear();
        rows.iter().try_for_each(|row| batch.push(dataset.embedding(*row)))?;
        encoder.encode(&batch, &mut activations)?;
        (0..rows.len()).for_each(|at| values.extend_from_slice(activations.row(at).1));
    }
    let wanted = k * sample.len();
    if values.len() <= wanted {
        return Ok(0.0);
    }
    let (_, threshold, _) = values.select_nth_unstable_by(wanted, |a, b| b.total_cmp(a));
    Ok(*threshold)
}

/// The same SAE with another selection.
///
/// # Errors
/// Never: the shapes are those of an SAE.
pub fn with_selection(sae: &SaeWeights, selection: Selection) -> anyhow::Result<SaeWeights> {
    let spec = SaeSpec { selection, ..*sae.spec() };
    Ok(SaeWeights::new(spec, sae.w_enc().clone(), sae.b_enc().clone(), sae.w_dec().cloned(), sae.b_dec().clone())?)
}
