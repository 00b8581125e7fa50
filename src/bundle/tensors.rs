//! safetensors files: weights in and out, golden rows.
//!
//! Names say which tensor is meant; the orientation of a matrix is decided by its shape, because the
//! families of checkpoints disagree about it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::bundle::error::BundleError;
use crate::sae::weights::{SaeSpec, SaeWeights, Selection, ShapeError};

/// Name of the thresholds of latents `[d_sae]`, where they have their own. Not the name other programs give
/// theirs, which may mean a threshold that inference does not use.
const THRESHOLDS: &str = "latent_thresholds";

/// A parsed safetensors file.
pub(crate) struct TensorFile<'a> {
    path: PathBuf,
    tensors: SafeTensors<'a>,
    metadata: HashMap<String, String>,
}

impl<'a> TensorFile<'a> {
    /// Parses `bytes`; `path` is for messages.
    pub(crate) fn read(path: &Path, bytes: &'a [u8]) -> Result<Self, BundleError> {
        let invalid = |error: safetensors::SafeTensorError| BundleError::part(path, format!("not a safetensors file: {error}"));
        let tensors = SafeTensors::deserialize(bytes).map_err(invalid)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
        Ok(Self { path: path.to_owned(), tensors, metadata: header.metadata().clone().unwrap_or_default() })
    }

    /// A text of the file's metadata.
    pub(crate) fn metadata(&self, key: &str) -> Option<String> {
        self.metadata.get(key).cloned()
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// A matrix of f32, f16 or bf16 values.
    pub(crate) fn matrix(&self, name: &str) -> Result<Array2<f32>, BundleError> {
        let (shape, values) = self.floats(name)?;
        let [rows, columns] = *shape.as_slice() else { return Err(self.refuse(name, "a matrix", &shape)) };
        Array2::from_shape_vec((rows, columns), values).map_err(|error| BundleError::part(&self.path, error.to_string()))
    }

    /// A matrix of i64 or i32 values.
    pub(crate) fn integers(&self, name: &str) -> Result<Array2<i64>, BundleError> {
        let view = self.view(name)?;
        let values: Vec<i64> = match view.dtype() {
            Dtype::I64 => view.data().chunks_exact(8).filter_map(|b| b.try_into().ok().map(i64::from_le_bytes)).collect(),
            Dtype::I32 => view.data().chunks_exact(4).filter_map(|b| b.try_into().ok().map(|b| i64::from(i32::from_le_bytes(b)))).collect(),
            other => return Err(BundleError::part(&self.path, format!("tensor {name:?}: expected int64 or int32, found {other:?}"))),
        };
        let [rows, columns] = *view.shape() else { return Err(self.refuse(name, "a matrix", view.shape())) };
        Array2::from_shape_vec((rows, columns), values).map_err(|error| BundleError::part(&self.path, error.to_string()))
    }

    /// `(d_sae, d_in)`, by the encoder's bias where there is one, else an encoder of more latents than inputs.
    pub(crate) fn shape(&self, selection: Selection) -> Result<(NonZeroUsize, NonZeroUsize), BundleError> {
        let name = self
            .named(&["encoder.weight", "W_enc"])
            .ok_or_else(|| BundleError::part(&self.path, "expected a tensor encoder.weight or W_enc, found none"))?;
        let shape = self.view(&name)?.shape().to_vec();
        let biases = self.named(&["encoder.bias", "b_enc", "latent_bias"]).map(|bias| self.view(&bias)).transpose()?;
        let bias = biases.and_then(|view| view.shape().first().copied());
        let (a, b) = match *shape.as_slice() {
            [a, b] => (NonZeroUsize::new(a), NonZeroUsize::new(b)),
            _ => (None, None),
        };
        let (Some(a), Some(b)) = (a, b) else { return Err(self.refuse(&name, "a matrix", &shape)) };
        let turned = bias.map_or(a < b, |bias| bias != a.get() && bias == b.get());
        let (d_sae, d_in) = if turned { (b, a) } else { (a, b) };
        match selection {
            Selection::TopK(k) if k > d_sae => Err(BundleError::part(&self.path, format!("k = {k}, but there are {d_sae} latents"))),
            _ => Ok((d_sae, d_in)),
        }
    }

    fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), BundleError> {
        let view = self.view(name)?;
        let pairs = || view.data().chunks_exact(2).filter_map(|b| <[u8; 2]>::try_from(b).ok());
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => view.data().chunks_exact(4).filter_map(|b| b.try_into().ok().map(f32::from_le_bytes)).collect(),
            Dtype::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            other => return Err(BundleError::part(&self.path, format!("tensor {name:?}: expected f32, f16 or bf16, found {other:?}"))),
        };
        Ok((view.shape().to_vec(), values))
    }

    fn view(&self, name: &str) -> Result<TensorView<'a>, BundleError> {
        self.tensors.tensor(name).map_err(|_| {
            let mut names = self.tensors.names();
            names.sort_unstable();
            BundleError::part(&self.path, format!("expected a tensor {name:?}, found {}", names.join(", ")))
        })
    }

    fn refuse(&self, name: &str, expected: &str, shape: &[usize]) -> BundleError {
        BundleError::part(&self.path, format!("tensor {name:?}: expected {expected}, found shape {shape:?}"))
    }

    /// The first tensor whose name is, or ends in a dot and, one of `names`.
    fn named(&self, names: &[&str]) -> Option<String> {
        let all = self.tensors.names();
        let matches = |wanted: &str| all.iter().find(|name| **name == wanted || name.ends_with(&format!(".{wanted}")));
        names.iter().find_map(|wanted| matches(wanted)).map(|name| (*name).to_owned())
    }

    /// A matrix `[d_sae, d_in]`, turned round where it is stored as `[d_in, d_sae]`.
    fn per_latent(&self, names: &[&str], spec: &SaeSpec) -> Result<Option<Array2<f32>>, BundleError> {
        let Some(name) = self.named(names) else { return Ok(None) };
        let matrix = self.matrix(&name)?;
        let (d_sae, d_in) = (spec.d_sae.get(), spec.d_in.get());
        match matrix.dim() {
            shape if shape == (d_sae, d_in) => Ok(Some(matrix)),
            shape if shape == (d_in, d_sae) => Ok(Some(matrix.reversed_axes().as_standard_layout().into_owned())),
            (a, b) => Err(self.refuse(&name, &format!("[{d_sae}, {d_in}] as in the graph"), &[a, b])),
        }
    }

    fn vector(&self, names: &[&str], n: usize) -> Result<Array1<f32>, BundleError> {
        let Some(name) = self.named(names) else { return Ok(Array1::zeros(n)) };
        let (shape, values) = self.floats(&name)?;
        if values.len() == n { Ok(Array1::from(values)) } else { Err(self.refuse(&name, &format!("[{n}]"), &shape)) }
    }

    /// The SAE's weights: `encoder.weight`, `encoder.bias`, `W_dec`, `b_dec` or their usual other names.
    pub(crate) fn weights(&self, spec: SaeSpec) -> Result<SaeWeights, BundleError> {
        let w_enc = self
            .per_latent(&["encoder.weight", "W_enc"], &spec)?
            .ok_or_else(|| BundleError::part(&self.path, "expected a tensor encoder.weight or W_enc, found none"))?;
        let b_enc = self.vector(&["encoder.bias", "b_enc", "latent_bias"], spec.d_sae.get())?;
        let w_dec = self.per_latent(&["W_dec", "decoder.weight"], &spec)?;
        let b_dec = self.vector(&["b_dec", "pre_bias", "decoder.bias"], spec.d_in.get())?;
        let refused = |error: ShapeError| BundleError::part(&self.path, error.to_string());
        let weights = SaeWeights::new(spec, w_enc, b_enc, w_dec, b_dec).map_err(refused)?;
        match self.named(&[THRESHOLDS]) {
            Some(name) => weights.with_thresholds(self.vector(&[&name], spec.d_sae.get())?).map_err(refused),
            None => Ok(weights),
        }
    }
}

