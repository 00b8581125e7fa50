//! Finding the encoder inside a graph by what its tensors are, never by what they are called.
//!
//! With a `TopK` over latents the dense tensor is the one that enters it, and k is the node's; what
//! follows (`ScatterElements`, the decoder, values and indices as outputs in any order) may be there
//! or not, as long as nothing changes the selected values. Without one, the dense tensor is the wide
//! f32 output, or the wide gate or `Relu` inside a graph that gives the reconstruction alone. A gate
//! (thresholds of latents) says itself which latents are active; else the user must.

use std::num::NonZeroUsize;

use onnx_protobuf::NodeProto;

use crate::bundle::onnx::error::OnnxError;
use crate::bundle::onnx::facts::{Fact, Graph};
use crate::bundle::onnx::gate::{bare, gate};
use crate::bundle::onnx::proto::{FLOAT, input, int};
use crate::sae::weights::{SaeSpec, Selection};

/// The selection in the graph: the dense tensor before it, and the latents after it where they exist.
pub(super) struct Selected {
    /// Dense values before the selection, `[n, d_sae]`.
    pub(super) dense: String,
    /// Latents `[n, d_sae]` that the decoder reads, if there is such a tensor.
    pub(super) latents: Option<String>,
}

/// An encoder found in a graph.
pub(super) struct Found {
    /// Where it is.
    pub(super) selected: Selected,
    /// Width of an embedding.
    pub(super) d_in: NonZeroUsize,
    /// Number of latents.
    pub(super) d_sae: NonZeroUsize,
    /// Which latents are active.
    pub(super) selection: Selection,
    /// What a user should know.
    pub(super) notes: Vec<String>,
}

/// Finds the encoder; `asked` is the user's word on the selection.
pub(super) fn find_encoder(graph: &Graph<'_>, asked: Option<Selection>) -> Result<Found, OnnxError> {
    let mut notes = Vec::new();
    if let Some(batch) = graph.static_batch {
        notes.push(format!("the file fixes the batch at {batch} rows; it was made symbolic"));
    }
    let top_ks: Vec<&NodeProto> = graph.live_nodes().filter(|node| node.op_type == "TopK").collect();
    let (selected, width, selection) = match top_ks.as_slice() {
        [] => without_top_k(graph, asked)?,
        [top_k] => with_top_k(graph, top_k, asked)?,
        _ => return Err(not_an_encoder("one TopK", format!("{}", top_ks.len()), "export the encoder alone")),
    };
    let d_in = NonZeroUsize::new(graph.d_in);
    let d_sae = NonZeroUsize::new(width);
    let (Some(d_in), Some(d_sae)) = (d_in, d_sae) else {
        return Err(not_an_encoder("at least one value and one latent", "none".into(), "export the SAE again"));
    };
    if let Selection::TopK(k) = selection
        && k > d_sae
    {
        return Err(not_an_encoder(&format!("k of at most {d_sae} latents"), format!("k = {k}"), "check --k"));
    }
    Ok(Found { selected, d_in, d_sae, selection, notes })
}

/// Checks that a graph has one output, `[n, d_sae]` for `[n, d_in]`, that treats rows alike.
pub(super) fn check_dense_output(graph: &Graph<'_>, spec: &SaeSpec) -> Result<(), OnnxError> {
    let outputs: Vec<&str> = graph.proto.output.iter().map(|output| output.name.as_str()).collect();
    let [output] = outputs.as_slice() else {
        return Err(not_an_encoder("one output", format!("{}", outputs.len()), "build the bundle again"));
    };
    let width = per_row_width(graph, output, "the output")?;
    if (graph.d_in, width) != (spec.d_in.get(), spec.d_sae.get()) || graph.static_batch.is_some() {
        let expected = format!("a graph from [batch, {}] to [batch, {}]", spec.d_in, spec.d_sae);
        return Err(not_an_encoder(&expected, format!("from {} to {width} values", graph.d_in), "build the bundle again"));
    }
    Ok(())
}

fn with_top_k(graph: &Graph<'_>, top_k: &NodeProto, asked: Option<Selection>) -> Result<(Selected, usize, Selection), OnnxError> {
    let dense = input(top_k, 0).unwrap_or_default();
    let width = per_row_width(graph, dense, "TopK")?;
    if int(top_k, "largest", 1) != 1 {
        return Err(not_an_encoder("TopK of the largest values", "of the smallest".into(), "export the SAE again"));
    }
    if !matches!(int(top_k, "axis", -1), -1 | 1) {
        let found = "TopK over the batch, whose result depends on the other rows (BatchTopK)".into();
        return Err(not_an_encoder("TopK over the latents of a row", found, "export the SAE's inference form with its threshold"));
    }
    let k = graph
        .top_k(top_k)
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| not_an_encoder("a constant k >= 1 in TopK", "one that is computed".into(), "export with k as a plain number"))?;
    let selection = Selection::TopK(k);
    if let Some(asked) = asked.filter(|asked| *asked != selection) {
        return Err(OnnxError::Selection { graph: selection.to_string(), asked: asked.to_string() });
    }
    let latents = follow_values(graph, top_k.output.first().map_or("", String::as_str))?;
    Ok((Selected { dense: dense.to_owned(), latents }, width, selection))
}

