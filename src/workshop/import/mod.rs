//! Checkpoints of other programs as SAEs of ours: recognised, folded, checked, never guessed.
//!
//! | family | files | known by |
//! |---|---|---|
//! | RecSAE | `.pt` (state_dict of the whole model) | `sae_module.encoder.weight`; k is asked for |
//! | SAELens | `sae_weights.safetensors` + `cfg.json` | `W_enc [d, n]`, `architecture` |
//! | sparsify | `sae.safetensors` + `cfg.json` | `encoder.weight`, `W_dec [n, d]`, k in cfg.json |
//! | dictionary_learning | `ae.pt` + `config.json` | `decoder.weight [d, n]`, class in config.json |
//! | OpenAI | `.pt` | `pre_bias`, `latent_bias`; normalisation is asked for |

mod archive;
mod checkpoint;
mod fold;
pub mod options;
mod pickle;
mod recognise;

use std::path::Path;

use anyhow::Context;

use crate::sae::weights::SaeWeights;
use crate::workshop::import::checkpoint::Checkpoint;

pub use crate::workshop::import::options::{ImportOptions, Normalisation};

/// An imported SAE.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Ours.
    pub weights: SaeWeights,
    /// The family it was recognised as.
    pub family: &'static str,
    /// Its architecture: `standard`, `topk`, `batchtopk`, `jumprelu`, `gated`, `relu`.
    pub architecture: String,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// Imports a file or a folder.
///
/// # Errors
/// It cannot be read, is no checkpoint of the table, is hostile or damaged, or does not say something that
/// cannot be guessed: the error says what to give.
pub fn import(path: &Path, options: &ImportOptions) -> anyhow::Result<Imported> {
    let checkpoint = Checkpoint::read(path)?;
    of_checkpoint(&checkpoint, options).with_context(|| path.display().to_string())
}

/// Imports the bytes of one file, without a configuration beside it.
///
/// # Errors
/// As [`import`].
pub fn import_bytes(bytes: &[u8], options: &ImportOptions) -> anyhow::Result<Imported> {
    of_checkpoint(&Checkpoint::of_bytes(bytes)?, options)
}

fn of_checkpoint(checkpoint: &Checkpoint, options: &ImportOptions) -> anyhow::Result<Imported> {
    let recognised = recognise::recognise(checkpoint, options)?;
    Ok(Imported {
        weights: recognised.foreign.folded()?,
        family: recognised.family,
        architecture: recognised.architecture,
        notes: recognised.notes,
    })
}
