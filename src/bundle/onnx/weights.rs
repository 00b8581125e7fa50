//! Reading an SAE's weights out of its graph, where the graph has the plain form.
//!
//! Encoder: `(Relu | gate)* (Gemm | Add? MatMul) (Sub b | Add -b)? embedding`, at most one gate ([`gate`]).
//! Decoder: `Add? MatMul | Gemm` on the latents. Anything else gives no weights and says why; the graph can still be run, only the
//! reconstruction error cannot be measured. What was read is later compared with the running graph.

use std::num::NonZeroUsize;

use ndarray::{Array1, Array2};
use onnx_protobuf::NodeProto;

use crate::bundle::onnx::analysis::Selected;
use crate::bundle::onnx::facts::Graph;
use crate::bundle::onnx::gate::gate;
use crate::bundle::onnx::proto::{float, input, int};
use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

/// Weights read out of a graph.
pub(super) struct FoundWeights {
    /// The weights.
    pub(super) weights: SaeWeights,
    /// What a user should know.
    pub(super) notes: Vec<String>,
}

/// A matrix with one row an output, and the bias where there is one.
type Affine = (Array2<f32>, Option<Array1<f32>>);

/// An encoder as it stands in a graph.
struct Encoder {
    source: String,
    w: Array2<f32>,
    b: Option<Array1<f32>>,
    thresholds: Option<Array1<f32>>,
}

impl Encoder {
    /// The weights with the thresholds, if there are any.
    fn gated(weights: SaeWeights, thresholds: Option<Array1<f32>>) -> Result<SaeWeights, String> {
        match thresholds {
            Some(thresholds) => weights.with_thresholds(thresholds).map_err(|error| error.to_string()),
            None => Ok(weights),
        }
    }
}

/// Reads encoder and, where there is one, decoder. The error says in words what is not plain.
pub(super) fn find(
    graph: &Graph<'_>,
    selected: &Selected,
    d_in: NonZeroUsize,
    d_sae: NonZeroUsize,
    selection: Selection,
) -> Result<FoundWeights, String> {
    let Encoder { source, w: w_enc, b: b_enc, thresholds } = affine_backward(graph, &selected.dense)?;
    let centre = if source == graph.input { None } else { Some(centre(graph, &source)?) };
    let mut notes = Vec::new();
    let decoder = match selected.latents.as_deref().map(|latents| decoder(graph, latents)) {
        Some(Ok(decoder)) => Some(decoder),
        Some(Err(why)) => {
            notes.push(format!("no decoder was read out of the graph ({why}); give --weights to measure the input contract"));
            None
        }
        None => {
            notes.push("the graph has no decoder; give --weights to measure the input contract".into());
            None
        }
    };
    let (w_dec, decoder_bias) = match decoder {
        Some((w_dec, bias)) => (Some(w_dec), Some(bias)),
        None => (None, None),
    };
    let zeros = || Array1::zeros(d_in.get());
    let (w_dec, b_dec) = match (&centre, decoder_bias) {
        (Some(centre), Some(Some(bias))) if bias != *centre => {
            notes.push("the decoder's bias is not what is subtracted from the embedding, so the decoder was left out".into());
            (None, centre.clone())
        }
        (Some(centre), Some(None)) if centre.iter().any(|value| *value != 0.0) => {
            notes.push("the decoder adds no bias though one is subtracted from the embedding, so the decoder was left out".into());
            (None, centre.clone())
        }
        (Some(centre), _) => (w_dec, centre.clone()),
        (None, Some(Some(bias))) => (w_dec, bias),
        (None, _) => (w_dec, zeros()),
    };
    let spec = SaeSpec { d_in, d_sae, selection, centring: centre.is_some() };
    let b_enc = b_enc.unwrap_or_else(|| Array1::zeros(d_sae.get()));
    let weights = SaeWeights::new(spec, w_enc, b_enc, w_dec, b_dec).map_err(|error| error.to_string())?;
    Ok(FoundWeights { weights: Encoder::gated(weights, thresholds)?, notes })
}

/// The encoder that ends in `dense`, alone.
pub(super) fn encoder(graph: &Graph<'_>, dense: &str, spec: &SaeSpec) -> Result<SaeWeights, String> {
    let Encoder { source, w: w_enc, b: b_enc, thresholds } = affine_backward(graph, dense)?;
    let centre = if source == graph.input { None } else { Some(centre(graph, &source)?) };
    let spec = SaeSpec { centring: centre.is_some(), ..*spec };
    let b_enc = b_enc.unwrap_or_else(|| Array1::zeros(spec.d_sae.get()));
    let b_dec = centre.unwrap_or_else(|| Array1::zeros(spec.d_in.get()));
    Encoder::gated(SaeWeights::new(spec, w_enc, b_enc, None, b_dec).map_err(|error| error.to_string())?, thresholds)
}

