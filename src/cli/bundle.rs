//! `recsae bundle`: build, look into and verify bundles.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use crate::bundle::Bundle;
use crate::bundle::build::{BuildRequest, Built, build};
use crate::bundle::error::BundleError;
use crate::cli::{Outcome, UsageError};
use crate::encode::{self, Engine, OpenError};
use crate::sae::weights::Selection;

/// Arguments of `recsae bundle`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Build a bundle from an ONNX file and what comes with it
    Build(BuildArgs),
    /// Show what a bundle holds
    Inspect(BundleArgs),
    /// Check a bundle: hashes, fingerprint, graph, golden rows. Exit 1 if a check fails
    Verify(BundleArgs),
}

/// Arguments of `recsae bundle build`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae bundle build --onnx sae.onnx --golden golden.npz --concepts concepts.parquet --out bundle/
  recsae bundle build --onnx dense.onnx --weights sae.safetensors --k 32 --model-version v12 --out bundle/")]
struct BuildArgs {
    /// The SAE as ONNX: its encoder, or the whole of it; weights beside it (.onnx.data) are found
    #[arg(long, value_name = "FILE")]
    onnx: PathBuf,
    /// Weights as .safetensors [default: read out of the ONNX file where it has them]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Active latents a row [default: as the graph selects]
    #[arg(long)]
    k: Option<NonZeroUsize>,
    /// Instead of k: every latent above this value is active (0 for a plain ReLU SAE)
    #[arg(long, conflicts_with = "k", value_name = "T")]
    threshold: Option<f32>,
    /// Rows with known activations, .npz or .safetensors: embedding, values, indices, reconstruction
    /// [default: rows made by recsae, which count as unverified]
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    /// Names of latents, .json or .parquet (columns latent, top_titles, rate, genre)
    #[arg(long, value_name = "FILE")]
    concepts: Option<PathBuf>,
    /// Version of the recommender the SAE was trained on
    #[arg(long, value_name = "V")]
    model_version: Option<String>,
    /// Where in the recommender the vectors are taken
    #[arg(long, value_name = "TEXT")]
    probing_site: Option<String>,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    common: CommonArgs,
}

/// Arguments of `recsae bundle inspect` and `verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  recsae bundle inspect bundle/\n  recsae bundle verify bundle/ --json")]
struct BundleArgs {
    /// The bundle's folder
    dir: PathBuf,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Path of the ONNX Runtime library [default: ORT_DYLIB_PATH, beside the executable, the system]
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

/// Runs one of the three.
///
/// # Errors
/// Wrong usage or set-up ([`UsageError`]), or standard output is closed.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Build(args) => run_build(args),
        Action::Inspect(args) => run_inspect(args),
        Action::Verify(args) => run_verify(args),
    }
}

