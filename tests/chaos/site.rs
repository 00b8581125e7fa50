//! One deployment of a scenario: topic, configuration, store, what was sent, and the monitors over it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use recsae::config::settings::{KafkaSettings, ModelSettings, Settings};
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};

use crate::kafka_server::{Kafka, free_ports, unique};
use crate::monitor::{Checked, Monitor};
use crate::process::Process;
use crate::stage::Stage;
use crate::world::{LATENESS_MS, Made, N_CONFIGURED, Plan, SURFACES, WINDOW_MS, World};

/// Name of the header that says which record this is.
pub(crate) const NUMBER: &str = "chaos.number";

/// A deployment.
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) settings: Settings,
    pub(crate) world: World,
    pub(crate) topic: String,
    pub(crate) library: PathBuf,
    pub(crate) recsae: PathBuf,
    /// Records that were handed to the broker and acknowledged: `0..sent`, and the liveness records.
    pub(crate) sent: AtomicU64,
    /// Liveness records begin here.
    pub(crate) n_liveness: AtomicU64,
    /// Event time of liveness records.
    pub(crate) liveness_ms: i64,
}

/// The plan most scenarios use: 12 windows, 4 partitions, poison among the records.
pub(crate) fn plan(stage: &Stage, salt: u64, n_records: u64) -> Plan {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    Plan {
        seed: stage.seed ^ (salt << 40),
        n_records,
        n_windows: 12,
        n_partitions: 4,
        n_entities: 200,
        poison_every: 19,
        base_ms: (now_ms - 86_400_000).div_euclid(WINDOW_MS) * WINDOW_MS,
        newcomers_from: u64::MAX,
    }
}

impl Site {
    /// A topic and a configuration of its own.
    pub(crate) fn new(stage: &Stage, name: &str, plan: Plan) -> Self {
        Self::on(stage, &stage.kafka, name, plan)
    }

    /// The same on a broker of its own.
    pub(crate) fn on(stage: &Stage, broker: &Kafka, name: &str, plan: Plan) -> Self {
        let topic = broker.topic(name, plan.n_partitions);
        let dead = broker.topic(&format!("{name}-dead"), 1);
        let kafka = KafkaSettings { dead_letter_topic: dead, workers: 2, instance_id: unique("pod"), ..broker.settings(&[&topic]) };
        Self::over(stage, kafka, name, topic, plan)
    }

    /// The same over topics that are there.
    pub(crate) fn over(stage: &Stage, kafka: KafkaSettings, name: &str, topic: String, plan: Plan) -> Self {
        let mut folder = tempfile::Builder::new().prefix(&format!("chaos-{name}-")).tempdir().unwrap();
        folder.disable_cleanup(std::env::var_os("CHAOS_KEEP").is_some());
        let mut settings = Settings { kafka, ..Settings::default() };
        settings.model = vec![ModelSettings { version: None, bundle: stage.bundle() }];
        settings.window.length = Duration::from_millis(WINDOW_MS.unsigned_abs());
        settings.window.lateness = Duration::from_millis(LATENESS_MS.unsigned_abs());
        // Windows close by the records alone: the wall clock must decide nothing that is compared.
        settings.window.idle_after = Duration::from_secs(86_400);
        settings.segments.fields = vec!["surface".into()];
        settings.segments.values =
            BTreeMap::from([("surface".to_owned(), SURFACES[..N_CONFIGURED].iter().map(ToString::to_string).collect())]);
        settings.segments.max = 2 + N_CONFIGURED;
        settings.drift.reference = "first:8 windows".into();
        settings.drift.harmonics = Some(0);
        settings.drift.min_entities = 5;
        settings.store.path = folder.path().join("recsae.db");
        settings.store.checkpoint_every = Duration::from_millis(200);
        let liveness_ms = plan.base_ms + i64::try_from(plan.n_windows).unwrap() * WINDOW_MS;
        let world = World::read(&stage.model(), plan);
        Self {
            folder,
            settings,
            world,
            topic,
            library: stage.library.clone(),
            recsae: stage.recsae.clone(),
            sent: AtomicU64::new(0),
            n_liveness: AtomicU64::new(0),
            liveness_ms,
        }
    }

    /// Where this site's store lies.
    pub(crate) fn store(&self) -> &Path {
        &self.settings.store.path
    }

    /// Sends records `range`, with a pause after each hundred, and waits until the broker has them.
    pub(crate) fn produce(&self, range: std::ops::Range<u64>, pause: Duration) -> Checked<()> {
        let sender = Sender::new(&self.settings.kafka, &self.topic)?;
        for i in range.clone() {
            sender.send(i, &self.world.record(i))?;
            if i % 100 == 99 {
                sender.producer.poll(pause);
            }
        }
        sender.settle()?;
        self.sent.fetch_max(range.end, Ordering::SeqCst);
        Ok(())
    }

