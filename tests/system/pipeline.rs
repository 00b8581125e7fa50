//! Books that balance on Apache Kafka: under load with poison, and over ends in mid-flow.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use recsae::config::settings::{KafkaSettings, Settings};
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::kafka::scan::scan;
use recsae::simulate::setup::{settings, write_files};
use recsae::simulate::world::{WINDOW_MS, World};
use recsae::store::reader::{StoreReader, WindowQuery};
use serde_json::Value;

use crate::background::{Background, until};
use crate::kafka_server::{self, Kafka, free_ports, unique};
use crate::support;

const RECSAE: &str = env!("CARGO_BIN_EXE_recsae");
/// One record in this many is poison.
const POISON_EVERY: u64 = 20;
/// Windows of the world that are sent.
const WINDOWS: u64 = 12;
/// The reasons of the poison, in turn.
const POISON: [&str; 6] = ["malformed_json", "missing_embedding", "wrong_width", "not_finite", "tombstone", "future"];

/// What a test sends and where the monitor lives.
struct Scene {
    folder: tempfile::TempDir,
    world: World,
    settings: Settings,
    library: PathBuf,
    /// Good records sent so far, and poison.
    good: AtomicU64,
    poison: AtomicU64,
}

impl Scene {
    fn new(kafka: &Kafka, instance_id: &str) -> Option<Self> {
        let library = support::onnxruntime()?;
        let folder = tempfile::tempdir().unwrap();
        let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let seed = now_ms.unsigned_abs() % 1_000_000;
        println!("seed {seed}");
        let world = World::new(seed, (now_ms.div_euclid(24 * WINDOW_MS) - 365) * 24 * WINDOW_MS).unwrap();
        let (files, bundle) = (write_files(&world, folder.path()).unwrap(), folder.path().join("bundle"));
        let built = Command::new(RECSAE)
            .env("ORT_DYLIB_PATH", &library)
            .args(["bundle", "build", "--onnx"])
            .arg(&files.onnx)
            .arg("--out")
            .arg(&bundle)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let (topic, dead) = (kafka.topic("pipeline", 4), kafka.topic("pipeline-dead", 1));
        let own = KafkaSettings { dead_letter_topic: dead, workers: 2, instance_id: instance_id.into(), ..kafka.settings(&[&topic]) };
        let settings = Settings { kafka: own, ..settings("", &bundle, folder.path()) };
        Some(Self { folder, world, settings, library, good: AtomicU64::new(0), poison: AtomicU64::new(0) })
    }

    fn sent(&self) -> u64 {
        self.good.load(Ordering::SeqCst) + self.poison.load(Ordering::SeqCst)
    }

    /// Sends the world's windows with poison among them, with a pause after each hundred records.
    fn produce(&self, pause: Duration) {
        let producer = ReliableProducer::new(&self.settings.kafka).unwrap();
        let receipts = Arc::new(Receipts::default());
        let send = |key: &[u8], payload: Option<&[u8]>| {
            let record = Outgoing { topic: &self.settings.kafka.topics[0], key: Some(key), payload, partition: None, timestamp_ms: None };
            producer.send(&record, &[], &receipts, Duration::from_secs(30)).unwrap();
        };
        let (mut payload, mut n_good, mut n_poison) = (Vec::new(), 0_u64, 0_u64);
        for window in 0..WINDOWS {
            for served in self.world.window(window).records {
                payload.clear();
                served.write_json(&mut payload).unwrap();
                send(served.key().as_bytes(), Some(&payload));
                n_good += 1;
                if n_good % (POISON_EVERY - 1) == 0 {
                    let kind = POISON[usize::try_from(n_poison).unwrap() % POISON.len()];
                    send(served.key().as_bytes(), poison(kind, &payload).as_deref());
                    n_poison += 1;
                }
                if (n_good + n_poison) % 100 == 0 {
                    producer.poll(pause);
                }
            }
            producer.settle(&receipts, Instant::now() + Duration::from_secs(30)).unwrap();
            self.good.store(n_good, Ordering::SeqCst);
            self.poison.store(n_poison, Ordering::SeqCst);
        }
        println!("{n_good} good, {n_poison} poison");
    }

    fn start(&self, arguments: &[&str]) -> Monitor {
        let [metrics, http] = free_ports();
        let mut settings = self.settings.clone();
        settings.metrics.listen = format!("127.0.0.1:{metrics}");
        settings.http.listen = format!("127.0.0.1:{http}");
        let file = self.folder.path().join("recsae.toml");
        fs::write(&file, toml::to_string(&settings).unwrap()).unwrap();
        let arguments: Vec<_> =
            ["run", "-c"].map(AsRef::as_ref).into_iter().chain([file.as_os_str()]).chain(arguments.iter().map(AsRef::as_ref)).collect();
        let log = self.folder.path().join(unique("log"));
        let process = Background::start(Path::new(RECSAE), &arguments, &[("ORT_DYLIB_PATH", self.library.as_os_str())], log);
        Monitor { process, metrics, http }
    }

