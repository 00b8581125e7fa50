//! Embeddings to sparse activations: one trait, because two engines implement it.

use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;

/// Why an engine could not encode a batch: a fault of the model or of ours, never of a record
/// (records are checked before they enter a batch).
#[derive(Debug, thiserror::Error)]
#[error("encoding failed in {engine}: {message}")]
pub struct EncodeError {
    /// Engine that failed.
    pub engine: &'static str,
    /// Its words.
    pub message: String,
}

/// An SAE encoder with exact selection. One per worker: `encode` needs `&mut self` for scratch memory.
pub trait Encoder: Send {
    /// Name of the engine: `onnxruntime`, `plain`, `native`.
    fn engine(&self) -> &'static str;
    /// Width of an embedding.
    fn d_in(&self) -> usize;
    /// Number of latents.
    fn d_sae(&self) -> usize;
    /// Encodes `[n, d_in]` into `n` sparse rows, replacing what `activations` held.
    ///
    /// # Errors
    /// The engine refused the batch; `activations` is then unspecified.
    fn encode(&mut self, batch: &EmbeddingBatch, activations: &mut SparseActivations) -> Result<(), EncodeError>;
}
