//! Every alarm explains itself: a monitor over an in-process broker, a crowd that shifts and a bot that shouts, and
//! what is said of each, against the records in the log.

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::bundle::build::{BuildRequest, build};
use recsae::clock::{Clock, SystemClock};
use recsae::config::settings::{CountingUnit, Settings};
use recsae::decode::entity::EntityHasher;
use recsae::drift::alert::Alert;
use recsae::drift::carriers::CarriedBy;
use recsae::drift::explanation::{Example, Explanation};
use recsae::drift::stream::StreamId;
use recsae::encode;
use recsae::kafka::embedded::EmbeddedBroker;
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::kafka::range::RangeReader;
use recsae::monitor::{self, RunOptions};
use recsae::record::RawMessage;
use recsae::sae::latent::LatentId;
use recsae::simulate::served::Served;
use recsae::simulate::setup::{TOPIC, settings, write_files};
use recsae::simulate::world::{WINDOW_MS, World};
use recsae::store::StoreReader;
use recsae::task::{Shutdown, TaskGroup};
use serde_json::Value;

use crate::support;

/// Windows of the world; the first eight are the reference, the tenth is the first that shifts. The rest is what a fall
/// to a third may take to be found (one in 25 was not in six windows).
const N_WINDOWS: u64 = 27;
/// The broker keeps 5 MiB a partition, and everything is sent before it is read.
pub(crate) const N_PARTITIONS: i32 = 24;
const BOT: u32 = 900_000;
/// Records of the bot in a window: some concept of the world is shown to forty users.
const BOT_RECORDS: usize = 250;

fn seed() -> u64 {
    let seed = u64::try_from(SystemClock.now_ms()).unwrap() % 1_000_000;
    println!("seed {seed}");
    seed
}

/// The world's bundle, a topic, and a configuration that judges it from the ninth window on.
pub(crate) fn prepared(folder: &Path, broker: &EmbeddedBroker, world: &World, library: &Path) -> Settings {
    let files = write_files(world, folder).unwrap();
    let bundle = folder.join("bundle");
    let request = BuildRequest { onnx: files.onnx, concepts: Some(files.concepts), out: bundle.clone(), ..BuildRequest::default() };
    build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, Some(library))).unwrap();
    let mut settings = settings(&broker.brokers(), &bundle, folder);
    settings.encode.onnxruntime = Some(library.to_owned());
    settings.drift.reference = "first:8 windows".into();
    settings.drift.harmonics = Some(0);
    settings.kafka.workers = 2;
    // The world's clock is not ours.
    settings.window.future_tolerance = Duration::from_secs(400 * 86_400);
    broker.create_topic(TOPIC, N_PARTITIONS).unwrap();
    settings
}

/// Sends windows, each with what `more` adds to it.
fn send(settings: &Settings, world: &World, windows: Range<u64>, more: impl Fn(u64, &[Served]) -> Vec<Served>) {
    let producer = ReliableProducer::new(&settings.kafka).unwrap();
    let receipts = Arc::new(Receipts::default());
    let mut payload = Vec::new();
    for window in windows {
        let records = world.window(window).records;
        let added = more(window, &records);
        for record in records.iter().chain(&added) {
            record.write_json(&mut payload).unwrap();
            let key = record.key();
            let outgoing = Outgoing { topic: TOPIC, key: Some(key.as_bytes()), payload: Some(&payload), ..Outgoing::default() };
            producer.send(&outgoing, &[], &receipts, Duration::from_secs(30)).unwrap();
        }
        producer.settle(&receipts, Instant::now() + Duration::from_secs(30)).unwrap();
    }
}

fn run(settings: &Settings) {
    let group = TaskGroup::new(Shutdown::new());
    let options = RunOptions { until_end: true, clock: Arc::new(SystemClock), on_open: Box::new(|_| Ok(())) };
    monitor::run(settings, options, &group).unwrap();
}

