//! Several instances in one consumer group judge as one: what they find is what one undisturbed instance finds, byte for
//! byte, whoever is killed.

use std::path::Path;
use std::time::{Duration, Instant};

use recsae::config::settings::Settings;
use recsae::drift::alert::AlertListing;
use recsae::simulate::world::WINDOW_MS;
use recsae::store::reader::{StoreReader, WindowQuery};
use serde_json::Value;

use crate::background::until;
use crate::kafka_server::{self, Kafka, unique};
use crate::scene::{Monitor, Scene};

/// Windows of the world that are sent.
const WINDOWS: u64 = 24;

/// Everything that an instance found, without the clock of who found it.
#[derive(Debug, PartialEq)]
struct Found {
    windows: Vec<Vec<u8>>,
    reports: Vec<Vec<u8>>,
    alerts: Vec<Value>,
}

fn found(store: &Path) -> Found {
    let reader = StoreReader::open(store).unwrap();
    let query = WindowQuery::default();
    let (mut windows, mut reports) = (Vec::new(), Vec::new());
    reader
        .for_each_window(&query, |window| {
            windows.push(serde_json::to_vec(&window).unwrap());
            Ok::<(), recsae::store::StoreError>(())
        })
        .unwrap();
    reader
        .for_each_report(&query, |report| {
            reports.push(serde_json::to_vec(&report).unwrap());
            Ok::<(), recsae::store::StoreError>(())
        })
        .unwrap();
    let alerts = reader.alerts(1000).unwrap();
    let without_clock = |alert: &recsae::drift::alert::Alert| {
        let mut listed = serde_json::to_value(AlertListing::of(alert, "", "")).unwrap();
        listed.as_object_mut().unwrap().remove("alerted_at");
        listed
    };
    Found { windows, reports, alerts: alerts.iter().map(without_clock).collect() }
}

fn head(store: &Path) -> String {
    StoreReader::open(store).unwrap().audit_head().unwrap()
}

/// A scene whose records are all sent, and settings under which it ends by itself.
fn scene(kafka: &Kafka) -> Option<Scene> {
    let mut scene = Scene::new(kafka, "")?;
    scene.world.plant_shift(14..15);
    scene.settings.drift.reference = "first:12 windows".into();
    scene.settings.drift.false_alarm_budget = "1 per 50 windows".into();
    scene.settings.window.idle_after = Duration::from_secs(4);
    // One surface is not configured: it is followed once it was seen.
    let surfaces = scene.settings.segments.values.get_mut("surface").unwrap();
    surfaces.pop();
    scene.settings.store.checkpoint_every = Duration::from_millis(200);
    scene.produce(0..WINDOWS, Duration::ZERO);
    Some(scene)
}

/// Settings of instance `name` in the cluster of these topics.
fn member(scene: &Scene, (group, windows, judge): (&str, &str, &str), name: &str) -> Settings {
    let mut settings = scene.settings.clone();
    settings.kafka.group = group.to_owned();
    settings.cluster.enabled = true;
    (settings.cluster.windows_topic, settings.cluster.judge_topic) = (windows.to_owned(), judge.to_owned());
    settings.store.path = scene.folder().join(format!("{name}.db"));
    settings
}

fn topics(kafka: &Kafka) -> (String, String, String) {
    let (windows, judge) = (kafka.topic("windows", 3), kafka.topic("judge", 1));
    kafka.configure(&windows, "cleanup.policy", "compact");
    (unique("cluster"), windows, judge)
}

/// Number of the newest judged window.
fn newest(scene: &Scene, monitor: &Monitor) -> Option<i64> {
    let end = monitor.metric("recsae_window_end_timestamp_seconds")?;
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century")]
    let end_ms = (end * 1e3) as i64;
    Some((end_ms - scene.world.window_start_ms(0)) / WINDOW_MS - 1)
}

fn wait_until_judged(scene: &Scene, monitor: &Monitor, window: i64) {
    let look = || newest(scene, monitor).filter(|newest| *newest >= window);
    until(Duration::from_secs(60), look, || {
        format!("{:?} of {window}\n{:#?}\n{}", newest(scene, monitor), monitor.api("status"), monitor.process.printed())
    });
}

#[test]
fn two_instances_of_which_one_is_killed_find_what_one_alone_finds() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = scene(kafka) else { return };
    let last = i64::try_from(WINDOWS).unwrap() - 1;
    let alone = scene.start_beside(&scene.settings);
    let (group, windows, judge) = topics(kafka);
    let [first, second] = ["first", "second"].map(|name| member(&scene, (&group, &windows, &judge), name));
    let began = Instant::now();
    let killed = scene.start_beside(&first);
    let other = scene.start_beside(&second);
    wait_until_judged(&scene, &killed, 3);
    killed.process.signal("KILL");
    println!("killed after {:?} at window {:?}", began.elapsed(), newest(&scene, &other));
    wait_until_judged(&scene, &other, last);
    wait_until_judged(&scene, &alone, last);
    let back = scene.start_beside(&first);
    wait_until_judged(&scene, &back, last);
    println!("{:?}", began.elapsed());
    let (log, other_log) = (back.end(), other.end());
    alone.end();
    let expected = found(&scene.settings.store.path);
    println!("{} windows, {} alerts", expected.windows.len(), expected.alerts.len());
    assert!(!expected.alerts.is_empty(), "nothing was found");
    for (store, log) in [(&first.store.path, log), (&second.store.path, other_log)] {
        let found = found(store);
        assert_eq!(found.windows.len(), expected.windows.len());
        for (at, (found, expected)) in found.windows.iter().zip(&expected.windows).enumerate() {
            assert!(found == expected, "window {at}\n{}\n{}\n{log}", String::from_utf8_lossy(found), String::from_utf8_lossy(expected));
        }
        assert_eq!(found, expected, "{log}");
    }
    assert_eq!(head(&first.store.path), head(&second.store.path));
}
