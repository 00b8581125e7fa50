//! An SAE of ours as an ONNX file: encoder, TopK, scatter, decoder; or the encoder alone.
//!
//! Built message by message from the schema, because nothing here depends on Python.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

use crate::sae::weights::{SaeWeights, Selection};

/// ONNX's numbers for f32 and i64.
const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// The whole SAE. Input `embedding [n, d_in]`; outputs `values [n, k]`, `indices [n, k]` (with a threshold:
/// `latents [n, d_sae]`), `reconstruction [n, d_in]`.
///
/// # Errors
/// The weights have no decoder, or do not serialise.
pub fn full_graph(sae: &SaeWeights) -> Result<Vec<u8>, String> {
    let spec = sae.spec();
    let k = match spec.selection {
        Selection::TopK(k) => k,
        Selection::Threshold(threshold) => return threshold_graph(sae, threshold),
    };
    let w_dec = sae.w_dec().ok_or("expected a decoder")?;
    let (d_in, d_sae, k) = (size(spec.d_in.get()), size(spec.d_sae.get()), size(k.get()));
    let (mut nodes, mut tensors) = encoder(sae);
    nodes.extend([
        node("TopK", &["dense", "k"], &["values", "indices"]),
        node("Mul", &["dense", "zero"], &["nothing"]),
        scatter(),
        node("MatMul", &["latents", "W_dec"], &["sum"]),
        node("Add", &["sum", "b_dec"], &["reconstruction"]),
    ]);
    if !spec.centring {
        tensors.push(floats("b_dec", &[d_in], sae.b_dec().iter()));
    }
    tensors.extend([
        floats("W_dec", &[d_sae, d_in], w_dec.iter()),
        floats("zero", &[1], std::iter::once(&0.0)),
        TensorProto { name: "k".into(), dims: vec![1], data_type: INT64, int64_data: vec![k], ..TensorProto::default() },
    ]);
    let outputs = vec![value("values", FLOAT, k), value("indices", INT64, k), value("reconstruction", FLOAT, d_in)];
    bytes(nodes, tensors, vec![value("embedding", FLOAT, d_in)], outputs)
}

/// The whole SAE with a threshold: what is not above it becomes 0.
fn threshold_graph(sae: &SaeWeights, threshold: f32) -> Result<Vec<u8>, String> {
    let spec = sae.spec();
    let w_dec = sae.w_dec().ok_or("expected a decoder")?;
    let (d_in, d_sae) = (size(spec.d_in.get()), size(spec.d_sae.get()));
    let (mut nodes, mut tensors) = ungated(sae, "dense");
    nodes.extend([
        node("Greater", &["dense", "threshold"], &["above"]),
        node("Where", &["above", "dense", "zero"], &["latents"]),
        node("MatMul", &["latents", "W_dec"], &["sum"]),
        node("Add", &["sum", "b_dec"], &["reconstruction"]),
    ]);
    if !spec.centring {
        tensors.push(floats("b_dec", &[d_in], sae.b_dec().iter()));
    }
    tensors.extend([
        floats("W_dec", &[d_sae, d_in], w_dec.iter()),
        match sae.thresholds() {
            Some(own) => floats("threshold", &[d_sae], own.mapv(|own| own.max(threshold)).iter()),
            None => floats("threshold", &[1], std::iter::once(&threshold)),
        },
        floats("zero", &[1], std::iter::once(&0.0)),
    ]);
    let outputs = vec![value("latents", FLOAT, d_sae), value("reconstruction", FLOAT, d_in)];
    bytes(nodes, tensors, vec![value("embedding", FLOAT, d_in)], outputs)
}

