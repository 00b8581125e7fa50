//! The engine made of the f64 yardstick: slow, dependent on nothing, for tests and comparisons.

use crate::encode::{EncodeError, Encoder};
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::weights::SaeWeights;

/// Encodes with [`SaeWeights::encode`].
#[derive(Clone, Debug)]
pub struct PlainEncoder {
    weights: SaeWeights,
}

impl PlainEncoder {
    /// An encoder of these weights.
    #[must_use]
    pub fn new(weights: SaeWeights) -> Self {
        Self { weights }
    }
}

impl Encoder for PlainEncoder {
    fn engine(&self) -> &'static str {
        "plain"
    }

    fn d_in(&self) -> usize {
        self.weights.spec().d_in.get()
    }

    fn d_sae(&self) -> usize {
        self.weights.spec().d_sae.get()
    }

    #[expect(clippy::cast_possible_truncation, reason = "a value of an f32 SAE, rounded to f32")]
    fn encode(&mut self, batch: &EmbeddingBatch, activations: &mut SparseActivations) -> Result<(), EncodeError> {
        activations.clear();
        if batch.d_in() != self.d_in() {
            let message = format!("expected rows of {}, found {}", self.d_in(), batch.d_in());
            return Err(EncodeError { engine: "plain", message });
        }
        for row in 0..batch.n_rows() {
            for (latent, value) in self.weights.encode(batch.row(row)) {
                activations.push(latent, value as f32);
            }
            activations.end_row();
        }
        Ok(())
    }
}