/// An f32 tensor to be written.
pub(crate) struct F32Tensor {
    name: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl F32Tensor {
    /// A matrix.
    pub(crate) fn matrix(name: &'static str, matrix: &Array2<f32>) -> Self {
        Self { name, shape: matrix.shape().to_vec(), bytes: matrix.iter().flat_map(|value| value.to_le_bytes()).collect() }
    }

    /// A vector.
    pub(crate) fn vector(name: &'static str, vector: &Array1<f32>) -> Self {
        Self { name, shape: vec![vector.len()], bytes: vector.iter().flat_map(|value| value.to_le_bytes()).collect() }
    }
}

/// Bytes of a safetensors file.
pub(crate) fn write(
    tensors: &[F32Tensor],
    integers: Option<(&'static str, &Array2<i64>)>,
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, String> {
    let integer_bytes: Vec<u8> = integers.iter().flat_map(|(_, matrix)| matrix.iter()).flat_map(|value| value.to_le_bytes()).collect();
    let mut views = Vec::new();
    for tensor in tensors {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), &tensor.bytes).map_err(|error| error.to_string())?;
        views.push((tensor.name, view));
    }
    if let Some((name, matrix)) = integers {
        views.push((name, TensorView::new(Dtype::I64, matrix.shape().to_vec(), &integer_bytes).map_err(|error| error.to_string())?));
    }
    let bytes = safetensors::serialize(views, None).map_err(|error| error.to_string())?;
    with_metadata(&bytes, metadata)
}

/// The file with this metadata in its header. The library would write it in an order of chance, and the
/// same weights must give the same bytes. A file is the header's length (u64, little-endian), the header
/// (JSON, padded with spaces to a multiple of eight), the tensors.
fn with_metadata(bytes: &[u8], metadata: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or("a safetensors file without header")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|error| error.to_string())?;
    let (header, tensors) = rest.split_at_checked(length).ok_or("a safetensors header beyond its file")?;
    let tensor_entries = header.trim_ascii_end().strip_prefix(b"{").ok_or("a safetensors header that is no object")?;
    let sorted: std::collections::BTreeMap<_, _> = metadata.iter().copied().collect();
    let mut head = format!("{{\"__metadata__\":{}", serde_json::to_string(&sorted).map_err(|error| error.to_string())?).into_bytes();
    if tensor_entries != b"}" {
        head.push(b',');
    }
    head.extend_from_slice(tensor_entries);
    head.resize(head.len().next_multiple_of(8), b' ');
    Ok([&(head.len() as u64).to_le_bytes(), head.as_slice(), tensors].concat())
}

/// Bytes of `weights.safetensors`.
pub(crate) fn write_weights(weights: &SaeWeights) -> Result<Vec<u8>, String> {
    weights_bytes(weights, &[])
}

/// Bytes of a file of weights with this metadata.
pub(crate) fn weights_bytes(weights: &SaeWeights, metadata: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let mut tensors = vec![
        F32Tensor::matrix("encoder.weight", weights.w_enc()),
        F32Tensor::vector("encoder.bias", weights.b_enc()),
        F32Tensor::vector("b_dec", weights.b_dec()),
    ];
    tensors.extend(weights.w_dec().map(|w_dec| F32Tensor::matrix("W_dec", w_dec)));
    tensors.extend(weights.thresholds().map(|thresholds| F32Tensor::vector(THRESHOLDS, thresholds)));
    write(&tensors, None, metadata)
}
