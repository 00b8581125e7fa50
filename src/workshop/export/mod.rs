//! An SAE of ours as files of other programs.
//!
//! What a format cannot say is refused, or folded where it is linear: sparsify always subtracts `b_dec`, so
//! an SAE that does not gets `b_enc + W_enc b_dec` as its bias, which is the same function.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use ndarray::{Array1, Array2};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::sae::weights::{SaeWeights, Selection};

/// Files of a SAELens (>= 6) folder.
///
/// # Errors
/// The SAE has no decoder.
pub fn saelens(sae: &SaeWeights) -> anyhow::Result<BTreeMap<&'static str, Vec<u8>>> {
    let spec = sae.spec();
    let w_dec = sae.w_dec().context("expected a decoder")?;
    let mut tensors = vec![
        Named::matrix("W_enc", &sae.w_enc().t().as_standard_layout().into_owned()),
        Named::vector("b_enc", sae.b_enc()),
        Named::matrix("W_dec", w_dec),
        Named::vector("b_dec", sae.b_dec()),
    ];
    let mut config = json!({
        "d_in": spec.d_in, "d_sae": spec.d_sae, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": spec.centring,
        "normalize_activations": "none", "reshape_activations": "none", "metadata": {},
    });
    match spec.selection {
        Selection::TopK(k) => {
            config["architecture"] = "topk".into();
            config["k"] = k.get().into();
            config["rescale_acts_by_decoder_norm"] = false.into();
        }
        Selection::Threshold(threshold) if threshold <= 0.0 && sae.thresholds().is_none() => config["architecture"] = "standard".into(),
        Selection::Threshold(threshold) => {
            config["architecture"] = "jumprelu".into();
            let own = sae.thresholds().cloned().unwrap_or_else(|| Array1::from_elem(spec.d_sae.get(), threshold));
            tensors.push(Named::vector("threshold", &own.mapv(|own| own.max(threshold))));
        }
    }
    Ok(BTreeMap::from([("sae_weights.safetensors", bytes(&tensors)?), ("cfg.json", serde_json::to_vec_pretty(&config)?)]))
}

/// Files of a sparsify folder.
///
/// # Errors
/// The SAE is no TopK SAE with a decoder.
pub fn sparsify(sae: &SaeWeights) -> anyhow::Result<BTreeMap<&'static str, Vec<u8>>> {
    let spec = sae.spec();
    let Selection::TopK(k) = spec.selection else {
        bail!("sparsify knows TopK SAEs only, this one has a {}: export it as SAELens or ONNX", spec.selection)
    };
    let w_dec = sae.w_dec().context("expected a decoder")?;
    let b_enc = if spec.centring { sae.b_enc().clone() } else { sae.b_enc() + &sae.w_enc().dot(sae.b_dec()) };
    let tensors = [
        Named::matrix("encoder.weight", sae.w_enc()),
        Named::vector("encoder.bias", &b_enc),
        Named::matrix("W_dec", w_dec),
        Named::vector("b_dec", sae.b_dec()),
    ];
    let config = json!({
        "activation": "topk", "expansion_factor": spec.d_sae.get().div_ceil(spec.d_in.get()), "normalize_decoder": true,
        "num_latents": spec.d_sae, "k": k, "multi_topk": false, "skip_connection": false, "transcode": false, "d_in": spec.d_in,
    });
    Ok(BTreeMap::from([("sae.safetensors", bytes(&tensors)?), ("cfg.json", serde_json::to_vec_pretty(&config)?)]))
}

/// Makes a new folder with these files.
///
/// # Errors
/// It exists already, or cannot be written.
pub fn write_folder(dir: &Path, files: &BTreeMap<&str, Vec<u8>>) -> anyhow::Result<Vec<PathBuf>> {
    ensure!(!dir.exists(), "{} exists already: give a new folder", dir.display());
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let write = |(name, bytes): (&&str, &Vec<u8>)| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    files.iter().map(write).collect()
}

/// A tensor with its bytes.
struct Named {
    name: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Named {
    fn matrix(name: &'static str, matrix: &Array2<f32>) -> Self {
        Self { name, shape: matrix.shape().to_vec(), bytes: matrix.iter().flat_map(|value| value.to_le_bytes()).collect() }
    }

    fn vector(name: &'static str, vector: &Array1<f32>) -> Self {
        Self { name, shape: vec![vector.len()], bytes: vector.iter().flat_map(|value| value.to_le_bytes()).collect() }
    }
}

fn bytes(tensors: &[Named]) -> anyhow::Result<Vec<u8>> {
    let views = tensors.iter().map(|tensor| Ok((tensor.name, TensorView::new(Dtype::F32, tensor.shape.clone(), &tensor.bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    // SAELens and sparsify read with torch's reader, which asks for this key.
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}
