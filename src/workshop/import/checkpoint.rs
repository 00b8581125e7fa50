//! A checkpoint of any family: named tensors, other values beside them, and a configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::workshop::import::archive::Archive;
use crate::workshop::import::pickle::{Node, Pickle, Ref};

/// Largest file read: an SAE of a recommender is some MB, of a language model a few GB.
const MOST_BYTES: u64 = 8 << 30;
/// Nesting of dictionaries in a checkpoint.
const MOST_DEPTH: usize = 16;
/// Weights in a folder, the first that exists.
const WEIGHTS: [&str; 5] = ["sae_weights.safetensors", "sae.safetensors", "ae.pt", "autoencoder.pt", "weights.safetensors"];
/// Configuration beside them.
const CONFIGS: [&str; 2] = ["cfg.json", "config.json"];

/// A tensor, its values as f32 in row order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// Everything that was in the files.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    pub(super) tensors: BTreeMap<String, Tensor>,
    /// Numbers and texts among the tensors (OpenAI's dictionary has some), and safetensors metadata.
    pub(super) others: BTreeMap<String, Value>,
    /// `cfg.json` or `config.json`; null without one.
    pub(super) config: Value,
}

impl Checkpoint {
    /// Reads a file, or a folder of weights and configuration.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let (weights, folder): (PathBuf, &Path) = if path.is_dir() {
            let found = WEIGHTS.iter().map(|name| path.join(name)).find(|file| file.is_file());
            (found.with_context(|| format!("{}: expected one of {}", path.display(), WEIGHTS.join(", ")))?, path)
        } else {
            (path.to_owned(), path.parent().unwrap_or(Path::new(".")))
        };
        let size = std::fs::metadata(&weights).with_context(|| weights.display().to_string())?.len();
        ensure!(size <= MOST_BYTES, "{}: {size} bytes, expected at most {MOST_BYTES}", weights.display());
        let bytes = std::fs::read(&weights).with_context(|| weights.display().to_string())?;
        let mut checkpoint = Self::of_bytes(&bytes).with_context(|| weights.display().to_string())?;
        // A lone .pt or .safetensors may lie among other things: only a configuration of its own folder kind counts.
        let named = weights.file_name().and_then(|name| name.to_str()).is_some_and(|name| WEIGHTS.contains(&name));
        if let Some(config) = CONFIGS.iter().map(|name| folder.join(name)).find(|file| named && file.is_file()) {
            let text = std::fs::read_to_string(&config).with_context(|| config.display().to_string())?;
            ensure!(text.len() <= 1 << 20, "{}: a configuration of {} bytes", config.display(), text.len());
            checkpoint.config = serde_json::from_str(&text).with_context(|| config.display().to_string())?;
        }
        Ok(checkpoint)
    }

    /// Reads the bytes of a weights file.
    pub(super) fn of_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        if bytes.starts_with(b"PK") {
            Self::of_torch(bytes)
        } else if bytes.starts_with(&[0x80]) && bytes.get(8) != Some(&b'{') {
            // A safetensors file begins with the length of its header, which may be 128 too.
            bail!(
                "a pickle without an archive, as torch wrote before 1.6, or with _use_new_zipfile_serialization=False: save it again with a newer torch"
            )
        } else {
            Self::of_safetensors(bytes)
        }
    }

    fn of_safetensors(bytes: &[u8]) -> anyhow::Result<Self> {
        let file = SafeTensors::deserialize(bytes).context("neither a torch archive nor a safetensors file")?;
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let mut checkpoint = Self::default();
        for (key, value) in header.metadata().iter().flatten() {
            checkpoint.others.insert(key.clone(), Value::from(value.clone()));
        }
        for (name, view) in file.tensors() {
            let element = match view.dtype() {
                Dtype::F32 => Element::F32,
                Dtype::F16 => Element::F16,
                Dtype::BF16 => Element::Bf16,
                Dtype::F64 => Element::F64,
                Dtype::I64 => Element::I64,
                Dtype::I32 => Element::I32,
                _ => continue,
            };
            let n = view.shape().iter().product();
            let values = (0..n).filter_map(|at| element.read(view.data(), at)).collect();
            checkpoint.tensors.insert(name, Tensor { shape: view.shape().to_vec(), values });
        }
        Ok(checkpoint)
    }

    fn of_torch(bytes: &[u8]) -> anyhow::Result<Self> {
        let archive = Archive::read(bytes)?;
        let (folder, pickle) = archive.pickle()?;
        let pickle = Pickle::read(pickle)?;
        let mut checkpoint = Self::default();
        // No state_dict has more values than its file has bytes: shared storages cannot multiply.
        let mut budget = bytes.len();
        checkpoint.collect(&pickle, pickle.root(), "", &mut budget, 0, &|key| archive.storage(folder, key))?;
        ensure!(!checkpoint.tensors.is_empty(), "no tensors: expected a state_dict");
        Ok(checkpoint)
    }

    fn collect<'a>(
        &mut self,
        pickle: &Pickle,
        at: Ref,
        name: &str,
        budget: &mut usize,
        depth: usize,
        storage: &dyn Fn(&str) -> anyhow::Result<&'a [u8]>,
    ) -> anyhow::Result<()> {
        ensure!(depth <= MOST_DEPTH, "dictionaries nested deeper than {MOST_DEPTH}");
        match pickle.node(at) {
            Node::Dict(pairs) => {
                for (key, value) in pairs {
                    let Node::Text(key) = pickle.node(*key) else { continue };
                    let inner = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                    *budget = budget.checked_sub(1).context("more values than bytes")?;
                    self.collect(pickle, *value, &inner, budget, depth + 1, storage)?;
                }
            }
            Node::Tensor { .. } => {
                if let Some(tensor) = tensor(pickle, at, budget, storage).with_context(|| format!("tensor {name:?}"))? {
                    self.tensors.insert(name.to_owned(), tensor);
                }
            }
            Node::Int(value) => drop(self.others.insert(name.to_owned(), Value::from(*value))),
            Node::Float(value) => drop(self.others.insert(name.to_owned(), Value::from(*value))),
            Node::Bool(value) => drop(self.others.insert(name.to_owned(), Value::from(*value))),
            Node::Text(value) => drop(self.others.insert(name.to_owned(), Value::from(value.clone()))),
            Node::None | Node::List(_) | Node::Tuple(_) | Node::Name(_) | Node::Storage { .. } => {}
        }
        Ok(())
    }
}

