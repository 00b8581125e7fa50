//! `recsae record` on Apache Kafka: killed and resumed, whole entities, bounded; and its play-back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use recsae::drift::closed::SegmentMap;
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::store::StoreReader;
use recsae::store::reader::WindowQuery;
use recsae::workshop::dataset::{Dataset, DatasetRequest};
use serde_json::Value;

use crate::background::{Background, until};
use crate::kafka_server::{self, Kafka, unique};
use crate::scene::Scene;

const RECSAE: &str = env!("CARGO_BIN_EXE_recsae");

/// Runs the program to its end: exit code, standard output as JSON or null, and what it said.
fn recsae(arguments: &[&str]) -> (i32, Value, String) {
    let output = Command::new(RECSAE).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), said)
}

/// A configuration without a model: recording comes before there is an SAE.
fn configuration(kafka: &Kafka, scene: &Scene) -> PathBuf {
    let path = scene.folder().join(unique("record.toml"));
    let topic = &scene.settings.kafka.topics[0];
    let text = format!(
        "[kafka]\nbrokers = {:?}\ntopics = [{topic:?}]\ndead_letter_topic = \"\"\ngroup = {:?}\n[segments]\nfields = [\"surface\"]\n",
        kafka.brokers,
        unique("group")
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn dataset(folder: &Path) -> Dataset {
    Dataset::open(&DatasetRequest { embeddings: folder.to_owned(), ..DatasetRequest::default() }).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|extension| extension == "parquet")).collect()
}

/// Records of the first window, which is closed by now.
fn send_late(scene: &Scene, n: usize) {
    let producer = ReliableProducer::new(&scene.settings.kafka).unwrap();
    let (receipts, mut payload) = (Arc::new(Receipts::default()), Vec::new());
    for served in scene.world.window(0).records.iter().take(n) {
        served.write_json(&mut payload).unwrap();
        let key = served.key();
        let topic = &scene.settings.kafka.topics[0];
        let record = Outgoing { topic, key: Some(key.as_bytes()), payload: Some(&payload), ..Outgoing::default() };
        producer.send(&record, &[], &receipts, Duration::from_secs(30)).unwrap();
    }
    producer.settle(&receipts, Instant::now() + Duration::from_secs(30)).unwrap();
}

/// Counts of every window, by its start.
fn counts(scene: &Scene) -> (BTreeMap<i64, SegmentMap>, u64) {
    let run = scene.start(&["--until-end"]);
    until(Duration::from_secs(120), || run.process.printed().contains("windows judged").then_some(()), || run.process.printed());
    run.end();
    let reader = StoreReader::open(&scene.settings.store.path).unwrap();
    let (mut windows, mut late) = (BTreeMap::new(), 0);
    let keep = |window: recsae::drift::closed::ClosedWindow| -> Result<(), recsae::store::StoreError> {
        late += window.rejected.get(&recsae::record::RejectReason::Late).copied().unwrap_or(0);
        windows.insert(window.start_ms, window.segments);
        Ok(())
    };
    reader.for_each_window(&WindowQuery::default(), keep).unwrap();
    (windows, late)
}

#[test]
fn killed_and_resumed_it_has_every_record_once_and_plays_back_to_the_same_counts() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    let (config, out) = (configuration(kafka, &scene), scene.folder().join("recorded"));
    let arguments = ["record", "-c", config.to_str().unwrap(), "--out", out.to_str().unwrap(), "--rows", "700"];
    let mut kills = 0;
    std::thread::scope(|scope| {
        let feed = scope.spawn(|| scene.produce(0..5, Duration::from_millis(70)));
        while !feed.is_finished() {
            let before = files(&out).len();
            let words: Vec<&std::ffi::OsStr> = arguments.iter().map(std::convert::AsRef::as_ref).collect();
            let recording = Background::start(Path::new(RECSAE), &words, &[], scene.folder().join(unique("log")));
            let written = || (files(&out).len() >= before + 2 || feed.is_finished()).then_some(());
            until(Duration::from_secs(60), written, || recording.printed());
            recording.signal("KILL");
            kills += 1;
        }
    });
    send_late(&scene, 40);
    let (code, done, said) = recsae(&[&arguments[..], &["--until-end", "--json"]].concat());
    assert_eq!(code, 0, "{said}");
    println!("{kills} kills, the last run: {done}");
    assert!(kills >= 3, "{kills} kills");

    let recorded = dataset(&out);
    let (partition, offset) = (recorded.column("recsae.partition").unwrap(), recorded.column("recsae.offset").unwrap());
    let places: BTreeSet<(i64, i64)> =
        (0..recorded.n_rows()).map(|row| (partition.value(row).as_i64().unwrap(), offset.value(row).as_i64().unwrap())).collect();
    assert_eq!(places.len(), recorded.n_rows(), "a record twice");
    // What lies in the future is rejected by its window, which a recording has none of; so are the late ones.
    let future = scene.poison.load(Ordering::SeqCst) / 6;
    assert_eq!(recorded.n_rows() as u64, scene.good.load(Ordering::SeqCst) + future + 40);

    let (original, late) = counts(&scene);
    let again = unique("replay");
    let (code, produced, said) = recsae(&[
        "produce",
        "--embeddings",
        out.to_str().unwrap(),
        "--as-recorded",
        "--topic",
        &again,
        "--brokers",
        &kafka.brokers,
        "--json",
    ]);
    assert_eq!((code, produced["records"].as_u64()), (0, Some(recorded.n_rows() as u64)), "{said}");
    scene.settings.kafka.topics = vec![again.clone()];
    scene.settings.kafka.group = again;
    scene.settings.store.path = scene.folder().join("replayed.db");
    let (replayed, late_again) = counts(&scene);
    assert_eq!((late, late_again), (40, 40), "what was late is late again");
    assert_eq!(original.keys().collect::<Vec<_>>(), replayed.keys().collect::<Vec<_>>());
    assert!(original.len() >= 5);
    for (start, segments) in &original {
        for (name, of) in segments {
            let other = &replayed[start][name];
            assert_eq!(
                (of.records, &of.entities, &of.presence, &of.fired),
                (other.records, &other.entities, &other.presence, &other.fired)
            );
        }
        assert_eq!(segments.len(), replayed[start].len());
    }
}

