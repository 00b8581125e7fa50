//! Everything a training run is at a step: what a checkpoint holds, and nothing else.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::workshop::train::linear::dot;
use crate::workshop::train::recipe::Recipe;

/// A tensor and its memory in Adam.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// The weights.
    pub weights: Vec<f32>,
    /// Decaying means of the squared gradients.
    pub second: Vec<f32>,
}

impl Parameter {
    fn new(weights: Vec<f32>) -> Self {
        let second = vec![0.0; weights.len()];
        Self { weights, second }
    }
}

/// A run between two steps. Matrices have one row a latent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingState {
    /// Steps done.
    pub step: u64,
    /// Rows seen.
    pub rows: u64,
    /// `[d_sae, d_in]`
    pub w_enc: Parameter,
    /// `[d_sae]`
    pub b_enc: Parameter,
    /// `[d_sae, d_in]`, rows of unit norm.
    pub w_dec: Parameter,
    /// `[d_in]`
    pub b_dec: Parameter,
    /// Rows seen when the latent last fired, `[d_sae]`.
    pub fired_at: Vec<u64>,
    /// Step in which the latent last moved, `[d_sae]`: its memory in Adam is as of then.
    pub moved_at: Vec<u64>,
}

impl TrainingState {
    /// The start: random unit decoder rows, the encoder equal to them, `b_dec` at `centre`.
    #[must_use]
    pub fn new(recipe: &Recipe, centre: &[f32]) -> Self {
        let d_in = centre.len();
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        let mut w_dec: Vec<f32> = (0..recipe.d_sae * d_in).map(|_| rng.sample(StandardNormal)).collect();
        for row in w_dec.chunks_exact_mut(d_in) {
            let norm = dot(row, row).sqrt().max(f32::MIN_POSITIVE);
            row.iter_mut().for_each(|w| *w /= norm);
        }
        Self {
            step: 0,
            rows: 0,
            w_enc: Parameter::new(w_dec.clone()),
            b_enc: Parameter::new(vec![0.0; recipe.d_sae]),
            w_dec: Parameter::new(w_dec),
            b_dec: Parameter::new(centre.to_vec()),
            fired_at: vec![0; recipe.d_sae],
            moved_at: vec![0; recipe.d_sae],
        }
    }
}
