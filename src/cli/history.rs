//! `recsae history`: the record of what was counted, judged and done.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cli::progress::Progress;
use crate::cli::{Outcome, UsageError};
use crate::config;
use crate::config::settings::Settings;
use crate::drift::closed::AGAINST;
use crate::sae::latent::LatentId;
use crate::store::audit::Verification;
use crate::store::reader::WindowQuery;
use crate::store::{StoreError, StoreReader};
use crate::workshop::windows_writer::WindowsWriter;

mod again;
mod keep;

/// Arguments of `recsae history`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae history export -c recsae.toml --out windows.parquet   # for DuckDB, pandas and `recsae backtest`
  recsae history verify -c recsae.toml --head 5f3a...   # the head you wrote down, or Prometheus kept
  recsae history recount -c recsae.toml 2026-11-03T14:00:00Z   # the counts again, from Kafka
  recsae history rejudge -c recsae.toml 2026-11-03T14:00:00Z   # the evidence again, bit for bit
  recsae history backup -c recsae.toml --out backup.db   # while the monitor runs
  recsae history prune -c recsae.toml --before 2026-01-01T00:00:00Z --why 'a year is what we promised'
  recsae history forget-salt -c recsae.toml --why 'request 4711'   # hashes are tied to nobody from then on")]
pub struct Args {
    #[command(subcommand)]
    command: HistoryCommand,
}

