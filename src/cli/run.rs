//! `recsae run`: the monitor.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;

use crate::cli::reload::Reload;
use crate::cli::serve::serve;
use crate::cli::{Outcome, UsageError};
use crate::clock::{Clock, SystemClock};
use crate::config::settings::Settings;
use crate::http::actions::ReloadSender;
use crate::monitor::{self, OnOpen, RunOptions, RunSummary};
use crate::task::{Shutdown, TaskError, TaskGroup, trigger_on_signal};
use crate::{config, telemetry};

/// Arguments of `recsae run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  recsae run -c recsae.toml\n  recsae run -c recsae.toml --until-end   # audit what the topic holds now, then stop\n  kill -HUP $(pidof recsae)               # read configuration and bundles again; a faulty one keeps the old"
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

/// Runs the monitor until a signal, or to the end of the log. SIGHUP reads the configuration and the bundles again.
///
/// # Errors
/// The set-up is refused, or a part failed.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    telemetry::start("info");
    let mut settings = config::load(&args.config, std::env::vars()).map_err(|error| UsageError(error.to_string()))?;
    let outer = TaskGroup::new(Shutdown::new());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    outer.task(runtime.handle(), "signals", trigger_on_signal(outer.shutdown().clone()));
    let reload = Reload::new(args.config.clone());
    outer.task(runtime.handle(), "reload", reload.clone().watch(outer.shutdown().clone()));
    // What ran before the last reload, until what came after it has run.
    let (mut before, mut old) = (RunSummary::default(), None);
    let summary = loop {
        match (run_once(args, &settings, &reload, &outer, runtime.handle()), old.take()) {
            (Ok(summary), _) => {
                let summary = summary.after(&before);
                match reload.take() {
                    Some(next) if !outer.shutdown().is_triggered() => {
                        old = Some(std::mem::replace(&mut settings, next));
                        before = summary;
                    }
                    _ => break summary,
                }
            }
            (Err(Ended::BeforeItRan(error)), Some(old)) if !outer.shutdown().is_triggered() => {
                tracing::error!(why = format!("{error:#}"), "the new configuration does not start, the old one goes on");
                settings = old;
            }
            (Err(Ended::BeforeItRan(error) | Ended::WhileItRan(error)), _) => return Err(error),
        }
    };
    outer.drain(settings.kafka.drain);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&summary)?)?;
    } else {
        let RunSummary { records, rejected, windows_judged, alerts_firing } = summary;
        writeln!(out, "{records} records read, {rejected} rejected; {windows_judged} windows judged, {alerts_firing} alerts firing")?;
    }
    Ok(Outcome::Done)
}

/// One run under one configuration: to the end of the log, a signal, or a reload.
fn run_once(args: &Args, settings: &Settings, reload: &Reload, outer: &TaskGroup, runtime: &Handle) -> Result<RunSummary, Ended> {
    let group = TaskGroup::new(Shutdown::new());
    let (all, this) = (outer.shutdown().clone(), group.shutdown().clone());
    group.task(runtime, "stop", async move {
        tokio::select! {
            () = all.triggered() => this.trigger(),
            () = this.triggered() => {}
        }
        Ok::<(), TaskError>(())
    });
    reload.runs(settings, group.shutdown().clone());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ran = Arc::new(AtomicBool::new(false));
    let on_open: OnOpen = {
        let (settings, group, clock, runtime) = (settings.clone(), group.clone(), Arc::clone(&clock), runtime.clone());
        let (ran, asked) = (Arc::clone(&ran), reload.clone());
        let reload: ReloadSender = Arc::new(move || asked.take_up());
        Box::new(move |opened| serve(&settings, opened, clock, Some(reload), &group, &runtime).map(|_| ran.store(true, Ordering::SeqCst)))
    };
    let options = RunOptions { until_end: args.until_end, clock, on_open };
    monitor::run(settings, options, &group).map_err(|error| {
        // Listeners that were opened before the fault hold addresses which another start needs.
        group.drain(settings.kafka.drain);
        let error = if error.is_setup() { anyhow::Error::new(UsageError(error.to_string())) } else { anyhow::Error::new(error) };
        if ran.load(Ordering::SeqCst) { Ended::WhileItRan(error) } else { Ended::BeforeItRan(error) }
    })
}

/// When a run failed: what never opened can be gone back from.
enum Ended {
    BeforeItRan(anyhow::Error),
    WhileItRan(anyhow::Error),
}
