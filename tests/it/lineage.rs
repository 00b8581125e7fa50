//! What becomes of a store's history when counting changes: a whole monitor over an in-process broker.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use recsae::bundle::build::{BuildRequest, build};
use recsae::clock::{Clock, SystemClock};
use recsae::config::settings::Settings;
use recsae::encode;
use recsae::kafka::embedded::EmbeddedBroker;
use recsae::monitor::{self, RunOptions, RunSummary};
use recsae::simulate::feed::Feed;
use recsae::simulate::setup::{TOPIC, settings, write_files};
use recsae::simulate::world::World;
use recsae::store::StoreReader;
use recsae::task::{Shutdown, TaskGroup};

use crate::support;

fn world() -> World {
    let seed = u64::try_from(SystemClock.now_ms()).unwrap() % 1_000_000;
    println!("seed {seed}");
    World::new(seed, 1_772_409_600_000).unwrap()
}

/// The world's bundle, a topic, and a configuration that judges from the ninth window on.
fn prepared(folder: &Path, broker: &EmbeddedBroker, world: &World, library: &Path) -> Settings {
    let files = write_files(world, folder).unwrap();
    let bundle = folder.join("bundle");
    let request = BuildRequest { onnx: files.onnx, concepts: Some(files.concepts), out: bundle.clone(), ..BuildRequest::default() };
    build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, Some(library))).unwrap();
    let mut settings = settings(&broker.brokers(), &bundle, folder);
    settings.encode.onnxruntime = Some(library.to_owned());
    settings.drift.reference = "first:8 windows".into();
    settings.drift.harmonics = Some(0);
    settings.kafka.workers = 2;
    // The world's clock is not ours.
    settings.window.future_tolerance = Duration::from_secs(400 * 86_400);
    broker.create_topic(TOPIC, 6).unwrap();
    settings
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