/// Source, matrix `[out, in]` and bias of the affine map that ends in `name`, through `Relu`, `Identity` and a gate.
fn affine_backward<'a>(graph: &Graph<'a>, name: &'a str) -> Result<Encoder, String> {
    let (mut name, mut passed) = (name, None);
    let node = loop {
        let node = graph.producer(name).ok_or("the latents are the input itself")?;
        name = match (gate(graph, name), &passed) {
            (Some(_), Some(_)) => return Err("two thresholds one after the other".into()),
            (Some(gate), None) => {
                let source = gate.source;
                passed = Some(gate);
                source
            }
            (None, _) if matches!(node.op_type.as_str(), "Relu" | "Identity") => input(node, 0).ok_or("a node without input")?,
            (None, _) => break node,
        };
    };
    let (node, added) = match node.op_type.as_str() {
        "Add" => {
            let (other, bias) = row_and_vector(graph, node).ok_or("an Add whose second operand is not a constant")?;
            (graph.producer(other).ok_or("an Add on the embedding")?, Some(bias))
        }
        _ => (node, None),
    };
    let (matrix, bias) = product(graph, node)?;
    let source = input(node, 0).ok_or("a product without input")?.to_owned();
    match (added, bias) {
        (Some(_), Some(_)) => Err("two biases after one product".into()),
        (added, bias) => {
            let thresholds = passed.map(|gate| gate.of(matrix.nrows()).ok_or("thresholds of another number than latents")).transpose()?;
            Ok(Encoder { source, w: matrix, b: added.or(bias), thresholds })
        }
    }
}

/// Matrix `[out, in]` and bias of a `Gemm` or `MatMul` with a constant right side.
fn product(graph: &Graph<'_>, node: &NodeProto) -> Result<Affine, String> {
    let weights = input(node, 1).and_then(|name| graph.matrix(name));
    match node.op_type.as_str() {
        "MatMul" => Ok((transposed(weights.ok_or("a MatMul without an f32 matrix")?), None)),
        "Gemm" => {
            let weights = weights.ok_or("a Gemm without an f32 matrix")?;
            if float(node, "alpha", 1.0) != 1.0 || float(node, "beta", 1.0) != 1.0 {
                return Err("a Gemm with a scale".into());
            }
            let bias = match input(node, 2) {
                None => None,
                Some(name) => Some(graph.vector(name).ok_or("a Gemm whose bias is not a vector")?),
            };
            Ok((if int(node, "transB", 0) == 0 { transposed(weights) } else { weights }, bias))
        }
        other => Err(format!("{other} where a matrix product was expected")),
    }
}

/// What is subtracted from the embedding on its way to `name`.
fn centre(graph: &Graph<'_>, name: &str) -> Result<Array1<f32>, String> {
    let node = graph.producer(name).ok_or("an encoder that does not start at the embedding")?;
    let constant = input(node, 1).and_then(|name| graph.vector(name));
    let subtracted = match (node.op_type.as_str(), input(node, 0) == Some(graph.input), constant) {
        ("Sub", true, Some(vector)) => Some(vector),
        ("Add", true, Some(vector)) => Some(-vector),
        _ => None,
    };
    subtracted.filter(|vector| vector.len() == graph.d_in).ok_or_else(|| format!("{} between the embedding and the encoder", node.op_type))
}

/// Decoder matrix `[d_sae, d_in]` and bias behind the latents.
fn decoder(graph: &Graph<'_>, latents: &str) -> Result<Affine, String> {
    let mut name = latents.to_owned();
    loop {
        let nodes: Vec<&NodeProto> = graph.consumers(&name).filter(|node| !matches!(node.op_type.as_str(), "Shape" | "TopK")).collect();
        match nodes.as_slice() {
            [node] if matches!(node.op_type.as_str(), "Identity" | "Relu") => name = node.output.first().cloned().unwrap_or_default(),
            [node] => {
                let (matrix, bias) = product(graph, node)?;
                let out = node.output.first().map_or("", String::as_str);
                let mut followers = graph.consumers(out);
                let bias = match (bias, followers.next(), followers.next()) {
                    (bias, None, _) => bias,
                    (None, Some(add), None) if add.op_type == "Add" => {
                        Some(row_and_vector(graph, add).ok_or("an Add whose second operand is not a constant")?.1)
                    }
                    _ => return Err("more than a bias after the decoder's product".into()),
                };
                return Ok((transposed(matrix), bias));
            }
            [] => return Err("it ends in the latents".into()),
            _ => return Err("the latents are read by several nodes".into()),
        }
    }
}

/// The operand that is not constant, and the constant vector, of a two-operand node.
fn row_and_vector<'a>(graph: &Graph<'_>, node: &'a NodeProto) -> Option<(&'a str, Array1<f32>)> {
    let (a, b) = (input(node, 0)?, input(node, 1)?);
    graph.vector(b).map(|vector| (a, vector)).or_else(|| graph.vector(a).map(|vector| (b, vector)))
}

fn transposed(matrix: Array2<f32>) -> Array2<f32> {
    matrix.reversed_axes().as_standard_layout().into_owned()
}
