//! From a record to a person: Kafka, `recsae run`, Prometheus with our rules, Alertmanager, a webhook.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::clock::{Clock, SystemClock};
use recsae::config::settings::{KafkaSettings, Settings};
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::simulate::setup::{REFERENCE_WINDOWS, settings, write_files};
use recsae::simulate::words::concept_name;
use recsae::simulate::world::{WINDOW_MS, World};
use serde_json::Value;

use crate::background::{Background, until};
use crate::kafka_server::{self, free_ports};
use crate::observers::Observers;
use crate::support;

const DAY_MS: i64 = 24 * WINDOW_MS;
/// Windows a shift gets to be found: the design's median is below ten at twice the rate.
const WINDOWS_TO_FIND: u64 = 24;
/// Windows an alert gets to end: as many as it lasted back inside the gate, at least twelve; four times as many after a relapse.
const WINDOWS_TO_RECOVER: u64 = 120;

/// A monitor as a user starts it: the program, a file, a bundle built by the program.
struct Monitor {
    _process: Background,
    metrics_port: u16,
    api: String,
}

impl Monitor {
    fn start(folder: &Path, world: &World, kafka: KafkaSettings, library: &Path) -> Self {
        let files = write_files(world, folder).unwrap();
        let bundle = folder.join("bundle");
        let recsae = PathBuf::from(env!("CARGO_BIN_EXE_recsae"));
        let built = Command::new(&recsae)
            .env("ORT_DYLIB_PATH", library)
            .args(["bundle", "build", "--onnx"])
            .arg(&files.onnx)
            .arg("--concepts")
            .arg(&files.concepts)
            .arg("--out")
            .arg(&bundle)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

        let [metrics_port, http_port] = free_ports();
        let mut settings = Settings { kafka, ..settings("", &bundle, folder) };
        settings.metrics.listen = format!("127.0.0.1:{metrics_port}");
        settings.http.listen = format!("127.0.0.1:{http_port}");
        fs::write(folder.join("token"), "a-token-of-the-test").unwrap();
        settings.http.token_file = Some(folder.join("token"));
        let file = folder.join("recsae.toml");
        fs::write(&file, toml::to_string(&settings).unwrap()).unwrap();
        let arguments = ["run".as_ref(), "-c".as_ref(), file.as_os_str()];
        let process = Background::start(&recsae, &arguments, &[("ORT_DYLIB_PATH", library.as_os_str())], folder.join("recsae.log"));
        let monitor = Self { _process: process, metrics_port, api: format!("http://127.0.0.1:{http_port}/api/v1") };
        let ready = || monitor.get("status").filter(|status| status["ready"] == true);
        until(Duration::from_secs(60), ready, || monitor._process.printed());
        monitor
    }

    fn get(&self, path: &str) -> Option<Value> {
        ureq::get(format!("{}/{path}", self.api)).call().ok()?.body_mut().read_json().ok()
    }
}

/// Puts windows of a world on the topic.
struct Feed {
    producer: ReliableProducer,
    receipts: Arc<Receipts>,
    topic: String,
}

impl Feed {
    fn send(&self, world: &World, window: u64) {
        let mut payload = Vec::new();
        for served in world.window(window).records {
            served.write_json(&mut payload).unwrap();
            let key = served.key();
            let record =
                Outgoing { topic: &self.topic, key: Some(key.as_bytes()), payload: Some(&payload), partition: None, timestamp_ms: None };
            self.producer.send(&record, &[], &self.receipts, Duration::from_secs(30)).unwrap();
        }
        self.producer.settle(&self.receipts, Instant::now() + Duration::from_secs(30)).unwrap();
    }
}

/// Notifications about one concept in one segment.
fn told(observers: &Observers, concept: &str, segment: &str, status: &str) -> Vec<Value> {
    let about = |alert: &Value| {
        alert["labels"]["alertname"] == "RecsaeConceptDrift"
            && alert["labels"]["concept"] == concept
            && alert["labels"]["segment"] == segment
            && alert["status"] == status
    };
    observers.webhook.alerts().into_iter().filter(about).collect()
}

