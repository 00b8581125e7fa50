//! `recsae config`: what can be configured.

use std::io::Write;

use crate::cli::{Outcome, UsageError};
use crate::config::documented::DOCUMENTED;
use crate::config::settings::Settings;

/// Arguments of `recsae config`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  recsae config --defaults > recsae.toml\n  recsae config --schema > recsae.schema.json")]
pub struct Args {
    /// Print the documented default file: every key, its meaning and its default
    #[arg(long, conflicts_with = "schema")]
    defaults: bool,
    /// Print the JSON Schema of the configuration file
    #[arg(long)]
    schema: bool,
}

/// Prints what was asked for.
///
/// # Errors
/// Nothing was asked for, or standard output is closed.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    if args.schema {
        writeln!(out, "{}", serde_json::to_string_pretty(&schemars::schema_for!(Settings))?)?;
    } else if args.defaults {
        write!(out, "{DOCUMENTED}")?;
    } else {
        return Err(UsageError("say --defaults or --schema".into()).into());
    }
    Ok(Outcome::Done)
}
