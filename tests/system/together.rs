//! What tests of several instances that judge as one share: their world, their topics, and what one undisturbed instance
//! finds in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use recsae::config::settings::Settings;
use recsae::drift::alert::{ActionKind, Alert, AlertListing};
use recsae::simulate::world::WINDOW_MS;
use recsae::store::reader::{StoreReader, WindowQuery};
use recsae::store::references::ReferenceEntry;
use serde_json::Value;

use crate::background::until;
use crate::kafka_server::{Kafka, unique};
use crate::scene::{Monitor, Scene};

/// What the API asks for.
pub(crate) const TOKEN: &str = "spare the evidence";

/// Everything that an instance found, without the clock of who found it.
#[derive(Debug, PartialEq)]
struct Found {
    windows: Vec<Vec<u8>>,
    reports: Vec<Vec<u8>>,
    alerts: Vec<Value>,
    references: Vec<String>,
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
    let without_clock = |alert: &Alert| {
        let mut listed = serde_json::to_value(AlertListing::of(alert, "", "")).unwrap();
        listed.as_object_mut().unwrap().remove("alerted_at");
        // It ends when somebody accepts it, by the clock.
        if alert.actions.iter().any(|action| action.action == ActionKind::Accept) {
            listed["ended"] = (!listed["ended"].is_null()).into();
        }
        listed["actions"] = alert.actions.iter().map(|action| format!("{:?} {} {}", action.action, action.who, action.why)).collect();
        listed
    };
    let named = |entry: ReferenceEntry| {
        let approved = entry.approval.map(|approval| (approval.who, approval.why));
        format!("{} {} {:?} {approved:?}", entry.name, entry.windows, (entry.from_ms, entry.to_ms))
    };
    let references = reader.references().unwrap().into_iter().map(named).collect();
    Found { windows, reports, alerts: alerts.iter().map(without_clock).collect(), references }
}

/// A world with a shift on a topic of that many partitions; windows are closed by the records that follow them.
pub(crate) fn scene(kafka: &Kafka, partitions: i32) -> Option<Scene> {
    let mut scene = Scene::new(kafka, "")?;
    scene.settings.kafka.topics = vec![kafka.topic("shared", partitions)];
    scene.world.plant_shift(14..15);
    // A day is a swing that eight windows cannot know: there is something to find in every world.
    scene.settings.drift.reference = "first:8 windows".into();
    scene.settings.drift.harmonics = Some(0);
    scene.settings.drift.false_alarm_budget = "1 per 10 windows".into();
    scene.settings.window.idle_after = Duration::from_secs(600);
    // One surface is not configured: it is followed once it was seen.
    scene.settings.segments.values.get_mut("surface").unwrap().pop();
    scene.settings.store.checkpoint_every = Duration::from_millis(200);
    scene.settings.http.token_file = Some(scene.folder().join("token"));
    std::fs::write(scene.folder().join("token"), TOKEN).unwrap();
    Some(scene)
}

/// Settings of instance `name` in the cluster of these topics.
pub(crate) fn member(scene: &Scene, (group, windows, judge): &(String, String, String), name: &str) -> Settings {
    let mut settings = scene.settings.clone();
    settings.kafka.group.clone_from(group);
    settings.cluster.enabled = true;
    (settings.cluster.windows_topic, settings.cluster.judge_topic) = (windows.clone(), judge.clone());
    settings.store.path = scene.folder().join(format!("{name}.db"));
    settings
}

pub(crate) fn topics(kafka: &Kafka) -> (String, String, String) {
    let (windows, judge) = (kafka.topic("windows", 3), kafka.topic("judge", 1));
    kafka.configure(&windows, "cleanup.policy", "compact");
    (unique("cluster"), windows, judge)
}

/// Number of the newest judged window.
pub(crate) fn newest(scene: &Scene, monitor: &Monitor) -> Option<i64> {
    let end = monitor.metric("recsae_window_end_timestamp_seconds")?;
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century")]
    let end_ms = (end * 1e3) as i64;
    Some((end_ms - scene.world.window_start_ms(0)) / WINDOW_MS - 1)
}

