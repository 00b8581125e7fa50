//! `recsae config`: what can be configured.

use std::io::Write;

use crate::cli::Outcome;
use crate::config::settings::Settings;

/// Arguments of `recsae config`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  recsae config --schema > recsae.schema.json")]
pub struct Args {
    /// Print the JSON Schema of the configuration file
    #[arg(long)]
    schema: bool,
}

/// Prints what was asked for.
///
/// # Errors
/// Standard output is closed.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    if args.schema {
        writeln!(out, "{}", serde_json::to_string_pretty(&schemars::schema_for!(Settings))?)?;
    } else {
        write!(out, "{}", toml::to_string(&Settings::default())?)?;
    }
    Ok(Outcome::Done)
}