    /// Records and rejects of all judged windows.
    fn judged(&self) -> (u64, u64) {
        let reader = StoreReader::open(&self.settings.store.path).unwrap();
        let windows = reader.summaries(&WindowQuery { segment: Some("_all".into()), limit: Some(1000), ..WindowQuery::default() }).unwrap();
        let sum = |of: fn(&recsae::store::reader::WindowSummary) -> i64| windows.iter().map(of).sum::<i64>().unsigned_abs();
        (sum(|window| window.records), sum(|window| window.rejected))
    }
}

struct Monitor {
    process: Background,
    metrics: u16,
    http: u16,
}

/// The counters of one scrape.
#[derive(Debug, Default)]
struct Scrape {
    consumed: u64,
    encoded: u64,
    rejected: BTreeMap<String, u64>,
}

impl Scrape {
    fn n_rejected(&self) -> u64 {
        self.rejected.values().sum()
    }
}

impl Monitor {
    fn scrape(&self) -> Option<Scrape> {
        let text = ureq::get(format!("http://127.0.0.1:{}/metrics", self.metrics)).call().ok()?.body_mut().read_to_string().ok()?;
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

    fn wait_for(&self, consumed: u64) -> Scrape {
        let look = || self.scrape().filter(|scrape| scrape.consumed >= consumed);
        until(Duration::from_secs(90), look, || format!("{:?}\n{}", self.scrape(), self.process.printed()))
    }

    /// Sum of the partitions' positions: every topic here begins at 0.
    fn positions(&self) -> Option<u64> {
        let status: Value = ureq::get(format!("http://127.0.0.1:{}/api/v1/status", self.http)).call().ok()?.body_mut().read_json().ok()?;
        status["partitions"].as_array()?.iter().map(|partition| partition["position"].as_u64()).sum()
    }

    /// SIGTERM, and what it printed until its end.
    fn end(self) -> String {
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

#[test]
fn consumed_is_encoded_plus_rejected_in_a_hundred_scrapes_under_load_with_poison() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = Scene::new(kafka, "") else { return };
    let monitor = scene.start(&[]);
    until(Duration::from_secs(60), || monitor.scrape(), || monitor.process.printed());
    let (mut scrapes, mut advances, mut last) = (0, 0, 0);
    std::thread::scope(|scope| {
        let feed = scope.spawn(|| scene.produce(Duration::from_millis(15)));
        while scrapes < 100 || !feed.is_finished() {
            let scrape = monitor.scrape().unwrap();
            assert_eq!(scrape.consumed, scrape.encoded + scrape.n_rejected(), "scrape {scrapes}: {scrape:?}");
            advances += usize::from(scrape.consumed > last);
            last = scrape.consumed;
            scrapes += 1;
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    println!("{scrapes} scrapes, {advances} while records came");
    assert!(advances >= 20, "the scrapes were not under load");
    let end = monitor.wait_for(scene.sent());
    assert_eq!(
        (end.consumed, end.encoded, end.n_rejected()),
        (scene.sent(), scene.good.load(Ordering::SeqCst), scene.poison.load(Ordering::SeqCst))
    );
    assert!(POISON.iter().all(|reason| end.rejected.get(*reason).is_some_and(|n| *n > 0)), "{end:?}");
    let advanced = || monitor.positions().filter(|sum| *sum == end.consumed);
    until(Duration::from_secs(20), advanced, || format!("offsets advanced by {:?}, consumed {}", monitor.positions(), end.consumed));
    let log = monitor.end();
    assert!(log.contains("worker drained"), "{log}");

    let mut letters = 0;
    scan(&scene.settings.kafka, &scene.settings.kafka.dead_letter_topic, Duration::from_secs(20), |_| letters += 1).unwrap();
    assert_eq!(letters, scene.poison.load(Ordering::SeqCst), "each dead letter once where nothing was killed");
}

#[test]
fn ended_in_mid_flow_and_started_again_every_record_is_counted_once() {
    let Some(kafka) = kafka_server::shared() else { return };
    // A stable name: the members come back to their partitions without waiting for a session to end.
    let Some(scene) = Scene::new(kafka, &unique("pod")) else { return };
    std::thread::scope(|scope| {
        let feed = scope.spawn(|| scene.produce(Duration::from_millis(15)));
        for ends in 1..=3 {
            let monitor = scene.start(&[]);
            monitor.wait_for(300);
            let asked = Instant::now();
            let log = monitor.end();
            println!("end {ends}: {:?}, feed finished {}", asked.elapsed(), feed.is_finished());
            assert!(asked.elapsed() < Duration::from_secs(10), "drain within 10 s");
            assert!(log.contains("worker drained: everything counted is stored and committed"), "{log}");
        }
    });
    let last = scene.start(&["--until-end"]);
    let ended = || last.process.printed().contains("windows judged").then_some(());
    until(Duration::from_secs(90), ended, || last.process.printed());
    let log = last.end();
    let (records, rejected) = scene.judged();
    assert_eq!(records, scene.good.load(Ordering::SeqCst), "lost or counted twice; {log}");
    assert_eq!(rejected, scene.poison.load(Ordering::SeqCst));
}