/// The first alert of the concept in the segment, and what explains it.
fn explained(settings: &Settings, concept: usize, segment: &str) -> (Alert, Explanation) {
    let reader = StoreReader::open(&settings.store.path).unwrap();
    let alerts = reader.alerts(usize::MAX).unwrap();
    for alert in &alerts {
        assert!(reader.explanation(alert.id).unwrap().is_some(), "alert {} of {} is not explained", alert.id, alerts.len());
    }
    let stream = StreamId::Latent(LatentId(u32::try_from(concept).unwrap()));
    let told: Vec<String> = alerts.iter().map(|alert| format!("{} in {}", alert.opened.stream, alert.opened.segment)).collect();
    println!("alerts: {told:?}");
    // Newest first: the last one is the first of this place.
    let found = alerts.into_iter().rfind(|alert| alert.opened.stream == stream && alert.opened.segment == segment);
    let alert = found.unwrap();
    let explanation = reader.explanation(alert.id).unwrap().unwrap();
    println!("alert {} {} in {}: {}", alert.id, stream, alert.opened.segment, serde_json::to_string_pretty(&explanation).unwrap());
    (alert, explanation)
}

/// The record an example names, as it lies in the log.
fn in_log(settings: &Settings, example: &Example) -> Value {
    let mut found = None;
    let offsets = example.offset..example.offset + 1;
    let mut log = RangeReader::new(&settings.kafka, Duration::from_secs(10)).unwrap();
    let keep = |message: RawMessage<'_>| found = serde_json::from_slice(message.payload.unwrap()).unwrap();
    log.read(&example.partition, offsets, &|| false, keep).unwrap();
    found.unwrap()
}

fn recsae(folder: &Path, settings: &Settings, arguments: &[&str]) -> (i32, String) {
    let file = folder.join("recsae.toml");
    std::fs::write(&file, toml::to_string(settings).unwrap()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).arg("-c").arg(&file).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_shift_of_the_crowd_is_explained_by_its_records_and_again_alike_after_a_restart() {
    let Some(library) = support::onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::start().unwrap();
    let mut world = World::new(seed(), 1_772_409_600_000).unwrap();
    let shift = world.plant_shift(9..10).clone();
    println!("{shift:?}");
    let settings = prepared(folder.path(), &broker, &world, &library);
    send(&settings, &world, 0..N_WINDOWS, |_, _| Vec::new());
    run(&settings);

    let segment = format!("surface={}", shift.surface_name());
    let (alert, explanation) = explained(&settings, shift.concept, &segment);
    let records = explanation.records.as_ref().unwrap();
    let entities = records.entities.as_ref().unwrap();
    assert_eq!(entities.carried_by, CarriedBy::Crowd, "{entities:?}");
    assert!(entities.share_top_1.unwrap() < 0.2, "{entities:?}");
    let rate = |shown: u64, records: u64| shown as f64 / records as f64;
    let ratio = rate(records.after.shown, records.after.records) / rate(records.before.shown, records.before.records);
    // The change may be dated a window or two off: what the records on either side of that date are to show.
    let planted_ms = world.window_start_ms(shift.from_window);
    let mean_factor = |from: i64, to: i64| {
        let factors: Vec<f64> = (from..to)
            .step_by(usize::try_from(WINDOW_MS).unwrap())
            .map(|start| if start < planted_ms { 1.0 } else { shift.ratio })
            .collect();
        factors.iter().sum::<f64>() / factors.len() as f64
    };
    let (before, after) = (&records.before, &records.after);
    let expected = mean_factor(after.from, after.to) / mean_factor(before.from, before.to);
    assert!((ratio / expected).ln().abs() < 0.7, "records read: {ratio}, planted {}, so {expected} about that date", shift.ratio);
    // What is counted by reading again is what was counted live, window by window.
    let reader = StoreReader::open(&settings.store.path).unwrap();
    let (mut n_records, mut n_shown) = (0, 0);
    let query = recsae::store::reader::WindowQuery {
        from_ms: Some(records.after.from),
        to_ms: Some(records.after.to),
        ..recsae::store::reader::WindowQuery::default()
    };
    reader
        .for_each_window(&query, |window| -> Result<(), recsae::store::StoreError> {
            let counts = &window.segments[&segment];
            n_records += counts.records;
            n_shown += u64::from(counts.fired[shift.concept]);
            Ok(())
        })
        .unwrap();
    assert_eq!((records.after.records, records.after.shown), (n_records, n_shown));
    // Examples are records in the log that show it: the entity, its items, its surface.
    let hasher = EntityHasher::new(&reader.entity_salt().unwrap().unwrap());
    let examples: Vec<&Example> = records.before.examples.iter().chain(&records.after.examples).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let record = in_log(&settings, example);
        let hash = hasher.hash(record["entity"].as_str().unwrap().as_bytes());
        assert_eq!(example.entity, Some(format!("{hash:016x}")));
        assert_eq!(serde_json::to_value(&example.items).unwrap(), record["items"]);
        assert_eq!(record["surface"], shift.surface_name());
    }
    assert_eq!(explanation.reference.as_ref().unwrap().name, alert.opened.reference);
    assert!(explanation.described.psi.unwrap() > 0.0 && explanation.described.psi_noise_floor.unwrap() > 0.0);

    // The command says the same, with no instance running.
    let id = alert.id.to_string();
    let (code, said) = recsae(folder.path(), &settings, &["alerts", "show", &id, "--json"]);
    assert_eq!(code, 0, "{said}");
    // Through text on both sides: reading a printed float may round its last bit.
    let printed: Value = serde_json::from_str(&serde_json::to_string(&explanation).unwrap()).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["explanation"], printed);
    let (code, said) = recsae(folder.path(), &settings, &["alerts", "show", &id]);
    assert!(code == 0 && said.contains("entities: the crowd") && said.contains("PSI "), "{said}");
    assert_eq!(recsae(folder.path(), &settings, &["history", "verify"]).0, 0);

    // A stop before it was stored loses nothing: it is made again at the next start, to the byte.
    let Some(python) = support::python() else { return };
    drop(reader);
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM explanations'); c.commit()";
    assert!(Command::new(python).args(["-c", script]).arg(&settings.store.path).status().unwrap().success());
    let (code, said) = recsae(folder.path(), &settings, &["history", "verify"]);
    assert!(code == 1 && said.contains("explanation of alert"), "{said}");
    run(&settings);
    assert_eq!(explained(&settings, shift.concept, &segment).1, explanation);
    let (code, said) = recsae(folder.path(), &settings, &["history", "verify"]);
    assert_eq!(code, 0, "the digests of the first time hold: {said}");
}

