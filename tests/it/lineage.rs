//! What becomes of a store's history when counting changes: a whole monitor over an in-process broker.

use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::clock::{Clock, SystemClock};
use recsae::config::settings::{CountingUnit, Settings};
use recsae::drift::report::AlertState;
use recsae::drift::stream::StreamId;
use recsae::kafka::embedded::EmbeddedBroker;
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::monitor::{self, RunOptions, RunSummary};
use recsae::sae::latent::LatentId;
use recsae::simulate::feed::Feed;
use recsae::simulate::setup::TOPIC;
use recsae::simulate::world::World;
use recsae::store::StoreReader;
use recsae::store::reader::WindowQuery;
use recsae::task::{Shutdown, TaskGroup};

use crate::explain::prepared;
use crate::support;

fn world() -> World {
    let seed = u64::try_from(SystemClock.now_ms()).unwrap() % 1_000_000;
    println!("seed {seed}");
    World::new(seed, 1_772_409_600_000).unwrap()
}

fn until_end(settings: &Settings) -> RunSummary {
    let group = TaskGroup::new(Shutdown::new());
    let options = RunOptions { until_end: true, clock: Arc::new(SystemClock), on_open: Box::new(|_| Ok(())) };
    monitor::run(settings, options, &group).unwrap()
}

