//! `recsae check` and `recsae config` as a user runs them, against the in-process broker.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::bundle::build::{BuildRequest, build};
use recsae::encode;
use recsae::kafka::embedded::EmbeddedBroker;
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::simulate::setup::{self, TOPIC, write_files};
use recsae::simulate::world::World;
use serde_json::Value as Json;

use crate::support;

/// Midnight of 21 September 2026: small numbers would be read as seconds.
const START_MS: i64 = 1_789_948_800_000;

fn recsae(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).envs(env.iter().copied()).output().unwrap()
}

fn check(config: &Path, arguments: &[&str], env: &[(&str, &str)]) -> (i32, Json) {
    let mut all = vec!["check", "--json", "-c", config.to_str().unwrap()];
    all.extend(arguments);
    let output = recsae(&all, env);
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), json)
}

fn lines(report: &Json, key: &str) -> Vec<String> {
    report[key].as_array().into_iter().flatten().map(|line| line.as_str().unwrap().to_owned()).collect()
}

/// A world's bundle and configuration in `folder`, on `brokers`.
fn set_up(folder: &Path, world: &World, brokers: &str, library: &Path) -> std::path::PathBuf {
    let files = write_files(world, folder).unwrap();
    let out = folder.join("bundle");
    let request = BuildRequest { onnx: files.onnx, concepts: Some(files.concepts), out: out.clone(), ..BuildRequest::default() };
    build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, Some(library))).unwrap();
    let mut settings = setup::settings(brokers, &out, folder);
    settings.encode.onnxruntime = Some(library.to_owned());
    let config = folder.join("recsae.toml");
    std::fs::write(&config, toml::to_string(&settings).unwrap()).unwrap();
    config
}

/// One window of the world, keyed by the user or by nothing.
fn send(world: &World, brokers: &str, keyed: bool) {
    let settings = recsae::config::settings::KafkaSettings { brokers: brokers.to_owned(), ..Default::default() };
    let producer = ReliableProducer::new(&settings).unwrap();
    let receipts = Arc::new(Receipts::default());
    let mut payload = Vec::new();
    for (number, record) in world.window(20).records.iter().enumerate() {
        record.write_json(&mut payload).unwrap();
        let key = record.key();
        let outgoing = Outgoing {
            topic: TOPIC,
            key: keyed.then_some(key.as_bytes()),
            partition: (!keyed).then_some(i32::try_from(number % 4).unwrap()),
            payload: Some(&payload),
            ..Outgoing::default()
        };
        producer.send(&outgoing, &[], &receipts, Duration::from_secs(20)).unwrap();
    }
    producer.settle(&receipts, Instant::now() + Duration::from_secs(20)).unwrap();
}

#[test]
fn a_sound_set_up_passes_and_its_records_are_shown() {
    let Some(library) = support::onnxruntime() else { return };
    let (folder, world, broker) = (tempfile::tempdir().unwrap(), World::new(3, START_MS).unwrap(), EmbeddedBroker::start().unwrap());
    broker.create_topic(TOPIC, 4).unwrap();
    send(&world, &broker.brokers(), true);
    let config = set_up(folder.path(), &world, &broker.brokers(), &library);
    let (code, report) = check(&config, &["--sample"], &[]);
    assert_eq!((code, lines(&report, "faults")), (0, vec![]), "{report:#}");
    let sample = report["sample"].as_array().unwrap();
    assert_eq!(sample.len(), 10);
    for finding in sample {
        let found = finding["found"].as_str().unwrap();
        assert!(found.starts_with("64 values, entity, 2026-09-21T20:") && found.contains("surface="), "{found}");
    }
}

#[test]
fn a_topic_not_keyed_by_the_entity_is_refused() {
    let Some(library) = support::onnxruntime() else { return };
    let (folder, world, broker) = (tempfile::tempdir().unwrap(), World::new(4, START_MS).unwrap(), EmbeddedBroker::start().unwrap());
    broker.create_topic(TOPIC, 4).unwrap();
    send(&world, &broker.brokers(), false);
    let config = set_up(folder.path(), &world, &broker.brokers(), &library);
    let (code, report) = check(&config, &[], &[]);
    let faults = lines(&report, "faults");
    assert_eq!(code, 1);
    assert!(faults.len() == 1 && faults[0].contains("more than one partition"), "{faults:?}");
    let (code, report) = check(&config, &[], &[("RECSAE__COUNTING__UNIT", "records")]);
    assert_eq!((code, lines(&report, "faults")), (0, vec![]));
}

