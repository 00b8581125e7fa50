//! A further `[[model]]` in the configuration of a running monitor: its records are rejected before the edge, counted after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::config::settings::ModelSettings;
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::simulate::world::{WINDOW_MS, World};
use recsae::store::reader::{StoreReader, WindowQuery};

use crate::background::until;
use crate::kafka_server;
use crate::reload::mixed_bundle;
use crate::scene::{Monitor, Scene, build_bundle};

/// Sends windows of both worlds, each record under its model version, in the order of time. How many of each window and
/// version there were is added to `sent`.
fn produce(scene: &Scene, worlds: &[(&str, &World)], windows: std::ops::Range<u64>, sent: &mut BTreeMap<(String, u64), i64>) {
    let producer = ReliableProducer::new(&scene.settings.kafka).unwrap();
    let receipts = Arc::new(Receipts::default());
    let mut payload = Vec::new();
    for window in windows {
        let served =
            worlds.iter().flat_map(|(version, world)| world.window(window).records.into_iter().map(move |record| (*version, record)));
        let mut records: Vec<_> = served.collect();
        records.sort_by_key(|(_, record)| record.time_ms);
        for (version, record) in records {
            record.write_json(&mut payload).unwrap();
            payload.pop();
            payload.extend(format!(",\"model_version\":\"{version}\"}}").bytes());
            let key = record.key();
            let topic = &scene.settings.kafka.topics[0];
            let record = Outgoing { topic, key: Some(key.as_bytes()), payload: Some(&payload), partition: None, timestamp_ms: None };
            producer.send(&record, &[], &receipts, Duration::from_secs(30)).unwrap();
            *sent.entry((version.to_owned(), window)).or_default() += 1;
        }
        producer.settle(&receipts, Instant::now() + Duration::from_secs(90)).unwrap();
    }
}

/// Records and verdict of each judged window of the newest lineage, by version and number.
fn counted(scene: &Scene) -> BTreeMap<(String, u64), (i64, String)> {
    let query = WindowQuery { segment: Some("_all".into()), limit: Some(1_000), ..WindowQuery::default() };
    let windows = StoreReader::open(&scene.settings.store.path).unwrap().summaries(&query).unwrap();
    let number = |start_ms: i64| u64::try_from((start_ms - scene.world.window_start_ms(0)) / WINDOW_MS).unwrap();
    windows.into_iter().map(|w| ((w.model_version, number(w.window_start)), (w.records, w.verdict))).collect()
}

fn models(monitor: &Monitor) -> Option<Vec<String>> {
    let status = monitor.api("status")?;
    status["models"].as_array()?.iter().map(|model| Some(model["model_version"].as_str()?.to_owned())).collect()
}

fn wait_until_judged(scene: &Scene, monitor: &Monitor, version: &str, window: u64) -> BTreeMap<(String, u64), (i64, String)> {
    let look = || Some(counted(scene)).filter(|windows| windows.contains_key(&(version.to_owned(), window)));
    until(Duration::from_secs(90), look, || format!("{:#?}\n{}", counted(scene), monitor.process.printed()))
}

