//! `recsae history`: the record of what was counted, judged and done.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cli::{Outcome, UsageError};
use crate::config;
use crate::config::settings::Settings;
use crate::store::audit::Verification;
use crate::store::reader::WindowQuery;
use crate::store::{StoreError, StoreReader};
use crate::workshop::windows_writer::WindowsWriter;

/// Arguments of `recsae history`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae history export -c recsae.toml --out windows.parquet
  recsae history verify -c recsae.toml --head 5f3a...   # the head you wrote down, or Prometheus kept")]
pub struct Args {
    #[command(subcommand)]
    command: HistoryCommand,
}

#[derive(Debug, clap::Subcommand)]
enum HistoryCommand {
    /// Write judged windows to Parquet, for pandas, DuckDB and `recsae backtest`
    Export {
        #[command(flatten)]
        common: Common,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Windows of earlier lineages too: they may have been counted in another way
        #[arg(long)]
        all_lineages: bool,
    },
    /// Check the audit chain, and every judged window and reference against it
    Verify {
        #[command(flatten)]
        common: Common,
        /// A head seen before: it must still be in the chain
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
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
        HistoryCommand::Export { common, out, all_lineages } => export(&settings(common)?, out, *all_lineages),
        HistoryCommand::Verify { common, head, json } => verify(&settings(common)?, head.as_deref(), *json),
    }
}

/// Oldest window first, one at a time, so that a year of windows does not fill memory.
fn export(settings: &Settings, out: &Path, all_lineages: bool) -> anyhow::Result<Outcome> {
    let reader = StoreReader::open(&settings.store.path).map_err(usage)?;
    // Outliers are counted above the reference's own threshold; without a reference there are none.
    let reference = reader.references().map_err(usage)?.into_iter().next();
    let fitted = reference.map(|entry| reader.fitted(&entry.name)).transpose().map_err(usage)?.flatten();
    let residual_from_bin = fitted.and_then(|(_, reference)| reference.residual_from_bin);
    let mut writer = WindowsWriter::create(out, settings.counting.unit, residual_from_bin)?;
    let mut n_windows = 0_u64;
    let query = WindowQuery { all_lineages, ..WindowQuery::default() };
    reader.for_each_window(&query, |window| -> anyhow::Result<()> {
        n_windows += 1;
        Ok(writer.write(&window)?)
    })?;
    writer.finish()?;
    writeln!(std::io::stdout().lock(), "{n_windows} windows written to {}", out.display())?;
    Ok(Outcome::Done)
}

fn verify(settings: &Settings, head: Option<&str>, json: bool) -> anyhow::Result<Outcome> {
    let reader = StoreReader::open(&settings.store.path).map_err(usage)?;
    let mut seen = head.is_none();
    let found = reader.verify_audit(|entry| seen |= Some(entry.hash.as_str()) == head).map_err(usage)?;
    let (intact, words) = match &found {
        Verification::Broken { entry, why } => (false, format!("broken at entry {entry}: {why}")),
        Verification::Intact { entries, head: last } if !seen => (
            false,
            format!("the head given is not among the {entries} entries up to {last}: the store was cut, rolled back or written anew"),
        ),
        Verification::Intact { entries, head } => (true, format!("intact: {entries} entries, head {head}")),
    };
    let mut out = std::io::stdout().lock();
    if json {
        let (entries, last, broken) = match &found {
            Verification::Intact { entries, head } => (Some(*entries), Some(head), None),
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

fn settings(common: &Common) -> anyhow::Result<Settings> {
    Ok(config::load(&common.config, std::env::vars()).map_err(|error| UsageError(error.to_string()))?)
}

fn usage(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Database(_) => error.into(),
        error => UsageError(error.to_string()).into(),
    }
}
