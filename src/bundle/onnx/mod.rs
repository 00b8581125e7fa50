//! Reading a user's ONNX file, which is untrusted, and rewriting it to what recsae runs.
//!
//! `guard` refuses what is too large or calls an operator off the list, `external` fetches weights
//! from beside the file and from nowhere else, `facts` says what each tensor is (a constant, or one
//! row of so many values per embedding), `analysis` finds by these meanings, never by names, the
//! tensor before the selection, `weights` reads encoder and decoder out of the graph, and `rewrite`
//! makes a new graph with that tensor as its only output and a symbolic batch. ONNX Runtime only ever
//! sees the new graph: small, of row-wise operators, without external data.

use std::path::Path;

use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

mod analysis;
mod error;
mod external;
mod facts;
mod gate;
mod guard;
mod proto;
mod rewrite;
mod weights;
pub mod write;

pub use error::OnnxError;
pub use guard::MAX_FILE_BYTES;

/// What was found in a user's graph.
#[derive(Debug)]
pub struct EncoderGraph {
    /// The rewritten graph, one self-contained file: `[batch, d_in]` f32 to `[batch, d_sae]` f32.
    pub model: Vec<u8>,
    /// Shape and selection.
    pub spec: SaeSpec,
    /// Weights, where the graph has the plain form `(x - b) W^T + b`; the decoder where the graph has one.
    pub weights: Option<SaeWeights>,
    /// What a user should know about how the graph was read.
    pub notes: Vec<String>,
}

/// Reads the graph in `path`. `selection` is what the user says it is; absent, it must be in the graph.
///
/// # Errors
/// The file is refused: see [`OnnxError`].
pub fn read(path: &Path, selection: Option<Selection>) -> Result<EncoderGraph, OnnxError> {
    let mut model = guard::read(path)?;
    external::embed(&mut model, path)?;
    guard::refuse_not_finite(&model)?;
    let graph = facts::Graph::new(&model)?;
    let found = analysis::find_encoder(&graph, selection)?;
    let mut notes = found.notes;
    let weights = match weights::find(&graph, &found.selected, found.d_in, found.d_sae, found.selection) {
        Ok(read) => {
            notes.extend(read.notes);
            Some(read.weights)
        }
        Err(why) => {
            notes.push(format!("weights were not read out of the graph ({why}); give --weights to measure the input contract"));
            None
        }
    };
    let model = rewrite::encoder_only(&graph, &found.selected.dense, found.d_in, found.d_sae)?;
    let centring = weights.as_ref().is_some_and(|weights| weights.spec().centring);
    let spec = SaeSpec { d_in: found.d_in, d_sae: found.d_sae, selection: found.selection, centring };
    Ok(EncoderGraph { model, spec, weights, notes })
}

/// The weights of a bundle's graph where it is `Relu? (W (x - c) + b)`, without a decoder: what an engine
/// of our own can compute instead of it. They come out of the graph that ONNX Runtime runs, so that no
/// other file can make the two differ.
///
/// # Errors
/// In words, what in the graph is not that.
pub fn affine_encoder(bytes: &[u8], spec: &SaeSpec) -> Result<SaeWeights, String> {
    let model = guard::parse(bytes).map_err(|error| error.to_string())?;
    let graph = facts::Graph::new(&model).map_err(|error| error.to_string())?;
    let [output] = graph.proto.output.as_slice() else { return Err(format!("{} outputs", graph.proto.output.len())) };
    weights::encoder(&graph, &output.name, spec)
}

/// Checks the graph of a bundle as if it came from a stranger: same list, same caps, nothing external,
/// and one row-wise output of `d_sae` values for an input of `d_in`.
///
/// # Errors
/// The graph is refused: see [`OnnxError`].
pub(crate) fn check_encoder(bytes: &[u8], spec: &SaeSpec) -> Result<(), OnnxError> {
    let model = guard::parse(bytes)?;
    external::refuse(&model)?;
    guard::refuse_not_finite(&model)?;
    let graph = facts::Graph::new(&model)?;
    analysis::check_dense_output(&graph, spec)
}
