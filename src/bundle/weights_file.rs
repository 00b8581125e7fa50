//! An SAE's weights as one safetensors file, with what an SAE needs beside its tensors in the metadata.
//!
//! Tensors are RecSAE's: `encoder.weight [d_sae, d_in]`, `encoder.bias`, `W_dec [d_sae, d_in]`, `b_dec`.
//! Metadata: `k` or `threshold`, and `centring` ("false" where `b_dec` is not subtracted first).

use std::num::NonZeroUsize;
use std::path::Path;

use crate::bundle::error::BundleError;
use crate::bundle::tensors::{TensorFile, weights_bytes};
use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

/// Reads such a file. What it does not say is taken from `selection`.
///
/// # Errors
/// The file cannot be read, is no safetensors file, lacks a tensor, or neither it nor `selection` says
/// which latents are active: that cannot be guessed.
pub fn read(path: &Path, selection: Option<Selection>) -> Result<SaeWeights, BundleError> {
    let bytes = std::fs::read(path).map_err(BundleError::io(path))?;
    let file = TensorFile::read(path, &bytes)?;
    let selection = stated(&file).or(selection).ok_or_else(|| {
        BundleError::part(path, "expected k or threshold in the file's metadata, found neither: say which latents are active with --k")
    })?;
    let (d_sae, d_in) = file.shape(selection)?;
    file.weights(SaeSpec { d_in, d_sae, selection, centring: file.metadata("centring").as_deref() != Some("false") })
}

/// The bytes of such a file; `notes` are put into its metadata too.
///
/// # Errors
/// The tensors do not serialise.
pub fn write(weights: &SaeWeights, notes: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let spec = weights.spec();
    let centring = spec.centring.to_string();
    let (name, value) = match spec.selection {
        Selection::TopK(k) => ("k", k.to_string()),
        Selection::Threshold(threshold) => ("threshold", threshold.to_string()),
    };
    let mut metadata = vec![("format", "recsae"), ("centring", centring.as_str()), (name, value.as_str())];
    metadata.extend_from_slice(notes);
    weights_bytes(weights, &metadata)
}

fn stated(file: &TensorFile<'_>) -> Option<Selection> {
    let k = file.metadata("k").and_then(|k| k.parse::<NonZeroUsize>().ok()).map(Selection::TopK);
    let threshold = || file.metadata("threshold").and_then(|t| t.parse::<f32>().ok()).filter(|t| t.is_finite()).map(Selection::Threshold);
    k.or_else(threshold)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array2};

    use super::*;

    fn size(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).unwrap()
    }

    #[test]
    fn weights_survive_the_file_with_their_selection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        for selection in [Selection::TopK(size(2)), Selection::Threshold(0.25)] {
            for centring in [true, false] {
                let spec = SaeSpec { d_in: size(3), d_sae: size(5), selection, centring };
                let w = Array2::from_shape_fn((5, 3), |(i, j)| i as f32 - j as f32 / 3.0);
                let before = SaeWeights::new(spec, w.clone(), Array1::ones(5), Some(w * 2.0), Array1::zeros(3)).unwrap();
                std::fs::write(&path, write(&before, &[("seed", "1")]).unwrap()).unwrap();
                assert_eq!(read(&path, None).unwrap(), before);
                assert_eq!(read(&path, Some(Selection::TopK(size(4)))).unwrap(), before, "what the file says holds");
            }
        }
    }

    #[test]
    fn a_file_that_does_not_state_its_selection_is_asked_about() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let spec = SaeSpec { d_in: size(3), d_sae: size(5), selection: Selection::TopK(size(2)), centring: true };
        let sae = SaeWeights::new(spec, Array2::ones((5, 3)), Array1::ones(5), None, Array1::zeros(3)).unwrap();
        std::fs::write(&path, weights_bytes(&sae, &[]).unwrap()).unwrap();
        assert!(read(&path, None).unwrap_err().to_string().contains("--k"));
        assert_eq!(read(&path, Some(spec.selection)).unwrap(), sae);
    }
}
