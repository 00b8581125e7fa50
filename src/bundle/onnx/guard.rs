//! The first look at a file: size, operators, dimensions. Nothing is computed and nothing else opened.

use std::io::Read;
use std::path::Path;

use onnx_protobuf::{AttributeProto, GraphProto, Message, ModelProto, NodeProto, TensorProto, TypeProto};
use protobuf::rt::WireType;
use protobuf::{CodedInputStream, Enum};

use crate::bundle::onnx::error::OnnxError;
use crate::bundle::onnx::proto::{element_bytes, floats, is_external};

/// Largest file read. An SAE of 768 x 16,384 with decoder is 100 MB; protobuf itself ends at 2 GiB.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
/// Most values in one tensor: 2 GiB of f32. A hostile shape is 10^12 and more.
const MAX_ELEMENTS: u64 = 1 << 29;
/// Most nodes. An exported SAE has 3 to 30.
const MAX_NODES: usize = 10_000;

/// Operators an SAE export may contain, before and after the selection. No control flow (`If`, `Loop`,
/// `Scan`, `SequenceMap`), no strings, no random numbers, no convolutions or recurrences.
const ALLOWED: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "CumSum",
    "Div",
    "Dropout",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "Identity",
    "IsInf",
    "IsNaN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "Not",
    "OneHot",
    "Or",
    "PRelu",
    "Pow",
    "RMSNormalization",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Round",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Sigmoid",
    "Sign",
    "Size",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Unsqueeze",
    "Where",
    "Xor",
];

/// Reads and checks a model file.
pub(super) fn read(path: &Path) -> Result<ModelProto, OnnxError> {
    let io = |error: std::io::Error| OnnxError::Io(error.to_string());
    // Looked at before it is opened: to open a pipe waits for somebody who writes into it.
    let kind = std::fs::metadata(path).map_err(io)?.file_type();
    if !kind.is_file() {
        return Err(OnnxError::Io(format!("expected a regular file, found {}", kind_name(kind))));
    }
    let file = std::fs::File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    let too_large =
        |found: u64| OnnxError::TooLarge { what: "size of the file in bytes".into(), limit: MAX_FILE_BYTES, found: found.to_string() };
    if metadata.len() > MAX_FILE_BYTES {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    parse(&bytes)
}

fn kind_name(kind: std::fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "a socket or another thing",
    }
}

/// Parses and checks a model.
pub(super) fn parse(bytes: &[u8]) -> Result<ModelProto, OnnxError> {
    let malformed = |error: protobuf::Error| OnnxError::Malformed(error.to_string());
    whole(bytes).map_err(malformed)?;
    let model = ModelProto::parse_from_bytes(bytes).map_err(malformed)?;
    if model.graph.is_none() || model.opset_import.is_empty() {
        return Err(OnnxError::Malformed("it has no graph or no operator set".into()));
    }
    check(&model)?;
    Ok(model)
}

/// Whether every field of the outermost message ends inside the file. The parser itself takes the end of
/// the file for the end of a nested message, so that a file cut at the right place would pass as a smaller model.
fn whole(bytes: &[u8]) -> protobuf::Result<()> {
    let mut stream = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        // An unknown wire type is left for the parser to name.
        let Some(wire_type) = WireType::new(tag & 7) else { return Ok(()) };
        stream.skip_field(wire_type)?;
    }
    Ok(())
}

fn check(model: &ModelProto) -> Result<(), OnnxError> {
    if !model.training_info.is_empty() {
        return Err(OnnxError::Malformed("it carries training information".into()));
    }
    for function in &model.functions {
        let place = format!("model-local function {:?}", function.name);
        check_nodes(&function.node, &place, &model.functions)?;
        function.attribute_proto.iter().try_for_each(|attribute| check_attribute(attribute, &place, &model.functions))?;
    }
    check_graph(model.graph.get_or_default(), "the graph", &model.functions)
}

fn check_graph(graph: &GraphProto, place: &str, functions: &[onnx_protobuf::FunctionProto]) -> Result<(), OnnxError> {
    if !graph.sparse_initializer.is_empty() {
        return Err(OnnxError::Malformed("it has sparse initialisers".into()));
    }
    graph.initializer.iter().try_for_each(check_tensor)?;
    for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
        check_type(&value.name, value.type_.get_or_default())?;
    }
    check_nodes(&graph.node, place, functions)
}

fn check_nodes(nodes: &[NodeProto], place: &str, functions: &[onnx_protobuf::FunctionProto]) -> Result<(), OnnxError> {
    if nodes.len() > MAX_NODES {
        return Err(OnnxError::TooLarge { what: format!("nodes in {place}"), limit: MAX_NODES as u64, found: nodes.len().to_string() });
    }
    for node in nodes {
        // Bodies first: an operator off the list inside an `If` is named itself, not only the `If`.
        node.attribute
            .iter()
            .try_for_each(|attribute| check_attribute(attribute, &format!("a subgraph of {}", node.op_type), functions))?;
        let standard = matches!(node.domain.as_str(), "" | "ai.onnx");
        if functions.iter().any(|function| function.name == node.op_type && function.domain == node.domain) {
            return Err(OnnxError::Function(node.op_type.clone()));
        }
        if !standard || !ALLOWED.contains(&node.op_type.as_str()) {
            let op = if standard { node.op_type.clone() } else { format!("{}::{}", node.domain, node.op_type) };
            return Err(OnnxError::Operator { op, place: place.to_owned() });
        }
    }
    Ok(())
}

