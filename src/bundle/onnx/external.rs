//! Weights that lie beside the model (`model.onnx.data`, what PyTorch's exporter writes by default).
//!
//! The location comes from the file, so from whoever wrote it: only a plain relative path inside the
//! model's own folder is followed, through no link, and only bytes that the file really has are read.
//! The values are moved into the model, so that nothing external is left for ONNX Runtime to open.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{GraphProto, ModelProto, NodeProto, TensorProto};

use crate::bundle::onnx::error::OnnxError;
use crate::bundle::onnx::guard::MAX_FILE_BYTES;
use crate::bundle::onnx::proto::{element_bytes, is_external};

/// Moves all external data of `model`, read from `path`, into it.
pub(super) fn embed(model: &mut ModelProto, path: &Path) -> Result<(), OnnxError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut bytes_left = MAX_FILE_BYTES;
    let graph: &mut GraphProto = model.graph.mut_or_insert_default();
    let attributes = graph.node.iter_mut().flat_map(|node: &mut NodeProto| &mut node.attribute);
    let tensors = attributes.flat_map(|attribute| attribute.t.0.as_deref_mut().into_iter().chain(&mut attribute.tensors));
    for tensor in graph.initializer.iter_mut().chain(tensors).filter(|tensor| is_external(tensor)) {
        embed_one(tensor, folder, &mut bytes_left)?;
    }
    Ok(())
}

/// Refuses a model that has any.
pub(super) fn refuse(model: &ModelProto) -> Result<(), OnnxError> {
    let graph: &GraphProto = model.graph.get_or_default();
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    let tensors = attributes.flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors));
    match graph.initializer.iter().chain(tensors).find(|tensor| is_external(tensor)) {
        Some(tensor) => {
            Err(OnnxError::External { tensor: tensor.name.clone(), problem: "a bundle's graph holds its weights itself".into() })
        }
        None => Ok(()),
    }
}

fn embed_one(tensor: &mut TensorProto, folder: &Path, bytes_left: &mut u64) -> Result<(), OnnxError> {
    let name = tensor.name.clone();
    let refuse = |problem: String| OnnxError::External { tensor: name.clone(), problem };
    let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.clone());
    let number = |key: &str, default: u64| match entry(key) {
        None => Ok(default),
        Some(text) => text.parse::<u64>().map_err(|_| refuse(format!("{key} {text:?} is not a number of bytes"))),
    };
    let n_elements: u64 = tensor.dims.iter().map(|dim| u64::try_from(*dim).unwrap_or(0)).product();
    let expected = n_elements * element_bytes(tensor.data_type).unwrap_or(0);
    let location = entry("location").ok_or_else(|| refuse("it names no file".into()))?;
    let (offset, length) = (number("offset", 0)?, number("length", expected)?);
    if length != expected {
        return Err(refuse(format!("length is {length} bytes, the tensor's shape asks for {expected}")));
    }
    let file_path = inside(folder, &location).map_err(&refuse)?;
    let mut file = std::fs::File::open(&file_path).map_err(|error| refuse(format!("{location:?} cannot be opened: {error}")))?;
    let size = file.metadata().map_err(|error| refuse(error.to_string()))?.len();
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(refuse(format!("bytes {offset} + {length} lie beyond the end of {location:?}, which has {size}")));
    }
    *bytes_left = bytes_left.checked_sub(length).ok_or_else(|| OnnxError::TooLarge {
        what: "external data in bytes".into(),
        limit: MAX_FILE_BYTES,
        found: "more".into(),
    })?;
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| refuse("it does not fit into memory".into()))?];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|error| refuse(format!("{location:?} cannot be read: {error}")))?;
    tensor.raw_data = bytes;
    tensor.external_data.clear();
    tensor.data_location = DataLocation::DEFAULT.into();
    Ok(())
}

/// The path of `location` inside `folder`, refused unless every part is a plain name and no part is a link.
fn inside(folder: &Path, location: &str) -> Result<PathBuf, String> {
    let relative = Path::new(location);
    if location.is_empty() || location.contains(['\\', '\0', ':']) {
        return Err(format!("expected the name of a file beside the model, found {location:?}"));
    }
    let mut path = folder.to_owned();
    for component in relative.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => continue,
            Component::ParentDir => return Err(format!("{location:?} leaves the model's folder")),
            Component::RootDir | Component::Prefix(_) => return Err(format!("{location:?} is an absolute path")),
        }
        let metadata = std::fs::symlink_metadata(&path).map_err(|error| format!("{location:?} cannot be opened: {error}"))?;
        if metadata.is_symlink() {
            return Err(format!("{location:?} is or passes through a symbolic link"));
        }
    }
    if path.is_file() { Ok(path) } else { Err(format!("{location:?} is not a regular file")) }
}
