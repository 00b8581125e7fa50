//! The SAE a command is given: a bundle's folder, or a file of weights.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::bundle::{Bundle, weights_file};
use crate::sae::weights::{SaeWeights, Selection};
use crate::workshop::import::{ImportOptions, Imported, import};

/// Opens the SAE in `path`. `selection`, where given, says which latents are active; else the file must.
///
/// # Errors
/// There is no SAE, its weights are not known (a bundle of a bare graph), it has no decoder, or it says itself that
/// other latents are active: with another k it would be another SAE, and nobody would notice.
pub fn open(path: &Path, selection: Option<Selection>) -> anyhow::Result<SaeWeights> {
    let weights = read(path, selection, import)?;
    let own = weights.spec().selection;
    if let Some(asked) = selection {
        ensure!(asked == own, "{}: asked for {asked}, but the SAE says {own} itself: leave it out", path.display());
    }
    Ok(weights)
}

/// The same, where `fallback` holds only if the SAE does not say itself which latents are active.
///
/// # Errors
/// As [`open`], but for the last.
pub fn open_or(path: &Path, fallback: Selection) -> anyhow::Result<SaeWeights> {
    read(path, Some(fallback), |path, options| import(path, options).or_else(|_| import(path, &ImportOptions::default())))
}

fn read(
    path: &Path,
    selection: Option<Selection>,
    checkpoint: impl Fn(&Path, &ImportOptions) -> anyhow::Result<Imported>,
) -> anyhow::Result<SaeWeights> {
    let weights = if path.is_dir() && path.join("manifest.json").is_file() {
        let bundle = Bundle::open(path)?;
        match bundle.weights() {
            Some(weights) => weights.clone(),
            None => bail!("{}: this bundle's weights are not known: build it with --weights", path.display()),
        }
    } else if path.join("cfg.json").is_file() || path.join("ae.pt").is_file() || path.extension().is_some_and(|extension| extension == "pt")
    {
        // Another program's checkpoint; what it does not say `recsae import` asks for.
        let k = if let Some(Selection::TopK(k)) = selection { Some(k) } else { None };
        let threshold = if let Some(Selection::Threshold(threshold)) = selection { Some(threshold) } else { None };
        checkpoint(path, &ImportOptions { k, threshold, ..ImportOptions::default() })?.weights
    } else if path.is_dir() {
        // A run folder of `recsae train`.
        weights_file::read(&path.join("weights.safetensors"), selection)?
    } else {
        weights_file::read(path, selection)?
    };
    weights.w_dec().with_context(|| format!("{}: expected a decoder (W_dec), found none", path.display()))?;
    Ok(weights)
}