pub(crate) fn wait_until_judged(scene: &Scene, monitor: &Monitor, window: i64) {
    let look = || newest(scene, monitor).filter(|newest| *newest >= window);
    until(Duration::from_secs(60), look, || {
        format!("{:?} of {window}\n{:#?}\n{}", newest(scene, monitor), monitor.api("status"), monitor.process.printed())
    });
}

/// Ends them once all have carried out the same, explanations of alerts too: those come a little after the windows.
pub(crate) fn end_together(running: impl IntoIterator<Item = Monitor>) -> Vec<String> {
    let running: Vec<Monitor> = running.into_iter().collect();
    let are_level = || {
        let heads: Option<BTreeSet<String>> =
            running.iter().map(|monitor| Some(monitor.api("status")?["history_head"].to_string())).collect();
        let alerts = running[0].api("alerts")?;
        let explained =
            |alert: &Value| running[0].api(&format!("alerts/{}", alert["id"])).is_some_and(|alert| !alert["explanation"].is_null());
        (heads?.len() == 1 && alerts.as_array()?.iter().all(explained)).then_some(())
    };
    let told = |monitor: &Monitor| {
        let alerts = monitor.api("alerts").unwrap_or_default();
        let explained = alerts.as_array().into_iter().flatten().map(|alert| {
            let detail = monitor.api(&format!("alerts/{}", alert["id"])).unwrap_or_default();
            format!("{} explained: {}", alert["id"], !detail["explanation"].is_null())
        });
        let explained: Vec<String> = explained.collect();
        format!("{:?} {explained:?}\n{}\n", monitor.api("status").map(|status| status["history_head"].clone()), monitor.process.printed())
    };
    until(Duration::from_secs(60), are_level, || running.iter().map(told).collect());
    running.into_iter().map(Monitor::end).collect()
}

/// Each instance's record is what one alone found, and their chains are the same; how many alerts that was.
pub(crate) fn assert_as_alone(alone: &Path, members: &[(&Path, String)]) -> usize {
    let expected = found(alone);
    println!("{} windows, {} alerts", expected.windows.len(), expected.alerts.len());
    assert!(!expected.windows.is_empty());
    let head = |store: &Path| StoreReader::open(store).unwrap().audit_head().unwrap();
    for (store, log) in members {
        let found = found(store);
        assert_eq!(found.windows.len(), expected.windows.len());
        for (at, (found, expected)) in found.windows.iter().zip(&expected.windows).enumerate() {
            assert!(found == expected, "window {at}\n{}\n{}\n{log}", String::from_utf8_lossy(found), String::from_utf8_lossy(expected));
        }
        assert_eq!((&found.alerts, &found.references), (&expected.alerts, &expected.references), "{log}");
        assert!(found == expected, "reports differ\n{log}");
        assert_eq!(head(store), head(members[0].0));
    }
    expected.alerts.len()
}

/// Which of them judges, once exactly one does.
pub(crate) fn judge_of(running: &[Monitor]) -> usize {
    let one = || {
        let judging: Vec<usize> = (0..running.len()).filter(|at| running[*at].metric("recsae_judging") == Some(1.0)).collect();
        (judging.len() == 1).then(|| judging[0])
    };
    until(Duration::from_secs(40), one, || running.iter().map(|monitor| monitor.process.printed()).collect())
}

/// Copies the store of an instance, that may run.
pub(crate) fn backup(scene: &Scene, settings: &Settings, to: &Path) {
    let config = scene.folder().join("backup.toml");
    std::fs::write(&config, toml::to_string(settings).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    let output = command.args(["history", "backup", "-c"]).arg(&config).arg("--out").arg(to).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", String::from_utf8_lossy(&output.stdout).trim());
}

/// Removes a store.
pub(crate) fn remove(store: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        // The last two are there while the store is open.
        drop(std::fs::remove_file(format!("{}{suffix}", store.display())));
    }
}
