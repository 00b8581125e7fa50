//! An SAE with its catalogue: what label, verify, families and review read and write.
//!
//! In a bundle the two lie together. An SAE that is no bundle yet has its catalogue in a file of its own,
//! which `recsae bundle build --concepts` takes up.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::bundle::manifest::Normalisation;
use crate::bundle::{Bundle, catalogue, fingerprint};
use crate::sae::concept::ConceptCatalog;
use crate::sae::weights::{SaeWeights, Selection};
use crate::workshop::sae_file;

/// An opened SAE and where its catalogue goes.
#[derive(Clone, Debug)]
pub struct NamedSae {
    /// The weights, with a decoder.
    pub weights: SaeWeights,
    /// What is known of its latents; its fingerprint is the SAE's.
    pub catalogue: ConceptCatalog,
    /// The bundle, or the file.
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Bundle(PathBuf),
    File(PathBuf),
    Nowhere,
}

impl NamedSae {
    /// Opens the SAE in `path` with the catalogue in `concepts`, else the bundle's.
    ///
    /// # Errors
    /// There is no SAE or no catalogue, or the catalogue belongs to another SAE.
    pub fn open(path: &Path, selection: Option<Selection>, concepts: Option<&Path>) -> anyhow::Result<Self> {
        Self::existing(path, sae_file::open(path, selection)?, concepts)
    }

    /// The same of an SAE that labels are taken from: `fallback` holds where it does not say itself which of its
    /// latents are active.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn earlier(path: &Path, fallback: Selection, concepts: Option<&Path>) -> anyhow::Result<Self> {
        Self::existing(path, sae_file::open_or(path, fallback)?, concepts)
    }

    /// The same where the catalogue may be a new one: what makes labels begins with none.
    ///
    /// # Errors
    /// There is no SAE, or the catalogue belongs to another one.
    pub fn open_or_new(path: &Path, selection: Option<Selection>, concepts: Option<&Path>) -> anyhow::Result<Self> {
        Self::with(path, sae_file::open(path, selection)?, concepts)
    }

    fn existing(path: &Path, weights: SaeWeights, concepts: Option<&Path>) -> anyhow::Result<Self> {
        let named = Self::with(path, weights, concepts)?;
        match &named.place {
            Place::File(file) => ensure!(file.exists(), "{}: there is no such catalogue; `recsae label` makes one", file.display()),
            Place::Nowhere => bail!("{}: this is no bundle: say where its catalogue lies with --concepts FILE.json", path.display()),
            Place::Bundle(_) => {}
        }
        Ok(named)
    }

    fn with(path: &Path, weights: SaeWeights, concepts: Option<&Path>) -> anyhow::Result<Self> {
        let own = fingerprint::of_weights(&weights, Normalisation::None);
        let is_bundle = path.join("manifest.json").is_file();
        let (mut found, place) = match concepts {
            Some(file) if file.exists() => (catalogue::read(file, weights.spec().d_sae.get())?, Place::File(file.to_owned())),
            Some(file) => (ConceptCatalog::default(), Place::File(file.to_owned())),
            None if is_bundle => (Bundle::open(path)?.catalogue().clone(), Place::Bundle(path.to_owned())),
            None => (ConceptCatalog::default(), Place::Nowhere),
        };
        if found.fingerprint.is_empty() {
            found.fingerprint.clone_from(&own);
        }
        ensure!(
            found.fingerprint == own,
            "the catalogue names SAE {}, this is {own}: labels belong to one SAE; carry them over with `recsae review carry-over`",
            found.fingerprint
        );
        Ok(Self { weights, catalogue: found, place })
    }

    /// Writes another catalogue where this one's lies; says where that is.
    ///
    /// # Errors
    /// It cannot be written, or there is no place for it.
    pub fn save(&self, catalogue: &ConceptCatalog) -> anyhow::Result<PathBuf> {
        match &self.place {
            Place::Bundle(dir) => {
                catalogue::replace(dir, catalogue)?;
                Ok(dir.join(crate::bundle::manifest::CONCEPTS_FILE))
            }
            Place::File(file) => {
                let staged = file.with_extension(format!("{}.part", std::process::id()));
                std::fs::write(&staged, serde_json::to_vec_pretty(catalogue)?)
                    .with_context(|| format!("cannot write {}", staged.display()))?;
                std::fs::rename(&staged, file).with_context(|| format!("cannot write {}", file.display()))?;
                Ok(file.clone())
            }
            Place::Nowhere => bail!("this SAE is no bundle: say where its catalogue is to be with --concepts FILE.json"),
        }
    }

    /// Whether [`Self::save`] has a place to write to.
    #[must_use]
    pub fn has_place(&self) -> bool {
        !matches!(self.place, Place::Nowhere)
    }
}
