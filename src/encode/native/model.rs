//! The weights as the native engine reads them, made once and shared by all workers.

use crate::sae::aligned::Aligned;
use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

/// Dimensions a kernel takes at once, a multiple of the lanes of `native::dot`: rows are padded to a multiple of it.
const INPUT_STEP: usize = 16;
/// Latents a kernel takes at once: the dictionary is padded to a multiple of it.
pub(super) const LATENT_STEP: usize = 32;

/// An SAE's encoder `W (x - c) + b`, padded with zeros in both directions.
#[derive(Clone, Debug)]
pub struct NativeModel {
    spec: SaeSpec,
    padded_in: usize,
    padded_sae: usize,
    /// `[padded_sae, padded_in]`
    w: Aligned<f32>,
    /// `[padded_sae]`
    b: Vec<f32>,
    /// `[d_in]`: zero where the graph subtracts nothing.
    centre: Vec<f32>,
    /// `||w_j||` in f64, `[d_sae]`.
    norms: Vec<f64>,
    /// What each latent must exceed, `[padded_sae]`, where they have thresholds of their own.
    floors: Option<Vec<f32>>,
}

impl NativeModel {
    /// The encoder of these weights.
    #[must_use]
    pub fn new(weights: &SaeWeights) -> Self {
        let spec = *weights.spec();
        let (padded_in, padded_sae) = (spec.d_in.get().next_multiple_of(INPUT_STEP), spec.d_sae.get().next_multiple_of(LATENT_STEP));
        let mut w = Aligned::zeros(padded_in * padded_sae);
        for (row, padded) in weights.w_enc().outer_iter().zip(w.chunks_exact_mut(padded_in)) {
            row.iter().zip(padded).for_each(|(value, padded)| *padded = *value);
        }
        let mut b = weights.b_enc().to_vec();
        b.resize(padded_sae, 0.0);
        let centre = if spec.centring { weights.b_dec().to_vec() } else { vec![0.0; spec.d_in.get()] };
        let norm = |row: &[f32]| row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let norms = w.chunks_exact(padded_in).take(spec.d_sae.get()).map(norm).collect();
        let mut model = Self { spec, padded_in, padded_sae, w, b, centre, norms, floors: None };
        model.floors = weights.thresholds().map(|own| {
            let mut floors: Vec<f32> = own.iter().map(|own| own.max(model.floor())).collect();
            floors.resize(padded_sae, model.floor());
            floors
        });
        model
    }

    /// A model of this shape whose weights are all zero, and which subtracts nothing from a row.
    pub(super) fn zeros(spec: SaeSpec) -> Self {
        let (padded_in, padded_sae) = (spec.d_in.get().next_multiple_of(INPUT_STEP), spec.d_sae.get().next_multiple_of(LATENT_STEP));
        Self {
            spec,
            padded_in,
            padded_sae,
            w: Aligned::zeros(padded_in * padded_sae),
            b: vec![0.0; padded_sae],
            centre: vec![0.0; spec.d_in.get()],
            norms: vec![0.0; spec.d_sae.get()],
            floors: None,
        }
    }

    /// All weights and biases, padded. The norms, which comparing two engines asks for, are not those of what is
    /// written there.
    pub(super) fn weights_mut(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.w, &mut self.b)
    }

    /// What a fault in memory may leave behind: the same model with every weight's sign turned. For tests, which
    /// plant it, and for the point at which they do.
    pub(in crate::encode) fn with_signs_turned(&self) -> Self {
        let mut turned = self.clone();
        turned.w.iter_mut().for_each(|w| *w = -*w);
        turned
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

    /// `x - c`, padded, of rows `[n, d_in]` to `ys [n, padded_in]`.
    #[inline(always)]
    pub(super) fn centre(&self, xs: &[f32], ys: &mut [f32]) {
        let d_in = self.spec.d_in.get();
        for (x, y) in xs.chunks_exact(d_in).zip(ys.chunks_exact_mut(self.padded_in)) {
            let (y, padding) = y.split_at_mut(d_in);
            for ((y, x), c) in y.iter_mut().zip(x).zip(&self.centre) {
                *y = x - c;
            }
            padding.fill(0.0);
        }
    }

    /// What is subtracted from a row.
    pub(super) fn centre_vector(&self) -> &[f32] {
        &self.centre
    }

    /// `||x - c||` in f64.
    pub(super) fn centred_norm(&self, x: &[f32]) -> f64 {
        x.iter().zip(&self.centre).map(|(x, c)| (f64::from(*x) - f64::from(*c)).powi(2)).sum::<f64>().sqrt()
    }

    /// The largest value of a latent that is never active, whatever the others are.
    pub(super) fn floor_of(&self, latent: usize) -> f32 {
        self.floors.as_ref().map_or_else(|| self.floor(), |floors| floors[latent])
    }

    /// Whether latents have thresholds of their own.
    pub(super) fn is_gated(&self) -> bool {
        self.floors.is_some()
    }

    /// Makes values silent that do not exceed their latent's own threshold: `latents` says whose they are.
    pub(super) fn gate(&self, latents: impl Iterator<Item = usize>, values: &mut [f32]) {
        if let Some(floors) = &self.floors {
            for (latent, value) in latents.zip(values) {
                *value = if *value > floors[latent] { *value } else { 0.0 };
            }
        }
    }

    /// The largest value that no latent is active with: the threshold of all, or 0.
    pub(super) fn floor(&self) -> f32 {
        match self.spec.selection {
            Selection::TopK(_) => 0.0,
            Selection::Threshold(threshold) => threshold.max(0.0),
        }
    }
}
