//! `recsae report`: what was watched, found, done and not watched, as one HTML file and as JSON.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::bundle::Bundle;
use crate::cli::{Outcome, UsageError, asked_wrong};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::config::settings::Settings;
use crate::drift::stream::StreamId;
use crate::monitor::models::Models;
use crate::sae::latent::LatentId;
use crate::store::{StoreError, StoreReader};
use crate::workshop::report::{Names, Report, ReportRequest, gather, html};

/// Arguments of `recsae report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae report -c recsae.toml --from 2026-10-01 --to 2026-11-01 --out october.html
  recsae report -c recsae.toml --from 2026-10-01 --to 2026-11-01 --compare surface=home surface=search")]
pub struct Args {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// First instant, RFC 3339 or a date (UTC)
    #[arg(long)]
    from: String,
    /// One past the last
    #[arg(long)]
    to: String,
    /// Only this segment, e.g. surface=home
    #[arg(long)]
    segment: Option<String>,
    /// Two model versions or two segments, side by side
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    compare: Option<Vec<String>>,
    /// File to write; the JSON goes beside it
    #[arg(long, value_name = "FILE", default_value = "recsae-report.html")]
    out: PathBuf,
    /// Print the report as JSON, too
    #[arg(long)]
    json: bool,
}

/// Writes the report.
///
/// # Errors
/// The configuration, the span or the store cannot be used, or a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let settings = config::load(&args.config, std::env::vars()).map_err(|error| UsageError(error.to_string()))?;
    let (from_ms, to_ms) = (instant(&args.from)?, instant(&args.to)?);
    if from_ms >= to_ms {
        return Err(UsageError(format!("expected --from before --to, found {} and {}", args.from, args.to)).into());
    }
    let json_file = args.out.with_extension("json");
    if json_file == args.out {
        let words = format!("expected --out to name the HTML file, found {}: the JSON goes beside it under that name", args.out.display());
        return Err(UsageError(words).into());
    }
    let compare = args.compare.as_ref().and_then(|sides| Some((sides.first()?.clone(), sides.get(1)?.clone())));
    let request =
        ReportRequest { from_ms, to_ms, segment: args.segment.clone(), compare, names: names(&settings), now_ms: SystemClock.now_ms() };
    let report = gather(&open(&settings)?, &request).map_err(asked_wrong)?;
    write(&args.out, html(&report).as_bytes())?;
    write(&json_file, &serde_json::to_vec_pretty(&report)?)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        say(&mut out, &report, &args.out, &json_file)?;
    }
    Ok(Outcome::Done)
}

fn say(out: &mut impl Write, report: &Report, html: &Path, json: &Path) -> std::io::Result<()> {
    let summary = &report.summary;
    writeln!(out, "{} of {} windows judged, {} records", summary.judged, summary.windows, summary.records)?;
    writeln!(out, "{} alerts opened, {} open at the end, {} acts of people", summary.alerts_opened, summary.alerts_open, summary.actions)?;
    if let Some(comparison) = &report.comparison {
        writeln!(out, "{} of {} concepts differ between {} and {}", comparison.named, comparison.tested, comparison.a, comparison.b)?;
    }
    writeln!(out, "{} stretches were not watched", report.not_watched.len())?;
    if let Some(why) = &report.record.broken {
        writeln!(out, "THE RECORD IS NOT AS IT WAS WRITTEN: {why}")?;
    }
    writeln!(out, "{} and {}", html.display(), json.display())
}

fn open(settings: &Settings) -> anyhow::Result<StoreReader> {
    StoreReader::open(&settings.store.path).map_err(|error| match error {
        StoreError::Database(_) => error.into(),
        error => UsageError(error.to_string()).into(),
    })
}

/// Names from the configured bundles. A record can be read long after its bundle has gone: streams are then called by their number.
fn names(settings: &Settings) -> Names {
    let mut names = Names::default();
    match Models::open(settings) {
        Ok(models) => models.labels.iter().zip(&models.bundles).for_each(|(label, bundle)| names.insert(label, of_bundle(bundle))),
        Err(error) => eprintln!("recsae: concepts have no names in this report: {error}"),
    }
    names
}

fn of_bundle(bundle: &Bundle) -> BTreeMap<StreamId, (String, String)> {
    let latents = (0..bundle.spec().d_sae.get()).filter_map(|i| u32::try_from(i).ok()).map(|i| StreamId::Latent(LatentId(i)));
    let families = (0..bundle.catalogue().families.len()).filter_map(|i| u32::try_from(i).ok()).map(StreamId::Family);
    let all = latents.chain(families).chain([StreamId::ResidualOutlier, StreamId::DeadRecord]);
    all.map(|stream| (stream, (bundle.stream_name(stream), bundle.stream_verification(stream).kind().to_owned()))).collect()
}

/// An RFC 3339 time, or a date at midnight UTC.
fn instant(text: &str) -> anyhow::Result<i64> {
    let time = text.parse::<jiff::Timestamp>().or_else(|_| format!("{text}T00:00:00Z").parse::<jiff::Timestamp>());
    let time = time.map_err(|_| UsageError(format!("expected a date (2026-10-01) or an RFC 3339 time, found {text:?}")))?;
    Ok(time.as_millisecond())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).map_err(|error| UsageError(format!("cannot write {}: {error}", path.display()))).context("report")
}
