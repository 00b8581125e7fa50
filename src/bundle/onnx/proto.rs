//! Small readings of ONNX messages, shared by the rooms of this folder.

use ndarray::{Array1, Array2};
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{AttributeProto, NodeProto, TensorProto, TypeProto};

/// ONNX's number for f32.
pub(super) const FLOAT: i32 = 1;
/// ONNX's number for half precision.
const FLOAT16: i32 = 10;
/// ONNX's number for bfloat16.
const BFLOAT16: i32 = 16;
/// ONNX's number for truth values.
pub(super) const BOOL: i32 = 9;
/// ONNX's number for i64.
pub(super) const INT64: i32 = 7;

/// Bytes of one value; `None` for types an SAE has no use for (strings, complex, sub-byte).
pub(super) fn element_bytes(data_type: i32) -> Option<u64> {
    match data_type {
        2 | 3 | 9 => Some(1),
        4 | 5 | 10 | 16 => Some(2),
        1 | 6 | 12 => Some(4),
        7 | 11 | 13 => Some(8),
        _ => None,
    }
}

/// Whether the tensor's values lie in another file.
pub(super) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location.enum_value() != Ok(DataLocation::DEFAULT) || !tensor.external_data.is_empty()
}

/// An attribute by name.
pub(super) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

/// An integer attribute, or its default.
pub(super) fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).map_or(default, |attribute| attribute.i)
}

/// A float attribute, or its default.
pub(super) fn float(node: &NodeProto, name: &str, default: f32) -> f32 {
    attribute(node, name).map_or(default, |attribute| attribute.f)
}

/// Input `i` of a node; `None` where it is left out.
pub(super) fn input(node: &NodeProto, i: usize) -> Option<&str> {
    node.input.get(i).map(String::as_str).filter(|name| !name.is_empty())
}

/// Element type and dimensions of a declared tensor type; a symbolic dimension is `None`.
pub(super) fn tensor_type(type_: &TypeProto) -> Option<(i32, Vec<Option<usize>>)> {
    let tensor = type_.has_tensor_type().then(|| type_.tensor_type())?;
    let shape = tensor.shape.as_ref()?;
    let dims = shape.dim.iter().map(|dim| dim.has_dim_value().then(|| usize::try_from(dim.dim_value()).ok()).flatten());
    Some((tensor.elem_type, dims.collect()))
}

/// Dimensions of a tensor; those that passed the guard are not negative.
pub(super) fn dims(tensor: &TensorProto) -> Vec<usize> {
    tensor.dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect()
}

/// Values of an f32 tensor, or of one of half precision, whose values are all f32 too.
pub(super) fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    let halves = |convert: fn(u16) -> f32| -> Vec<f32> {
        if tensor.int32_data.is_empty() {
            tensor.raw_data.chunks_exact(2).filter_map(|bytes| bytes.try_into().ok().map(u16::from_le_bytes)).map(convert).collect()
        } else {
            tensor.int32_data.iter().map(|bits| convert(u16::try_from(*bits & 0xffff).unwrap_or(0))).collect()
        }
    };
    match tensor.data_type {
        FLOAT if !tensor.float_data.is_empty() => Some(tensor.float_data.clone()),
        FLOAT => Some(tensor.raw_data.chunks_exact(4).filter_map(|bytes| bytes.try_into().ok().map(f32::from_le_bytes)).collect()),
        FLOAT16 => Some(halves(|bits| half::f16::from_bits(bits).to_f32())),
        BFLOAT16 => Some(halves(|bits| half::bf16::from_bits(bits).to_f32())),
        _ => None,
    }
}

/// Values of an i64 tensor.
pub(super) fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    if tensor.data_type != INT64 {
        return None;
    }
    if !tensor.int64_data.is_empty() {
        return Some(tensor.int64_data.clone());
    }
    Some(tensor.raw_data.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok().map(i64::from_le_bytes)).collect())
}

/// A tensor of floats as a matrix.
pub(super) fn matrix(tensor: &TensorProto) -> Option<Array2<f32>> {
    let [rows, columns] = *dims(tensor).as_slice() else { return None };
    Array2::from_shape_vec((rows, columns), floats(tensor)?).ok()
}

/// A tensor of floats of one row as a vector.
pub(super) fn vector(tensor: &TensorProto) -> Option<Array1<f32>> {
    let dims = dims(tensor);
    let leading = dims.split_last().map_or(&[][..], |(_, leading)| leading);
    (!dims.is_empty() && leading.iter().all(|dim| *dim == 1)).then(|| floats(tensor).map(Array1::from))?
}
