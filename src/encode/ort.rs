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
        let d_sae = self.d_sae();
        let input =
            TensorRef::from_array_view(([batch.n_rows(), batch.d_in()], batch.values())).map_err(|error| failed(error.to_string()))?;
        let outputs = self.session.run(ort::inputs![self.input.as_str() => input]).map_err(|error| failed(error.to_string()))?;
        let (_, dense) = outputs[0].try_extract_tensor::<f32>().map_err(|error| failed(error.to_string()))?;
        if dense.len() != batch.n_rows() * d_sae {
            return Err(failed(format!("expected {} x {d_sae} values, found {}", batch.n_rows(), dense.len())));
        }
        for row in dense.chunks_exact(d_sae) {
            self.selector.select(row, activations);
        }
        Ok(())
    }
}
