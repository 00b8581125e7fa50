//! Everything a run needs, opened and checked in the order that gives the clearest refusal: models
//! first (most often wrong), then the broker, then the store. A changed way of counting is written down
//! last, when nothing can refuse the start any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use crate::config::settings::{CountingUnit, KafkaSettings, Settings};
use crate::config::{config_hash, counting_hash, judging_hash};
use crate::decode::Decoder;
use crate::drift::partition::PartitionPosition;
use crate::drift::segment::{SegmentTable, segment_name};
use crate::drift::window::WindowSpec;
use crate::kafka::admin::{Cluster, committed, preflight};
use crate::kafka::consumer::{ReadOptions, WorkerConsumer};
use crate::kafka::dead_letter::{self, DeadLetters};
use crate::kafka::error::KafkaError;
use crate::kafka::producer::ReliableProducer;
use crate::metrics::registry::ProcessMetrics;
use crate::monitor::admission::{Admission, AdmissionBoard, segment_fields};
use crate::monitor::cluster;
use crate::monitor::cluster::entry::log_partition;
use crate::monitor::cluster::join::{SharedTopics, join, look_at_topics};
use crate::monitor::cluster::log_writer::LogWriter;
use crate::monitor::cluster::member::Member;
use crate::monitor::cluster::start::Joined;
use crate::monitor::cluster::together::Together;
use crate::monitor::command::Commands;
use crate::monitor::error::MonitorError;
use crate::monitor::explainer::Explainer;
use crate::monitor::intake::{Intake, IntakeRules};
use crate::monitor::judge::{Judge, JudgeRules};
use crate::monitor::models::Models;
use crate::monitor::options::{Opened, RunOptions};
use crate::monitor::pace::Pace;
use crate::monitor::progress::Progress;
use crate::monitor::questions::{QUESTIONS_WAITING, Questions};
use crate::monitor::resume;
use crate::monitor::retention::Retention;
use crate::monitor::shared::{Shared, StoredPositions, WorkerRules};
use crate::monitor::topic_watch::TopicWatch;
use crate::monitor::version::Version;
use crate::monitor::worker::Worker;
use crate::record::TopicPartition;
use crate::snapshot::{InstanceFacts, Live, SnapshotCell};
use crate::store::Store;
use crate::store::lineage::Lineage;
use crate::task::Shutdown;

/// Longest wait for the broker's first answer.
const PREFLIGHT: Duration = Duration::from_secs(10);
/// Longest wait for a topic that the broker makes by itself.
const TOPIC_MADE: Duration = Duration::from_secs(3);

/// Opened parts of a run.
pub struct Setup {
    /// What readers see.
    pub snapshot: Arc<SnapshotCell>,
    models: Models,
    shared: Arc<Shared>,
    facts: Arc<InstanceFacts>,
    producer: Option<Arc<ReliableProducer>>,
    topic_watch: Option<TopicWatch>,
    budget_windows: f64,
    max_segments: usize,
    retention: Duration,
    salt: [u8; 16],
    lineage: Lineage,
    judge_parts: Option<(Store, Vec<Version>)>,
    membership: Option<(Joined, Member)>,
    member: Option<Member>,
}

