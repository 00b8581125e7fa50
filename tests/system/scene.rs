//! A monitor on Apache Kafka with a simulated world to send to it: good records, and poison among them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use recsae::clock::{Clock, SystemClock};
use recsae::config::settings::{KafkaSettings, Settings};
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::simulate::setup::{settings, write_files};
use recsae::simulate::world::{WINDOW_MS, World};
use recsae::store::reader::{StoreReader, WindowQuery};
use serde_json::Value;

use crate::background::{Background, until};
use crate::kafka_server::{Kafka, free_ports, unique};
use crate::support;

const RECSAE: &str = env!("CARGO_BIN_EXE_recsae");
/// One record in this many is poison.
const POISON_EVERY: u64 = 20;
/// Windows of the world that are sent.
pub(crate) const WINDOWS: u64 = 12;
/// The reasons of the poison, in turn.
pub(crate) const POISON: [&str; 6] = ["malformed_json", "missing_embedding", "wrong_width", "not_finite", "tombstone", "future"];

/// What a test sends and where the monitor lives.
pub(crate) struct Scene {
    folder: tempfile::TempDir,
    pub(crate) world: World,
    pub(crate) settings: Settings,
    pub(crate) library: PathBuf,
    /// Good records sent so far.
    pub(crate) good: AtomicU64,
    /// Poison sent so far.
    pub(crate) poison: AtomicU64,
}

impl Scene {
    /// A topic of four partitions, its dead-letter topic, and a world whose bundle is built.
    pub(crate) fn new(kafka: &Kafka, instance_id: &str) -> Option<Self> {
        let library = support::onnxruntime()?;
        let folder = tempfile::tempdir().unwrap();
        let now_ms = SystemClock.now_ms();
        let seed = now_ms.unsigned_abs() % 1_000_000;
        println!("seed {seed}");
        let world = World::new(seed, (now_ms.div_euclid(24 * WINDOW_MS) - 365) * 24 * WINDOW_MS).unwrap();
        let bundle = build_bundle(&world, folder.path(), &library);
        let (topic, dead) = (kafka.topic("pipeline", 4), kafka.topic("pipeline-dead", 1));
        let own = KafkaSettings { dead_letter_topic: dead, workers: 2, instance_id: instance_id.into(), ..kafka.settings(&[&topic]) };
        let settings = Settings { kafka: own, ..settings("", &bundle, folder.path()) };
        Some(Self { folder, world, settings, library, good: AtomicU64::new(0), poison: AtomicU64::new(0) })
    }