/// Follows the selected values to the latents; refuses an operator that changes them on the way.
fn follow_values(graph: &Graph<'_>, values: &str) -> Result<Option<String>, OnnxError> {
    let mut latents = None;
    let mut open = vec![values.to_owned()];
    while let Some(name) = open.pop() {
        for node in graph.consumers(&name) {
            let output = node.output.first().cloned().unwrap_or_default();
            match node.op_type.as_str() {
                "Identity" | "Cast" | "Relu" => open.push(output),
                "ScatterElements" | "Scatter" if input(node, 2) == Some(name.as_str()) => {
                    if reaches_decoder_or_output(graph, &output) {
                        latents = Some(output);
                    }
                }
                // A decoder that gathers rows of W_dec reads the values as they are.
                "Unsqueeze" | "MatMul" | "Gemm" | "Shape" => {}
                other => {
                    let found = format!("{other} on the selected values");
                    return Err(not_an_encoder(
                        "values that stay as they were selected",
                        found,
                        "export the SAE with that step folded into its weights",
                    ));
                }
            }
        }
    }
    Ok(latents)
}

/// Latents count only where nothing else changes them first.
fn reaches_decoder_or_output(graph: &Graph<'_>, latents: &str) -> bool {
    graph.is_output(latents)
        || graph.consumers(latents).any(|node| matches!(node.op_type.as_str(), "MatMul" | "Gemm" | "Identity" | "Relu"))
}

fn without_top_k(graph: &Graph<'_>, asked: Option<Selection>) -> Result<(Selected, usize, Selection), OnnxError> {
    let wide = |name: &str| matches!(graph.fact(name), Fact::PerRow { width, element: FLOAT } if *width > graph.d_in);
    let outputs: Vec<&str> = graph.proto.output.iter().map(|output| output.name.as_str()).filter(|name| wide(name)).collect();
    let candidates = if outputs.is_empty() {
        let tensors = || graph.live_nodes().filter_map(|node| Some((node, node.output.first()?.as_str()))).filter(|(_, name)| wide(name));
        let gates: Vec<&str> = tensors().map(|(_, name)| name).filter(|name| gate(graph, name).is_some()).collect();
        let relus = || tensors().filter(|(node, _)| node.op_type == "Relu").map(|(_, name)| name);
        if gates.is_empty() { relus().collect() } else { gates }
    } else {
        outputs
    };
    let [dense] = candidates.as_slice() else {
        let opaque = graph.proto.output.iter().find_map(|output| match graph.fact(&output.name) {
            Fact::Opaque(why) if !why.is_empty() => Some(format!("; an output passes through {why}")),
            _ => None,
        });
        let found = format!("{} such tensors{}", candidates.len(), opaque.unwrap_or_default());
        let expected = format!("TopK over latents, or one dense f32 tensor [batch, more than {}] of latents", graph.d_in);
        return Err(not_an_encoder(&expected, found, "export the SAE's encoder with its latents as an output"));
    };
    let width = per_row_width(graph, dense, "the output")?;
    let of_gate = gate(graph, bare(graph, dense)).map(|_| Selection::Threshold(0.0));
    let selection = asked.or(of_gate).ok_or(OnnxError::NoSelection { d_sae: width })?;
    Ok((Selected { dense: (*dense).to_owned(), latents: Some((*dense).to_owned()) }, width, selection))
}

fn per_row_width(graph: &Graph<'_>, name: &str, place: &str) -> Result<usize, OnnxError> {
    let expected = format!("one row of f32 latents per embedding before {place}");
    let found = match graph.fact(name) {
        Fact::PerRow { width, element: FLOAT } => return Ok(*width),
        Fact::PerRow { element, .. } => format!("element type {element}"),
        Fact::Constant(_) => "a constant".into(),
        Fact::Opaque(why) => why.clone(),
    };
    Err(not_an_encoder(&expected, found, "export the SAE in f32 with row-wise operators only"))
}

fn not_an_encoder(expected: &str, found: String, action: &str) -> OnnxError {
    OnnxError::NotAnEncoder { expected: expected.to_owned(), found, action: action.to_owned() }
}
