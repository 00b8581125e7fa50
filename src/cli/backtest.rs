//! `recsae backtest`: which alarms recorded windows would have raised, under any settings.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::bundle::Bundle;
use crate::cli::{Outcome, UsageError};
use crate::config::{self, ReferenceChoice, load, load_text};
use crate::drift::alert::utc_text;
use crate::drift::observed::ObservedWindow;
use crate::drift::reference::ReferenceError;
use crate::drift::stream::StreamId;
use crate::workshop::backtest::{BacktestReport, Family, Mode, backtest, plot, plot_settings, read_families};
use crate::workshop::encoding::{each_in_order, n_threads};
use crate::workshop::windows_columns::WindowsFileError;
use crate::workshop::windows_file::{MAX_LATENTS, read_windows};

/// Arguments of `recsae backtest`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae backtest --windows history.parquet
  recsae backtest --windows history.parquet -c recsae.toml --budget '1 per 90d' --families topics.json --json
  recsae backtest --windows history.parquet --budget '1 per 7d' --budget '1 per 90d' --min-effect 0.01 --min-effect 0.05
  recsae backtest --windows history.parquet --bundle bundles/v12 --mode rolling --plot evidence.svg
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
    /// False alarms allowed, e.g. '1 per 1000 windows'; repeat it to compare [default: as `[drift]` false_alarm_budget says]
    #[arg(long, value_name = "BUDGET")]
    budget: Vec<String>,
    /// Relative shifts that do not matter; repeat it to compare [default: as `[drift]` min_effect says]
    #[arg(long, value_name = "SHARE")]
    min_effect: Vec<f64>,
    /// Reference: the first windows for good, or rolling on
    #[arg(long, value_enum, default_value = "fixed")]
    mode: Mode,
    /// Bundle whose names and families are used [default: the configuration's, where it names one]
    #[arg(long, value_name = "FOLDER")]
    bundle: Option<PathBuf>,
    /// Write the evidence over time as SVG: a line a segment, or one a setting where several are compared
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
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
    let found = judge(args).map_err(|error| {
        let set_up = error.downcast_ref::<WindowsFileError>().is_some() || error.downcast_ref::<ReferenceError>().is_some();
        if set_up { UsageError(format!("{error:#}")).into() } else { error }
    })?;
    if let Some(path) = &args.plot {
        std::fs::write(path, picture(&found)).map_err(|error| UsageError(format!("cannot write {}: {error}", path.display())))?;
    }
    if let Some((_, report)) = found.iter().find(|(_, report)| report.windows == 0) {
        let words = format!(
            "the reference takes all {} windows of the file, none is left to judge: name fewer with --reference",
            report.reference_windows
        );
        return Err(UsageError(words).into());
    }
    let mut out = std::io::stdout().lock();
    match (found.as_slice(), args.json) {
        ([(_, report)], true) => writeln!(out, "{}", serde_json::to_string(report)?)?,
        ([(_, report)], false) => print(report, &mut out)?,
        (several, true) => {
            writeln!(out, "{}", serde_json::json!({"settings": several.iter().map(|(s, r)| row(s, r)).collect::<Vec<_>>()}))?
        }
        (several, false) => compare(several, &mut out)?,
    }
    Ok(Outcome::Done)
}

fn picture(found: &[(Tried, BacktestReport)]) -> String {
    match found {
        [(_, report)] => plot(report),
        several => plot_settings(
            &several.iter().map(|(tried, r)| (format!("{}, min effect {}", tried.budget, tried.min_effect), r)).collect::<Vec<_>>(),
        ),
    }
}

/// A setting that was tried.
#[derive(Clone, Debug)]
struct Tried {
    budget: String,
    min_effect: f64,
}

