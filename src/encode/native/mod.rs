//! The engine of our own: the same active sets and values as ONNX Runtime, without the dense product's cost.
//!
//! It runs where the bundle's graph is an affine map with or without a ReLU ([`crate::bundle::onnx`]
//! says so, by meaning), and computes each value with the dot product of [`dot`], whatever the CPU.

use std::sync::Arc;

use crate::encode::{EncodeError, Encoder};
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::topk::Selector;

mod agreement;
mod cpu;
mod dot;
#[cfg(target_arch = "x86_64")]
mod dot_avx2;
mod model;
mod stress;

pub use agreement::{Agreement, compare};
pub use cpu::Kernel;
pub use model::NativeModel;
pub use stress::rows as stress_rows;

/// Name of this engine.
pub(super) const ENGINE: &str = "native";
/// Rows whose dense values are in memory at once: 48 x 1,024 values fit the second cache.
const BLOCK: usize = 48;

/// Encodes with our own kernels.
#[derive(Debug)]
pub struct NativeEncoder {
    model: Arc<NativeModel>,
    kernel: Kernel,
    selector: Selector,
    rows: Vec<f32>,
    dense: Vec<f32>,
}

impl NativeEncoder {
    /// An encoder with the given instructions.
    #[must_use]
    pub fn new(model: Arc<NativeModel>, kernel: Kernel) -> Self {
        let selection = model.spec().selection;
        Self { model, kernel, selector: Selector::new(selection), rows: Vec::new(), dense: Vec::new() }
    }

    /// Evaluates every latent with the engine's dot product: what anything faster must give bit for bit.
    fn encode_dense(&mut self, batch: &EmbeddingBatch, activations: &mut SparseActivations) {
        for block in batch.values().chunks(BLOCK * batch.d_in()) {
            self.rows.clear();
            block.chunks_exact(batch.d_in()).for_each(|row| self.model.centre(row, &mut self.rows));
            let n_rows = block.len() / batch.d_in();
            self.dense.resize(n_rows * self.model.padded_sae(), 0.0);
            dot::dense(self.kernel, &self.model, &self.rows, &mut self.dense);
            for row in self.dense.chunks_exact(self.model.padded_sae()) {
                self.selector.select(row, activations);
            }
        }
    }
}

impl Encoder for NativeEncoder {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn d_in(&self) -> usize {
        self.model.spec().d_in.get()
    }

    fn d_sae(&self) -> usize {
        self.model.spec().d_sae.get()
    }

    fn encode(&mut self, batch: &EmbeddingBatch, activations: &mut SparseActivations) -> Result<(), EncodeError> {
        activations.clear();
        if batch.d_in() != self.d_in() {
            let message = format!("expected rows of {}, found {}", self.d_in(), batch.d_in());
            return Err(EncodeError { engine: ENGINE, message });
        }
        self.encode_dense(batch, activations);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
