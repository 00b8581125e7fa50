//! Windows whose records are not all there get no verdict and say why: retention, a stopped reader, a new lineage.

use std::collections::BTreeMap;
use std::time::Duration;

use recsae::simulate::world::WINDOW_MS;
use serde_json::Value;

use crate::background::until;
use crate::degrade::hold;
use crate::kafka_server;
use crate::scene::{Monitor, Scene};
use crate::support;

const NO_PAUSE: Duration = Duration::ZERO;

/// Verdict and words of each window of the world that the API lists, by number.
fn verdicts(scene: &Scene, monitor: &Monitor) -> Option<BTreeMap<i64, (String, String)>> {
    let windows = monitor.api("windows?segment=_all")?;
    let number = |window: &Value| {
        let start: jiff::Timestamp = window["window_start"].as_str()?.parse().ok()?;
        Some((start.as_millisecond() - scene.world.window_start_ms(0)) / WINDOW_MS)
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    windows.as_array()?.iter().map(|window| Some((number(window)?, (text(&window["verdict"]), text(&window["why"]))))).collect()
}

/// Waits until the window is judged.
pub(crate) fn judged(scene: &Scene, monitor: &Monitor, window: i64) -> BTreeMap<i64, (String, String)> {
    let look = || verdicts(scene, monitor).filter(|verdicts| verdicts.contains_key(&window));
    let found = || {
        let metrics = monitor.metrics_text().unwrap_or_default();
        // What the process did, without a line for each concept.
        let counted: Vec<&str> = metrics.lines().filter(|line| line.starts_with("recsae_") && !line.contains("latent=")).collect();
        let (listed, status) = (verdicts(scene, monitor), monitor.api("status"));
        format!("{listed:?}\n{status:#?}\n{}\n{}", counted.join("\n"), monitor.process.printed())
    };
    until(Duration::from_secs(90), look, found)
}

/// Windows without a verdict, each with the words; all others are gathered for the reference.
pub(crate) fn assert_incomplete(verdicts: &BTreeMap<i64, (String, String)>, expected: &[i64], words: &str) {
    let incomplete: Vec<i64> = verdicts.iter().filter(|(_, (verdict, _))| verdict == "incomplete").map(|(number, _)| *number).collect();
    assert_eq!(incomplete, expected, "{verdicts:#?}");
    for (number, (verdict, why)) in verdicts {
        if expected.contains(number) {
            assert!(why.contains(words), "{number}: {why}");
        } else {
            assert_eq!((verdict.as_str(), why.as_str()), ("warmup", ""), "{number}");
        }
    }
}

#[test]
fn windows_that_retention_took_records_from_while_the_monitor_was_stopped_are_incomplete() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = Scene::new(kafka, "") else { return };
    let topic = scene.settings.kafka.topics[0].clone();
    scene.produce(0..6, NO_PAUSE);
    let monitor = scene.start(&[]);
    monitor.wait_for(scene.sent());
    assert_incomplete(&judged(&scene, &monitor, 4), &[], "");
    monitor.end();

    let stopped_at = kafka.ends(&topic, 4)[0].1;
    scene.produce(6..9, NO_PAUSE);
    let kept_from = kafka.ends(&topic, 4)[0].1;
    kafka.delete_before(&topic, 0, kept_from);
    scene.produce(9..14, NO_PAUSE);

    let monitor = scene.start(&[]);
    // The fifth window was open when the monitor stopped; in the ninth the log begins again.
    assert_incomplete(&judged(&scene, &monitor, 12), &[5, 6, 7, 8, 9], "retention deleted records");
    assert_eq!(monitor.metric("recsae_records_lost_total"), Some((kept_from - stopped_at) as f64));
    assert_eq!(monitor.metric("recsae_windows_incomplete_total"), Some(5.0));
    assert!(monitor.end().contains("retention deleted records before they were counted"));
}

#[test]
fn a_log_that_moves_on_below_a_running_monitor_is_noticed_and_read_on() {
    assert_read_on(NO_PAUSE);
}

#[test]
fn a_log_that_moves_on_below_a_monitor_that_lost_its_session_is_read_on() {
    assert_read_on(Duration::from_secs(8));
}