#[test]
fn a_configuration_that_does_not_fit_the_records_is_told_which_would() {
    let Some(library) = support::onnxruntime() else { return };
    let (folder, world, broker) = (tempfile::tempdir().unwrap(), World::new(5, START_MS).unwrap(), EmbeddedBroker::start().unwrap());
    broker.create_topic(TOPIC, 4).unwrap();
    send(&world, &broker.brokers(), true);
    let config = set_up(folder.path(), &world, &broker.brokers(), &library);
    let (code, report) = check(&config, &["--sample"], &[("RECSAE__RECORD__EMBEDDING", "vector")]);
    assert_eq!(code, 1);
    assert!(report["sample"][0]["found"].as_str().unwrap().contains("missing_embedding"), "{report:#}");
    assert_eq!(report["would_fit"]["record.embedding"], "\"embedding\"");
    assert_eq!(report["would_fit"]["record.entity"], "\"entity\"");

    // A segment field that no record has.
    let text = std::fs::read_to_string(&config).unwrap().replace("surface", "surfaces");
    std::fs::write(&config, text).unwrap();
    let (code, report) = check(&config, &["--sample"], &[]);
    let faults = lines(&report, "faults");
    assert_eq!(code, 1);
    let said = ["segments.fields: \"surfaces\" is in none of the ", "; did you mean \"surface\"?"];
    assert!(faults.len() == 1 && said.iter().all(|words| faults[0].contains(words)), "{faults:?}");
}

#[test]
fn places_in_the_record_that_exclude_each_other_are_a_fault_without_a_broker_too() {
    let Some(library) = support::onnxruntime() else { return };
    let (folder, world) = (tempfile::tempdir().unwrap(), World::new(6, START_MS).unwrap());
    let config = set_up(folder.path(), &world, "127.0.0.1:1", &library);
    let (code, report) = check(&config, &["--offline"], &[]);
    assert_eq!((code, lines(&report, "faults")), (0, vec![]));
    for (key, place) in [("RECSAE__RECORD__ENTITY", "embedding"), ("RECSAE__RECORD__ITEMS", "user.")] {
        let (code, report) = check(&config, &["--offline"], &[(key, place)]);
        let faults = lines(&report, "faults");
        assert_eq!(code, 1, "{place}");
        assert!(faults.len() == 1 && faults[0].starts_with("record: record."), "{faults:?}");
    }
}

#[test]
fn every_fault_is_one_line_and_none_hides_another() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("recsae.toml");
    let text = "[kafka]\nbrokers = '127.0.0.1:1'\ntopic = ['a']\n[[model]]\nbundle = 'nowhere'\n[window]\nlength = 'soon'\n\
                [store]\npath = '/nonexistent/x/recsae.db'\n[http]\ntoken_file = 'nothing'\n[kafka.secret_files]\n'sasl.password' = 'gone'\n\
                [drift]\nreference = 'atumn'\n";
    std::fs::write(&config, text).unwrap();
    let (code, report) = check(&config, &["--offline"], &[]);
    let faults = lines(&report, "faults");
    assert_eq!(code, 1);
    for part in [
        "kafka.topic: ",
        "window.length: ",
        "bundle nowhere: ",
        "state folder /nonexistent/x: ",
        "token file nothing: ",
        "sasl.password",
        "drift.reference: \"atumn\"",
    ] {
        assert_eq!(faults.iter().filter(|line| line.contains(part)).count(), 1, "{part}: {faults:#?}");
    }
    assert!(faults.iter().all(|line| !line.contains('\n')));
    let output = recsae(&["check", "-c", "/nonexistent.toml"], &[]);
    assert_eq!(output.status.code(), Some(2));
}

/// What `run` would refuse is found without a broker too: deploy/recsae.service asks this before each start.
#[test]
fn models_and_places_that_do_not_fit_together_are_found_offline() {
    let Some(library) = support::onnxruntime() else { return };
    let (folder, world) = (tempfile::tempdir().unwrap(), World::new(6, START_MS).unwrap());
    let config = set_up(folder.path(), &world, "127.0.0.1:1", &library);
    let found = |env: &[(&str, &str)]| {
        let (code, report) = check(&config, &["--offline"], env);
        let faults = lines(&report, "faults");
        assert_eq!((code, faults.is_empty()), (i32::from(!faults.is_empty()), code == 0), "{report:#}");
        faults
    };
    assert_eq!(found(&[]), Vec::<String>::new());
    let bundle = folder.path().join("bundle").to_str().unwrap().to_owned();
    let twice = found(&[("RECSAE__MODEL__1__BUNDLE", &bundle), ("RECSAE__MODEL__1__VERSION", "default")]);
    assert!(twice.len() == 1 && twice[0].contains("model: expected labels that differ, found \"default\" twice"), "{twice:?}");
    let unknown = found(&[("RECSAE__DRIFT__REFERENCE", "model:v99")]);
    assert!(unknown.len() == 1 && unknown[0].contains("one of the configured models (default), found \"model:v99\""), "{unknown:?}");
    let place = found(&[("RECSAE__RECORD__ENTITY", "embedding")]);
    assert!(place.len() == 1 && place[0].contains("record.entity"), "{place:?}");
    let inside = found(&[("RECSAE__SEGMENTS__FIELDS", "surface,surface.b")]);
    assert!(inside.len() == 1 && inside[0].contains("surface.b"), "{inside:?}");
}

#[test]
fn config_prints_the_documented_file_and_a_schema() {
    let output = recsae(&["config", "--defaults"], &[]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), std::fs::read_to_string(support::repo().join("config/recsae.toml")).unwrap());
    let schema: Json = serde_json::from_slice(&recsae(&["config", "--schema"], &[]).stdout).unwrap();
    assert!(schema["properties"]["drift"].is_object());
    assert_eq!(recsae(&["config"], &[]).status.code(), Some(2));
}