impl Setup {
    /// Opens everything.
    ///
    /// # Errors
    /// The first part that is refused, with what to do.
    pub fn open(settings: &Settings, options: &RunOptions) -> Result<Self, MonitorError> {
        let faults = crate::config::check(settings);
        if !faults.is_empty() {
            return Err(MonitorError::Config(faults));
        }
        if settings.cluster.enabled && options.until_end {
            let why =
                "--until-end reads a whole log in one instance: run it with [cluster] enabled = false and a store and group of its own";
            return Err(MonitorError::Cluster(why.to_owned()));
        }
        let fault = |fault| MonitorError::Config(vec![fault]);
        let models = Models::open(settings)?;
        let engine = models.encoders(settings)?.first().map(|encoder| encoder.engine().to_owned()).unwrap_or_default();
        let (cluster, producer) = connect(&settings.kafka)?;
        let now_ms = options.clock.now_ms();

        let mut store = Store::open(&settings.store.path)?;
        let counting_hash = counting_hash(settings, &models.fingerprint());
        let window = WindowSpec {
            length_ms: settings.window.length_ms(),
            origin_ms: settings.window.origin_ms().map_err(fault)?,
            lateness_ms: ms(settings.window.lateness),
        };
        let shared_topics = settings.cluster.enabled.then(|| look_at_topics(settings)).transpose();
        let shared_topics = shared_topics.map_err(|faults| MonitorError::Cluster(faults.join("\n")))?;
        // Before anything is written down: the first entry of the record is the one that all instances have.
        let (joins, began_ms) = match shared_topics {
            None => (None, now_ms),
            Some(topics) => {
                let producer = cluster::start::producer(settings)?;
                let founding = join(settings, &counting_hash, (&mut store, &producer), now_ms)?;
                (Some((topics, producer)), founding.at_ms)
            }
        };
        let salt = store.entity_salt()?;
        let lineage = store.propose_lineage(&counting_hash, &models.fingerprint(), &window, began_ms)?;
        let topic_watch = TopicWatch::open(&settings.kafka, &cluster.partitions, &mut store)?;
        let membership = joins.map(|joins| member_of(settings, &models, &store, joins, now_ms)).transpose()?;
        let choice = settings.drift.reference_choice().map_err(fault)?;
        let judging = models.judging(settings)?;
        let versions = Version::all(&models, judging, &choice, &store)?;

        let budget_windows = settings.drift.budget_windows(settings.window.length).map_err(fault)?;
        let facts = Arc::new(InstanceFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_hash: config_hash(settings),
            engine,
            started_ms: now_ms,
        });
        let metrics = ProcessMetrics::new(env!("CARGO_PKG_VERSION"), option_env!("RECSAE_REVISION").unwrap_or("unknown"));
        let rules = WorkerRules {
            window,
            models: models.counting(settings),
            counting_hash,
            checkpoint_every: settings.store.checkpoint_every,
            drain: settings.kafka.drain,
            idle_after_ms: ms(settings.window.idle_after),
            until_end: options.until_end,
            group: settings.kafka.group.clone(),
            n_partitions: cluster.partitions.len(),
        };
        let mut positions = store.read().positions()?;
        if positions.is_empty() && membership.is_none() {
            // A store that is new to this group: what it knows of the windows that are open stands in its commits.
            let commits = committed(&settings.kafka, &cluster.partitions, PREFLIGHT)?;
            positions = resume::without_store(&rules.counting_hash, &window, &commits, now_ms);
            store.take_positions(&positions)?;
            if !positions.is_empty() {
                tracing::warn!(partitions = positions.len(), "the store knows nothing of this group: it goes on from its commits");
            }
        }
        positions.retain(|partition, _| cluster.partitions.contains(partition));
        let judged_until_ms = store.read().last_judged()?.map(|(_, end_ms)| end_ms);
        let board = match &membership {
            None => AdmissionBoard::new(admitted(settings, &versions, &store)?, newest_opened(&positions, &rules.window)),
            Some(_) => AdmissionBoard::shared(admitted(settings, &[], &store)?),
        };
        let admits = !settings.segments.fields.is_empty() && 2 + board.n_admitted() < settings.segments.max;
        let shared = Shared {
            clock: Arc::clone(&options.clock),
            metrics: Arc::new(metrics.map_err(|error| MonitorError::Start(error.to_string()))?),
            live: Arc::new(Live::new(if membership.is_some() { &["group", "store", "cluster"] } else { &["group", "store"] })),
            pace: Pace::new(&rules.window, rules.idle_after_ms, admits),
            board,
            progress: Progress::default(),
            positions: StoredPositions::new(positions, judged_until_ms),
            store_works: AtomicBool::new(true),
            counts_another_log: AtomicBool::new(false),
            together: Together::new(membership.is_some()),
            rules,
        };
        Ok(Self {
            snapshot: Arc::default(),
            models,
            topic_watch: Some(topic_watch),
            shared: Arc::new(shared),
            facts,
            producer,
            budget_windows,
            max_segments: settings.segments.max,
            retention: settings.store.retention,
            salt,
            lineage,
            judge_parts: Some((store, versions)),
            membership,
            member: None,
        })
    }

    /// What workers and the judge share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The cluster that was joined, once; `None` alone.
    pub fn joined(&mut self) -> Option<Joined> {
        let (joined, member) = self.membership.take()?;
        self.member = Some(member);
        Some(joined)
    }

    /// What asks whether the topics are still the same; once.
    pub fn topic_watch(&mut self) -> Option<TopicWatch> {
        self.topic_watch.take()
    }

    /// Keeps the lineage that [`Setup::open`] proposed: the last step before records are read, so that a start which is
    /// refused (a busy port, a place in the record that fits none other) leaves the store as it was.
    ///
    /// # Errors
    /// The store refuses.
    pub fn begin(&mut self) -> Result<(), MonitorError> {
        let Some((store, _)) = &mut self.judge_parts else { return Ok(()) };
        store.confirm_lineage()?;
        let Lineage { id, continued, edge_ms } = self.lineage;
        if !continued && id > 1 {
            let verdicts_from = edge_ms.map(crate::drift::alert::utc_text);
            tracing::warn!(lineage = id, verdicts_from, "what is counted has changed: a new lineage begins, the history before it stays");
        }
        Ok(())
    }

    /// Worker threads: as configured, else one a core.
    #[must_use]
    pub fn n_workers(&self, settings: &Settings) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        if settings.kafka.workers > 0 { settings.kafka.workers } else { cores }.min(self.shared.rules.n_partitions.max(1))
    }

    /// Records read for the first time, and of those, rejected.
    #[must_use]
    pub fn records(&self) -> (u64, u64) {
        self.shared.metrics.records()
    }

    /// What others read, and the way to the judge.
    #[must_use]
    pub fn opened(&self, commands: Commands) -> Opened {
        Opened {
            snapshot: Arc::clone(&self.snapshot),
            live: Arc::clone(&self.shared.live),
            metrics: Arc::clone(&self.shared.metrics),
            commands,
            bundles: self.models.labels.iter().cloned().zip(self.models.bundles.iter().cloned()).collect(),
        }
    }

    /// What makes a worker inside its own thread.
    ///
    /// # Errors
    /// `[record]` is refused, or an encoder.
    pub fn worker(
        &self,
        settings: &Settings,
        number: usize,
        steps: Commands,
    ) -> Result<impl FnOnce(&Shutdown) -> Result<Option<Worker>, MonitorError> + Send + 'static, MonitorError> {
        let decoder = Decoder::new(&settings.record, &settings.segments.fields, &self.salt)?;
        let read = ReadOptions { batch: settings.encode.batch, linger: settings.encode.linger, headers: decoder.needs_headers() };
        let rules = IntakeRules {
            needs_entity: settings.counting.unit != CountingUnit::Records,
            future_tolerance_ms: ms(settings.window.future_tolerance),
        };
        let table = SegmentTable::new(segment_fields(settings), settings.segments.max);
        let intake = Intake::new(decoder, rules, self.models.index.clone(), table, self.models.empty_batches());
        let encoders = self.models.encoders(settings)?;
        let dead_letters = self.producer.as_ref().map(|producer| DeadLetters::new(Arc::clone(producer), &settings.kafka.dead_letter_topic));
        let (bundles, shared, kafka) = (self.models.bundles.clone(), Arc::clone(&self.shared), settings.kafka.clone());
        Ok(move |shutdown: &Shutdown| {
            if !shared.together.wait_until_caught_up(shutdown) {
                return Ok(None);
            }
            let consumer = WorkerConsumer::new(&kafka, number, read)?;
            Ok(Some(Worker::new(consumer, intake, encoders, &bundles, dead_letters, steps, shared)))
        })
    }

    /// What explains alerts, and the judge's way to ask it.
    #[must_use]
    pub fn explainer(&self, settings: &Settings, commands: Commands, until_end: bool) -> (Explainer, Questions) {
        let (ask, asked) = sync_channel(QUESTIONS_WAITING);
        let alive = Arc::new(());
        let questions = Questions::new(ask, Arc::downgrade(&alive));
        let (settings, models, salt) = (settings.clone(), self.models.clone(), self.salt);
        (Explainer { settings, models, salt, until_end, asked, commands, alive }, questions)
    }

    /// The judge; once.
    ///
    /// # Errors
    /// It was taken before.
    pub fn judge(&mut self, workers: &Arc<AtomicUsize>, questions: Questions) -> Result<Judge, MonitorError> {
        let (store, versions) = self.judge_parts.take().ok_or_else(|| MonitorError::Start("there is one judge".into()))?;
        let rules = JudgeRules {
            budget_windows: self.budget_windows,
            min_segment_records: MIN_SEGMENT_RECORDS,
            max_segments: self.max_segments,
            retention: Retention::new(self.retention),
            member: self.member.take(),
        };
        let (shared, facts, snapshot) = (Arc::clone(&self.shared), Arc::clone(&self.facts), Arc::clone(&self.snapshot));
        Ok(Judge::new(store, versions, shared, facts, snapshot, rules, (Arc::clone(workers), questions)))
    }
}

