//! Embeddings to sparse activations: one trait, because several engines implement it.
//!
//! ONNX Runtime loads, checks and judges a model. Where the model's graph is a plain encoder, the native
//! engine computes the same for a fraction of the time, under ONNX Runtime's eyes.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bundle::Bundle;
use crate::bundle::golden::{GoldenMismatch, GoldenReport};
use crate::bundle::onnx;
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::weights::SaeSpec;

mod checked;
mod library;
pub mod native;
mod ort;
mod plain;

use checked::CheckedEncoder;
use native::{Kernel, NativeEncoder, NativeModel, compare, stress_rows};

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
    /// Rows since the last call that a second engine encoded differently, by more than rounding explains.
    fn take_mismatches(&mut self) -> u64 {
        0
    }
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
    /// The native engine was asked for, and cannot be used.
    #[error("engine \"native\" cannot be used for this bundle: {why}; set [encode] engine = \"auto\" or \"onnxruntime\"")]
    NotNative {
        /// Why.
        why: String,
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
            Self::NotNative { .. } => "not_native",
            Self::Golden { .. } => "golden",
            Self::Encode(_) => "encode",
        }
    }
}

/// Which engine to use; `auto` is the fastest that reads the bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The native engine where the graph is a plain encoder and both engines agree at the start, else ONNX Runtime.
    #[default]
    Auto,
    /// ONNX Runtime.
    OnnxRuntime,
    /// The native engine, or a refusal that says why not.
    Native,
}

/// Batches between two comparisons with ONNX Runtime: one in 128 adds what `make bench-encode` prints, some 2 %. Fewer
/// batches between them would cost more, more would let a wrong engine count for longer.
pub const COMPARE_EVERY: NonZeroU32 = NonZeroU32::MIN.saturating_add(127);
/// Multiply-adds spent on generated rows at the start, on each engine: a blink of time but for the largest SAEs.
const STRESS_WORK: usize = 1 << 28;
/// Fewest and most of them.
const STRESS_ROWS: (usize, usize) = (2000, 4000);

/// An encoder for a bundle, one per worker, after its golden rows were met.
///
/// # Errors
/// ONNX Runtime is missing or too old, the engine refuses the graph, or a golden row is not met.
pub fn open(bundle: &Bundle, engine: Engine, library: Option<&Path>) -> Result<Box<dyn Encoder>, OpenError> {
    open_comparing(bundle, engine, library, COMPARE_EVERY)
}

/// The same, with one batch in `every` encoded by ONNX Runtime too.
///
/// # Errors
/// As [`open`].
pub fn open_comparing(bundle: &Bundle, engine: Engine, library: Option<&Path>, every: NonZeroU32) -> Result<Box<dyn Encoder>, OpenError> {
    let mut judge = open_unchecked(bundle, Engine::OnnxRuntime, library)?;
    check_golden(judge.as_mut(), bundle)?;
    match engine {
        Engine::OnnxRuntime => Ok(judge),
        Engine::Native => open_native(bundle, judge, every),
        Engine::Auto => open_native(bundle, judge, every).or_else(|error| {
            tracing::info!(bundle = %bundle.dir().display(), why = %error, "ONNX Runtime encodes");
            open_unchecked(bundle, Engine::OnnxRuntime, library)
        }),
    }
}

/// The native engine, after it agreed with `judge` on the golden rows and on generated ones.
fn open_native(bundle: &Bundle, mut judge: Box<dyn Encoder>, every: NonZeroU32) -> Result<Box<dyn Encoder>, OpenError> {
    let not_native = |why: String| OpenError::NotNative { why };
    if !Kernel::best().is_fast() {
        return Err(not_native("this CPU has no instructions it is fast with".into()));
    }
    let model = native_model(bundle)?;
    let mut native = NativeEncoder::new(Arc::clone(&model), Kernel::best());
    check_golden(&mut native, bundle)?;
    let spec = bundle.spec();
    let n_rows = (STRESS_WORK / (spec.d_in.get() * spec.d_sae.get())).clamp(STRESS_ROWS.0, STRESS_ROWS.1);
    let rows = stress_rows(&model, n_rows, 0);
    let (mut found, mut expected) = (SparseActivations::default(), SparseActivations::default());
    native.encode(&rows, &mut found)?;
    judge.encode(&rows, &mut expected)?;
    native.judge_anew();
    match compare(&model, &rows, &found, &expected).first_mismatch {
        None => Ok(Box::new(CheckedEncoder::new(native, model, judge, every))),
        Some(why) => Err(not_native(format!("it differs from ONNX Runtime on generated {why}"))),
    }
}

/// The weights in a bundle's graph, for the native engine.
///
/// # Errors
/// The graph is not an affine map with or without a ReLU; says what is in the way.
pub fn native_model(bundle: &Bundle) -> Result<Arc<NativeModel>, OpenError> {
    let weights = onnx::affine_encoder(bundle.model(), bundle.spec())
        .map_err(|why| OpenError::NotNative { why: format!("its graph is no affine map with a ReLU ({why})") })?;
    Ok(Arc::new(NativeModel::new(&weights)))
}

/// An encoder whose golden rows are still to be checked with [`check_golden`].
///
/// # Errors
/// ONNX Runtime is missing or too old, or the engine refuses the graph.
pub fn open_unchecked(bundle: &Bundle, engine: Engine, library: Option<&Path>) -> Result<Box<dyn Encoder>, OpenError> {
    match engine {
        Engine::Auto | Engine::OnnxRuntime => Ok(Box::new(OrtEncoder::new(bundle.model(), bundle.spec(), library)?)),
        Engine::Native => Ok(Box::new(NativeEncoder::new(native_model(bundle)?, Kernel::best()))),
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
