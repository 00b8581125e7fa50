//! Thresholds of latents in a graph (JumpReLU): what lets a value pass where it is above its own.
//!
//! The forms met: `Where(x > t, x, 0)`, `x * Cast(x > t)` in any order of operands, `ThresholdedRelu`; the
//! comparison in any of its four directions, a `Relu` on either side or on none.

use ndarray::Array1;
use onnx_protobuf::NodeProto;

use crate::bundle::onnx::facts::Graph;
use crate::bundle::onnx::proto::{FLOAT, float, input, int};

/// A gate: the values that enter it, and what each must exceed, one number for all latents or one for each.
pub(super) struct Gate<'a> {
    /// The tensor that enters.
    pub(super) source: &'a str,
    /// `[1]` or `[d_sae]`.
    thresholds: Array1<f32>,
}

impl Gate<'_> {
    /// The thresholds of `n` latents; `None` where there are others than `n` or one.
    pub(super) fn of(&self, n: usize) -> Option<Array1<f32>> {
        match self.thresholds.len() {
            1 => Some(Array1::from_elem(n, self.thresholds[0])),
            len if len == n => Some(self.thresholds.clone()),
            _ => None,
        }
    }
}

/// The gate that makes a tensor, if one does.
pub(super) fn gate<'a>(graph: &Graph<'a>, name: &'a str) -> Option<Gate<'a>> {
    let node = graph.producer(name)?;
    let (a, b) = (input(node, 0)?, input(node, 1));
    let (kept, comparison) = match (node.op_type.as_str(), b) {
        ("ThresholdedRelu", _) => return Some(Gate { source: a, thresholds: Array1::from_elem(1, float(node, "alpha", 1.0)) }),
        ("Where", Some(b)) => {
            let (then, otherwise) = (b, input(node, 2)?);
            let inverted = is_zero(graph, then);
            let kept = if inverted { otherwise } else { Some(then).filter(|_| is_zero(graph, otherwise))? };
            (kept, comparison(graph, a, inverted)?)
        }
        ("Mul", Some(b)) => [(a, b), (b, a)].into_iter().find_map(|(kept, mask)| Some((kept, cast_comparison(graph, mask)?)))?,
        _ => return None,
    };
    (bare(graph, kept) == bare(graph, comparison.source)).then_some(Gate { source: kept, ..comparison })
}

/// A comparison turned into ones and zeros.
fn cast_comparison<'a>(graph: &Graph<'a>, name: &str) -> Option<Gate<'a>> {
    let cast = graph.producer(name).filter(|node| node.op_type == "Cast" && int(node, "to", 0) == i64::from(FLOAT))?;
    comparison(graph, input(cast, 0)?, false)
}

/// `x > t` and its kin; of an inverted one what it does not let pass is kept.
fn comparison<'a>(graph: &Graph<'a>, name: &str, inverted: bool) -> Option<Gate<'a>> {
    let node: &'a NodeProto = graph.producer(name)?;
    let (a, b) = (input(node, 0)?, input(node, 1)?);
    let (source, thresholds, source_first) = match (graph.broadcast(a), graph.broadcast(b)) {
        (None, Some(thresholds)) => (a, thresholds, true),
        (Some(thresholds), None) => (b, thresholds, false),
        _ => return None,
    };
    // As "source above threshold" or "at or above it".
    let or_equal = match (node.op_type.as_str(), source_first, inverted) {
        ("Greater", true, false) | ("Less", false, false) | ("LessOrEqual", true, true) | ("GreaterOrEqual", false, true) => false,
        ("GreaterOrEqual", true, false) | ("LessOrEqual", false, false) | ("Less", true, true) | ("Greater", false, true) => true,
        _ => return None,
    };
    // "At or above" is "above the f32 before".
    let thresholds = if or_equal { thresholds.mapv(f32::next_down) } else { thresholds };
    Some(Gate { source, thresholds })
}

/// The tensor behind `Relu` and `Identity`: what a gate compares may be before a ReLU and what it keeps behind it.
pub(super) fn bare<'a>(graph: &Graph<'a>, mut name: &'a str) -> &'a str {
    while let Some(node) = graph.producer(name).filter(|node| matches!(node.op_type.as_str(), "Relu" | "Identity"))
        && let Some(before) = input(node, 0)
    {
        name = before;
    }
    name
}

fn is_zero(graph: &Graph<'_>, name: &str) -> bool {
    graph.broadcast(name).is_some_and(|values| values.iter().all(|value| *value == 0.0))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::{Array2, array};

    use crate::bundle::onnx::{affine_encoder, read, write};
    use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

    #[test]
    fn thresholds_survive_the_graph_with_and_without_a_decoder() {
        let size = |n| NonZeroUsize::new(n).unwrap();
        let spec = SaeSpec { d_in: size(2), d_sae: size(3), selection: Selection::Threshold(0.0), centring: true };
        let w = Array2::from_shape_fn((3, 2), |(i, j)| i as f32 - j as f32 / 3.0);
        let sae = SaeWeights::new(spec, w.clone(), array![0.5, 0.0, -1.0], Some(w), array![1.0, -1.0]).unwrap();
        let sae = sae.with_thresholds(array![0.25, 0.0, 3.0]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sae.onnx");
        for (graph, with_decoder) in [(write::full_graph(&sae).unwrap(), true), (write::dense_graph(&sae).unwrap(), false)] {
            std::fs::write(&path, graph).unwrap();
            let found = read(&path, None).unwrap();
            let weights = found.weights.unwrap();
            assert_eq!((found.spec, weights.thresholds(), weights.w_dec().is_some()), (spec, sae.thresholds(), with_decoder));
            assert_eq!(affine_encoder(&found.model, &spec).unwrap().thresholds(), sae.thresholds());
        }
    }
}