    /// Records sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.good.load(Ordering::SeqCst) + self.poison.load(Ordering::SeqCst)
    }

    /// Sends windows of the world with poison among them, with a pause after each hundred records.
    pub(crate) fn produce(&self, windows: Range<u64>, pause: Duration) {
        self.produce_by(windows, pause, |_| &self.settings.kafka.topics[0]);
    }

    /// The same into the topic of each key.
    pub(crate) fn produce_by<'a>(&self, windows: Range<u64>, pause: Duration, topic_of: impl Fn(&str) -> &'a String) {
        let producer = ReliableProducer::new(&self.settings.kafka).unwrap();
        let receipts = Arc::new(Receipts::default());
        let send = |key: &str, payload: Option<&[u8]>| {
            let record = Outgoing { topic: topic_of(key), key: Some(key.as_bytes()), payload, partition: None, timestamp_ms: None };
            producer.send(&record, &[], &receipts, Duration::from_secs(30)).unwrap();
        };
        let mut payload = Vec::new();
        let (mut n_good, mut n_poison) = (self.good.load(Ordering::SeqCst), self.poison.load(Ordering::SeqCst));
        for window in windows {
            for served in self.world.window(window).records {
                payload.clear();
                served.write_json(&mut payload).unwrap();
                send(&served.key(), Some(&payload));
                n_good += 1;
                if n_good % (POISON_EVERY - 1) == 0 {
                    let kind = POISON[usize::try_from(n_poison).unwrap() % POISON.len()];
                    send(&served.key(), poison(kind, &payload).as_deref());
                    n_poison += 1;
                }
                if (n_good + n_poison) % 100 == 0 {
                    producer.poll(pause);
                }
            }
            // As long as a broker that was killed may take to come back.
            producer.settle(&receipts, Instant::now() + Duration::from_secs(90)).unwrap();
            self.good.store(n_good, Ordering::SeqCst);
            self.poison.store(n_poison, Ordering::SeqCst);
        }
        println!("{n_good} good, {n_poison} poison");
    }

    /// Where everything of this scene lies.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts `recsae run` with these settings.
    pub(crate) fn start(&self, arguments: &[&str]) -> Monitor {
        self.start_under(Path::new(RECSAE), &[], arguments)
    }

    /// The same under another program, that runs what follows its own arguments.
    pub(crate) fn start_under(&self, program: &Path, before: &[&str], arguments: &[&str]) -> Monitor {
        let [metrics, http] = free_ports();
        let file = self.configuration(metrics, http);
        let own = if before.is_empty() { &[][..] } else { &[RECSAE][..] };
        let before = before.iter().chain(own).chain(&["run", "-c"]).map(AsRef::<OsStr>::as_ref);
        let arguments: Vec<&OsStr> = before.chain([file.as_os_str()]).chain(arguments.iter().map(AsRef::as_ref)).collect();
        let log = self.folder.path().join(unique("log"));
        let process = Background::start(program, &arguments, &[("ORT_DYLIB_PATH", self.library.as_os_str())], log);
        Monitor { process, metrics, http }
    }

    /// Writes the settings as they are by now into the file a running monitor reads.
    pub(crate) fn write_configuration(&self, monitor: &Monitor) {
        self.configuration(monitor.metrics, monitor.http);
    }

    /// Starts an instance with settings of its own beside others, and waits until it listens. A port that was free a moment
    /// ago may be a client's by now: then others are tried.
    pub(crate) fn start_beside(&self, settings: &Settings) -> Monitor {
        self.start_on(settings, free_ports, "")
    }

    /// The same with points of `src/fault.rs` armed.
    pub(crate) fn start_armed(&self, settings: &Settings, failpoints: &str) -> Monitor {
        self.start_on(settings, free_ports, failpoints)
    }

    /// Starts an instance again where it was, as one that is scraped by its address.
    pub(crate) fn start_again(&self, settings: &Settings, was: &Monitor) -> Monitor {
        self.start_on(settings, || [was.metrics, was.http], "")
    }

    fn start_on(&self, settings: &Settings, ports: impl Fn() -> [u16; 2], failpoints: &str) -> Monitor {
        loop {
            let monitor = self.try_start_beside(settings, ports(), failpoints);
            let said = || {
                let printed = monitor.process.printed();
                ["\"listening\"", "cannot listen"].into_iter().find(|words| printed.contains(words))
            };
            if until(Duration::from_secs(60), said, || monitor.process.printed()) != "cannot listen" {
                return monitor;
            }
        }
    }

    fn try_start_beside(&self, settings: &Settings, [metrics, http]: [u16; 2], failpoints: &str) -> Monitor {
        let file = self.write(settings.clone(), &format!("{}.toml", unique("recsae")), metrics, http);
        let arguments: Vec<&OsStr> = vec!["run".as_ref(), "-c".as_ref(), file.as_os_str()];
        let log = self.folder.path().join(unique("log"));
        let environment = [("ORT_DYLIB_PATH", self.library.as_os_str()), ("FAILPOINTS", failpoints.as_ref())];
        let process = Background::start(Path::new(RECSAE), &arguments, &environment, log);
        Monitor { process, metrics, http }
    }

    fn configuration(&self, metrics: u16, http: u16) -> PathBuf {
        self.write(self.settings.clone(), "recsae.toml", metrics, http)
    }

    fn write(&self, mut settings: Settings, name: &str, metrics: u16, http: u16) -> PathBuf {
        settings.metrics.listen = format!("127.0.0.1:{metrics}");
        settings.http.listen = format!("127.0.0.1:{http}");
        let file = self.folder.path().join(name);
        fs::write(&file, toml::to_string(&settings).unwrap()).unwrap();
        file
    }

    /// Runs `recsae check` with these settings: exit code, and all it printed.
    pub(crate) fn check(&self, arguments: &[&str]) -> (i32, String) {
        let [metrics, http] = free_ports();
        let mut command = Command::new(RECSAE);
        command.env("ORT_DYLIB_PATH", &self.library).args(["check", "-c"]).arg(self.configuration(metrics, http)).args(arguments);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Records and rejects of all judged windows.
    pub(crate) fn judged(&self) -> (u64, u64) {
        let reader = StoreReader::open(&self.settings.store.path).unwrap();
        let windows = reader.summaries(&WindowQuery { segment: Some("_all".into()), limit: Some(1000), ..WindowQuery::default() }).unwrap();
        let sum = |of: fn(&recsae::store::reader::WindowSummary) -> i64| windows.iter().map(of).sum::<i64>().unsigned_abs();
        (sum(|window| window.records), sum(|window| window.rejected))
    }
}