/// A tensor's values out of its storage; `None` for element types that no SAE's weights have.
fn tensor<'a>(
    pickle: &Pickle,
    at: Ref,
    budget: &mut usize,
    storage: &dyn Fn(&str) -> anyhow::Result<&'a [u8]>,
) -> anyhow::Result<Option<Tensor>> {
    let Node::Tensor { storage: stored, offset, shape, strides } = pickle.node(at) else { bail!("no tensor") };
    let Node::Storage { element, key, n_elements } = pickle.node(*stored) else { bail!("no storage") };
    let Some(element) = Element::of_torch(element) else { return Ok(None) };
    let bytes = storage(key)?;
    let claimed = usize::try_from(*n_elements).ok().and_then(|n| n.checked_mul(element.size()));
    ensure!(claimed == Some(bytes.len()), "its storage claims {n_elements} values, the archive has {} bytes", bytes.len());
    ensure!(shape.len() == strides.len() && shape.len() <= 4, "shape {shape:?} with strides {strides:?}");
    let size = |n: &i64| usize::try_from(*n).with_context(|| format!("shape {shape:?} with strides {strides:?}"));
    let dims = shape.iter().map(size).collect::<anyhow::Result<Vec<usize>>>()?;
    let steps = strides.iter().map(size).collect::<anyhow::Result<Vec<usize>>>()?;
    let n = dims.iter().try_fold(1_usize, |n, dim| n.checked_mul(*dim)).context("a shape beyond all memory")?;
    *budget = budget.checked_sub(n).with_context(|| format!("shape {shape:?} claims more values than the file has bytes"))?;
    let first = usize::try_from(*offset).ok().with_context(|| format!("a negative offset, {offset}"))?;
    let mut values = Vec::with_capacity(n);
    for flat in 0..n {
        let (mut rest, mut place) = (flat, first);
        for (dim, step) in dims.iter().zip(&steps).rev() {
            place = (rest % dim).checked_mul(*step).and_then(|by| place.checked_add(by)).context("strides beyond all memory")?;
            rest /= dim;
        }
        values.push(element.read(bytes, place).with_context(|| format!("value {flat} lies outside its storage"))?);
    }
    Ok(Some(Tensor { shape: dims, values }))
}

/// Element types whose values become f32.
#[derive(Clone, Copy, Debug)]
enum Element {
    F32,
    F16,
    Bf16,
    F64,
    I64,
    I32,
}

impl Element {
    fn of_torch(name: &str) -> Option<Self> {
        Some(match name {
            "torch.FloatStorage" => Self::F32,
            "torch.HalfStorage" => Self::F16,
            "torch.BFloat16Storage" => Self::Bf16,
            "torch.DoubleStorage" => Self::F64,
            "torch.LongStorage" => Self::I64,
            "torch.IntStorage" => Self::I32,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "weights are f32 here")]
    fn read(self, bytes: &[u8], at: usize) -> Option<f32> {
        let start = at.checked_mul(self.size())?;
        let part = bytes.get(start..start.checked_add(self.size())?)?;
        Some(match self {
            Self::F32 => f32::from_le_bytes(part.try_into().ok()?),
            Self::F16 => half::f16::from_le_bytes(part.try_into().ok()?).to_f32(),
            Self::Bf16 => half::bf16::from_le_bytes(part.try_into().ok()?).to_f32(),
            Self::F64 => f64::from_le_bytes(part.try_into().ok()?) as f32,
            Self::I64 => i64::from_le_bytes(part.try_into().ok()?) as f32,
            Self::I32 => i32::from_le_bytes(part.try_into().ok()?) as f32,
        })
    }
}