fn judge(args: &Args) -> anyhow::Result<Vec<(Tried, BacktestReport)>> {
    let environment = std::env::vars();
    let loaded = match &args.config {
        Some(path) => load(path, environment),
        None => load_text(Path::new("(defaults)"), NO_BUNDLE, environment),
    };
    let mut settings = loaded.map_err(|error| UsageError(error.to_string()))?;
    let bundle = args.bundle.clone().or_else(|| settings.model.first().map(|model| model.bundle.clone()).filter(|_| args.config.is_some()));
    let bundle = bundle.map(|path| Bundle::open(&path)).transpose().map_err(|error| UsageError(error.to_string()))?;
    let families = match (&args.families, &bundle) {
        (Some(path), _) => read_families(path).map_err(|error| UsageError(format!("{error:#}")))?,
        (None, Some(bundle)) => families_of(bundle),
        (None, None) => Vec::new(),
    };
    let choice = settings.drift.reference_choice().map_err(|fault| UsageError(fault.to_string()))?;
    let n_reference = |starts: &[i64]| args.reference.unwrap_or_else(|| first_windows(&choice, starts));
    let tables = |starts: &BTreeSet<i64>| match args.mode {
        Mode::Fixed => n_reference(&starts.iter().copied().collect::<Vec<_>>()),
        Mode::Rolling => starts.len(),
    };
    let file = read_windows(&args.windows, settings.counting.unit, tables)?;

    let length = file.models.values().flatten().map(|window| window.end_ms - window.start_ms).next().context("the file holds no window")?;
    settings.window.length = std::time::Duration::from_millis(u64::try_from(length)?);
    let asked = args.latents.unwrap_or(0);
    if asked > MAX_LATENTS as usize || (args.latents.is_some() && asked < file.n_latents) {
        let words = format!(
            "expected --latents from {} (the file's largest is latent:{}) to {MAX_LATENTS}, found {asked}",
            file.n_latents,
            file.n_latents.saturating_sub(1)
        );
        return Err(UsageError(words).into());
    }
    let latents: Vec<_> = families.iter().map(|family| family.latents.clone()).collect();
    let n_latents = bundle.as_ref().map_or(0, |bundle| bundle.spec().d_sae.get()).max(asked).max(file.n_latents);
    if let Some(family) = families.iter().find(|family| family.latents.iter().any(|latent| latent.index() >= n_latents)) {
        let words =
            format!("family {:?}: expected latents below {n_latents}, as the file (or --latents, or the bundle) has them", family.name);
        return Err(UsageError(words).into());
    }
    let name = |stream: StreamId| match (stream, &bundle) {
        (StreamId::Family(n), _) => {
            usize::try_from(n).ok().and_then(|n| families.get(n)).map_or_else(|| stream.to_string(), |f| f.name.clone())
        }
        (_, Some(bundle)) => bundle.stream_name(stream),
        (StreamId::Latent(latent), None) => latent.to_string(),
        (StreamId::ResidualOutlier | StreamId::DeadRecord, None) => stream.to_string(),
    };
    let one = |values: &[String], default: &str| if values.is_empty() { vec![default.to_owned()] } else { values.to_vec() };
    let effects = if args.min_effect.is_empty() { vec![settings.drift.min_effect] } else { args.min_effect.clone() };
    let mut wanted = Vec::new();
    for budget in one(&args.budget, &settings.drift.false_alarm_budget) {
        for &min_effect in &effects {
            settings.drift.false_alarm_budget.clone_from(&budget);
            settings.drift.min_effect = min_effect;
            if let Some(fault) = config::check(&settings).into_iter().find(|fault| fault.key.starts_with("drift.")) {
                return Err(UsageError(fault.to_string()).into());
            }
            let judging = settings.judge_settings(n_latents, latents.clone()).map_err(|fault| UsageError(fault.to_string()))?;
            wanted.push((Tried { budget: budget.clone(), min_effect }, judging));
        }
    }
    let starts = |windows: &[ObservedWindow]| n_reference(&windows.iter().map(|w| w.start_ms).collect::<Vec<_>>());
    let judge = |(): &mut (), at: usize| backtest(&file.models, &wanted[at].1, args.mode, starts, name);
    let mut found = Vec::new();
    each_in_order(
        wanted.len(),
        n_threads(),
        || Ok(()),
        judge,
        |at, report| {
            found.push((wanted[at].0.clone(), report));
            Ok(())
        },
    )?;
    Ok(found)
}

fn families_of(bundle: &Bundle) -> Vec<Family> {
    let families = &bundle.catalogue().families;
    families.iter().map(|family| Family { name: family.name.clone(), latents: family.latents.clone() }).collect()
}

/// What a setting would have cost and found.
fn row(tried: &Tried, report: &BacktestReport) -> serde_json::Value {
    let alarm_windows: BTreeSet<i64> = report.crossings.iter().map(|crossing| crossing.window_start).collect();
    let told = report.alerts.iter().filter(|alert| alert.part_of.is_none()).count();
    serde_json::json!({
        "budget": tried.budget, "min_effect": tried.min_effect, "windows": report.windows, "alerts": report.alerts.len(), "told": told,
        "crossings": report.crossings.len(), "alarm_windows": alarm_windows.len(), "withheld": report.skipped.len(),
        "first_alert": report.alerts.first().map(|alert| utc_text(alert.window_end)),
        "concepts": report.alerts.iter().map(|alert| alert.concept.as_str()).collect::<BTreeSet<_>>(),
    })
}

fn compare(several: &[(Tried, BacktestReport)], out: &mut impl Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<22} {:>10} {:>7} {:>6} {:>14} {:>10}  {:<21} found",
        "budget", "min effect", "alerts", "told", "alarm windows", "per 1,000", "first alert"
    )?;
    for (tried, report) in several {
        let row = row(tried, report);
        let per_1000 = 1000.0 * row["alarm_windows"].as_f64().unwrap_or(0.0) / (report.windows.max(1) as f64);
        let names: Vec<&str> = row["concepts"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).take(4).collect();
        writeln!(
            out,
            "{:<22} {:>10} {:>7} {:>6} {:>14} {:>10.2}  {:<21} {}",
            tried.budget,
            tried.min_effect,
            row["alerts"],
            row["told"],
            row["alarm_windows"],
            per_1000,
            row["first_alert"].as_str().unwrap_or("none"),
            names.join(", ")
        )?;
    }
    Ok(())
}

/// Windows of the reference by the configuration; a named reference belongs to the live store, so the
/// default of 14 days stands in for it.
fn first_windows(choice: &ReferenceChoice, starts: &[i64]) -> usize {
    const FOURTEEN_DAYS_MS: i64 = 14 * 86_400_000;
    let span_ms = match choice {
        ReferenceChoice::FirstWindows(n) | ReferenceChoice::RollingWindows(n) => return usize::try_from(*n).unwrap_or(usize::MAX),
        ReferenceChoice::FirstDuration(span) | ReferenceChoice::RollingDuration(span) => {
            i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
        }
        ReferenceChoice::Named(_) | ReferenceChoice::OfModel(_) => FOURTEEN_DAYS_MS,
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
