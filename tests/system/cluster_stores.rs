//! Stores of a cluster that are lost, old, or no longer the same, and parts that were counted twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::clock::{Clock, SystemClock};
use recsae::config::settings::Settings;
use recsae::drift::closed::PartialWindow;
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::kafka::scan::scan;
use recsae::monitor::cluster::wire::{Joiner, Told, publish_part};
use recsae::store::Store;

use crate::background::until;
use crate::kafka_server;
use crate::scene::Monitor;
use crate::together::{assert_as_alone, backup, end_together, judge_of, member, remove, scene, topics, wait_until_judged};

/// Every part that lies in the windows topic: the topic's partition, and the hash that the keys begin with.
fn published(settings: &Settings) -> Vec<(i32, String, PartialWindow)> {
    let (mut joiner, mut parts) = (Joiner::default(), Vec::new());
    scan(&settings.kafka, &settings.cluster.windows_topic, Duration::from_secs(20), |message| {
        let (Some(key), Some(value)) = (message.key, message.payload) else { return };
        let hash = String::from_utf8_lossy(key).split('|').next().unwrap_or_default().to_owned();
        let at = (message.partition.partition, message.offset);
        if let Some(Told::Part(part)) = joiner.take(&hash, at, key, value).unwrap() {
            parts.push((at.0, hash, *part));
        }
    })
    .unwrap();
    parts
}

/// Publishes a part as an instance would.
fn publish(settings: &Settings, (partition, hash, part): &(i32, String, PartialWindow)) {
    let producer = ReliableProducer::new(&settings.kafka).unwrap();
    let receipts = Arc::new(Receipts::default());
    for piece in publish_part(hash, part, 1 << 20).unwrap() {
        let record = Outgoing {
            topic: &settings.cluster.windows_topic,
            key: Some(piece.key.as_bytes()),
            payload: Some(&piece.value),
            partition: Some(*partition),
            timestamp_ms: None,
        };
        producer.send(&record, &[], &receipts, Duration::from_secs(30)).unwrap();
    }
    producer.settle(&receipts, Instant::now() + Duration::from_secs(30)).unwrap();
}

fn wait_for_metric(monitor: &Monitor, series: &str, value: f64) {
    let look = || monitor.metric(series).filter(|found| *found == value).map(drop);
    until(Duration::from_secs(30), look, || {
        format!("{series} is {:?}, not {value}\n{}", monitor.metric(series), monitor.process.printed())
    });
}

fn assert_equal_and_together(monitor: &Monitor) {
    assert_eq!(["recsae_unequal_parts_total", "recsae_diverged"].map(|metric| monitor.metric(metric)), [Some(0.0); 2]);
}

#[test]
fn a_store_that_is_lost_or_old_comes_back_from_the_topics_and_what_is_not_the_same_is_told() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = scene(kafka, 4) else { return };
    let (topics, began) = (topics(kafka), Instant::now());
    let settings = ["lost", "old"].map(|name| member(&scene, &topics, name));
    let alone = scene.start_beside(&scene.settings);
    let both = || settings.each_ref().map(|settings| scene.start_beside(settings));
    let running = both();
    scene.produce(0..12, Duration::ZERO);
    running.iter().for_each(|monitor| wait_until_judged(&scene, monitor, 10));
    let copy = scene.folder().join("copy.db");
    // Of a store that is written to.
    backup(&scene, &settings[1], &copy);
    scene.produce(12..20, Duration::ZERO);
    running.iter().for_each(|monitor| wait_until_judged(&scene, monitor, 18));
    running.into_iter().for_each(|monitor| drop(monitor.end()));

    // Nobody has the whole record but the topics.
    remove(&settings[0].store.path);
    remove(&settings[1].store.path);
    std::fs::copy(&copy, &settings[1].store.path).unwrap();
    let running = both();
    scene.produce(20..22, Duration::ZERO);
    running.iter().chain([&alone]).for_each(|monitor| wait_until_judged(&scene, monitor, 20));
    running.iter().for_each(assert_equal_and_together);
    println!("one store lost and one restored: judged on after {:.1?}", began.elapsed());

    // A member that was frozen says again what it counted: the same, and nothing comes of it.
    let parts = published(&settings[0]);
    let (first, newest) = (parts.first().unwrap(), parts.iter().max_by_key(|(.., part)| part.start_ms).unwrap());
    [first, newest].into_iter().for_each(|part| publish(&settings[0], part));
    scene.produce(22..23, Duration::ZERO);
    running.iter().chain([&alone]).for_each(|monitor| wait_until_judged(&scene, monitor, 21));
    running.iter().for_each(assert_equal_and_together);

    // Another result of the same: the first is used, and everybody tells.
    let mut other = newest.clone();
    *other.2.seen.entry("surface=elsewhere".into()).or_default() += 1_000_000;
    publish(&settings[0], &other);
    running.iter().for_each(|monitor| wait_for_metric(monitor, "recsae_unequal_parts_total", 1.0));

    // A store that was changed by hand while its instance was away.
    let judge = judge_of(&running);
    let mut running: Vec<Option<Monitor>> = running.into_iter().map(Some).collect();
    let by_hand = 1 - judge;
    let _said = running[by_hand].take().unwrap().end();
    let now_ms = SystemClock.now_ms();
    Store::open(&settings[by_hand].store.path).unwrap().record_test_alert("eve", "by hand", now_ms + 1, now_ms).unwrap();
    let changed = scene.start_beside(&settings[by_hand]);
    scene.produce(23..24, Duration::ZERO);
    wait_for_metric(&changed, "recsae_diverged", 1.0);
    let why = until(Duration::from_secs(10), || changed.api("status").map(|status| status["not_ready"].to_string()), String::new);
    println!("{why}");
    assert!(why.contains("give this instance a backup of another one's store"), "{why}");
    let judging = running[judge].take().unwrap();
    for monitor in [&judging, &alone] {
        wait_until_judged(&scene, monitor, 22);
    }
    assert_eq!(["recsae_diverged", "recsae_judging"].map(|metric| judging.metric(metric)), [Some(0.0), Some(1.0)]);
    assert_eq!(changed.metric("recsae_judging"), Some(0.0));

    // It is given the backup it asks for.
    drop(changed.end());
    let mended = scene.folder().join("mended.db");
    backup(&scene, &settings[judge], &mended);
    remove(&settings[by_hand].store.path);
    std::fs::copy(&mended, &settings[by_hand].store.path).unwrap();
    let mended = scene.start_beside(&settings[by_hand]);
    wait_until_judged(&scene, &mended, 22);
    assert_eq!(mended.metric("recsae_diverged"), Some(0.0));
    println!("{:.1?}", began.elapsed());
    alone.end();
    let stores = [judge, by_hand].map(|at| settings[at].store.path.as_path());
    let members: Vec<_> = stores.into_iter().zip(end_together([judging, mended])).collect();
    assert_as_alone(&scene.settings.store.path, &members);
}
