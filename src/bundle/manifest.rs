//! `manifest.json`: what a bundle holds, and the hash of each of its files.
//!
//! A reader refuses a version it does not know before it looks at anything else, and unknown keys
//! within a version it does know: a key it passed over might be the one that changes the meaning.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bundle::error::BundleError;
use crate::sae::weights::SaeSpec;

/// Version of the manifest this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Name of the manifest in its folder.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Name of the encoder graph.
pub const MODEL_FILE: &str = "sae.onnx";
/// Name of the weights.
pub const WEIGHTS_FILE: &str = "weights.safetensors";
/// Name of the golden rows.
pub const GOLDEN_FILE: &str = "golden.safetensors";
/// Name of the catalogue.
pub const CONCEPTS_FILE: &str = "concepts.json";
/// Name of the reference that may come along as a seed.
pub const REFERENCE_FILE: &str = "reference.parquet";
/// All names a manifest may list; no other name is ever opened.
pub const KNOWN_FILES: [&str; 5] = [MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE, CONCEPTS_FILE, REFERENCE_FILE];
/// Largest manifest read: one is under 4 KiB.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// What is done to an embedding before it enters the SAE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Nothing that the graph does not do itself.
    #[default]
    None,
}

/// The manifest of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Version of recsae that wrote it.
    pub recsae_version: String,
    /// Family of the encoder: `topk` or `threshold`.
    pub architecture: String,
    /// Shape, selection and centring.
    pub sae: SaeSpec,
    /// What happens before the encoder.
    pub normalisation: Normalisation,
    /// Where in the recommender the vectors are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probing_site: Option<String>,
    /// Version of the recommender the SAE was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_version: Option<String>,
    /// What labels, references and windows belong to.
    pub fingerprint: String,
    /// sha256 of each file, lower-case hexadecimal.
    pub files: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads `DIR/manifest.json`.
    ///
    /// # Errors
    /// It is missing, too large, of another version, has unknown keys or lists unknown files.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join(MANIFEST_FILE);
        let invalid = |message: String| BundleError::Manifest { path: path.clone(), message };
        let bytes = read_plain_file(&path, MAX_MANIFEST_BYTES)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        match value.get("format_version") {
            Some(version) if version.as_u64() == Some(u64::from(FORMAT_VERSION)) => {}
            Some(version) => {
                return Err(BundleError::Version { path: path.clone(), found: version.to_string(), supported: FORMAT_VERSION });
            }
            None => return Err(invalid("expected an object with format_version, found none".into())),
        }
        let manifest: Self = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        if let Some(name) = manifest.files.keys().find(|name| !KNOWN_FILES.contains(&name.as_str())) {
            return Err(invalid(format!("files lists {name:?}, expected only {}", KNOWN_FILES.join(", "))));
        }
        if !manifest.files.contains_key(MODEL_FILE) || !manifest.files.contains_key(GOLDEN_FILE) {
            return Err(invalid(format!("files must list {MODEL_FILE} and {GOLDEN_FILE}")));
        }
        Ok(manifest)
    }

    /// Reads one listed file and checks its hash; `None` where the manifest does not list it.
    ///
    /// # Errors
    /// It cannot be read, is a link, is larger than `max_bytes`, or has another hash.
    pub fn read_file(&self, dir: &Path, name: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, BundleError> {
        let Some(expected) = self.files.get(name) else { return Ok(None) };
        let path = dir.join(name);
        let bytes = read_plain_file(&path, max_bytes)?;
        let found = sha256(&bytes);
        if found == *expected { Ok(Some(bytes)) } else { Err(BundleError::Hash { path, expected: expected.clone(), found }) }
    }
}

/// sha256 in lower-case hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a regular file that is not a link and at most `max_bytes` long.
pub(crate) fn read_plain_file(path: &Path, max_bytes: u64) -> Result<Vec<u8>, BundleError> {
    let metadata = std::fs::symlink_metadata(path).map_err(BundleError::io(path))?;
    if !metadata.is_file() {
        return Err(BundleError::part(path, "expected a regular file, found a link or folder; copy the file itself there"));
    }
    if metadata.len() > max_bytes {
        return Err(BundleError::part(path, format!("expected at most {max_bytes} bytes, found {}", metadata.len())));
    }
    std::fs::read(path).map_err(BundleError::io(path))
}
