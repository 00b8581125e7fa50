//! The engine that runs a bundle's graph in ONNX Runtime, one session and one thread a worker.
//!
//! The graph gives the dense values before the selection; the selection is ours. ONNX Runtime's own
//! TopK costs 2 to 4 times the matrix product, and a second thread in it burns 1.5 to 2 times the CPU
//! of one (both measured), so neither is used.

use std::path::Path;

use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::TensorRef;

use crate::encode::library::environment;
use crate::encode::{EncodeError, Encoder, OpenError};
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::topk::Selector;
use crate::sae::weights::SaeSpec;

/// Name of this engine.
const ENGINE: &str = "onnxruntime";
/// Bytes of dense values that ONNX Runtime gives at a time. Its arena keeps the largest it ever gave, for each output of a
/// step: 2,048 rows of 2,048 latents at once were 34 MB that a process held for ever.
const DENSE_BYTES: usize = 2 << 20;
/// Fewest rows at a time: below, reading the weights again for each lot shows.
const MIN_ROWS: usize = 64;

/// A session over one graph.
#[derive(Debug)]
pub struct OrtEncoder {
    session: Session,
    input: String,
    spec: SaeSpec,
    selector: Selector,
}

impl OrtEncoder {
    /// A session over a graph that [`crate::bundle`] has checked; `library` is the configured path, if any.
    ///
    /// # Errors
    /// ONNX Runtime is not found or too old, or refuses the graph.
    pub fn new(model: &[u8], spec: &SaeSpec, library: Option<&Path>) -> Result<Self, OpenError> {
        let environment = environment(library)?;
        let refused = |error: ort::Error| OpenError::Engine { engine: ENGINE, message: error.to_string() };
        let builder = Session::builder(environment).and_then(|builder| configure(builder).map_err(ort::Error::from)).map_err(refused)?;
        let session = { builder }.commit_from_memory(model).map_err(refused)?;
        let input = session.inputs().first().map(|input| input.name().to_owned()).unwrap_or_default();
        Ok(Self { session, input, spec: *spec, selector: Selector::new(spec.selection) })
    }
}

impl OrtEncoder {
    /// Runs the graph and drops what comes out, which may be anything: what a graph costs that selects by itself.
    ///
    /// # Errors
    /// ONNX Runtime's words.
    pub fn run(&mut self, batch: &EmbeddingBatch) -> Result<(), EncodeError> {
        let failed = |message: String| EncodeError { engine: ENGINE, message };
        let input =
            TensorRef::from_array_view(([batch.n_rows(), batch.d_in()], batch.values())).map_err(|error| failed(error.to_string()))?;
        self.session.run(ort::inputs![self.input.as_str() => input]).map(drop).map_err(|error| failed(error.to_string()))
    }
}

#[expect(clippy::result_large_err, reason = "ort hands the builder back inside its error")]
fn configure(builder: SessionBuilder) -> Result<SessionBuilder, ort::Error<SessionBuilder>> {
    builder
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_optimization_level(GraphOptimizationLevel::All)
}

impl Encoder for OrtEncoder {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn d_in(&self) -> usize {
        self.spec.d_in.get()
    }

    fn d_sae(&self) -> usize {
        self.spec.d_sae.get()
    }

    fn encode(&mut self, batch: &EmbeddingBatch, activations: &mut SparseActivations) -> Result<(), EncodeError> {
        activations.clear();
        let failed = |message: String| EncodeError { engine: ENGINE, message };
        if batch.is_empty() {
            return Ok(());
        }
        if batch.d_in() != self.d_in() {
            return Err(failed(format!("expected rows of {}, found {}", self.d_in(), batch.d_in())));
        }
        let (d_in, d_sae) = (self.d_in(), self.d_sae());
        let at_a_time = (DENSE_BYTES / (size_of::<f32>() * d_sae)).max(MIN_ROWS);
        for rows in batch.values().chunks(at_a_time * d_in) {
            let n_rows = rows.len() / d_in;
            let input = TensorRef::from_array_view(([n_rows, d_in], rows)).map_err(|error| failed(error.to_string()))?;
            let outputs = self.session.run(ort::inputs![self.input.as_str() => input]).map_err(|error| failed(error.to_string()))?;
            let (_, dense) = outputs[0].try_extract_tensor::<f32>().map_err(|error| failed(error.to_string()))?;
            if dense.len() != n_rows * d_sae {
                return Err(failed(format!("expected {n_rows} x {d_sae} values, found {}", dense.len())));
            }
            for row in dense.chunks_exact(d_sae) {
                self.selector.select(row, activations);
            }
        }
        Ok(())
    }
}
