//! `recsae run`: the monitor.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::serve::serve;
use crate::cli::{Outcome, UsageError};
use crate::clock::{Clock, SystemClock};
use crate::monitor::{self, OnOpen, RunOptions};
use crate::task::{Shutdown, TaskGroup, trigger_on_signal};
use crate::{config, telemetry};

/// Arguments of `recsae run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  recsae run -c recsae.toml\n  recsae run -c recsae.toml --until-end   # audit what the topic holds now, then stop"
)]
pub struct Args {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Stop at the end the log has now: everything read, all windows closed and judged
    #[arg(long)]
    until_end: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the monitor until a signal, or to the end of the log.
///
/// # Errors
/// The set-up is refused, or a part failed.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    telemetry::start("info");
    let settings = config::load(&args.config, std::env::vars()).map_err(|error| UsageError(error.to_string()))?;
    let shutdown = Shutdown::new();
    let group = TaskGroup::new(shutdown.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    group.task(runtime.handle(), "signals", trigger_on_signal(shutdown));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let on_open: OnOpen = {
        let (settings, group, clock, runtime) = (settings.clone(), group.clone(), Arc::clone(&clock), runtime.handle().clone());
        Box::new(move |opened| serve(&settings, opened, clock, &group, &runtime).map(drop))
    };
    let options = RunOptions { until_end: args.until_end, clock, on_open };
    let summary = monitor::run(&settings, options, &group)
        .map_err(|error| if error.is_setup() { anyhow::Error::new(UsageError(error.to_string())) } else { anyhow::Error::new(error) })?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&summary)?)?;
    } else {
        writeln!(out, "{} windows judged, {} alerts firing", summary.windows_judged, summary.alerts_firing)?;
    }
    Ok(Outcome::Done)
}