fn check_attribute(attribute: &AttributeProto, place: &str, functions: &[onnx_protobuf::FunctionProto]) -> Result<(), OnnxError> {
    attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
    if attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty() {
        return Err(OnnxError::Malformed(format!("attribute {:?} is a sparse tensor", attribute.name)));
    }
    attribute.g.iter().chain(&attribute.graphs).try_for_each(|graph| check_graph(graph, place, functions))?;
    if attribute.g.is_some() || !attribute.graphs.is_empty() {
        // No operator on the list has one, so whatever carries it is not what it says it is.
        return Err(OnnxError::Operator { op: format!("with a subgraph {:?}", attribute.name), place: place.to_owned() });
    }
    Ok(())
}

/// Dimensions within the cap, and as many bytes as they say.
fn check_tensor(tensor: &TensorProto) -> Result<(), OnnxError> {
    let n_elements = n_elements(&tensor.name, tensor.dims.iter().copied())?;
    let element = element_bytes(tensor.data_type)
        .ok_or_else(|| OnnxError::Malformed(format!("tensor {:?} has data type {}", tensor.name, type_name(tensor.data_type))))?;
    if tensor.segment.is_some() {
        return Err(OnnxError::Malformed(format!("tensor {:?} is stored in segments", tensor.name)));
    }
    if is_external(tensor) {
        return Ok(());
    }
    let expected = n_elements * element;
    let typed =
        tensor.float_data.len() + tensor.int32_data.len() + tensor.int64_data.len() + tensor.double_data.len() + tensor.uint64_data.len();
    if (typed == 0 && tensor.raw_data.len() as u64 != expected)
        || (typed > 0 && (typed as u64 != n_elements || !tensor.raw_data.is_empty()))
    {
        let message = format!(
            "tensor {:?} has {n_elements} values of {element} bytes and holds {} bytes or {typed} values",
            tensor.name,
            tensor.raw_data.len()
        );
        return Err(OnnxError::Malformed(message));
    }
    Ok(())
}

/// A weight that is NaN makes its latents never active, one that is infinite makes them NaN or infinite where they are
/// active, and nothing else would show it: golden rows that are made here hold the same. One value alone or in a row may
/// be infinite, as masks and thresholds of latents that are switched off are; what comes of it is looked at in the
/// golden rows.
pub(super) fn refuse_not_finite(model: &ModelProto) -> Result<(), OnnxError> {
    for tensor in model.graph.iter().flat_map(|graph| &graph.initializer) {
        let is_matrix = tensor.dims.iter().filter(|dim| **dim > 1).count() > 1;
        let is_wrong = |value: &f32| value.is_nan() || (is_matrix && value.is_infinite());
        let values = floats(tensor);
        if let Some((index, value)) = values.iter().flatten().enumerate().find(|(_, value)| is_wrong(value)) {
            let message = format!("tensor {:?} holds {value}, first at value {index}: export the SAE from a sound checkpoint", tensor.name);
            return Err(OnnxError::Malformed(message));
        }
    }
    Ok(())
}

/// Dimensions of a declared type: unknown ones count as 1.
fn check_type(name: &str, type_: &TypeProto) -> Result<(), OnnxError> {
    if !type_.has_tensor_type() {
        return if type_.value.is_none() { Ok(()) } else { Err(OnnxError::Malformed(format!("{name:?} is not a tensor"))) };
    }
    let dims = type_.tensor_type().shape.iter().flat_map(|shape| &shape.dim);
    n_elements(name, dims.map(|dim| if dim.has_dim_value() { dim.dim_value() } else { 1 })).map(|_| ())
}

fn n_elements(name: &str, dims: impl Iterator<Item = i64>) -> Result<u64, OnnxError> {
    let mut product = 1u64;
    for dim in dims {
        let dim = u64::try_from(dim).map_err(|_| OnnxError::Malformed(format!("tensor {name:?} has the negative dimension {dim}")))?;
        product = product.saturating_mul(dim);
        if product > MAX_ELEMENTS {
            let found = if product == u64::MAX { "more than can be counted".to_owned() } else { product.to_string() };
            return Err(OnnxError::TooLarge { what: format!("values in tensor {name:?}"), limit: MAX_ELEMENTS, found });
        }
    }
    Ok(product)
}

fn type_name(data_type: i32) -> String {
    onnx_protobuf::tensor_proto::DataType::from_i32(data_type).map_or_else(|| data_type.to_string(), |known| format!("{known:?}"))
}