fn run_build(args: &BuildArgs) -> anyhow::Result<Outcome> {
    let request = BuildRequest {
        onnx: args.onnx.clone(),
        weights: args.weights.clone(),
        selection: args.k.map(Selection::TopK).or(args.threshold.map(Selection::Threshold)),
        golden: args.golden.clone(),
        concepts: args.concepts.clone(),
        model_version: args.model_version.clone(),
        probing_site: args.probing_site.clone(),
        out: args.out.clone(),
    };
    let library = args.common.onnxruntime.as_deref();
    let built = build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, library)).map_err(usage)?;
    let mut out = std::io::stdout().lock();
    if args.common.json {
        let json = json!({
            "bundle": args.out, "manifest": built.manifest, "golden": golden_json(built.golden, built.golden_verified),
            "decoder": built.has_decoder, "concepts": built.n_concepts, "notes": built.notes,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
    } else {
        print_built(&mut out, &args.out, &built).context("standard output")?;
    }
    Ok(Outcome::Done)
}

fn print_built(out: &mut impl Write, dir: &Path, built: &Built) -> std::io::Result<()> {
    let sae = &built.manifest.sae;
    writeln!(out, "built {}: {} -> {} latents, {}", dir.display(), sae.d_in, sae.d_sae, sae.selection)?;
    writeln!(out, "fingerprint {}", built.manifest.fingerprint)?;
    let golden = &built.golden;
    writeln!(out, "golden rows: {} met, largest relative difference {:.1e}", golden.n_rows, golden.max_difference)?;
    writeln!(out, "names for {} latents; decoder {}", built.n_concepts, if built.has_decoder { "known" } else { "unknown" })?;
    built.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
}

fn run_inspect(args: &BundleArgs) -> anyhow::Result<Outcome> {
    let bundle = Bundle::open(&args.dir).map_err(usage)?;
    let (manifest, catalogue, golden) = (bundle.manifest(), bundle.catalogue(), bundle.golden());
    let mut out = std::io::stdout().lock();
    if args.common.json {
        let json = json!({
            "manifest": manifest, "decoder": bundle.decoder().is_some(),
            "golden": { "rows": golden.embedding.nrows(), "producer": golden.producer, "verified": golden.is_verified() },
            "concepts": catalogue.concepts.len(), "families": catalogue.families.len(), "catalogue_revision": catalogue.revision,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        return Ok(Outcome::Done);
    }
    let sae = &manifest.sae;
    writeln!(out, "{}: {} -> {} latents, {}, centring {}", args.dir.display(), sae.d_in, sae.d_sae, sae.selection, sae.centring)?;
    writeln!(out, "fingerprint    {}", manifest.fingerprint)?;
    writeln!(out, "model version  {}", manifest.model_version.as_deref().unwrap_or("(not stated)"))?;
    writeln!(out, "probing site   {}", manifest.probing_site.as_deref().unwrap_or("(not stated)"))?;
    writeln!(
        out,
        "decoder        {}",
        if bundle.decoder().is_some() { "known" } else { "unknown: the input contract cannot be measured" }
    )?;
    let unverified = if golden.is_verified() { "" } else { " (unverified)" };
    writeln!(out, "golden rows    {}, {}{unverified}", golden.embedding.nrows(), golden.producer)?;
    writeln!(
        out,
        "concepts       {} named, {} families, revision {}",
        catalogue.concepts.len(),
        catalogue.families.len(),
        catalogue.revision
    )?;
    Ok(Outcome::Done)
}

fn run_verify(args: &BundleArgs) -> anyhow::Result<Outcome> {
    let checked = match Bundle::open(&args.dir) {
        Ok(bundle) => encode::open_unchecked(&bundle, Engine::Auto, args.common.onnxruntime.as_deref())
            .and_then(|mut encoder| encode::check_golden(encoder.as_mut(), &bundle))
            .map(|report| (report, bundle.golden().is_verified()))
            .map_err(|error| match error {
                OpenError::Library(error) => anyhow::Error::new(UsageError(error.to_string())),
                other => anyhow::Error::new(other),
            }),
        Err(error @ BundleError::Io { .. }) => Err(usage(error)),
        Err(error) => Err(anyhow::Error::new(error)),
    };
    let mut out = std::io::stdout().lock();
    match checked {
        Ok((report, verified)) if args.common.json => {
            let json = json!({ "ok": true, "golden": golden_json(report, verified) });
            writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
            Ok(Outcome::Done)
        }
        Ok((report, verified)) => {
            let by = if verified { "" } else { ", made by recsae itself: unverified" };
            writeln!(out, "ok: {} golden rows met, largest relative difference {:.1e}{by}", report.n_rows, report.max_difference)?;
            Ok(Outcome::Done)
        }
        Err(error) if error.downcast_ref::<UsageError>().is_some() => Err(error),
        Err(error) if args.common.json => {
            writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "ok": false, "error": error.to_string() }))?)?;
            Ok(Outcome::No)
        }
        Err(error) => {
            writeln!(out, "failed: {error}")?;
            Ok(Outcome::No)
        }
    }
}

fn golden_json(report: crate::bundle::golden::GoldenReport, verified: bool) -> serde_json::Value {
    json!({
        "rows": report.n_rows, "near_ties": report.n_near_ties, "max_relative_difference": report.max_difference,
        "reconstruction_compared": report.reconstruction_compared, "verified": verified,
    })
}

/// What a user gave is wrong: exit 2.
fn usage(error: BundleError) -> anyhow::Error {
    UsageError(error.to_string()).into()
}