/// A monitor that is frozen for `frozen` longer than the log needs to move on beyond what it has read.
fn assert_read_on(frozen: Duration) {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = Scene::new(kafka, "") else { return };
    let topic = scene.settings.kafka.topics[0].clone();
    scene.produce(0..4, NO_PAUSE);
    let monitor = scene.start(&[]);
    monitor.wait_for(scene.sent());
    monitor.process.signal("STOP");
    scene.produce(4..7, NO_PAUSE);
    for (partition, (_, end)) in (0..).zip(kafka.ends(&topic, 4)) {
        kafka.delete_before(&topic, partition, end);
    }
    scene.produce(7..11, NO_PAUSE);
    std::thread::sleep(frozen);
    monitor.process.signal("CONT");
    let verdicts = judged(&scene, &monitor, 9);
    // What it had fetched before it was stopped is counted; what it had not is gone. So are, with the session, the windows
    // that were open: they would be rebuilt from the log.
    let first_touched = if frozen.is_zero() { 3 } else { 2 };
    let lost = monitor.metric("recsae_records_lost_total").unwrap();
    println!("{lost} records lost, {verdicts:?}");
    assert!(lost > 0.0);
    for (number, (verdict, why)) in &verdicts {
        assert!(*number >= first_touched || verdict == "warmup", "{number}: {verdict} {why}");
        assert!(!(5..7).contains(number) || verdict == "incomplete", "{number}: {verdict} {why}");
        assert!(*number < 8 || verdict == "warmup", "{number}: {verdict} {why}");
    }
    let consumed = monitor.scrape().unwrap();
    assert_eq!(consumed.consumed, consumed.encoded + consumed.n_rejected());
    assert!(monitor.end().contains("worker drained"));
}

/// Steps wait for the store while the member loses its partitions and the log moves on: taken over before those steps
/// are stored, the windows in them would be counted a second time, without the records that are gone.
#[test]
fn partitions_are_not_taken_over_before_what_was_counted_of_them_is_stored() {
    let Some(kafka) = kafka_server::shared() else { return };
    let (Some(scene), Some(python)) = (Scene::new(kafka, ""), support::python()) else { return };
    let topic = scene.settings.kafka.topics[0].clone();
    scene.produce(0..4, NO_PAUSE);
    let monitor = scene.start(&[]);
    monitor.wait_for(scene.sent());
    let mut other = hold(&python, &scene);
    let closed = monitor.metric("recsae_windows_closed_total").unwrap();
    scene.produce(4..6, NO_PAUSE);
    let is_on_its_way = || monitor.metric("recsae_windows_closed_total").filter(|now| *now > closed);
    until(Duration::from_secs(60), is_on_its_way, || monitor.process.printed());
    monitor.process.signal("STOP");
    scene.produce(6..7, NO_PAUSE);
    for (partition, (_, end)) in (0..).zip(kafka.ends(&topic, 4)) {
        kafka.delete_before(&topic, partition, end);
    }
    scene.produce(7..11, NO_PAUSE);
    std::thread::sleep(Duration::from_secs(8));
    monitor.process.signal("CONT");
    let is_lost = || monitor.process.printed().contains("partitions lost").then_some(());
    until(Duration::from_secs(60), is_lost, || monitor.process.printed());
    // Long enough to be assigned again: the group lets a member in within some three seconds.
    std::thread::sleep(Duration::from_secs(5));
    drop(other.stdin.take());
    other.wait().unwrap();
    let verdicts = judged(&scene, &monitor, 9);
    println!("{verdicts:?}");
    for (number, (verdict, why)) in &verdicts {
        // The third may have been open in some partition, and with the session its state is gone.
        assert!(*number >= 2 || verdict == "warmup", "{number}: {verdict} {why}");
        assert!(*number != 6 || verdict == "incomplete", "{number}: {verdict} {why}");
        assert!(*number < 8 || verdict == "warmup", "{number}: {verdict} {why}");
    }
    assert!(monitor.end().contains("worker drained"));
}

#[test]
fn a_changed_way_of_counting_begins_at_a_window_edge() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    scene.produce(0..6, NO_PAUSE);
    let monitor = scene.start(&[]);
    monitor.wait_for(scene.sent());
    assert_incomplete(&judged(&scene, &monitor, 4), &[], "");
    assert_eq!(monitor.api("status").unwrap()["lineage"], 1);
    monitor.end();

    scene.settings.segments.fields.clear();
    scene.settings.segments.values.clear();
    scene.produce(6..10, NO_PAUSE);
    let monitor = scene.start(&[]);
    let verdicts = judged(&scene, &monitor, 8);
    assert_eq!(verdicts.keys().copied().collect::<Vec<_>>(), [5, 6, 7, 8], "nothing before the new lineage, nothing skipped");
    assert_incomplete(&verdicts, &[5], "a new lineage began within this window");
    assert_eq!(monitor.api("status").unwrap()["lineage"], 2);
    assert!(monitor.end().contains("a new lineage begins"));
}
