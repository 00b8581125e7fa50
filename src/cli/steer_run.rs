//! `recsae steer run`: the live topic's vectors, edited by a plan, to another topic. Shadow only.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bundle::Bundle;
use crate::cli::{Outcome, UsageError};
use crate::config::settings::{KafkaSettings, ModelSettings, RecordSettings, Settings};
use crate::decode::Decoder;
use crate::encode::Encoder;
use crate::encode::native::NativeEncoder;
use crate::kafka::admin;
use crate::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use crate::kafka::topics::TopicMatcher;
use crate::record::{RawMessage, Record};
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::task::{Shutdown, TaskGroup, trigger_on_signal};
use crate::workshop::encoding::encoder;
use crate::workshop::follow::{Positions, Sink, follow};
use crate::workshop::steer::apply::Steerer;
use crate::workshop::steer::payload::with_vector;
use crate::workshop::steer::plan::{Plan, Unit};
use crate::workshop::steer::strength::Strength;
use crate::{config, telemetry};
use anyhow::{Context, ensure};

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
    // Two plans into two topics must not share the records between them.
    kafka.group = format!("{}-steer-{}", kafka.group, args.to);
    kafka.instance_id.clear();
    let mut shadow = Shadow::new(args, &settings, &kafka).map_err(|error| UsageError(format!("{error:#}")))?;
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
        "{} vectors to {}, {} of them changed; passed over: {} of other models, {} that the monitor would reject",
        shadow.sent,
        args.to,
        shadow.changed,
        shadow.of_other_models,
        shadow.rejected
    )?;
    Ok(Outcome::Done)
}

struct Shadow {
    topic: String,
    plan: String,
    settings: RecordSettings,
    versions: Versions,
    decoder: Decoder,
    record: Record,
    batch: EmbeddingBatch,
    encoder: NativeEncoder,
    activations: SparseActivations,
    steerer: Steerer,
    producer: ReliableProducer,
    receipts: Arc<Receipts>,
    sent: u64,
    changed: u64,
    of_other_models: u64,
    rejected: u64,
}

/// Which of the recommender's versions the plan's SAE reads.
struct Versions {
    by_name: BTreeMap<String, bool>,
    others: bool,
}

impl Versions {
    fn of(models: &[ModelSettings], fingerprint: &str) -> anyhow::Result<Self> {
        let mut versions = Self { by_name: BTreeMap::new(), others: false };
        for model in models {
            let is_read = Bundle::open(&model.bundle)?.fingerprint() == fingerprint;
            match &model.version {
                Some(version) => drop(versions.by_name.insert(version.clone(), is_read)),
                None => versions.others = is_read,
            }
        }
        let any = versions.others || versions.by_name.values().any(|is_read| *is_read);
        ensure!(any, "no [[model]] of the configuration has the SAE that the plan is for, {fingerprint}: name its bundle there");
        Ok(versions)
    }

    fn are_steered(&self, version: &str) -> bool {
        self.by_name.get(version).copied().unwrap_or(self.others)
    }
}

impl Shadow {
    fn new(args: &Args, settings: &Settings, kafka: &KafkaSettings) -> anyhow::Result<Self> {
        let read = TopicMatcher::new(&kafka.topics)?;
        ensure!(!read.matches(&args.to), "--to {}: this topic is read; steered vectors go to another one", args.to);
        let bundle = Bundle::open(&args.bundle)?;
        let plan: Plan = read_plan(&args.plan, &bundle)?;
        ensure!(
            plan.edits.iter().all(|edit| edit.unit == Unit::Absolute),
            "a live plan's amounts are absolute: those in p99 or sd depend on rows; `recsae steer plan --embeddings FILE` writes them out"
        );
        let weights = bundle.weights().context("this bundle's weights are not known: build it with --weights")?;
        let steerer = Steerer::new(weights, &plan, &|_| Strength::default()).context("expected a decoder (W_dec), found none")?;
        let versions = Versions::of(&settings.model, bundle.fingerprint())?;
        // As many partitions as the topic that is read, so that what is of one key there stays so.
        let cluster = admin::preflight(kafka, BROKER)?;
        let most = cluster.partitions.iter().map(|at| at.partition + 1).max().unwrap_or(1);
        admin::create_topic(kafka, &args.to, most, BROKER)?;
        Ok(Self {
            topic: args.to.clone(),
            plan: plan.hash()?,
            settings: settings.record.clone(),
            versions,
            decoder: Decoder::new(&settings.record, &[], &[0; 16])?,
            record: Record::default(),
            batch: EmbeddingBatch::new(weights.spec().d_in),
            encoder: encoder(weights),
            activations: SparseActivations::default(),
            steerer,
            producer: ReliableProducer::new(kafka)?,
            receipts: Arc::default(),
            sent: 0,
            changed: 0,
            of_other_models: 0,
            rejected: 0,
        })
    }
}

impl Sink for Shadow {
    fn headers(&self) -> bool {
        // They are passed on.
        true
    }

    fn durable(&self) -> Positions {
        Positions::new()
    }

    fn take(&mut self, message: &RawMessage<'_>) -> anyhow::Result<()> {
        self.batch.clear();
        if self.decoder.decode(message, &mut self.record).is_err() || self.batch.push(&self.record.embedding).is_err() {
            self.rejected += 1;
            return Ok(());
        }
        if !self.versions.are_steered(&self.record.model_version) {
            self.of_other_models += 1;
            return Ok(());
        }
        self.encoder.encode(&self.batch, &mut self.activations)?;
        let (latents, values) = self.activations.row(0);
        let steered = &mut self.record.embedding;
        let moved = self.steerer.apply(steered, latents, values);
        ensure!(
            moved.is_finite() && steered.iter().all(|value| value.is_finite()),
            "the plan moves this vector beyond what f32 holds: give smaller amounts, or a cap"
        );
        let original = message.payload.unwrap_or_default();
        // No edit: the same bytes, not the same numbers written anew.
        let payload = if moved == 0.0 {
            original.to_vec()
        } else {
            with_vector(original, &self.settings, steered).context("the vector was not found again in the payload")?
        };
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

    fn settle(&mut self, _: &Positions, must: bool) -> anyhow::Result<bool> {
        let had_some = self.receipts.in_flight() > 0;
        self.producer.settle(&self.receipts, Instant::now() + BROKER)?;
        Ok(had_some || must)
    }
}

fn read_plan(path: &Path, bundle: &Bundle) -> anyhow::Result<Plan> {
    let json = std::fs::read(path).with_context(|| path.display().to_string())?;
    Plan::read(&json, bundle.fingerprint(), bundle.spec().d_sae.get()).with_context(|| path.display().to_string())
}
