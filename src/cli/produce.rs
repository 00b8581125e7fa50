//! `recsae produce`: recorded embeddings into Kafka, in event order, keyed by the entity.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;

use crate::cli::progress::Progress;
use crate::cli::{Outcome, UsageError};
use crate::config::settings::KafkaSettings;
use crate::kafka::admin;
use crate::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use crate::workshop::dataset::table::{Table, event_time, key_of};
use crate::workshop::dataset::vectors::Vectors;

mod as_recorded;
mod encode;

use as_recorded::Places;
use encode::{Encoded, encode};

/// Longest wait for the broker, at the start and for the last acknowledgement.
const BROKER: Duration = Duration::from_secs(60);

/// Arguments of `recsae produce`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae produce --embeddings sasrec.embeddings.npy --fields sasrec.events.parquet --join users.parquet:user_id \\
      --entity user_id --timestamp ts --items recommended --topic recommendations
  recsae produce --embeddings bprmf.user_embeddings.npy --by user_id --fields sasrec.events.parquet \\
      --entity user_id --timestamp ts --topic recommendations --pace 86400
  recsae produce --embeddings recorded/ --as-recorded --topic replay")]
pub struct Args {
    /// Vectors: .npy [n, d], or .parquet with a column `embedding` and the record's other fields
    #[arg(long, value_name = "FILE")]
    embeddings: PathBuf,
    /// The record's other fields, row by row (.parquet)
    #[arg(long, value_name = "FILE")]
    fields: Option<PathBuf>,
    /// More fields, looked up by a column that both files have (users' country, items' genre); may be repeated
    #[arg(long, value_name = "FILE:COLUMN")]
    join: Vec<String>,
    /// Look the vector up by this column (static user vectors): its row number in .npy, the row of equal value in .parquet
    #[arg(long, value_name = "COLUMN")]
    by: Option<String>,
    /// Column that becomes the record's `entity` and the Kafka key
    #[arg(long, value_name = "COLUMN", default_value = "entity")]
    entity: String,
    /// Column that becomes the record's `timestamp`: s or ms since 1970, RFC 3339, or a Parquet timestamp
    #[arg(long, value_name = "COLUMN", default_value = "timestamp")]
    timestamp: String,
    /// Column that becomes the record's `items`
    #[arg(long, value_name = "COLUMN", default_value = "items")]
    items: String,
    /// Topic; it is made when missing, and then keeps records for ever
    #[arg(long)]
    topic: String,
    /// Partitions of a topic that is made
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    /// Brokers, host:port [default: those of the configuration, else localhost:9092]
    #[arg(long, env = "RECSAE_BROKERS")]
    brokers: Option<String>,
    /// Configuration whose `[kafka]` section says how to log in
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Records a second
    #[arg(long, conflicts_with = "pace")]
    rate: Option<f64>,
    /// Times the recorded pace
    #[arg(long)]
    pace: Option<f64>,
    /// Play a recording of `recsae record` back: each record to its partition, in the order it was read there, with its
    /// Kafka timestamp; what was late or in the future then is so again
    #[arg(long, conflicts_with_all = ["fields", "by", "partitions"])]
    as_recorded: bool,
    /// How a record is written
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One JSON object
    Json,
    /// Little-endian f32 as the payload, the rest in headers
    Raw,
}

/// Produces every record and waits for every acknowledgement.
///
/// # Errors
/// A file cannot be read, columns are missing, or the broker refuses or stays away.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    for (name, value) in [("--rate", args.rate), ("--pace", args.pace)] {
        if value.is_some_and(|value| !(value.is_finite() && value > 0.0)) {
            return Err(UsageError(format!("{name}: expected a number above zero")).into());
        }
    }
    let (vectors, table) = read(args).map_err(|error| UsageError(format!("{error:#}")))?;
    say_what_is_missing(&table, args);
    let usage = |error: anyhow::Error| UsageError(format!("{error:#}"));
    let places = args.as_recorded.then(|| Places::of(&table)).transpose().map_err(usage)?;
    let order = in_order(&table, args).map_err(usage)?;
    let (fields, rows) = asked_for(args, (&vectors, &table), &order).map_err(usage)?;
    let settings = settings(args)?;
    let partitions = places.as_ref().map_or(args.partitions, Places::n_partitions);
    admin::create_topic(&settings, &args.topic, partitions, BROKER).map_err(|error| UsageError(error.to_string()))?;
    let started = Instant::now();
    let acked = produce(args, &settings, (&vectors, &fields), (&order, &rows), places.as_ref())?;
    let seconds = started.elapsed().as_secs_f64();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!({ "topic": args.topic, "records": acked, "seconds": seconds }))?;
    } else {
        writeln!(out, "{acked} records in topic {} ({seconds:.1} s)", args.topic)?;
    }
    Ok(Outcome::Done)
}

fn settings(args: &Args) -> anyhow::Result<KafkaSettings> {
    let mut settings = match &args.config {
        Some(path) => crate::config::load(path, std::env::vars()).map_err(|error| UsageError(error.to_string()))?.kafka,
        None => KafkaSettings::default(),
    };
    if let Some(brokers) = &args.brokers {
        settings.brokers.clone_from(brokers);
    }
    Ok(settings)
}