#[test]
fn a_drift_reaches_a_person_by_name_once_and_resolves_once_and_every_panel_has_data() {
    let (Some(kafka), Some(library)) = (kafka_server::shared(), support::onnxruntime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let now_ms = SystemClock.now_ms();
    let seed = now_ms.unsigned_abs() % 1_000_000;
    println!("seed {seed}");
    let calm = World::new(seed, (now_ms.div_euclid(DAY_MS) - 365) * DAY_MS).unwrap();
    let mut drifting = calm.clone();
    let shift = drifting.plant_shift(REFERENCE_WINDOWS + 2..REFERENCE_WINDOWS + 4).clone();
    let (concept, segment) = (concept_name(shift.concept), format!("surface={}", shift.surface_name()));
    println!("planted: {concept} in {segment}, x {:.2} from window {}", shift.ratio, shift.from_window);

    let topic = kafka.topic("alerting", 2);
    let dead = kafka.topic("alerting-dead", 1);
    let of = KafkaSettings { dead_letter_topic: dead, ..kafka.settings(&[&topic]) };
    let feed = Feed { producer: ReliableProducer::new(&of).unwrap(), receipts: Arc::default(), topic: topic.clone() };
    let monitor = Monitor::start(folder.path(), &calm, of, &library);
    // Scraped twice, as by two instances that show the same: a join that finds two of everything must survive.
    let targets = ["127.0.0.1", "localhost"].map(|host| format!("{host}:{}", monitor.metrics_port));
    let Some(observers) = Observers::start(folder.path(), &targets) else { return };

    let judged = || {
        let end: jiff::Timestamp = monitor.get("status")?["last_window"].as_str()?.parse().ok()?;
        u64::try_from((end.as_millisecond() - calm.window_start_ms(0)) / WINDOW_MS).ok()
    };
    let mut window = 0;
    let mut send_until = |world: &World, last: u64, done: &dyn Fn() -> bool| {
        while window < last && !done() {
            feed.send(world, window);
            window += 1;
            // The judge sees a window when a later one has begun, so it may be two behind.
            let caught_up = || (judged().unwrap_or(0) + 2 >= window || window < REFERENCE_WINDOWS).then_some(());
            until(Duration::from_secs(60), caught_up, || format!("window {window} sent, judged {:?}", judged()));
        }
    };

    let fires = || !told(&observers, &concept, &segment, "firing").is_empty();
    send_until(&drifting, shift.from_window + WINDOWS_TO_FIND, &fires);
    until(Duration::from_secs(30), || fires().then_some(()), || format!("{:#?}", observers.webhook.alerts()));
    every_panel_has_data(&observers);

    let resolves = || !told(&observers, &concept, &segment, "resolved").is_empty();
    let last = shift.from_window + WINDOWS_TO_FIND + WINDOWS_TO_RECOVER;
    send_until(&calm, last, &resolves);
    until(Duration::from_secs(60), || resolves().then_some(()), || format!("{:#?}", monitor.get("alerts")));

    let firing = told(&observers, &concept, &segment, "firing");
    assert_eq!(firing.len(), 1, "told once: {firing:#?}");
    assert_eq!(told(&observers, &concept, &segment, "resolved").len(), 1, "resolved once");
    let annotations = &firing[0]["annotations"];
    let summary = annotations["summary"].as_str().unwrap();
    assert!(summary.contains(&concept) && summary.contains(&segment), "{summary}");
    assert!(annotations["runbook_url"].as_str().unwrap().ends_with("runbook.md#recsaeconceptdrift"));
    assert!(annotations["dashboard_url"].as_str().unwrap().contains("/d/recsae-concept?"));
    println!("{summary}");
    // Two instances that both judge are what RecsaeNoJudge is there for.
    let expected = ["RecsaeConceptDrift", "RecsaeNoJudge"];
    let is_fault = |alert: &Value| !expected.contains(&alert["labels"]["alertname"].as_str().unwrap());
    let faults: Vec<Value> = observers.webhook.alerts().into_iter().filter(is_fault).collect();
    assert!(faults.is_empty(), "alerts about the monitor itself: {faults:#?}");
    let n_scraped = observers.query("count(recsae_build_info)").unwrap()[0]["value"][1].clone();
    assert_eq!(n_scraped, "2", "both targets were scraped");
}

#[test]
fn a_test_alert_takes_the_real_route_and_says_that_it_is_one() {
    let (Some(kafka), Some(library)) = (kafka_server::shared(), support::onnxruntime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(1, (SystemClock.now_ms().div_euclid(DAY_MS) - 365) * DAY_MS).unwrap();
    let topic = kafka.topic("alerts-test", 1);
    let monitor = Monitor::start(folder.path(), &world, kafka.settings(&[&topic]), &library);
    let Some(observers) = Observers::start(folder.path(), &[format!("127.0.0.1:{}", monitor.metrics_port)]) else { return };
    let test = |minutes: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_recsae"))
            .args(["alerts", "test", "--who", "ana", "--minutes", minutes, "-c"])
            .arg(folder.path().join("recsae.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    test("5");
    let marked = |status: &str| {
        let is = |alert: &Value| alert["labels"]["stream"] == "test" && alert["labels"]["segment"] == "test" && alert["status"] == status;
        observers.webhook.alerts().into_iter().find(is)
    };
    let alert = until(Duration::from_secs(40), || marked("firing"), || format!("{:#?}", observers.webhook.alerts()));
    println!("{}", alert["annotations"]["summary"]);
    assert_eq!((&alert["labels"]["alertname"], &alert["labels"]["model_version"]), (&"RecsaeConceptDrift".into(), &"test".into()));
    test("0");
    until(Duration::from_secs(40), || marked("resolved"), || format!("{:#?}", observers.webhook.alerts()));
}

/// Every query of every dashboard finds samples, as Grafana would ask it with everything selected.
fn every_panel_has_data(observers: &Observers) {
    let mut empty = Vec::new();
    let mut n_queries = 0;
    for file in fs::read_dir(support::repo().join("grafana/dashboards")).unwrap().map(|entry| entry.unwrap().path()) {
        let board: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let mut expr = target["expr"].as_str().unwrap().replace("$__rate_interval", "15s");
                for variable in ["$job", "$instance", "$model_version", "$segment", "$stream"] {
                    expr = expr.replace(&format!("\"{variable}\""), "\".+\"");
                }
                n_queries += 1;
                if observers.query(&expr).unwrap_or_else(|error| panic!("{expr}: {error}")).is_empty() {
                    empty.push(format!("{} / {}: {expr}", board["title"], panel["title"]));
                }
            }
        }
    }
    println!("{n_queries} queries of panels, {} without samples", empty.len());
    assert!(empty.is_empty(), "without samples:\n{}", empty.join("\n"));
}