    /// One more record for every partition, at the newest time: shows that the flow still flows.
    pub(crate) fn produce_liveness(&self) -> Checked<()> {
        let sender = Sender::new(&self.settings.kafka, &self.topic)?;
        for (number, made) in self.liveness() {
            sender.send(number, &made)?;
        }
        sender.settle()?;
        self.n_liveness.store(self.liveness().len() as u64, Ordering::SeqCst);
        Ok(())
    }

    /// The liveness records and their numbers, beyond those of the plan.
    pub(crate) fn liveness(&self) -> Vec<(u64, Made)> {
        let plan = &self.world.plan;
        let of = |partition: i32| {
            let number = plan.n_records + u64::try_from(partition).unwrap();
            let made = Made { kind: crate::world::Kind::Good, partition, event_ms: self.liveness_ms, ..self.world.record(number) };
            (number, Made { entity: u32::try_from(partition).unwrap(), ..made })
        };
        (0..plan.n_partitions).map(of).collect()
    }

    /// The record of this number, liveness records included.
    pub(crate) fn made(&self, number: u64) -> Made {
        if number < self.world.plan.n_records {
            return self.world.record(number);
        }
        self.liveness().swap_remove(usize::try_from(number - self.world.plan.n_records).unwrap()).1
    }

    /// Writes the configuration with fresh ports; their numbers, metrics first.
    pub(crate) fn write_config(&self, name: &str, settings: &Settings) -> (PathBuf, u16, u16) {
        let [metrics, http] = free_ports();
        let mut settings = settings.clone();
        settings.metrics.listen = format!("127.0.0.1:{metrics}");
        settings.http.listen = format!("127.0.0.1:{http}");
        let file = self.folder.path().join(format!("{name}.toml"));
        fs::write(&file, toml::to_string(&settings).unwrap()).unwrap();
        (file, metrics, http)
    }

    /// Starts a monitor over this site.
    pub(crate) fn start(&self, arguments: &[&str], failpoints: &str) -> Monitor {
        self.start_as(&self.recsae, "recsae", &self.settings, arguments, &[("FAILPOINTS", OsStr::new(failpoints))])
    }

    /// Starts a monitor by a program, a configuration and an environment of its own.
    pub(crate) fn start_as(
        &self,
        program: &Path,
        name: &str,
        settings: &Settings,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Monitor {
        let (file, metrics, http) = self.write_config(name, settings);
        let mut all = vec![OsStr::new("run"), OsStr::new("-c"), file.as_os_str()];
        all.extend(arguments.iter().map(OsStr::new));
        let mut with = vec![("ORT_DYLIB_PATH", self.library.as_os_str())];
        with.extend(environment.iter().copied());
        let process = Process::start(program, &all, &with, self.folder.path().join(format!("{name}.log")));
        Monitor::over(process, metrics, http)
    }

    /// Runs a command over this site's configuration to its end.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.command_of(&self.settings, arguments)
    }

    /// The same over another configuration.
    pub(crate) fn command_of(&self, settings: &Settings, arguments: &[&str]) -> Output {
        let (file, ..) = self.write_config("command", settings);
        Command::new(&self.recsae).env("ORT_DYLIB_PATH", &self.library).args(arguments).arg("-c").arg(file).output().unwrap()
    }

    /// What the monitors printed so far.
    pub(crate) fn printed(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("recsae.log")).unwrap_or_default()).into_owned()
    }

    /// Numbers of everything sent so far.
    pub(crate) fn numbers(&self) -> BTreeSet<u64> {
        let first = self.world.plan.n_records;
        (0..self.sent.load(Ordering::SeqCst)).chain(first..first + self.n_liveness.load(Ordering::SeqCst)).collect()
    }
}

/// A producer that keeps count of acknowledgements.
pub(crate) struct Sender {
    pub(crate) producer: ReliableProducer,
    receipts: Arc<Receipts>,
    topic: String,
}

impl Sender {
    pub(crate) fn new(settings: &KafkaSettings, topic: &str) -> Checked<Self> {
        let producer = ReliableProducer::new(settings).map_err(|error| error.to_string())?;
        Ok(Self { producer, receipts: Arc::default(), topic: topic.to_owned() })
    }

    pub(crate) fn send(&self, number: u64, made: &Made) -> Checked<()> {
        let (key, payload) = (made.key(), made.payload());
        let record = Outgoing {
            topic: &self.topic,
            key: Some(key.as_bytes()),
            payload: payload.as_deref(),
            partition: Some(made.partition),
            timestamp_ms: None,
        };
        let headers: [(&str, &[u8]); 1] = [(NUMBER, &number.to_le_bytes())];
        self.producer.send(&record, &headers, &self.receipts, Duration::from_secs(60)).map_err(|error| error.to_string())
    }

    pub(crate) fn settle(&self) -> Checked<()> {
        self.producer.settle(&self.receipts, Instant::now() + Duration::from_secs(90)).map_err(|error| error.to_string())
    }
}