/// The program, as a user runs it: exit code and all it printed.
fn recsae(folder: &Path, settings: &Settings, arguments: &[&str]) -> (i32, String) {
    let file = folder.join("recsae.toml");
    std::fs::write(&file, toml::to_string(settings).unwrap()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).arg("-c").arg(&file).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Entries of the chain of one kind: their bodies.
fn told(settings: &Settings, kind: &str) -> Vec<serde_json::Value> {
    let mut bodies = Vec::new();
    let keep = |entry: &recsae::store::audit::AuditEntry| {
        if entry.kind == kind {
            bodies.push(serde_json::from_str(&entry.body).unwrap());
        }
    };
    StoreReader::open(&settings.store.path).unwrap().verify_audit(keep).unwrap();
    bodies
}

#[test]
fn a_start_that_is_refused_leaves_the_store_byte_for_byte_and_the_next_one_keeps_the_reference() {
    let Some(library) = support::onnxruntime() else { return };
    let (folder, broker, world) = (tempfile::tempdir().unwrap(), EmbeddedBroker::start().unwrap(), world());
    let settings = prepared(folder.path(), &broker, &world, &library);
    let mut feed = Feed::new(world, &settings.kafka, TOPIC).unwrap();
    (0..9).for_each(|_| feed.send_window().unwrap());
    assert_eq!(until_end(&settings).windows_judged, 9);
    let before = std::fs::read(&settings.store.path).unwrap();

    let mut shared_place = settings.clone();
    shared_place.record.entity = "embedding".into();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut busy = settings.clone();
    busy.http.listen = taken.local_addr().unwrap().to_string();
    busy.window.lateness += Duration::from_secs(60);
    for (refused, words) in [(&shared_place, "record.entity"), (&busy, "http.listen")] {
        let (code, printed) = recsae(folder.path(), refused, &["run"]);
        assert!(code == 2 && printed.contains(words), "{code}: {printed}");
        assert!(!printed.contains("a new lineage begins"), "{printed}");
        assert!(std::fs::read(&settings.store.path).unwrap() == before, "{words}: the refused start changed the store");
    }

    (0..2).for_each(|_| feed.send_window().unwrap());
    assert_eq!(until_end(&settings).windows_judged, 2);
    assert_eq!((told(&settings, "lineage").len(), told(&settings, "reference").len()), (1, 1), "what was known is known");
}

/// Windows of the world onto the topic.
fn send(settings: &Settings, world: &World, windows: Range<u64>, topic: &str) -> u64 {
    let producer = ReliableProducer::new(&settings.kafka).unwrap();
    let receipts = Arc::new(Receipts::default());
    let (mut payload, mut n) = (Vec::new(), 0);
    for window in windows {
        for record in world.window(window).records {
            record.write_json(&mut payload).unwrap();
            let key = record.key();
            let outgoing = Outgoing { topic, key: Some(key.as_bytes()), payload: Some(&payload), ..Outgoing::default() };
            producer.send(&outgoing, &[], &receipts, Duration::from_secs(30)).unwrap();
            n += 1;
        }
        producer.settle(&receipts, Instant::now() + Duration::from_secs(30)).unwrap();
    }
    n
}

#[test]
fn an_alert_ends_with_its_lineage_and_the_same_concept_alerts_anew_in_the_next() {
    let Some(library) = support::onnxruntime() else { return };
    let (folder, broker, calm) = (tempfile::tempdir().unwrap(), EmbeddedBroker::start().unwrap(), world());
    let mut settings = prepared(folder.path(), &broker, &calm, &library);
    let shifts = |at: u64| {
        let mut world = calm.clone();
        let shift = world.plant_shift(at..at + 1).clone();
        println!("{shift:?}");
        (world, StreamId::Latent(LatentId(u32::try_from(shift.concept).unwrap())))
    };
    let (first, concept) = shifts(9);
    send(&settings, &first, 0..27, TOPIC);
    until_end(&settings);
    let before = StoreReader::open(&settings.store.path).unwrap().alerts(100).unwrap();
    let last_id = before.iter().map(|alert| alert.id).max().unwrap();
    assert!(before.iter().any(|alert| alert.opened.stream == concept && alert.state == AlertState::Firing), "{before:#?}");

    // Another lateness counts otherwise; the crowd is as it was, until it shifts again.
    settings.window.lateness += Duration::from_secs(60);
    let (second, _) = shifts(37);
    send(&settings, &second, 27..55, TOPIC);
    until_end(&settings);
    let alerts = StoreReader::open(&settings.store.path).unwrap().alerts(1000).unwrap();
    let (old, new): (Vec<_>, Vec<_>) = alerts.into_iter().partition(|alert| alert.id <= last_id);
    for alert in &old {
        let was = before.iter().find(|was| was.id == alert.id).unwrap();
        assert_eq!((&alert.opened, alert.n_crossings), (&was.opened, was.n_crossings), "nothing of the new lineage is on it");
        assert!(alert.state == AlertState::Ended || alert.state == was.state && was.state != AlertState::Firing, "{alert:#?}");
    }
    let again = new.iter().find(|alert| alert.opened.stream == concept && alert.state == AlertState::Firing).unwrap();
    assert!(again.opened.reference.ends_with("lineage-2") && again.opened.window_start_ms >= calm.window_start_ms(37), "{again:#?}");
    assert!(again.concept.name.is_some() && again.concept.fingerprint.is_some(), "{again:#?}");
    assert_eq!(told(&settings, "alerts_ended").len(), 1);

    let fired = before.iter().rfind(|alert| alert.state == AlertState::Firing).unwrap().id;
    let (code, printed) = recsae(folder.path(), &settings, &["alerts", "show", &fired.to_string()]);
    assert!(code == 0 && printed.contains("ended: a new lineage began"), "{code}: {printed}");
    let (code, printed) = recsae(folder.path(), &settings, &["alerts", "accept", &fired.to_string(), "--why", "it is over"]);
    assert!(code == 2 && printed.contains("since a new lineage began"), "{code}: {printed}");
}

#[test]
fn records_of_a_topic_that_appears_later_are_late_in_windows_already_judged_and_counted_in_the_next() {
    let Some(library) = support::onnxruntime() else { return };
    let (folder, broker, world) = (tempfile::tempdir().unwrap(), EmbeddedBroker::start().unwrap(), world());
    let mut settings = prepared(folder.path(), &broker, &world, &library);
    settings.counting.unit = CountingUnit::Records;
    send(&settings, &world, 0..4, TOPIC);
    assert_eq!(until_end(&settings).windows_judged, 4);

    broker.create_topic("more", 2).unwrap();
    settings.kafka.topics.push("more".into());
    let old = send(&settings, &world, 1..3, "more");
    let current = send(&settings, &world, 4..5, TOPIC) + send(&settings, &world, 4..5, "more");
    let summary = until_end(&settings);
    assert_eq!((summary.records, summary.rejected, summary.windows_judged), (old + current, old, 1), "{summary:?}");
    let reader = StoreReader::open(&settings.store.path).unwrap();
    let all = WindowQuery { segment: Some("_all".into()), ..WindowQuery::default() };
    let newest = reader.summaries(&all).unwrap().remove(0);
    assert_eq!((newest.records.unsigned_abs(), newest.verdict.as_str()), (current, "warmup"), "{newest:?}");
    assert_eq!(reader.oldest_unjudged().unwrap(), None, "no part of a judged window waits for ever");
}