/// Records a new segment needs in one window to be followed from the next ones on. Below it its
/// windows would hardly ever be judged, and one bot could fill the table.
const MIN_SEGMENT_RECORDS: u64 = 20;

/// The instance as a member of its cluster, with what its store has carried out of the log.
fn member_of(
    settings: &Settings,
    models: &Models,
    store: &Store,
    (topics, producer): (SharedTopics, Arc<ReliableProducer>),
    now_ms: i64,
) -> Result<(Joined, Member), MonitorError> {
    let joined = Joined::new(settings, topics, Arc::clone(&producer), store.read())?;
    let name = format!(
        "{}-{}-{now_ms:x}",
        if settings.kafka.instance_id.is_empty() { "instance" } else { &settings.kafka.instance_id },
        std::process::id()
    );
    let writer = LogWriter::new(producer, &settings.cluster.judge_topic, name);
    let catalogues: Vec<String> =
        models.bundles.iter().map(|bundle| serde_json::to_string(bundle.catalogue()).unwrap_or_default()).collect();
    let rules = judging_hash(settings, &models.fingerprint(), &catalogues);
    let judge = store.read().membership()?.map_or((0, String::new()), |member| (member.epoch, member.judge));
    let next = joined.log.next.get(&0).copied().unwrap_or(0);
    let log = log_partition(&settings.cluster.judge_topic);
    Ok((joined, Member::new(writer, log, rules, (next, store.read().audit_head()?), judge)))
}

