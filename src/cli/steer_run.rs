//! `recsae steer run`: the live topic's vectors, edited by a plan, to another topic. Shadow only.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::bundle::Bundle;
use crate::cli::{Outcome, UsageError};
use crate::config::settings::{RecordFormat, RecordSettings};
use crate::decode::Decoder;
use crate::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use crate::record::{RawMessage, Record, TopicPartition};
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::task::{Shutdown, TaskGroup, trigger_on_signal};
use crate::workshop::follow::{Sink, follow};
use crate::workshop::sparse::SparseEncoder;
use crate::workshop::steer::apply::{Steerer, Strength};
use crate::workshop::steer::plan::{Plan, Unit};
use crate::{config, telemetry};

/// Header with the plan's hash.
pub const PLAN_HEADER: &str = "recsae.steer.plan";
/// Header with how far the vector was moved, over its length.
pub const MOVED_HEADER: &str = "recsae.steer.moved";
/// Longest wait for the broker.
const BROKER: Duration = Duration::from_secs(60);

/// Arguments of `recsae steer run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  recsae steer run -c recsae.toml --bundle bundles/v12 --plan plan.json --to recommendations.steered")]
pub struct Args {
    /// Configuration file: broker, topics, and where a record's parts lie
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The bundle whose SAE the plan is for
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// The plan
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Topic of the steered vectors; never one that is read
    #[arg(long, value_name = "TOPIC")]
    to: String,
    /// Stop at the end the log has now
    #[arg(long)]
    until_end: bool,
}

/// Steers until a signal, or to the end of the log.
///
/// # Errors
/// The set-up is refused, or the broker stays away.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    telemetry::start("warn");
    let settings = config::load(&args.config, std::env::vars()).map_err(|error| UsageError(error.to_string()))?;
    let mut kafka = settings.kafka.clone();
    kafka.group = format!("{}-steer", kafka.group);
    kafka.instance_id.clear();
    let mut shadow = Shadow::new(args, &settings.record, &kafka).map_err(|error| UsageError(format!("{error:#}")))?;
    let shutdown = Shutdown::new();
    let group = TaskGroup::new(shutdown.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    group.task(runtime.handle(), "signals", trigger_on_signal(shutdown.clone()));
    let followed = follow(&kafka, args.until_end, &|| shutdown.is_triggered(), &mut shadow);
    shutdown.trigger();
    group.drain(kafka.drain);
    followed?;
    writeln!(
        std::io::stdout().lock(),
        "{} vectors to {}, {} of them changed, {} records passed over",
        shadow.sent,
        args.to,
        shadow.changed,
        shadow.rejected
    )?;
    Ok(Outcome::Done)
}

struct Shadow {
    topic: String,
    plan: String,
    settings: RecordSettings,
    decoder: Decoder,
    record: Record,
    batch: EmbeddingBatch,
    encoder: SparseEncoder,
    activations: SparseActivations,
    steerer: Steerer,
    producer: ReliableProducer,
    receipts: Arc<Receipts>,
    sent: u64,
    changed: u64,
    rejected: u64,
}

impl Shadow {
    fn new(args: &Args, record: &RecordSettings, kafka: &crate::config::settings::KafkaSettings) -> anyhow::Result<Self> {
        ensure!(
            !kafka
                .topics
                .iter()
                .any(|topic| *topic == args.to || topic.starts_with('^') && regex::Regex::new(topic).is_ok_and(|r| r.is_match(&args.to))),
            "--to {}: this topic is read; steered vectors go to another one",
            args.to
        );
        let bundle = Bundle::open(&args.bundle)?;
        let plan: Plan = read_plan(&args.plan, &bundle)?;
        ensure!(
            plan.edits.iter().all(|edit| edit.unit == Unit::Absolute),
            "a live plan's amounts are absolute: units of p99 or sd depend on rows; write them out with `steer plan --unit absolute`"
        );
        let weights = bundle.weights().context("this bundle's weights are not known: build it with --weights")?;
        let steerer = Steerer::new(weights, &plan, &|_| Strength::default()).context("expected a decoder (W_dec), found none")?;
        Ok(Self {
            topic: args.to.clone(),
            plan: plan.hash()?,
            settings: record.clone(),
            decoder: Decoder::new(record, &[], &[0; 16])?,
            record: Record::default(),
            batch: EmbeddingBatch::new(weights.spec().d_in),
            encoder: SparseEncoder::new(weights),
            activations: SparseActivations::default(),
            steerer,
            producer: ReliableProducer::new(kafka)?,
            receipts: Arc::default(),
            sent: 0,
            changed: 0,
            rejected: 0,
        })
    }

    /// The payload with the vector in the place of the old one; everything else as it was.
    fn payload(&self, message: &RawMessage<'_>, vector: &[f32]) -> anyhow::Result<Vec<u8>> {
        let payload = message.payload.unwrap_or_default();
        if self.settings.format == RecordFormat::Raw {
            return Ok(vector.iter().flat_map(|value| value.to_le_bytes()).collect());
        }
        let mut json: Value = serde_json::from_slice(payload)?;
        let place = self.settings.embedding.split('.').try_fold(&mut json, |at, part| at.get_mut(part));
        *place.context("the vector was not found again")? = serde_json::to_value(vector)?;
        Ok(serde_json::to_vec(&json)?)
    }
}

impl Sink for Shadow {
    fn headers(&self) -> bool {
        // They are passed on.
        true
    }

    fn durable(&self) -> BTreeMap<TopicPartition, i64> {
        BTreeMap::new()
    }

    fn take(&mut self, message: &RawMessage<'_>) -> anyhow::Result<()> {
        self.batch.clear();
        if self.decoder.decode(message, &mut self.record).is_err() || self.batch.push(&self.record.embedding).is_err() {
            self.rejected += 1;
            return Ok(());
        }
        self.encoder.encode(&self.batch, &mut self.activations);
        let (latents, values) = self.activations.row(0);
        let moved = self.steerer.apply(&mut self.record.embedding, latents, values);
        // No edit: the same bytes, not the same numbers written anew.
        let payload =
            if moved == 0.0 { message.payload.unwrap_or_default().to_vec() } else { self.payload(message, &self.record.embedding)? };
        let moved_text = moved.to_string();
        let mut headers: Vec<(&str, &[u8])> = message.headers.iter().map(|(name, value)| (*name, value.unwrap_or_default())).collect();
        headers.extend([(PLAN_HEADER, self.plan.as_bytes()), (MOVED_HEADER, moved_text.as_bytes())]);
        let outgoing =
            Outgoing { topic: &self.topic, key: message.key, payload: Some(&payload), timestamp_ms: message.timestamp_ms, partition: None };
        self.producer.send(&outgoing, &headers, &self.receipts, BROKER)?;
        self.sent += 1;
        self.changed += u64::from(moved != 0.0);
        Ok(())
    }

    fn settle(&mut self, _: &BTreeMap<TopicPartition, i64>, must: bool) -> anyhow::Result<bool> {
        let had_some = self.receipts.in_flight() > 0;
        self.producer.settle(&self.receipts, Instant::now() + BROKER)?;
        Ok(had_some || must)
    }
}

fn read_plan(path: &Path, bundle: &Bundle) -> anyhow::Result<Plan> {
    let json = std::fs::read(path).with_context(|| path.display().to_string())?;
    Plan::read(&json, bundle.fingerprint(), bundle.spec().d_sae.get()).with_context(|| path.display().to_string())
}
