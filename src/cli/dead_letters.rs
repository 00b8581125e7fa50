//! `recsae dead-letters`: what was not counted and why, each record once; and back to its topic.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;

use crate::cli::plain::plain;
use crate::cli::{Outcome, UsageError};
use crate::config::settings::KafkaSettings;
use crate::kafka::dead_letter::DeadLetter;
use crate::kafka::error::KafkaError;
use crate::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use crate::kafka::scan::scan;
use crate::record::RejectReason;

/// Longest wait for a broker that does not answer.
const BROKER: Duration = Duration::from_secs(30);
/// Longest wait for a topic that the broker makes by itself.
const TOPIC_MADE: Duration = Duration::from_secs(3);

/// Header of a replayed record: where it was first.
pub const REPLAYED: &str = "recsae.replayed";

/// Arguments of `recsae dead-letters`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae dead-letters list -c recsae.toml --reason wrong_width --json
  recsae dead-letters replay -c recsae.toml --reason unknown_model_version")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show each record once: where it lay, when, why it was not counted
    List(Choice),
    /// Send each record, as it was, to the topic it came from (after its cause was mended)
    Replay {
        #[command(flatten)]
        choice: Choice,
        /// Another topic to send them to
        #[arg(long)]
        to: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Choice {
    /// Configuration of the monitor: brokers, login, dead-letter topic
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Brokers, host:port [default: those of the configuration]
    #[arg(long, env = "RECSAE_BROKERS")]
    brokers: Option<String>,
    /// Dead-letter topic [default: that of the configuration]
    #[arg(long)]
    topic: Option<String>,
    /// Only this reason; may be repeated
    #[arg(long, value_parser = reasons())]
    reason: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// A reason that does not exist would silently choose nothing.
fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(RejectReason::ALL.map(RejectReason::kind))
}

/// Reads the dead-letter topic from its first record to its end.
///
/// # Errors
/// The broker cannot be reached, or a replayed record is not taken.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    match &args.command {
        Command::List(choice) => {
            let (_, letters) = read(choice)?;
            if choice.json {
                let all: Vec<_> = letters.iter().map(shown).collect();
                serde_json::to_writer_pretty(&mut out, &all)?;
                writeln!(out)?;
                return Ok(Outcome::Done);
            }
            for letter in &letters {
                let time = letter.timestamp_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
                let time = time.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"));
                writeln!(out, "{} {} {time} {}: {}", letter.partition, letter.offset, letter.reason, plain(&letter.error))?;
            }
            let mut by_reason: BTreeMap<&str, usize> = BTreeMap::new();
            letters.iter().for_each(|letter| *by_reason.entry(&letter.reason).or_default() += 1);
            let summary: Vec<String> = by_reason.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            writeln!(out, "{} dead letters{}{}", letters.len(), if summary.is_empty() { "" } else { ": " }, summary.join(", "))?;
        }
        Command::Replay { choice, to } => {
            let (settings, mut letters) = read(choice)?;
            let n_read = letters.len();
            // Only the beginning of these was kept: what would be sent is not the record.
            letters.retain(|letter| letter.truncated_from.is_none());
            let producer = ReliableProducer::new(&settings)?;
            all_there(&producer, &letters, to.as_deref())?;
            replay(&producer, &letters, to.as_deref())?;
            let truncated = n_read - letters.len();
            if choice.json {
                writeln!(out, "{}", serde_json::json!({ "replayed": letters.len(), "truncated": truncated }))?;
            } else {
                let left = if truncated > 0 { format!(", {truncated} left out: they are truncated") } else { String::new() };
                writeln!(out, "{} records replayed{left}", letters.len())?;
            }
        }
    }
    Ok(Outcome::Done)
}

/// Each chosen letter once, in the order of topic, partition and offset.
fn read(choice: &Choice) -> anyhow::Result<(KafkaSettings, Vec<DeadLetter>)> {
    let mut settings = match &choice.config {
        Some(path) => crate::config::load(path, std::env::vars()).map_err(|error| UsageError(error.to_string()))?.kafka,
        None => KafkaSettings::default(),
    };
    if let Some(brokers) = &choice.brokers {
        settings.brokers.clone_from(brokers);
    }
    let topic = choice.topic.clone().unwrap_or_else(|| settings.dead_letter_topic.clone());
    if topic.is_empty() {
        return Err(UsageError("no dead-letter topic: the configuration keeps none, and --topic names none".into()).into());
    }
    let (mut seen, mut letters, mut foreign) = (HashSet::new(), Vec::new(), 0_usize);
    scan(&settings, &topic, BROKER, |message| match DeadLetter::read(&message) {
        Some(letter) if !choice.reason.is_empty() && !choice.reason.contains(&letter.reason) => {}
        // Delivery is at least once; the place names the record.
        Some(letter) => {
            if seen.insert((letter.partition.clone(), letter.offset)) {
                letters.push(letter);
            }
        }
        None => foreign += 1,
    })?;
    if foreign > 0 {
        tracing::warn!(messages = foreign, topic, "messages that are no dead letters were left out");
    }
    letters.sort_by(|a, b| (&a.partition, a.offset).cmp(&(&b.partition, b.offset)));
    Ok((settings, letters))
}

/// Nothing is sent before every topic is there: a producer would go on trying.
fn all_there(producer: &ReliableProducer, letters: &[DeadLetter], to: Option<&str>) -> anyhow::Result<()> {
    let topics: BTreeSet<&str> = letters.iter().map(|letter| to.unwrap_or(&letter.partition.topic)).collect();
    for topic in topics {
        if !producer.has_topic(topic, TOPIC_MADE)? {
            return Err(UsageError(format!("topic {topic:?} does not exist: create it, or name another with --to")).into());
        }
    }
    Ok(())
}

fn replay(producer: &ReliableProducer, letters: &[DeadLetter], to: Option<&str>) -> Result<(), KafkaError> {
    let receipts = Arc::new(Receipts::default());
    for letter in letters {
        let place = format!("{}|{}|{}", letter.partition.topic, letter.partition.partition, letter.offset);
        let mut headers: Vec<(&str, &[u8])> = letter.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        headers.push((REPLAYED, place.as_bytes()));
        let record = Outgoing {
            topic: to.unwrap_or(&letter.partition.topic),
            // By the key's hash, as the recommender's producer did.
            partition: None,
            key: letter.key.as_deref(),
            payload: letter.payload.as_deref(),
            timestamp_ms: letter.timestamp_ms,
        };
        producer.send(&record, &headers, &receipts, BROKER)?;
    }
    producer.settle(&receipts, Instant::now() + BROKER)
}

fn shown(letter: &DeadLetter) -> serde_json::Value {
    serde_json::json!({
        "topic": &*letter.partition.topic,
        "partition": letter.partition.partition,
        "offset": letter.offset,
        "timestamp": letter.timestamp_ms,
        "reason": letter.reason,
        "error": letter.error,
        "key": letter.key.as_deref().map(String::from_utf8_lossy),
        "bytes": letter.payload.as_ref().map(Vec::len),
        "truncated_from": letter.truncated_from,
    })
}