/// The cluster, and the producer of dead letters.
///
/// # Errors
/// Nobody answers, or a topic is missing.
pub fn connect(kafka: &KafkaSettings) -> Result<(Cluster, Option<Arc<ReliableProducer>>), KafkaError> {
    let cluster = preflight(kafka, PREFLIGHT)?;
    let producer = dead_letter_producer(kafka, &cluster)?;
    Ok((cluster, producer))
}

/// The producer of dead letters, where they are kept. A topic that is not there is refused now: later the first record
/// that is rejected would stop the program, after every start again.
fn dead_letter_producer(kafka: &KafkaSettings, cluster: &Cluster) -> Result<Option<Arc<ReliableProducer>>, KafkaError> {
    let topic = &kafka.dead_letter_topic;
    if topic.is_empty() {
        return Ok(None);
    }
    let producer = ReliableProducer::new(kafka)?;
    if cluster.topics.iter().any(|(name, _)| name == topic) || producer.has_topic(topic, TOPIC_MADE)? {
        return Ok(Some(Arc::new(producer)));
    }
    Err(dead_letter::missing(topic))
}

/// Configured values, the reference's segments, and what the judge admitted before.
fn admitted(settings: &Settings, versions: &[Version], store: &Store) -> Result<Vec<Admission>, MonitorError> {
    let configured = settings.segments.values.iter().flat_map(|(field, values)| {
        let field = field.trim_start_matches("header:");
        values.iter().map(move |value| segment_name(&[(field, value)]))
    });
    let referenced = versions.iter().flat_map(Version::reference_segments).filter(|name| name.contains('=')).cloned();
    let mut admitted: Vec<Admission> = Vec::new();
    let stored = store.read().admitted_segments()?.into_iter().map(|(segment, from_ms)| Admission { segment, from_ms });
    // What the judge stored comes first: its edge decides how an open window is rebuilt.
    let always = configured.chain(referenced).map(|segment| Admission { segment, from_ms: i64::MIN });
    for admission in stored.chain(always) {
        if !admitted.iter().any(|known| known.segment == admission.segment) {
            admitted.push(admission);
        }
    }
    Ok(admitted)
}

/// Newest window of which something is stored.
fn newest_opened(positions: &BTreeMap<TopicPartition, PartitionPosition>, window: &WindowSpec) -> Option<i64> {
    let newest = positions.values().map(|position| position.watermark_ms).max()?;
    (newest != i64::MIN).then(|| window.start_of(newest))
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
