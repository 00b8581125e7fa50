//! `recsae record`: the live topic to Parquet, for training, labels and audits.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::{Outcome, UsageError};
use crate::config::ConfigError;
use crate::config::settings::Settings;
use crate::task::{Shutdown, TaskGroup, trigger_on_signal};
use crate::workshop::follow::follow;
use crate::workshop::recording::{Limits, Recording};
use crate::{config, telemetry};

/// Arguments of `recsae record`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae record -c recsae.toml --out recorded/ --entities 0.1      # until stopped; goes on where it was
  recsae record -c recsae.toml --out recorded/ --until-end
  recsae produce --embeddings recorded/ --topic replay --as-recorded   # plays it back

The configuration needs no [[model]] for this: recording comes before there is an SAE.")]
pub struct Args {
    /// Configuration file: broker, topics, and where a record's parts lie
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Folder of the recording
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Share of the entities that are kept, each whole
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    entities: f64,
    /// Rows of a file
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// MiB of all files; beyond it the oldest are removed
    #[arg(long, default_value_t = 10_240)]
    max_mib: u64,
    /// Consumer group [default: the configuration's, "-record-" and the recording's id]
    #[arg(long)]
    group: Option<String>,
    /// Stop at the end the log has now
    #[arg(long)]
    until_end: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Records until a signal, or to the end of the log.
///
/// # Errors
/// The set-up is refused, the broker stays away, or the folder cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    telemetry::start("warn");
    if !(args.entities > 0.0 && args.entities <= 1.0) || args.rows == 0 {
        return Err(UsageError("--entities: expected a share above 0, at most 1; --rows: expected at least 1".into()).into());
    }
    let settings = read_settings(args)?;
    let limits = Limits { entities: args.entities, rows: args.rows, bytes: args.max_mib << 20 };
    let mut recording = Recording::open(&args.out, &settings.record, &settings.segments.fields, limits)
        .map_err(|error| UsageError(format!("{error:#}")))?;
    let mut kafka = settings.kafka.clone();
    (kafka.group, kafka.instance_id) = match &args.group {
        // Shared with recordings into other folders: a member that anybody may replace.
        Some(group) => (group.clone(), String::new()),
        // Its own: a recording that was killed takes its partitions up again without waiting for a session to end.
        None => (format!("{}-record-{}", kafka.group, recording.id()), "record".to_owned()),
    };
    let shutdown = Shutdown::new();
    let group = TaskGroup::new(shutdown.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    group.task(runtime.handle(), "signals", trigger_on_signal(shutdown.clone()));
    let followed = follow(&kafka, args.until_end, &|| shutdown.is_triggered(), &mut recording);
    shutdown.trigger();
    group.drain(kafka.drain);
    followed?;
    let done = recording.done();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&done)?)?;
    } else {
        writeln!(
            out,
            "{} records in {} files of {} ({} of entities not sampled, {} rejected, {} old files removed)",
            done.records,
            done.files,
            args.out.display(),
            done.not_sampled,
            done.rejected,
            done.removed
        )?;
    }
    Ok(Outcome::Done)
}

/// The configuration; only what a recording uses must be right.
fn read_settings(args: &Args) -> anyhow::Result<Settings> {
    let refused = |error: ConfigError| UsageError(error.to_string());
    let (settings, mut faults) = config::load_leniently(&args.config, std::env::vars()).map_err(refused)?;
    faults.retain(|fault| ["kafka", "record", "segments"].iter().any(|section| fault.key.starts_with(section)));
    if faults.is_empty() { Ok(settings) } else { Err(refused(ConfigError::Faults { path: args.config.clone(), faults }).into()) }
}
