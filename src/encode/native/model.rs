//! The weights as the native engine reads them, made once and shared by all workers.

use crate::encode::native::dot::LANES;
use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

/// Latents a kernel takes at once: the dictionary is padded to a multiple of it.
pub(super) const LATENT_STEP: usize = 32;

/// An SAE's encoder `W (x - c) + b`, padded with zeros in both directions.
#[derive(Clone, Debug)]
pub struct NativeModel {
    spec: SaeSpec,
    padded_in: usize,
    padded_sae: usize,
    /// `[padded_sae, padded_in]`
    w: Vec<f32>,
    /// `[padded_sae]`
    b: Vec<f32>,
    /// `[d_in]`: zero where the graph subtracts nothing.
    centre: Vec<f32>,
    /// `||w_j||` in f64, `[d_sae]`.
    norms: Vec<f64>,
}

impl NativeModel {
    /// The encoder of these weights.
    #[must_use]
    pub fn new(weights: &SaeWeights) -> Self {
        let spec = *weights.spec();
        let (padded_in, padded_sae) = (spec.d_in.get().next_multiple_of(LANES), spec.d_sae.get().next_multiple_of(LATENT_STEP));
        let mut w = vec![0.0; padded_in * padded_sae];
        for (row, padded) in weights.w_enc().outer_iter().zip(w.chunks_exact_mut(padded_in)) {
            row.iter().zip(padded).for_each(|(value, padded)| *padded = *value);
        }
        let mut b = weights.b_enc().to_vec();
        b.resize(padded_sae, 0.0);
        let centre = if spec.centring { weights.b_dec().to_vec() } else { vec![0.0; spec.d_in.get()] };
        let norm = |row: &[f32]| row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let norms = w.chunks_exact(padded_in).take(spec.d_sae.get()).map(norm).collect();
        Self { spec, padded_in, padded_sae, w, b, centre, norms }
    }

    /// Shape and selection.
    #[must_use]
    pub fn spec(&self) -> &SaeSpec {
        &self.spec
    }

    /// Width of a row, padded.
    pub(super) fn padded_in(&self) -> usize {
        self.padded_in
    }

    /// Latents, padded.
    pub(super) fn padded_sae(&self) -> usize {
        self.padded_sae
    }

    /// One latent's weights, padded.
    pub(super) fn row(&self, latent: usize) -> &[f32] {
        &self.w[latent * self.padded_in..][..self.padded_in]
    }

    /// All biases, padded.
    pub(super) fn bias(&self) -> &[f32] {
        &self.b
    }

    /// `||w_j||` of the latents.
    pub(super) fn norms(&self) -> &[f64] {
        &self.norms
    }

    /// Appends `x - c`, padded, to `rows`.
    #[inline(always)]
    pub(super) fn centre(&self, x: &[f32], rows: &mut Vec<f32>) {
        rows.extend(x.iter().zip(&self.centre).map(|(x, c)| x - c));
        rows.resize(rows.len() + self.padded_in - x.len(), 0.0);
    }

    /// What is subtracted from a row.
    pub(super) fn centre_vector(&self) -> &[f32] {
        &self.centre
    }

    /// `||x - c||` in f64.
    pub(super) fn centred_norm(&self, x: &[f32]) -> f64 {
        x.iter().zip(&self.centre).map(|(x, c)| (f64::from(*x) - f64::from(*c)).powi(2)).sum::<f64>().sqrt()
    }

    /// The smallest value that is never active: the threshold, or 0.
    pub(super) fn floor(&self) -> f32 {
        match self.spec.selection {
            Selection::TopK(_) => 0.0,
            Selection::Threshold(threshold) => threshold.max(0.0),
        }
    }
}
