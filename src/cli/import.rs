//! `recsae import`: checkpoints of other programs as SAEs of ours.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::bundle::weights_file;
use crate::cli::dataset_args::DatasetArgs;
use crate::cli::{Outcome, UsageError};
use crate::workshop::dataset::Dataset;
use crate::workshop::evaluate::{EvaluateRequest, evaluate};
use crate::workshop::import::{ImportOptions, Imported, Normalisation, import};

/// FVU from which an import is taken to be wrong: the mean vector alone gives 1.
const WORST_FVU: f64 = 1.0;

/// Arguments of `recsae import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae import saelens/layer_3/ --out sae.safetensors --check-embeddings vectors.npy
  recsae import SASRec_k8_s16.pt --k 8 --out sae.safetensors
  recsae import openai.pt --normalisation none --out sae.safetensors

RecSAE, SAELens, sparsify, dictionary_learning and OpenAI checkpoints are recognised by their tensors' names, shapes and
configuration; what these do not say is asked for. Pickles are read as data, nothing in them is run. With vectors to check
on, exit 1 when the SAE reconstructs them worse than their mean.")]
pub struct Args {
    /// The checkpoint: a file, or a folder of weights and configuration
    path: PathBuf,
    /// Active latents a row, where the files do not say
    #[arg(long)]
    k: Option<NonZeroUsize>,
    /// Instead of k: every latent above this value is active (0 for a plain ReLU SAE)
    #[arg(long, conflicts_with = "k", value_name = "T")]
    threshold: Option<f32>,
    /// Whether b_dec is subtracted before encoding, where the files do not say
    #[arg(long, value_name = "BOOL")]
    centring: Option<bool>,
    /// What is done to a vector before the encoder: none, a factor, or upstream (done by whoever writes the vectors)
    #[arg(long, value_name = "none|upstream|FACTOR")]
    normalisation: Option<Normalisation>,
    /// Vectors (.npy or .parquet) to check the import on
    #[arg(long, value_name = "FILE")]
    check_embeddings: Option<PathBuf>,
    /// Weights to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Imports, checks, and writes.
///
/// # Errors
/// The checkpoint is refused, or a file cannot be read or written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let usage = |error: anyhow::Error| UsageError(format!("{error:#}"));
    if let Some(threshold) = args.threshold.filter(|threshold| !(threshold.is_finite() && *threshold >= 0.0)) {
        return Err(UsageError(format!("expected --threshold to be finite and at least 0, found {threshold}")).into());
    }
    let options = ImportOptions { k: args.k, threshold: args.threshold, centring: args.centring, normalisation: args.normalisation };
    let imported = import(&args.path, &options).map_err(usage)?;
    let checked = args.check_embeddings.as_deref().map(|path| check(&imported, path)).transpose().map_err(usage)?;
    let fits = checked.is_none_or(|(fvu, _)| fvu < WORST_FVU);
    if let Some(out) = args.out.as_deref().filter(|_| fits) {
        write(&imported, out).map_err(usage)?;
    }
    print(args, &imported, checked, fits)?;
    Ok(if fits { Outcome::Done } else { Outcome::No })
}

/// FVU and active latents a row over the given vectors.
fn check(imported: &Imported, path: &Path) -> anyhow::Result<(f64, f64)> {
    let data = DatasetArgs { embeddings: path.to_owned(), fields: None, join: Vec::new(), by: None, filters: Vec::new() };
    let dataset = Dataset::open(&data.request()?)?;
    let spec = imported.weights.spec();
    ensure!(dataset.d_in() == spec.d_in.get(), "the vectors have {} values, the SAE reads {}", dataset.d_in(), spec.d_in);
    let request = EvaluateRequest { segments: Vec::new(), entity: None, ranking: None, top: 10 };
    let quality = evaluate(&imported.weights, &dataset, &request, &|_| {})?.quality;
    Ok((quality.fvu, quality.l0))
}

fn write(imported: &Imported, out: &Path) -> anyhow::Result<()> {
    ensure!(!out.exists(), "{} exists already: give a new file", out.display());
    let notes = [("family", imported.family), ("architecture", imported.architecture.as_str())];
    let bytes = weights_file::write(&imported.weights, &notes).map_err(anyhow::Error::msg)?;
    std::fs::write(out, bytes).with_context(|| format!("cannot write {}", out.display()))
}

fn print(args: &Args, imported: &Imported, checked: Option<(f64, f64)>, fits: bool) -> anyhow::Result<()> {
    let spec = imported.weights.spec();
    let mut out = std::io::stdout().lock();
    if args.json {
        let json = json!({
            "family": imported.family, "architecture": imported.architecture, "sae": spec, "notes": imported.notes,
            "fvu": checked.map(|(fvu, _)| fvu), "l0": checked.map(|(_, l0)| l0), "fits": fits,
            "written": args.out.as_ref().filter(|_| fits),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        return Ok(());
    }
    writeln!(out, "{} {}, {} latents of {} values, {}", imported.family, imported.architecture, spec.d_sae, spec.d_in, spec.selection)?;
    for note in &imported.notes {
        writeln!(out, "note: {note}")?;
    }
    match checked {
        Some((fvu, l0)) if fits => writeln!(out, "on the vectors given: FVU {fvu:.4}, {l0:.1} latents active a row")?,
        Some((fvu, l0)) => writeln!(
            out,
            "on the vectors given: FVU {fvu:.4}, {l0:.1} latents active a row: worse than their mean, so these are other vectors, or k, centring or normalisation is another; nothing written"
        )?,
        None => writeln!(out, "not checked on vectors: give some with --check-embeddings")?,
    }
    if let Some(path) = args.out.as_ref().filter(|_| fits) {
        writeln!(out, "written to {}", path.display())?;
    }
    Ok(())
}
