//! A bundle: one SAE with its names and its golden rows, under one hashed manifest.
//!
//! Everything a window's counts depend on is in the fingerprint; everything else may change beside it.
//! A bundle is opened whole: each file's hash, the fingerprint recomputed from the weights, and the
//! graph checked again as if it were new, because a folder may have been made by anybody.

use std::path::{Path, PathBuf};

use crate::drift::stream::StreamId;
use crate::sae::concept::{ConceptCatalog, Verification};
use crate::sae::reconstruction::Decoder;
use crate::sae::weights::{SaeSpec, SaeWeights};

pub mod build;
pub mod catalogue;
pub mod error;
pub mod fingerprint;
pub mod golden;
pub mod manifest;
pub mod onnx;
mod tensors;
pub mod weights_file;

pub use error::BundleError;

use golden::GoldenRows;
use manifest::{CONCEPTS_FILE, GOLDEN_FILE, MODEL_FILE, Manifest, WEIGHTS_FILE};

/// An opened bundle: checked, and held in memory.
#[derive(Clone, Debug)]
pub struct Bundle {
    dir: PathBuf,
    manifest: Manifest,
    model: Vec<u8>,
    weights: Option<SaeWeights>,
    decoder: Option<Decoder>,
    golden: GoldenRows,
    catalogue: ConceptCatalog,
}

impl Bundle {
    /// Opens the bundle in `dir`.
    ///
    /// # Errors
    /// The manifest is not understood, a file is missing, changed, linked or of the wrong kind, the
    /// catalogue or the manifest belongs to another SAE, or the graph is refused.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let manifest = Manifest::read(dir)?;
        let read = |name: &str| manifest.read_file(dir, name, onnx::MAX_FILE_BYTES);
        let required = |name: &str| {
            read(name)?.ok_or_else(|| BundleError::part(&dir.join(name), "expected in every bundle, the manifest does not list it"))
        };
        let model = required(MODEL_FILE)?;
        let model_path = dir.join(MODEL_FILE);
        onnx::check_encoder(&model, &manifest.sae).map_err(|source| BundleError::Onnx { path: model_path, source })?;
        let weights_path = dir.join(WEIGHTS_FILE);
        let weights = match read(WEIGHTS_FILE)? {
            Some(bytes) => Some(tensors::TensorFile::read(&weights_path, &bytes)?.weights(manifest.sae)?),
            None => None,
        };
        let golden = GoldenRows::from_safetensors(&dir.join(GOLDEN_FILE), &required(GOLDEN_FILE)?)?;
        let concepts_path = dir.join(CONCEPTS_FILE);
        let catalogue = match read(CONCEPTS_FILE)? {
            Some(bytes) => catalogue::from_json(&concepts_path, &bytes, manifest.sae.d_sae.get())?,
            None => ConceptCatalog { fingerprint: manifest.fingerprint.clone(), ..ConceptCatalog::default() },
        };
        let found = fingerprint_of(&manifest, &model, weights.as_ref());
        for (what, named) in [("manifest", &manifest.fingerprint), ("catalogue", &catalogue.fingerprint)] {
            if *named != found {
                let message = format!(
                    "{}: the {what} names SAE {named}, the weights here are {found}: it belongs to another SAE; build the bundle again",
                    dir.display()
                );
                return Err(BundleError::Mismatch { message });
            }
        }
        let decoder = weights.as_ref().and_then(Decoder::new);
        Ok(Self { dir: dir.to_owned(), manifest, model, weights, decoder, golden, catalogue })
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Shape and selection.
    #[must_use]
    pub fn spec(&self) -> &SaeSpec {
        &self.manifest.sae
    }

    /// What labels, references and windows belong to.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.manifest.fingerprint
    }

    /// The checked encoder graph: `[batch, d_in]` f32 to the dense tensor before the selection.
    #[must_use]
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// The weights, where they are known.
    #[must_use]
    pub fn weights(&self) -> Option<&SaeWeights> {
        self.weights.as_ref()
    }

    /// The decoder, where it is known: without it the reconstruction error cannot be measured.
    #[must_use]
    pub fn decoder(&self) -> Option<&Decoder> {
        self.decoder.as_ref()
    }

    /// The golden rows.
    #[must_use]
    pub fn golden(&self) -> &GoldenRows {
        &self.golden
    }

    /// Names of latents and families.
    #[must_use]
    pub fn catalogue(&self) -> &ConceptCatalog {
        &self.catalogue
    }

    /// Name of a stream, never empty.
    #[must_use]
    pub fn stream_name(&self, stream: StreamId) -> String {
        match stream {
            StreamId::Latent(latent) => self.catalogue.name(latent),
            StreamId::Family(family) => self.catalogue.family_name(family),
            StreamId::ResidualOutlier => "records the SAE explains badly".into(),
            StreamId::DeadRecord => "records with no active latent".into(),
        }
    }

    /// How far [`Self::stream_name`] may be trusted.
    #[must_use]
    pub fn stream_verification(&self, stream: StreamId) -> Verification {
        match stream {
            StreamId::Latent(latent) => self.catalogue.verification(latent),
            StreamId::Family(_) | StreamId::ResidualOutlier | StreamId::DeadRecord => Verification::Verified,
        }
    }
}

/// The fingerprint of what a manifest describes.
fn fingerprint_of(manifest: &Manifest, model: &[u8], weights: Option<&SaeWeights>) -> String {
    match weights {
        Some(weights) => fingerprint::of_weights(weights, manifest.normalisation),
        None => fingerprint::of_graph(&manifest.sae, model, manifest.normalisation),
    }
}