/// The world's SAE as a bundle in `folder`.
pub(crate) fn build_bundle(world: &World, folder: &Path, library: &Path) -> PathBuf {
    let (files, bundle) = (write_files(world, folder).unwrap(), folder.join("bundle"));
    let mut command = Command::new(RECSAE);
    command.env("ORT_DYLIB_PATH", library).args(["bundle", "build", "--onnx"]).arg(&files.onnx).arg("--out").arg(&bundle);
    let built = command.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    bundle
}

/// A running `recsae run`.
pub(crate) struct Monitor {
    pub(crate) process: Background,
    pub(crate) metrics: u16,
    http: u16,
}

/// The counters of one scrape.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    pub(crate) consumed: u64,
    pub(crate) encoded: u64,
    pub(crate) rejected: BTreeMap<String, u64>,
}

impl Scrape {
    pub(crate) fn n_rejected(&self) -> u64 {
        self.rejected.values().sum()
    }
}

impl Monitor {
    pub(crate) fn scrape(&self) -> Option<Scrape> {
        let text = self.metrics_text()?;
        let mut scrape = Scrape::default();
        for line in text.lines() {
            let Some((name, value)) = line.rsplit_once(' ').and_then(|(name, value)| Some((name, value.parse::<u64>().ok()?))) else {
                continue;
            };
            match name.split_once('{') {
                None if name == "recsae_records_consumed_total" => scrape.consumed = value,
                None if name == "recsae_records_encoded_total" => scrape.encoded = value,
                Some(("recsae_records_rejected_total", label)) if value > 0 => {
                    scrape.rejected.insert(label.trim_start_matches("reason=\"").trim_end_matches("\"}").to_owned(), value);
                }
                _ => {}
            }
        }
        Some(scrape)
    }

    /// Waits until it has consumed that many.
    pub(crate) fn wait_for(&self, consumed: u64) -> Scrape {
        let look = || self.scrape().filter(|scrape| scrape.consumed >= consumed);
        until(Duration::from_secs(90), look, || format!("{:?}\n{}", self.scrape(), self.process.printed()))
    }

    /// Sum of the partitions' positions: every topic here begins at 0.
    pub(crate) fn positions(&self) -> Option<u64> {
        let status = self.api("status")?;
        status["partitions"].as_array()?.iter().map(|partition| partition["position"].as_u64()).sum()
    }

    /// `/metrics`.
    pub(crate) fn metrics_text(&self) -> Option<String> {
        ureq::get(format!("http://127.0.0.1:{}/metrics", self.metrics)).call().ok()?.body_mut().read_to_string().ok()
    }

    /// One series of `/metrics`.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics_text()?;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// An answer of the API.
    pub(crate) fn api(&self, path: &str) -> Option<Value> {
        ureq::get(format!("http://127.0.0.1:{}/api/v1/{path}", self.http)).call().ok()?.body_mut().read_json().ok()
    }

    /// A page.
    pub(crate) fn page(&self, path: &str) -> Option<String> {
        ureq::get(format!("http://127.0.0.1:{}/{path}", self.http)).call().ok()?.body_mut().read_to_string().ok()
    }

    /// What the API answers to an act.
    pub(crate) fn post(&self, path: &str, body: &Value, token: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/{path}", self.http);
        let request = ureq::post(url).header("Authorization", format!("Bearer {token}"));
        request.send_json(body).ok()?.body_mut().read_json().ok()
    }

    /// SIGTERM, and what it printed until its end.
    pub(crate) fn end(self) -> String {
        let log = self.process.log.clone();
        drop(self.process);
        fs::read_to_string(log).unwrap()
    }
}

fn poison(kind: &str, good: &[u8]) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(good).unwrap();
    match kind {
        "malformed_json" => return Some(good[..good.len() / 2].to_vec()),
        "tombstone" => return None,
        "not_finite" => return Some(br#"{"embedding":[NaN]}"#.to_vec()),
        "missing_embedding" => drop(value.as_object_mut().unwrap().remove("embedding")),
        "wrong_width" => value["embedding"] = serde_json::json!([1.0]),
        // Years after the broker's clock, whatever it says.
        _ => value["timestamp"] = 9_000_000_000_000_i64.into(),
    }
    Some(value.to_string().into_bytes())
}
