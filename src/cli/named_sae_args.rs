//! Arguments by which a command is given an SAE and its catalogue.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::sae::weights::Selection;
use crate::workshop::named_sae::NamedSae;

/// The SAE, and where its catalogue lies.
#[derive(Clone, Debug, clap::Args)]
pub struct NamedSaeArgs {
    /// The SAE: a bundle, a run folder of `recsae train`, or .safetensors
    #[arg(long, value_name = "PATH")]
    sae: PathBuf,
    /// Active latents a row, where the file does not say
    #[arg(long)]
    k: Option<NonZeroUsize>,
    /// Catalogue to read and write [default: the bundle's own]
    #[arg(long, value_name = "FILE.json")]
    concepts: Option<PathBuf>,
}

impl NamedSaeArgs {
    /// Opens both.
    ///
    /// # Errors
    /// There is no SAE or no catalogue, or the catalogue belongs to another SAE.
    pub fn open(&self) -> anyhow::Result<NamedSae> {
        NamedSae::open(&self.sae, self.k.map(Selection::TopK), self.concepts.as_deref())
    }

    /// Opens the SAE, and its catalogue where there is one yet.
    ///
    /// # Errors
    /// There is no SAE, or the catalogue belongs to another one.
    pub fn open_or_new(&self) -> anyhow::Result<NamedSae> {
        NamedSae::open_or_new(&self.sae, self.k.map(Selection::TopK), self.concepts.as_deref())
    }
}
