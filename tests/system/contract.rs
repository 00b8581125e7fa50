//! The input contract live: embeddings the SAE was not trained on give no concept verdicts, on Apache Kafka.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::clock::{Clock, SystemClock};
use recsae::config::settings::{KafkaSettings, Settings};
use recsae::drift::report::{AlertChange, Verdict};
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::simulate::served::Served;
use recsae::simulate::setup::{settings, write_files};
use recsae::simulate::world::{WINDOW_MS, World};
use recsae::store::reader::{StoreReader, WindowQuery};

use crate::kafka_server;
use crate::support;

const RECSAE: &str = env!("CARGO_BIN_EXE_recsae");
const REFERENCE: u64 = 12;
/// What is wrong with the embeddings, two windows each, a good one behind them.
const WRONG: [&str; 4] = ["another model's", "halved", "permuted", "zeroed"];

fn window_is(window: u64) -> Option<&'static str> {
    let after = window.checked_sub(REFERENCE)?;
    let at = usize::try_from(after / 3).ok()?;
    WRONG.get(at).copied().filter(|_| after % 3 < 2)
}

/// The record as it would come if something before the monitor had gone wrong.
fn spoil(record: &mut Served, how: &str) {
    let width = record.embedding.len();
    match how {
        "halved" => record.embedding.iter_mut().for_each(|value| *value *= 0.5),
        "permuted" => record.embedding.rotate_left(width / 3),
        "zeroed" => record.embedding[..width / 2].fill(0.0),
        _ => {}
    }
}

#[test]
fn a_broken_contract_is_said_of_the_input_and_nothing_of_concepts() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(library) = support::onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let now_ms = SystemClock.now_ms();
    let seed = now_ms.unsigned_abs() % 1_000_000;
    println!("seed {seed}");
    let start_ms = (now_ms.div_euclid(24 * WINDOW_MS) - 365) * 24 * WINDOW_MS;
    let (world, other) = (World::new(seed, start_ms).unwrap(), World::new(seed + 1, start_ms).unwrap());
    let (files, bundle) = (write_files(&world, folder.path()).unwrap(), folder.path().join("bundle"));
    run(&library, &["bundle", "build", "--onnx", text(&files.onnx), "--out", text(&bundle)]);

    let topic = kafka.topic("contract", 4);
    let own = KafkaSettings { dead_letter_topic: String::new(), ..kafka.settings(&[&topic]) };
    let mut settings = Settings { kafka: own, ..settings("", &bundle, folder.path()) };
    settings.drift.reference = format!("first:{REFERENCE} windows");
    settings.drift.harmonics = Some(0);
    let n_windows = REFERENCE + 3 * WRONG.len() as u64 + 1;
    produce(&settings, (&world, &other), n_windows);
    let config = folder.path().join("recsae.toml");
    fs::write(&config, toml::to_string(&settings).unwrap()).unwrap();
    run(&library, &["run", "-c", text(&config), "--until-end"]);

    let (mut broken, mut judged) = (0, 0);
    let reader = StoreReader::open(&settings.store.path).unwrap();
    reader
        .for_each_report(&WindowQuery::default(), |report| -> Result<(), recsae::store::StoreError> {
            let window = u64::try_from((report.start_ms - start_ms) / WINDOW_MS).unwrap();
            let Some(how) = window_is(window) else {
                judged += usize::from(window >= REFERENCE && report.segments[0].verdict == Verdict::Judged);
                return Ok(());
            };
            let told = report.changes.iter().any(|change| matches!(change, AlertChange::Opened(_) | AlertChange::CrossedAgain(_)));
            assert!(!told, "window {window} ({how}): {:?}", report.changes);
            for segment in &report.segments {
                assert_eq!(segment.verdict, Verdict::ContractBroken, "window {window} ({how}), {}", segment.segment);
                assert!(segment.streams.iter().all(|stream| stream.count == 0.0), "held alerts alone, no verdict");
            }
            println!("{how}: {}", report.segments[0].why.as_deref().unwrap_or_default());
            broken += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!((broken, judged), (2 * WRONG.len(), WRONG.len() + 1), "and right after each the input is judged again");
}

fn produce(settings: &Settings, (world, other): (&World, &World), n_windows: u64) {
    let producer = ReliableProducer::new(&settings.kafka).unwrap();
    let receipts = Arc::new(Receipts::default());
    let mut payload = Vec::new();
    for window in 0..n_windows {
        let how = window_is(window).unwrap_or("good");
        let from = if how == WRONG[0] { other } else { world };
        for mut record in from.window(window).records {
            spoil(&mut record, how);
            record.write_json(&mut payload).unwrap();
            let key = record.key();
            let topic = &settings.kafka.topics[0];
            let outgoing = Outgoing { topic, key: Some(key.as_bytes()), payload: Some(&payload), ..Outgoing::default() };
            producer.send(&outgoing, &[], &receipts, Duration::from_secs(30)).unwrap();
        }
    }
    producer.settle(&receipts, Instant::now() + Duration::from_secs(60)).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(library: &Path, arguments: &[&str]) {
    let output = Command::new(RECSAE).env("ORT_DYLIB_PATH", library).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