#[derive(Debug, clap::Subcommand)]
enum HistoryCommand {
    /// Write the counts of judged windows as Parquet
    Export {
        #[command(flatten)]
        common: Common,
        /// File to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Only windows that start at or after this, RFC 3339
        #[arg(long)]
        from: Option<jiff::Timestamp>,
        /// Only windows that start before this
        #[arg(long)]
        to: Option<jiff::Timestamp>,
        /// Only this model version
        #[arg(long)]
        model: Option<String>,
        /// Windows of earlier lineages too: they may have been counted in another way
        #[arg(long)]
        all_lineages: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check the audit chain, and every judged window and reference against it
    Verify {
        #[command(flatten)]
        common: Common,
        /// A head seen before (in a log, Prometheus, a report): it must still be in the chain. Without it a
        /// store that was cut, rolled back or written anew as a whole looks intact
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Count a judged window again from its records in Kafka: every count must agree
    Recount {
        #[command(flatten)]
        window: WindowChoice,
    },
    /// Judge a window again from the record: the evidence must come out bit for bit
    Rejudge {
        #[command(flatten)]
        window: WindowChoice,
    },
    /// Copy the store into a new file, also while an instance runs
    Backup {
        #[command(flatten)]
        common: Common,
        /// File to write; must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete counts and reports of old windows; the chain stays provable. A running instance does it by itself
    Prune {
        #[command(flatten)]
        common: Common,
        /// Windows that ended by then, RFC 3339; default: now less `[store] retention`
        #[arg(long)]
        before: Option<jiff::Timestamp>,
        #[command(flatten)]
        actor: ActorArgs,
    },
    /// Delete the salt of entity hashes: hashes that were stored can then be tied to nobody
    ForgetSalt {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        actor: ActorArgs,
    },
}

#[derive(Debug, clap::Args)]
struct WindowChoice {
    #[command(flatten)]
    common: Common,
    /// Start of the window, RFC 3339, as `/api/v1/windows` and the report print it
    window: jiff::Timestamp,
    /// Only this model version
    #[arg(long)]
    model: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ActorArgs {
    /// Who does it
    #[arg(long, env = "USER", default_value = "unknown")]
    who: String,
    /// Why; it is kept on the record
    #[arg(long)]
    why: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Does what was asked for.
///
/// # Errors
/// The configuration or the store refuses.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.command {
        HistoryCommand::Export { common, out, from, to, model, all_lineages, json } => {
            let query = WindowQuery {
                from_ms: from.map(jiff::Timestamp::as_millisecond),
                to_ms: to.map(jiff::Timestamp::as_millisecond),
                model_version: model.clone(),
                all_lineages: *all_lineages,
                ..WindowQuery::default()
            };
            export(&settings(common)?, &query, out, *json)
        }
        HistoryCommand::Verify { common, head, json } => verify(&settings(common)?, head.as_deref(), *json),
        HistoryCommand::Recount { window } => again::recount_window(&settings(&window.common)?, window),
        HistoryCommand::Rejudge { window } => again::rejudge_window(&settings(&window.common)?, window),
        HistoryCommand::Backup { common, out, json } => keep::backup(&settings(common)?, out, *json),
        HistoryCommand::Prune { common, before, actor } => keep::prune(&settings(common)?, *before, actor),
        HistoryCommand::ForgetSalt { common, actor } => keep::forget_salt(&settings(common)?, actor),
    }
}

fn export(settings: &Settings, query: &WindowQuery, out: &Path, json: bool) -> anyhow::Result<Outcome> {
    let reader = StoreReader::open(&settings.store.path).map_err(usage)?;
    let writer = WindowsWriter::create(out, settings.counting.unit, residual_from_bin(&reader, query)?)?;
    let mut writer = writer.with_families(families(&reader, query)?);
    let (mut n_windows, progress) = (0_u64, Progress::counting("windows"));
    reader.for_each_window(query, |window| -> anyhow::Result<()> {
        if window.model_version.contains(AGAINST) {
            return Ok(()); // The same counts as the version's own.
        }
        writer.write(&window)?;
        n_windows += 1;
        progress.add(1);
        Ok(())
    })?;
    writer.finish()?;
    progress.finish();
    let mut stdout = std::io::stdout().lock();
    if json {
        writeln!(stdout, "{}", serde_json::json!({"windows": n_windows, "out": out}))?;
    } else {
        writeln!(stdout, "{n_windows} windows in {}", out.display())?;
    }
    Ok(Outcome::Done)
}

/// The residual threshold of the newest reference that a window of the query was judged against; without
/// one there is no outlier stream to write.
fn residual_from_bin(reader: &StoreReader, query: &WindowQuery) -> anyhow::Result<Option<usize>> {
    let mut newest = None;
    reader.for_each_report(query, |report| -> Result<(), StoreError> {
        newest = report.reference.or(newest.take());
        Ok(())
    })?;
    let Some(name) = newest else { return Ok(None) };
    Ok(reader.fitted(&name)?.and_then(|(_, reference)| reference.residual_from_bin))
}

/// The families of the newest reference of each model version that windows of the query were judged against.
fn families(reader: &StoreReader, query: &WindowQuery) -> anyhow::Result<BTreeMap<String, Vec<Vec<LatentId>>>> {
    let mut newest = BTreeMap::new();
    reader.for_each_report(query, |report| -> Result<(), StoreError> {
        newest.extend(report.reference.map(|name| (report.model_version, name)));
        Ok(())
    })?;
    let of = |(model, name): (String, String)| Ok(reader.fitted(&name)?.map(|(_, reference)| (model, reference.layout.families)));
    newest.into_iter().filter_map(|judged| of(judged).transpose()).collect()
}

fn verify(settings: &Settings, head: Option<&str>, json: bool) -> anyhow::Result<Outcome> {
    let head = head.map(head_of).transpose()?;
    let head = head.as_deref();
    let reader = StoreReader::open(&settings.store.path).map_err(usage)?;
    let mut seen = head.is_none();
    let found = reader.verify_audit(|entry| seen |= Some(entry.hash.as_str()) == head).map_err(usage)?;
    let (intact, words) = match &found {
        Verification::Broken { entry, why } => (false, format!("broken at entry {entry}: {why}")),
        Verification::Untold { what, .. } => (false, format!("no entry of the chain tells of this, and it is in the store: {what}")),
        Verification::Intact { entries, head: last } if !seen => (
            false,
            format!("the head given is not among the {entries} entries up to {last}: the store was cut, rolled back or written anew"),
        ),
        Verification::Intact { entries, head } => (true, format!("intact: {entries} entries, head {head}")),
    };
    let mut out = std::io::stdout().lock();
    if json {
        let (entries, last, broken) = match &found {
            Verification::Intact { entries, head } | Verification::Untold { entries, head, .. } => (Some(*entries), Some(head), None),
            Verification::Broken { entry, .. } => (None, None, Some(*entry)),
        };
        writeln!(
            out,
            "{}",
            serde_json::json!({"intact": intact, "entries": entries, "head": last, "broken_entry": broken, "message": words})
        )?;
    } else {
        writeln!(out, "{words}")?;
    }
    Ok(if intact { Outcome::Done } else { Outcome::No })
}

/// A head as it was written down, in whichever case. A part of one proves nothing.
fn head_of(text: &str) -> Result<String, UsageError> {
    let head = text.trim().to_ascii_lowercase();
    if head.len() == 64 && head.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(head);
    }
    Err(UsageError(format!("expected --head to be the 64 hexadecimal digits of a head, found {text:?}")))
}

fn settings(common: &Common) -> anyhow::Result<Settings> {
    Ok(config::load(&common.config, std::env::vars()).map_err(|error| UsageError(error.to_string()))?)
}

fn usage(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Database(_) => error.into(),
        error => UsageError(error.to_string()).into(),
    }
}
