//! Topics that a pattern finds, and that are made while the program runs: they are read from their first record, and what is
//! counted is what is counted where they were there from the start.

use std::time::{Duration, Instant};

use recsae::store::StoreReader;
use recsae::store::reader::WindowQuery;

use crate::background::until;
use crate::kafka_server::{self, unique};
use crate::scene::{Monitor, Scene};

/// Windows before the second topic is there, and in all.
const BEFORE: u64 = 3;
const WINDOWS: u64 = 7;

/// Waits until so many records were read for the first time, and ends it.
fn end_after(monitor: Monitor, sent: u64) -> String {
    let scrape = monitor.wait_for(sent);
    assert_eq!((scrape.consumed, scrape.encoded + scrape.n_rejected()), (sent, sent));
    monitor.end()
}

/// What is stored of all judged windows, byte for byte.
fn windows(scene: &Scene) -> Vec<Vec<u8>> {
    let mut windows = Vec::new();
    let reader = StoreReader::open(&scene.settings.store.path).unwrap();
    let each = |window| {
        windows.push(serde_json::to_vec(&window).unwrap());
        Ok::<(), recsae::store::StoreError>(())
    };
    reader.for_each_window(&WindowQuery::default(), each).unwrap();
    windows
}

fn to_the_end(scene: &Scene) -> String {
    let last = scene.start(&["--until-end"]);
    let ended = || last.process.printed().contains("windows judged").then_some(());
    until(Duration::from_secs(90), ended, || last.process.printed());
    last.end()
}

fn appears_under(protocol: &str) {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    let stem = unique("views");
    let [first, second] = ["home", "search"].map(|name| format!("{stem}.{name}"));
    scene.settings.kafka.topics = vec![format!("^{stem}[.].*")];
    scene.settings.kafka.protocol = protocol.into();
    // Five minutes by default, which is how late a new topic may be found.
    scene.settings.kafka.librdkafka.insert("topic.metadata.refresh.interval.ms".into(), "1000".into());
    kafka.create(&first, 2);
    let monitor = scene.start(&[]);
    scene.produce_by(0..BEFORE, Duration::ZERO, |_| &first);
    monitor.wait_for(scene.sent());

    kafka.create(&second, 3);
    let made = Instant::now();
    // An entity is in one of them: in two it would count twice.
    let of = |key: &str| if key.bytes().map(u32::from).sum::<u32>() % 2 == 0 { &first } else { &second };
    scene.produce_by(BEFORE..BEFORE + 1, Duration::ZERO, of);
    let assigned = || monitor.metric("recsae_assigned_partitions").filter(|n| *n == 5.0).map(drop);
    until(Duration::from_secs(60), assigned, || monitor.process.printed());
    println!("{protocol}: its partitions are read {:.1?} after the topic was made, with records in it by then", made.elapsed());
    scene.produce_by(BEFORE + 1..WINDOWS, Duration::ZERO, of);
    let log = end_after(monitor, scene.sent());
    assert!(!log.contains("new lineage"), "{log}");
    let said = to_the_end(&scene);
    let (records, rejected) = scene.judged();
    let sent = [&scene.good, &scene.poison].map(|n| n.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!([records, rejected], sent, "{said}");
    let found = windows(&scene);

    // Another group and another store, to which both topics were there from the start.
    scene.settings.kafka.group = unique("group");
    scene.settings.store.path = scene.folder().join("another.db");
    to_the_end(&scene);
    let expected = windows(&scene);
    println!("{records} records, {rejected} rejects, {} windows", found.len());
    assert_eq!(found.len() as u64, WINDOWS);
    assert!(found == expected);
}

#[test]
fn a_topic_that_is_made_while_it_runs_is_found_by_a_pattern_and_counted_as_if_it_had_been_there() {
    appears_under("classic");
}
