//! The world's SAE as an ONNX file, as an exporter would write it: encoder, TopK, scatter, decoder.
//!
//! Built message by message from the schema, because the world must not depend on Python.

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

/// The bytes of `sae.onnx`. Inputs `embedding [n, d_in]`; outputs `values [n, k]`, `indices [n, k]`,
/// `reconstruction [n, d_in]`.
///
/// # Errors
/// The weights are no TopK SAE with a decoder, or do not serialise.
pub fn onnx_bytes(sae: &SaeWeights) -> Result<Vec<u8>, String> {
    let spec = sae.spec();
    let Selection::TopK(k) = spec.selection else { return Err("expected a TopK SAE".into()) };
    let w_dec = sae.w_dec().ok_or("expected a decoder")?;
    let (d_in, d_sae, k) = (size(spec.d_in.get()), size(spec.d_sae.get()), size(k.get()));
    let encoder = sae.w_enc().t();
    let graph = GraphProto {
        name: "sae".into(),
        node: vec![
            node("Sub", &["embedding", "b_dec"], &["centred"]),
            node("MatMul", &["centred", "W_enc"], &["product"]),
            node("Add", &["product", "b_enc"], &["pre"]),
            node("Relu", &["pre"], &["dense"]),
            node("TopK", &["dense", "k"], &["values", "indices"]),
            node("Mul", &["dense", "zero"], &["nothing"]),
            scatter(),
            node("MatMul", &["latents", "W_dec"], &["sum"]),
            node("Add", &["sum", "b_dec"], &["reconstruction"]),
        ],
        initializer: vec![
            floats("W_enc", &[d_in, d_sae], encoder.iter()),
            floats("b_enc", &[d_sae], sae.b_enc().iter()),
            floats("W_dec", &[d_sae, d_in], w_dec.iter()),
            floats("b_dec", &[d_in], sae.b_dec().iter()),
            floats("zero", &[1], std::iter::once(&0.0)),
            TensorProto { name: "k".into(), dims: vec![1], data_type: INT64, int64_data: vec![k], ..TensorProto::default() },
        ],
        input: vec![value("embedding", FLOAT, d_in)],
        output: vec![value("values", FLOAT, k), value("indices", INT64, k), value("reconstruction", FLOAT, d_in)],
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: 8,
        producer_name: "recsae simulate".into(),
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