#[test]
fn one_bot_is_told_from_a_crowd_and_named_by_its_hash() {
    let Some(library) = support::onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::start().unwrap();
    let world = World::new(seed(), 1_772_409_600_000).unwrap();
    let mut settings = prepared(folder.path(), &broker, &world, &library);
    // Presence counts a bot once a window and is not alarmed by it: counting records is what it can shout into.
    settings.counting.unit = CountingUnit::Records;
    let first = world.window(0).records;
    let concept = (0..recsae::simulate::dictionary::N_CONCEPTS)
        .max_by_key(|concept| first.iter().filter(|record| record.concepts.contains(concept)).count().min(60))
        .unwrap();
    println!("the bot asks for concept {concept}");
    send(&settings, &world, 0..N_WINDOWS, |window, records| {
        let shows = records.iter().filter(|record| record.concepts.contains(&concept)).cycle();
        let bot = shows.take(if window >= 9 { BOT_RECORDS } else { 0 }).cloned();
        bot.map(|record| Served { user: BOT, surface: "home", ..record }).collect()
    });
    run(&settings);
    let (alert, explanation) = explained(&settings, concept, "surface=home");
    let records = explanation.records.unwrap();
    let entities = records.entities.unwrap();
    assert_eq!(entities.carried_by, CarriedBy::One, "{entities:?}");
    let reader = StoreReader::open(&settings.store.path).unwrap();
    let hash = EntityHasher::new(&reader.entity_salt().unwrap().unwrap()).hash(format!("user-{BOT}").as_bytes());
    let first = &entities.top[0];
    assert_eq!((first.name.as_str(), first.before), (format!("{hash:016x}").as_str(), 0), "{alert:?}");
    assert_eq!(first.after % BOT_RECORDS as u64, 0, "whole windows were read: {first:?}");
}