#[test]
fn a_model_that_is_added_is_checked_and_its_records_are_counted_from_the_edge_on() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    std::fs::write(scene.folder().join("token"), "a-token-of-the-test").unwrap();
    scene.settings.http.token_file = Some(scene.folder().join("token"));
    scene.settings.model[0].version = Some("a".into());
    let folder = scene.folder().join("other");
    std::fs::create_dir(&folder).unwrap();
    let other = World::new(7, scene.world.window_start_ms(0)).unwrap();
    let bundle = build_bundle(&other, &folder, &scene.library);
    let mixed = mixed_bundle(&bundle, &scene.settings.model[0].bundle, &scene.folder().join("mixed"));
    let world = scene.world.clone();
    let worlds = [("a", &world), ("b", &other)];
    let mut sent = BTreeMap::new();
    let of = |sent: &BTreeMap<(String, u64), i64>, version: &str| -> i64 {
        sent.iter().filter(|((of, _), _)| of == version).map(|(_, n)| n).sum()
    };
    let unknown = |monitor: &Monitor| monitor.metric("recsae_records_rejected_total{reason=\"unknown_model_version\"}").unwrap_or(0.0);
    produce(&scene, &worlds, 0..6, &mut sent);
    let monitor = scene.start(&[]);
    monitor.wait_for(sent.values().sum::<i64>().unsigned_abs());
    assert_eq!(unknown(&monitor), of(&sent, "b") as f64, "nobody reads b yet");
    let pid = monitor.process.pid();

    // Golden rows first: one that does not meet them is not taken up, and b stays unread.
    scene.settings.model.push(ModelSettings { version: Some("b".into()), bundle: mixed });
    scene.write_configuration(&monitor);
    monitor.process.signal("HUP");
    let refused = || monitor.process.printed().lines().rfind(|l| l.contains("reload refused") && l.contains("golden row")).map(drop);
    until(Duration::from_secs(30), refused, || monitor.process.printed());
    produce(&scene, &worlds, 6..8, &mut sent);
    monitor.wait_for(sent.values().sum::<i64>().unsigned_abs());
    assert_eq!((models(&monitor), unknown(&monitor)), (Some(vec!["a".to_owned()]), of(&sent, "b") as f64));
    let before = wait_until_judged(&scene, &monitor, "a", 6);
    assert!((0..=6).all(|window| before[&("a".to_owned(), window)].0 == sent[&("a".to_owned(), window)]), "{before:#?}");
    assert!(before.keys().all(|(version, _)| version == "a"), "{before:#?}");

    // A sound one, by the API; then one more, by SIGHUP.
    scene.settings.model[1].bundle.clone_from(&bundle);
    scene.write_configuration(&monitor);
    let asked = monitor.post("reload", &serde_json::json!({"who": "ana", "why": "model b goes live"}), "a-token-of-the-test").unwrap();
    assert!(asked["reload"].as_str().unwrap().contains("sound"), "{asked}");
    let taken_up =
        |n: usize| until(Duration::from_secs(60), || models(&monitor).filter(|models| models.len() == n), || monitor.process.printed());
    assert_eq!(taken_up(2), ["a", "b"]);
    let rejected = unknown(&monitor);
    produce(&scene, &worlds, 8..12, &mut sent);
    let after = wait_until_judged(&scene, &monitor, "b", 10);
    assert_from(8, &after, &sent, &["a", "b"]);
    scene.settings.model.push(ModelSettings { version: Some("c".into()), bundle });
    scene.write_configuration(&monitor);
    monitor.process.signal("HUP");
    assert_eq!(taken_up(3), ["a", "b", "c"]);
    produce(&scene, &[worlds[0], worlds[1], ("c", &other)], 12..16, &mut sent);
    let after = wait_until_judged(&scene, &monitor, "c", 14);
    assert_from(12, &after, &sent, &["a", "b", "c"]);
    assert_eq!((unknown(&monitor), monitor.process.pid()), (rejected, pid), "nobody's records are rejected any more");
    monitor.end();
}

/// From that window on every version is counted whole; the one before it, which was open at the edge, has no verdict.
fn assert_from(first: u64, found: &BTreeMap<(String, u64), (i64, String)>, sent: &BTreeMap<(String, u64), i64>, versions: &[&str]) {
    for version in versions {
        let whole: Vec<_> = (first..first + 3).map(|window| found[&((*version).to_owned(), window)].0).collect();
        let expected: Vec<_> = (first..first + 3).map(|window| sent[&((*version).to_owned(), window)]).collect();
        assert_eq!(whole, expected, "{version} from window {first} on");
        assert_eq!(found[&((*version).to_owned(), first - 1)].1, "incomplete", "{found:#?}");
        assert!(found.keys().all(|(_, window)| *window + 1 >= first), "windows before the edge are the old lineage's: {found:#?}");
    }
}
