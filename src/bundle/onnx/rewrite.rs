//! A new graph that computes the dense latents and nothing else, for any number of rows.
//!
//! It is built from nothing: only the nodes and weights the dense tensor depends on are copied, so
//! that whatever else a file carried (metadata, functions, fields nobody knows) stays behind.

use std::num::NonZeroUsize;

use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::{GraphProto, Message, ModelProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};

use crate::bundle::onnx::error::OnnxError;
use crate::bundle::onnx::facts::Graph;
use crate::bundle::onnx::guard::MAX_FILE_BYTES;
use crate::bundle::onnx::proto::FLOAT;

/// Name of the symbolic batch dimension.
const BATCH: &str = "batch";

/// The graph from the embedding to `dense`, as bytes.
pub(super) fn encoder_only(graph: &Graph<'_>, dense: &str, d_in: NonZeroUsize, d_sae: NonZeroUsize) -> Result<Vec<u8>, OnnxError> {
    let reached = graph.reached_from(std::iter::once(dense));
    let nodes: Vec<_> = graph.proto.node.iter().zip(reached).filter(|(_, reached)| *reached).map(|(node, _)| node.clone()).collect();
    let read = |name: &str| nodes.iter().any(|node| node.input.iter().any(|input| input == name));
    let initializer = graph.proto.initializer.iter().filter(|tensor| read(&tensor.name)).cloned().collect();
    let proto = GraphProto {
        name: "recsae encoder".into(),
        initializer,
        input: vec![rows(graph.input, d_in)],
        output: vec![rows(dense, d_sae)],
        node: nodes,
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: graph.model.ir_version,
        opset_import: graph.model.opset_import.iter().filter(|set| matches!(set.domain.as_str(), "" | "ai.onnx")).cloned().collect(),
        producer_name: "recsae".into(),
        graph: Some(proto).into(),
        ..ModelProto::default()
    };
    let bytes = model.write_to_bytes().map_err(|error| OnnxError::Malformed(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let found = bytes.len().to_string();
        return Err(OnnxError::TooLarge { what: "encoder with its weights, in bytes".into(), limit: MAX_FILE_BYTES, found });
    }
    Ok(bytes)
}

/// A declared f32 tensor `[batch, width]`.
fn rows(name: &str, width: NonZeroUsize) -> ValueInfoProto {
    let mut batch = Dimension::new();
    batch.set_dim_param(BATCH.to_owned());
    let mut columns = Dimension::new();
    columns.set_dim_value(i64::try_from(width.get()).unwrap_or(i64::MAX));
    let shape = TensorShapeProto { dim: vec![batch, columns], ..TensorShapeProto::default() };
    let mut type_ = TypeProto::new();
    type_.set_tensor_type(type_proto::Tensor { elem_type: FLOAT, shape: Some(shape).into(), ..type_proto::Tensor::default() });
    ValueInfoProto { name: name.to_owned(), type_: Some(type_).into(), ..ValueInfoProto::default() }
}
