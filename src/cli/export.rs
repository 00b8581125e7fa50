//! `recsae export`: an SAE of ours as files of other programs.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::bundle::{onnx, weights_file};
use crate::cli::{Outcome, UsageError};
use crate::encode;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::weights::{SaeWeights, Selection};
use crate::workshop::{export, sae_file};

/// Rows the exported graph is tried on.
const ROWS: usize = 64;

/// Arguments of `recsae export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae export --sae run/ --onnx sae.onnx --saelens saelens/ --sparsify sparsify/
  recsae export --sae bundles/v12 --onnx-dense encoder.onnx")]
pub struct Args {
    /// The SAE: a bundle, a run folder of `recsae train`, or .safetensors
    #[arg(long, value_name = "PATH")]
    sae: PathBuf,
    /// Active latents a row, where the file does not say
    #[arg(long)]
    k: Option<NonZeroUsize>,
    /// The whole SAE: embedding to values, indices (or latents) and reconstruction
    #[arg(long, value_name = "FILE")]
    onnx: Option<PathBuf>,
    /// The encoder up to the selection, which is what `recsae run` uses
    #[arg(long, value_name = "FILE")]
    onnx_dense: Option<PathBuf>,
    /// One safetensors file, RecSAE's names
    #[arg(long, value_name = "FILE")]
    safetensors: Option<PathBuf>,
    /// Folder for SAELens (6 or newer)
    #[arg(long, value_name = "DIR")]
    saelens: Option<PathBuf>,
    /// Folder for sparsify
    #[arg(long, value_name = "DIR")]
    sparsify: Option<PathBuf>,
    /// Path of the ONNX Runtime library, which tries the graphs [default: ORT_DYLIB_PATH, beside the executable, the system]
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Writes every file asked for.
///
/// # Errors
/// The SAE cannot be read, a format cannot hold it, a file exists, or a graph does not compute the SAE.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let written = exported(args).map_err(|error| UsageError(format!("{error:#}")))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "written": written }))?)?;
    } else {
        written.iter().try_for_each(|path| writeln!(out, "written {}", path.display()))?;
    }
    Ok(Outcome::Done)
}

fn exported(args: &Args) -> anyhow::Result<Vec<PathBuf>> {
    let asked = [&args.onnx, &args.onnx_dense, &args.safetensors, &args.saelens, &args.sparsify];
    ensure!(asked.iter().any(|path| path.is_some()), "nothing to write: give --onnx, --onnx-dense, --safetensors, --saelens or --sparsify");
    let sae = sae_file::open(&args.sae, args.k.map(Selection::TopK))?;
    let mut written = Vec::new();
    for (path, graph) in [(&args.onnx, onnx::write::full_graph(&sae)), (&args.onnx_dense, onnx::write::dense_graph(&sae))] {
        let Some(path) = path else { continue };
        let bytes = graph.map_err(anyhow::Error::msg)?;
        new_file(path, &bytes)?;
        try_graph(path, &sae, args.onnxruntime.as_deref()).inspect_err(|_| {
            // A graph that does not compute the SAE must not be left to be used.
            std::fs::remove_file(path).ok();
        })?;
        written.push(path.clone());
    }
    if let Some(path) = &args.safetensors {
        new_file(path, &weights_file::write(&sae, &[]).map_err(anyhow::Error::msg)?)?;
        written.push(path.clone());
    }
    if let Some(dir) = &args.saelens {
        written.extend(export::write_folder(dir, &export::saelens(&sae)?)?);
    }
    if let Some(dir) = &args.sparsify {
        written.extend(export::write_folder(dir, &export::sparsify(&sae)?)?);
    }
    Ok(written)
}

/// Reads the graph back as `bundle build` does, runs it in ONNX Runtime, and compares with the weights.
fn try_graph(path: &Path, sae: &SaeWeights, library: Option<&Path>) -> anyhow::Result<()> {
    let graph = onnx::read(path, Some(sae.spec().selection))?;
    let mut batch = EmbeddingBatch::new(sae.spec().d_in);
    for row in 0..ROWS {
        let value = |at: usize| sae.b_dec()[at] + ((row * 31 + at * 17) as f32 * 0.7).sin();
        batch.push(&(0..sae.spec().d_in.get()).map(value).collect::<Vec<f32>>())?;
    }
    let answer = encode::run_graph(&graph.spec, &graph.model, &batch, library).map_err(anyhow::Error::msg)?;
    for row in 0..ROWS {
        let expected = sae.encode(batch.row(row));
        let (latents, values) = answer.row(row);
        let scale = expected.iter().map(|(_, value)| value.abs()).fold(1e-3, f64::max);
        // Where two values are equal within rounding either latent may be chosen, so values are compared.
        let mut ours: Vec<f64> = expected.iter().map(|(_, value)| *value).collect();
        let mut theirs: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
        ours.sort_by(f64::total_cmp);
        theirs.sort_by(f64::total_cmp);
        let alike = ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= 1e-4 * scale);
        ensure!(alike, "{}: row {row} encodes as {latents:?} in ONNX Runtime, as {expected:?} by the weights", path.display());
    }
    Ok(())
}

fn new_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    ensure!(!path.exists(), "{} exists already: give a new file", path.display());
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