/// The encoder up to the selection, which costs more inside ONNX Runtime than outside. Input
/// `embedding [n, d_in]`, output `dense [n, d_sae]` behind the ReLU.
///
/// # Errors
/// The message does not serialise.
pub fn dense_graph(sae: &SaeWeights) -> Result<Vec<u8>, String> {
    let (nodes, tensors) = encoder(sae);
    let (d_in, d_sae) = (size(sae.spec().d_in.get()), size(sae.spec().d_sae.get()));
    bytes(nodes, tensors, vec![value("embedding", FLOAT, d_in)], vec![value("dense", FLOAT, d_sae)])
}

/// `dense = ReLU((embedding - b_dec) W_enc + b_enc)`, where it is above the latent's own threshold.
fn encoder(sae: &SaeWeights) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let Some(thresholds) = sae.thresholds() else { return ungated(sae, "dense") };
    let (mut nodes, mut tensors) = ungated(sae, "positive");
    tensors
        .extend([floats("thresholds", &[size(sae.spec().d_sae.get())], thresholds.iter()), floats("silence", &[1], std::iter::once(&0.0))]);
    nodes
        .extend([node("Greater", &["positive", "thresholds"], &["passes"]), node("Where", &["passes", "positive", "silence"], &["dense"])]);
    (nodes, tensors)
}

/// The ReLU, as tensor `name`.
fn ungated(sae: &SaeWeights, name: &str) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let spec = sae.spec();
    let (d_in, d_sae) = (size(spec.d_in.get()), size(spec.d_sae.get()));
    let w_enc = sae.w_enc().t();
    let mut tensors = vec![floats("W_enc", &[d_in, d_sae], w_enc.iter()), floats("b_enc", &[d_sae], sae.b_enc().iter())];
    let mut nodes = Vec::new();
    let input = if spec.centring {
        tensors.push(floats("b_dec", &[d_in], sae.b_dec().iter()));
        nodes.push(node("Sub", &["embedding", "b_dec"], &["centred"]));
        "centred"
    } else {
        "embedding"
    };
    nodes.extend([
        node("MatMul", &[input, "W_enc"], &["product"]),
        node("Add", &["product", "b_enc"], &["pre"]),
        node("Relu", &["pre"], &[name]),
    ]);
    (nodes, tensors)
}

fn bytes(
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    input: Vec<ValueInfoProto>,
    output: Vec<ValueInfoProto>,
) -> Result<Vec<u8>, String> {
    let graph = GraphProto { name: "sae".into(), node, initializer, input, output, ..GraphProto::default() };
    let model = ModelProto {
        ir_version: 8,
        producer_name: "recsae".into(),
        opset_import: vec![OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() }],
        graph: Some(graph).into(),
        ..ModelProto::default()
    };
    model.write_to_bytes().map_err(|error| error.to_string())
}

fn size(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto { name: outputs[0].into(), op_type: op.into(), input: names(inputs), output: names(outputs), ..NodeProto::default() }
}

fn scatter() -> NodeProto {
    let axis = AttributeProto { name: "axis".into(), type_: AttributeType::INT.into(), i: 1, ..AttributeProto::default() };
    NodeProto { attribute: vec![axis], ..node("ScatterElements", &["nothing", "indices", "values"], &["latents"]) }
}

fn floats<'a>(name: &str, dims: &[i64], values: impl Iterator<Item = &'a f32>) -> TensorProto {
    let raw_data = values.flat_map(|value| value.to_le_bytes()).collect();
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: FLOAT, raw_data, ..TensorProto::default() }
}

/// A matrix of any number of rows.
fn value(name: &str, element: i32, columns: i64) -> ValueInfoProto {
    let (mut rows, mut width) = (Dimension::new(), Dimension::new());
    rows.set_dim_param("n".into());
    width.set_dim_value(columns);
    let shape = TensorShapeProto { dim: vec![rows, width], ..TensorShapeProto::default() };
    let mut type_ = TypeProto::new();
    type_.set_tensor_type(type_proto::Tensor { elem_type: element, shape: Some(shape).into(), ..type_proto::Tensor::default() });
    ValueInfoProto { name: name.into(), type_: Some(type_).into(), ..ValueInfoProto::default() }
}