/// The vectors, and a table with one row a record in the file's order.
fn read(args: &Args) -> anyhow::Result<(Vectors, Table)> {
    let (vectors, mut table) = match &args.fields {
        None if args.by.is_some() => bail!("--by looks vectors up for the rows of --fields: give both"),
        None => Vectors::with_fields(&args.embeddings, None)?,
        Some(fields) => {
            let (vectors, own) = Vectors::with_fields(&args.embeddings, args.by.as_deref())?;
            let mut table = Table::read(fields)?;
            if args.by.is_none() {
                ensure!(
                    table.n_rows() == vectors.n_rows(),
                    "--fields has {} rows, --embeddings {}: one a record is expected (or --by COLUMN)",
                    table.n_rows(),
                    vectors.n_rows()
                );
                table.append(own)?;
            }
            (vectors, table)
        }
    };
    for join in &args.join {
        let (file, column) = join.rsplit_once(':').with_context(|| format!("--join {join}: expected FILE:COLUMN"))?;
        table.join(Table::read(Path::new(file))?, column).with_context(|| format!("--join {join}"))?;
    }
    Ok((vectors, table))
}

/// Records without an entity cannot be counted by presence, and without a time they all fall into one window.
fn say_what_is_missing(table: &Table, args: &Args) {
    let names = table.names().join(", ");
    for (flag, column, effect) in [
        ("--entity", &args.entity, "records go without entity and key"),
        ("--timestamp", &args.timestamp, "records get the time at which they are sent"),
        ("--items", &args.items, "records go without items"),
    ] {
        if table.column(column).is_none() {
            eprintln!("recsae: no column {column:?}: {effect}; name another with {flag} (there are: {names})");
        }
    }
}

/// (event time ms, row), by time, or as recorded; rows of one time stay in the file's order.
fn in_order(table: &Table, args: &Args) -> anyhow::Result<Vec<(i64, usize)>> {
    let Some(times) = table.column(&args.timestamp) else {
        ensure!(args.timestamp == "timestamp", "no column {:?} for --timestamp; there are {}", args.timestamp, table.names().join(", "));
        ensure!(args.pace.is_none(), "--pace needs event times: name their column with --timestamp");
        // The records then have Kafka's time: the file's order is all there is.
        return Ok((0..table.n_rows()).map(|row| (0, row)).collect());
    };
    let read = |(row, value)| event_time(value).map(|ms| (ms, row)).with_context(|| format!("{} in row {row}", args.timestamp));
    let mut order = times.iter().enumerate().map(|(row, value)| read((row, value))).collect::<anyhow::Result<Vec<_>>>()?;
    if !args.as_recorded {
        order.sort();
    }
    Ok(order)
}

/// Columns by the names a record gives them.
type Fields<'a> = Vec<(&'a str, &'a [serde_json::Value])>;

/// The record's fields, and for each record in order the row of its vector: all that is asked for is found before the
/// broker is asked for anything.
fn asked_for<'a>(
    args: &'a Args,
    (vectors, table): (&Vectors, &'a Table),
    order: &[(i64, usize)],
) -> anyhow::Result<(Fields<'a>, Vec<usize>)> {
    let mut fields = table.renamed(&[(&args.entity, "entity"), (&args.timestamp, "timestamp"), (&args.items, "items")])?;
    // Where a record lay on its topic is no part of it.
    fields.retain(|(name, _)| !name.starts_with("recsae."));
    let rows = match &args.by {
        None => order.iter().map(|(_, row)| *row).collect(),
        Some(name) => {
            let by = table.column(name).with_context(|| format!("no column {name:?} for --by; there are {}", table.names().join(", ")))?;
            let found = |(_, row): &(i64, usize)| vectors.position(&by[*row]).with_context(|| format!("--by {name}, row {row}"));
            order.iter().map(found).collect::<anyhow::Result<_>>()?
        }
    };
    Ok((fields, rows))
}

fn produce(
    args: &Args,
    settings: &KafkaSettings,
    (vectors, fields): (&Vectors, &Fields<'_>),
    (order, rows): (&[(i64, usize)], &[usize]),
    places: Option<&Places>,
) -> anyhow::Result<u64> {
    let entities = fields.iter().find(|(name, _)| *name == "entity").map(|(_, column)| *column);
    let producer = ReliableProducer::new(settings)?;
    let receipts = Arc::new(Receipts::default());
    let (progress, started) = (Progress::of(order.len(), "records"), Instant::now());
    let mut record = Encoded::default();
    for (number, (time, row)) in order.iter().enumerate() {
        let first = order.first().map_or(0, |(first, _)| *first);
        if let Some(due) = due(args, number, time - first) {
            while started.elapsed() < due {
                progress.at(number);
                producer.poll(due.saturating_sub(started.elapsed()).min(Duration::from_millis(100)));
            }
        }
        encode(args.format, vectors.row(rows[number]), fields, *row, &mut record);
        let key = entities.and_then(|column| key_of(&column[*row]));
        let (partition, timestamp_ms) = places.map_or((None, None), |places| places.at(*row));
        let key = key.as_deref().map(str::as_bytes);
        let outgoing = Outgoing { topic: &args.topic, key, payload: Some(&record.payload), partition, timestamp_ms };
        let headers: Vec<(&str, &[u8])> = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        producer.send(&outgoing, &headers, &receipts, BROKER)?;
        if number % 1024 == 0 {
            producer.poll(Duration::ZERO);
            receipts.outcome()?;
            progress.at(number);
        }
    }
    producer.settle(&receipts, Instant::now() + BROKER)?;
    progress.finish();
    Ok(receipts.acked())
}

/// When record `number`, recorded `since_first_ms` after the first, is sent.
fn due(args: &Args, number: usize, since_first_ms: i64) -> Option<Duration> {
    #[expect(clippy::cast_precision_loss, reason = "a schedule, not a count")]
    let seconds = match (args.rate, args.pace) {
        (Some(rate), _) => number as f64 / rate,
        (None, Some(pace)) => since_first_ms as f64 / 1000.0 / pace,
        (None, None) => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}
