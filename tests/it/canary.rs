//! A canary beside the model in service, on one topic: judged by its own past, and against the other's reference.

use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::bundle::build::{BuildRequest, build};
use recsae::clock::{Clock, SystemClock};
use recsae::config::settings::ModelSettings;
use recsae::drift::stream::StreamId;
use recsae::encode;
use recsae::kafka::embedded::EmbeddedBroker;
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::monitor::models::Models;
use recsae::monitor::recount::recount;
use recsae::monitor::{self, RunOptions};
use recsae::sae::latent::LatentId;
use recsae::simulate::setup::{TOPIC, settings, write_files};
use recsae::simulate::world::World;
use recsae::store::reader::WindowQuery;
use recsae::store::{StoreError, StoreReader};
use recsae::task::{Shutdown, TaskGroup};
use recsae::workshop::rejudge::rejudge;

use crate::support;

const DAY_MS: i64 = 86_400_000;
/// 2026-03-02T00:00:00Z.
const START_MS: i64 = 1_772_409_600_000;
/// Fourteen days make the references.
const DAYS: u64 = 22;

#[test]
fn a_canary_that_always_differed_is_quiet_by_its_own_past_and_told_against_the_model_in_service() {
    let Some(library) = support::onnxruntime() else { return };
    let seed = u64::try_from(SystemClock.now_ms()).unwrap() % 1_000_000;
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::start().unwrap();
    let world = World::new(seed, 0).unwrap();
    let mut other = world.clone();
    let shift = other.plant_shift(0..1).clone();
    println!("{shift:?}");

    let files = write_files(&world, folder.path()).unwrap();
    let bundle = folder.path().join("bundle");
    let request = BuildRequest { onnx: files.onnx, concepts: Some(files.concepts), out: bundle.clone(), ..BuildRequest::default() };
    build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, Some(&library))).unwrap();
    let mut settings = settings(&broker.brokers(), &bundle, folder.path());
    settings.encode.onnxruntime = Some(library);
    settings.model = ["v11", "v12"].map(|version| ModelSettings { version: Some(version.into()), bundle: bundle.clone() }).into();
    settings.window.length = Duration::from_secs(86_400);
    settings.window.future_tolerance = Duration::from_secs(400 * 86_400);
    settings.drift.reference = "model:v11".into();
    (settings.drift.harmonics, settings.drift.weekend) = (Some(0), Some(false));
    settings.kafka.workers = 2;
    // The in-process broker keeps 5 MiB a partition: twelve hold the three weeks.
    broker.create_topic(TOPIC, 12).unwrap();

    let producer = ReliableProducer::new(&settings.kafka).unwrap();
    let receipts = Arc::new(Receipts::default());
    let mut payload = Vec::new();
    for day in 0..DAYS {
        // The same hour of each day; who is served which version changes with the day.
        for (version, parity, world) in [("v11", 0, &world), ("v12", 1, &other)] {
            let served = world.window(24 * day).records;
            for mut record in served.into_iter().filter(|record| (u64::from(record.user) + day) % 2 == parity) {
                record.time_ms = START_MS + i64::try_from(day).unwrap() * DAY_MS + record.time_ms.rem_euclid(3_600_000);
                record.write_json(&mut payload).unwrap();
                payload.splice(0..1, format!("{{\"model_version\":\"{version}\",").into_bytes());
                let key = record.key();
                let outgoing = Outgoing { topic: TOPIC, key: Some(key.as_bytes()), payload: Some(&payload), ..Outgoing::default() };
                producer.send(&outgoing, &[], &receipts, Duration::from_secs(30)).unwrap();
            }
        }
        producer.settle(&receipts, Instant::now() + Duration::from_secs(30)).unwrap();
    }
    let group = TaskGroup::new(Shutdown::new());
    let options = RunOptions { until_end: true, clock: Arc::new(SystemClock), on_open: Box::new(|_| Ok(())) };
    assert_eq!(monitor::run(&settings, options, &group).unwrap().windows_judged, DAYS);

    let reader = StoreReader::open(&settings.store.path).unwrap();
    let stream = StreamId::Latent(LatentId(u32::try_from(shift.concept).unwrap()));
    let segment = format!("surface={}", shift.surface_name());
    let alerts = reader.alerts(usize::MAX).unwrap();
    let places: Vec<_> = alerts.iter().map(|a| (a.opened.model_version.as_str(), a.opened.segment.as_str(), a.opened.stream)).collect();
    println!("{places:?}");
    let told =
        alerts.iter().find(|a| a.opened.model_version == "v12 against v11" && a.opened.stream == stream && a.opened.segment == segment);
    let told = told.unwrap();
    assert_eq!(told.opened.direction, shift.direction());
    assert!(told.opened.reference.starts_with("first-v11-"), "{}", told.opened.reference);
    assert!(reader.explanation(told.id).unwrap().is_some_and(|explanation| explanation.records.is_some()));
    assert!(
        places.iter().all(|(version, _, of)| version.contains("against") || *of != stream),
        "v12 never changed, it differs: {places:?}"
    );

    // What is judged twice is counted once, and both can be done again.
    let mut windows = Vec::new();
    let last = WindowQuery { from_ms: Some(told.opened.window_start_ms), to_ms: Some(told.opened.window_end_ms), ..WindowQuery::default() };
    let keep = |window| -> Result<(), StoreError> {
        windows.push(window);
        Ok(())
    };
    reader.for_each_window(&last, keep).unwrap();
    let versions: Vec<&str> = windows.iter().map(|window| window.model_version.as_str()).collect();
    assert_eq!(versions, ["v11", "v12", "v12 against v11"]);
    assert_eq!(windows[1].segments, windows[2].segments);
    let salt = reader.entity_salt().unwrap().unwrap();
    assert!(recount(&settings, salt, &windows).unwrap().iter().all(|found| found.agrees()));
    let judging = Models::open(&settings).unwrap().judging(&settings).unwrap().remove(1);
    for version in versions {
        let again = rejudge(&reader, version, told.opened.window_start_ms, &judging).unwrap();
        assert!(again.differences.is_empty(), "{again:?}");
    }
}
