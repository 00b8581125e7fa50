//! `recsae record`: the live topic to Parquet, for training, labels and audits.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::{Outcome, UsageError};
use crate::task::{Shutdown, TaskGroup, trigger_on_signal};
use crate::workshop::follow::follow;
use crate::workshop::recording::{Limits, Recording};
use crate::{config, telemetry};

/// Arguments of `recsae record`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae record -c recsae.toml --out recorded/ --entities 0.1      # until stopped; goes on where it was
  recsae record -c recsae.toml --out recorded/ --until-end
  recsae produce --embeddings recorded/ --topic replay             # plays it back")]
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
    /// Consumer group [default: the configuration's with "-record" behind it]
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
    let settings = config::load(&args.config, std::env::vars()).map_err(|error| UsageError(error.to_string()))?;
    let mut kafka = settings.kafka.clone();
    kafka.group = args.group.clone().unwrap_or_else(|| format!("{}-record", kafka.group));
    kafka.instance_id.clear();
    let limits = Limits { entities: args.entities, rows: args.rows, bytes: args.max_mib << 20 };
    let mut recording = Recording::open(&args.out, &settings.record, &settings.segments.fields, limits)
        .map_err(|error| UsageError(format!("{error:#}")))?;
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
