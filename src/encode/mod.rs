//! Embeddings to sparse activations: one trait, because two engines implement it.

use std::path::{Path, PathBuf};

use crate::bundle::Bundle;
use crate::bundle::golden::{GoldenMismatch, GoldenReport};
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::weights::SaeSpec;

mod library;
mod ort;
mod plain;

pub use library::{LIBRARY_VARIABLE, LibraryError};
pub use ort::OrtEncoder;
pub use plain::PlainEncoder;

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

/// Why an encoder cannot be had for a bundle.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// ONNX Runtime cannot be used.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The engine refuses the graph.
    #[error("{engine} refuses the graph: {message}; build the bundle again with `recsae bundle build`")]
    Engine {
        /// The engine.
        engine: &'static str,
        /// Its words.
        message: String,
    },
    /// The engine asked for does not exist here.
    #[error("engine \"{engine}\" is not part of this recsae; set [encode] engine = \"auto\" or \"onnxruntime\"")]
    NoSuchEngine {
        /// The engine.
        engine: &'static str,
    },
    /// The golden rows are not met.
    #[error("{}: {mismatch}", bundle.display())]
    Golden {
        /// The bundle's folder.
        bundle: PathBuf,
        /// The first row that differs.
        mismatch: GoldenMismatch,
    },
    /// The engine failed on the golden rows.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl OpenError {
    /// Stable name of the kind of fault.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Library(_) => "library",
            Self::Engine { .. } => "engine",
            Self::NoSuchEngine { .. } => "no_such_engine",
            Self::Golden { .. } => "golden",
            Self::Encode(_) => "encode",
        }
    }
}

/// Which engine to use; `auto` is the fastest that is part of this program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The fastest that reads the bundle.
    #[default]
    Auto,
    /// ONNX Runtime.
    OnnxRuntime,
    /// Our own matrix product.
    Native,
}

/// An encoder for a bundle, one per worker, after its golden rows were met.
///
/// # Errors
/// ONNX Runtime is missing or too old, the engine refuses the graph, or a golden row is not met.
pub fn open(bundle: &Bundle, engine: Engine, library: Option<&Path>) -> Result<Box<dyn Encoder>, OpenError> {
    let mut encoder = open_unchecked(bundle, engine, library)?;
    check_golden(encoder.as_mut(), bundle)?;
    Ok(encoder)
}

/// An encoder whose golden rows are still to be checked with [`check_golden`].
///
/// # Errors
/// ONNX Runtime is missing or too old, or the engine refuses the graph.
pub fn open_unchecked(bundle: &Bundle, engine: Engine, library: Option<&Path>) -> Result<Box<dyn Encoder>, OpenError> {
    match engine {
        Engine::Auto | Engine::OnnxRuntime => Ok(Box::new(OrtEncoder::new(bundle.model(), bundle.spec(), library)?)),
        Engine::Native => Err(OpenError::NoSuchEngine { engine: "native" }),
    }
}

/// Runs a bundle's golden rows through an encoder and compares the answers.
///
/// # Errors
/// A row is not met, or the engine fails.
pub fn check_golden(encoder: &mut dyn Encoder, bundle: &Bundle) -> Result<GoldenReport, OpenError> {
    let failed = |mismatch| OpenError::Golden { bundle: bundle.dir().to_owned(), mismatch };
    let batch = bundle.golden().batch(bundle.spec()).map_err(failed)?;
    let mut activations = SparseActivations::default();
    encoder.encode(&batch, &mut activations)?;
    bundle.golden().compare(&activations, bundle.decoder()).map_err(failed)
}

/// Runs a graph that was just read on a batch: what `bundle build` tries its parts with.
///
/// # Errors
/// The engine's words.
pub fn run_graph(spec: &SaeSpec, model: &[u8], batch: &EmbeddingBatch, library: Option<&Path>) -> Result<SparseActivations, String> {
    let mut encoder = OrtEncoder::new(model, spec, library).map_err(|error| error.to_string())?;
    let mut activations = SparseActivations::default();
    encoder.encode(batch, &mut activations).map_err(|error| error.to_string())?;
    Ok(activations)
}
