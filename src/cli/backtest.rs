//! `recsae backtest`: which alarms recorded windows would have raised, under any settings.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cli::{Outcome, UsageError};
use crate::config::{ReferenceChoice, load, load_text};
use crate::drift::alert::utc_text;
use crate::drift::reference::ReferenceError;
use crate::drift::stream::StreamId;
use crate::workshop::backtest::{BacktestReport, backtest, read_families};
use crate::workshop::windows_columns::WindowsFileError;
use crate::workshop::windows_file::read_windows;

/// Arguments of `recsae backtest`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae backtest --windows history.parquet
  recsae backtest --windows history.parquet -c recsae.toml --budget '1 per 90d' --families topics.json --json
  RECSAE__DRIFT__WEEKEND=false recsae backtest --windows history.parquet --reference 336")]
pub struct Args {
    /// Windows file, as `recsae history export` or another program writes it
    #[arg(long, value_name = "FILE")]
    windows: PathBuf,
    /// Configuration: its `[drift]`, `[counting]` and `[window]` timezone count [default: the defaults]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Groups of latents to test as streams of their own, JSON
    #[arg(long, value_name = "FILE")]
    families: Option<PathBuf>,
    /// First windows of each model that become its reference [default: as `[drift]` reference says, else 14 days]
    #[arg(long, value_name = "WINDOWS")]
    reference: Option<usize>,
    /// False alarms allowed, e.g. '1 per 1000 windows' [default: as `[drift]` false_alarm_budget says]
    #[arg(long, value_name = "BUDGET")]
    budget: Option<String>,
    /// Latents of the SAE [default: one more than the largest in the file]
    #[arg(long, value_name = "N")]
    latents: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A configuration names a bundle; recorded windows are judged without one.
const NO_BUNDLE: &str = "[[model]]\nbundle = '(none)'\n";

/// Judges the file's windows and prints what was found.
///
/// # Errors
/// The file, the configuration or the families cannot be read, or the first windows make no reference.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let report = judge(args).map_err(|error| {
        let set_up = error.downcast_ref::<WindowsFileError>().is_some() || error.downcast_ref::<ReferenceError>().is_some();
        if set_up { UsageError(format!("{error:#}")).into() } else { error }
    })?;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        print(&report, &mut out)?;
    }
    Ok(Outcome::Done)
}

fn judge(args: &Args) -> anyhow::Result<BacktestReport> {
    let environment = std::env::vars();
    let loaded = match &args.config {
        Some(path) => load(path, environment),
        None => load_text(Path::new("(defaults)"), NO_BUNDLE, environment),
    };
    let mut settings = loaded.map_err(|error| UsageError(error.to_string()))?;
    if let Some(budget) = &args.budget {
        settings.drift.false_alarm_budget.clone_from(budget);
    }
    let families = match &args.families {
        Some(path) => read_families(path).map_err(|error| UsageError(format!("{error:#}")))?,
        None => Vec::new(),
    };
    let choice = settings.drift.reference_choice().map_err(|fault| UsageError(fault.to_string()))?;
    let n_reference = |starts: &[i64]| args.reference.unwrap_or_else(|| first_windows(&choice, starts));
    let file = read_windows(&args.windows, |starts: &BTreeSet<i64>| n_reference(&starts.iter().copied().collect::<Vec<_>>()))?;

    let length = file.models.values().flatten().map(|window| window.end_ms - window.start_ms).next().context("the file holds no window")?;
    settings.window.length = std::time::Duration::from_millis(u64::try_from(length)?);
    let latents: Vec<_> = families.iter().map(|family| family.latents.clone()).collect();
    let judge_settings =
        settings.judge_settings(args.latents.unwrap_or(0).max(file.n_latents), latents).map_err(|fault| UsageError(fault.to_string()))?;
    let name = |stream: StreamId| match stream {
        StreamId::Latent(latent) => latent.to_string(),
        StreamId::Family(n) => usize::try_from(n).ok().and_then(|n| families.get(n)).map_or_else(|| stream.to_string(), |f| f.name.clone()),
        StreamId::ResidualOutlier | StreamId::DeadRecord => stream.to_string(),
    };
    backtest(&file.models, &judge_settings, |windows| n_reference(&windows.iter().map(|w| w.start_ms).collect::<Vec<_>>()), name)
}

/// Windows of the reference by the configuration; a named reference belongs to the live store, so the
/// default of 14 days stands in for it.
fn first_windows(choice: &ReferenceChoice, starts: &[i64]) -> usize {
    const FOURTEEN_DAYS_MS: i64 = 14 * 86_400_000;
    let span_ms = match choice {
        ReferenceChoice::FirstWindows(n) => return usize::try_from(*n).unwrap_or(usize::MAX),
        ReferenceChoice::FirstDuration(span) => i64::try_from(span.as_millis()).unwrap_or(i64::MAX),
        ReferenceChoice::Named(_) => FOURTEEN_DAYS_MS,
    };
    let end = starts.first().map_or(0, |first| first.saturating_add(span_ms));
    starts.partition_point(|start| *start < end)
}

fn print(report: &BacktestReport, out: &mut impl Write) -> std::io::Result<()> {
    for alert in &report.alerts {
        let interval = alert.ratio_low.zip(alert.ratio_high).map_or(String::new(), |(low, high)| format!(" ({low:.2} to {high:.2})"));
        let segment = if alert.segment == "_all" { String::new() } else { format!(" in {}", alert.segment) };
        let ended = alert.ended.map_or("still firing".to_owned(), |ended| format!("over {}", utc_text(ended)));
        writeln!(
            out,
            "{}  {} {}{segment} ratio {:.2}{interval}, began {}, evidence {:.1} of {:.1}, {} crossings, {ended}",
            utc_text(alert.window_end),
            alert.concept,
            alert.direction.kind(),
            alert.ratio.unwrap_or(f64::NAN),
            utc_text(alert.began),
            alert.evidence_log,
            alert.threshold_log,
            alert.crossings,
        )?;
    }
    let alarm_windows: BTreeSet<i64> = report.crossings.iter().map(|crossing| crossing.window_start).collect();
    writeln!(
        out,
        "{} alerts, {} crossings in {} of {} windows after a reference of {}; {} verdicts withheld",
        report.alerts.len(),
        report.crossings.len(),
        alarm_windows.len(),
        report.windows,
        report.reference_windows,
        report.skipped.len()
    )
}