#[test]
fn entities_are_sampled_whole_and_the_folder_stays_within_its_bound() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = Scene::new(kafka, "") else { return };
    scene.produce(0..4, Duration::ZERO);
    let config = configuration(kafka, &scene);
    let record = |out: &Path, more: &[&str]| {
        let fixed = ["record", "-c", config.to_str().unwrap(), "--out", out.to_str().unwrap(), "--until-end", "--json"];
        recsae(&[&fixed[..], more].concat())
    };
    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    let served: Vec<_> = (0..4).flat_map(|window| scene.world.window(window).records).collect();
    served.iter().for_each(|served| *sent.entry(served.key()).or_default() += 1);
    let by_entity = |folder: &Path| {
        let (recorded, mut found) = (dataset(folder), BTreeMap::<String, usize>::new());
        let (entity, timestamp) = (recorded.column("entity").unwrap().keys().unwrap(), recorded.column("timestamp").unwrap());
        // The poison from the future is a record too.
        (0..recorded.n_rows())
            .filter(|row| timestamp.value(*row).as_i64() < Some(9_000_000_000_000))
            .for_each(|row| *found.entry(entity[row].clone()).or_default() += 1);
        found
    };
    let (one, other) = (scene.folder().join("one"), scene.folder().join("other"));
    for folder in [&one, &other] {
        let (code, done, said) = record(folder, &["--entities", "0.2"]);
        assert_eq!(code, 0, "{said}");
        println!("{done}");
        assert!(done["rejected"].as_u64().unwrap() > 0 && done["not_sampled"].as_u64().unwrap() > 0);
    }
    let kept = by_entity(&one);
    assert_eq!(kept, by_entity(&other), "every recording keeps the same ones");
    assert!(kept.iter().all(|(entity, n)| sent[entity] == *n), "an entity is there whole or not at all");
    let (n, all) = (kept.len() as f64, sent.len() as f64);
    // Six standard deviations of a binomial share.
    assert!((n - 0.2 * all).abs() < 6.0 * (0.2 * 0.8 * all).sqrt(), "{n} of {all}");
    let surface = dataset(&one).column("surface").unwrap().keys().unwrap();
    assert!(surface.iter().all(|surface| ["home", "search", "mail"].contains(&surface.as_str())));

    // Nothing new: nothing is written. Another share in the same folder is refused.
    let (code, done, _) = record(&one, &["--entities", "0.2"]);
    assert_eq!((code, done["records"].as_u64(), done["files"].as_u64()), (0, Some(0), Some(0)));
    let (code, _, said) = record(&one, &["--entities", "0.3"]);
    assert!(code == 2 && said.contains("0.2 of the entities"), "{said}");

    // A bound of 1 MiB: the oldest files go, the newest rows stay.
    let bounded = scene.folder().join("bounded");
    let (code, done, said) = record(&bounded, &["--rows", "500", "--max-mib", "1"]);
    assert_eq!(code, 0, "{said}");
    let bytes: u64 = files(&bounded).iter().map(|file| file.metadata().unwrap().len()).sum();
    println!("{done}, {bytes} bytes stay");
    assert!(done["removed"].as_u64().unwrap() > 0 && bytes <= 1 << 20, "{bytes}");
    let newest = dataset(&bounded);
    let (partition, offset) = (newest.column("recsae.partition").unwrap(), newest.column("recsae.offset").unwrap());
    let mut last: BTreeMap<i64, i64> = BTreeMap::new();
    for row in 0..newest.n_rows() {
        let (partition, offset) = (partition.value(row).as_i64().unwrap(), offset.value(row).as_i64().unwrap());
        last.entry(partition).and_modify(|known| *known = offset.max(*known)).or_insert(offset);
    }
    let ends = kafka.ends(&scene.settings.kafka.topics[0], 4);
    // The last few of a partition may be poison.
    assert!(last.iter().any(|(partition, offset)| ends[usize::try_from(*partition).unwrap()].1 - offset < 20), "{last:?} of {ends:?}");
    // What was removed is not read again.
    let (_, done, _) = record(&bounded, &["--rows", "500", "--max-mib", "1"]);
    assert_eq!(done["records"].as_u64(), Some(0));
}
