//! From Kafka to a verdict and back: a window counted again from its offsets, by the program and by numpy, and
//! judged again bit for bit.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use recsae::bundle::build::{BuildRequest, build};
use recsae::clock::{Clock, SystemClock};
use recsae::config::settings::Settings;
use recsae::encode;
use recsae::kafka::embedded::EmbeddedBroker;
use recsae::monitor::recount::recount;
use recsae::monitor::{self, RunOptions};
use recsae::simulate::feed::Feed;
use recsae::simulate::setup::{TOPIC, settings, write_files};
use recsae::simulate::world::World;
use recsae::store::reader::WindowQuery;
use recsae::store::{StoreError, StoreReader};
use recsae::task::{Shutdown, TaskGroup};
use recsae::workshop::rejudge::rejudge;

use crate::support;

const N_WINDOWS: u64 = 11;

fn flow(folder: &Path, broker: &EmbeddedBroker, seed: u64, library: &Path, reference: &str, retention_hours: u64) -> Settings {
    let world = World::new(seed, 1_772_409_600_000).unwrap();
    let files = write_files(&world, folder).unwrap();
    let bundle = folder.join("bundle");
    let request = BuildRequest { onnx: files.onnx, concepts: Some(files.concepts), out: bundle.clone(), ..BuildRequest::default() };
    build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, Some(library))).unwrap();
    let mut settings = settings(&broker.brokers(), &bundle, folder);
    settings.encode.onnxruntime = Some(library.to_owned());
    // Eight windows and no season: enough for detectors to gather evidence over the rest.
    settings.drift.reference = reference.into();
    settings.store.retention = std::time::Duration::from_secs(3600 * retention_hours);
    settings.drift.harmonics = Some(0);
    settings.kafka.workers = 2;
    // The world's clock is not ours.
    settings.window.future_tolerance = std::time::Duration::from_secs(400 * 86_400);
    broker.create_topic(TOPIC, 6).unwrap();
    let mut feed = Feed::new(world, &settings.kafka, TOPIC).unwrap();
    (0..N_WINDOWS).for_each(|_| feed.send_window().unwrap());
    let group = TaskGroup::new(Shutdown::new());
    let options = RunOptions { until_end: true, clock: Arc::new(SystemClock), on_open: Box::new(|_| Ok(())) };
    let summary = monitor::run(&settings, options, &group).unwrap();
    assert_eq!(summary.windows_judged, N_WINDOWS);
    settings
}

#[test]
fn a_window_is_counted_again_from_kafka_and_judged_again_bit_for_bit() {
    let (Some(library), Some(python)) = (support::onnxruntime(), support::python()) else { return };
    let seed = u64::try_from(SystemClock.now_ms()).unwrap() % 1_000_000;
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::start().unwrap();
    let settings = flow(folder.path(), &broker, seed, &library, "first:8 windows", 9_600);
    let reader = StoreReader::open(&settings.store.path).unwrap();
    let mut windows = Vec::new();
    let keep = |window| -> Result<(), StoreError> {
        windows.push(window);
        Ok(())
    };
    reader.for_each_window(&WindowQuery::default(), keep).unwrap();
    let at = usize::try_from(N_WINDOWS).unwrap() - 2;
    let salt = reader.entity_salt().unwrap().unwrap();

    let found = recount(&settings, salt, &windows[at..=at]).unwrap();
    assert!(found[0].agrees() && found[0].records > 1000 && found[0].counts > 3000, "{:?}", found[0]);
    // Another salt names entities otherwise and counts them alike: what is left once the salt is forgotten.
    assert!(recount(&settings, [7; 16], &windows[at..=at]).unwrap()[0].agrees());
    // A count that was changed is found, by place.
    let mut changed = windows[at].clone();
    changed.segments.get_mut("_all").unwrap().presence[5] += 1;
    let found = recount(&settings, salt, &[changed]).unwrap();
    assert!(!found[0].agrees() && found[0].differences[0].starts_with("_all, entities by latent [5]"), "{:?}", found[0].differences);

    // A numpy script given the same offsets, broker and weights.
    let window = &windows[at];
    let offsets: Vec<_> = window.offsets.iter().map(|range| (range.partition.partition, range.from, range.to)).collect();
    let all = &window.segments["_all"];
    let asked = serde_json::json!({
        "brokers": broker.brokers(), "topic": TOPIC, "offsets": offsets, "weights": folder.path().join("bundle/weights.safetensors"),
        "k": recsae::simulate::dictionary::K, "from_ms": window.start_ms, "to_ms": window.end_ms,
        "records": all.records, "fired": all.fired, "presence": all.presence, "entities": all.entities,
        "home": window.segments["surface=home"].presence,
    });
    let file = folder.path().join("asked.json");
    std::fs::write(&file, asked.to_string()).unwrap();
    let output = Command::new(python).arg(support::repo().join("tests/scripts/recount.py")).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}");

    let models = recsae::monitor::models::Models::open(&settings).unwrap();
    let judging = models.judging(&settings).unwrap().remove(0);
    let rejudged = rejudge(&reader, &window.model_version, window.start_ms, &judging).unwrap();
    assert!(rejudged.differences.is_empty() && rejudged.streams > 500 && rejudged.windows == 2, "{rejudged:?}");
    let dearer = recsae::drift::settings::JudgeSettings { budget_windows: judging.budget_windows * 2.0, ..judging.clone() };
    assert!(
        !rejudge(&reader, &window.model_version, window.start_ms, &dearer).unwrap().differences.is_empty(),
        "another budget is another evidence"
    );
    let warmup = rejudge(&reader, &window.model_version, windows[3].start_ms, &judging).unwrap_err();
    assert!(warmup.to_string().contains("not judged against a reference"), "{warmup}");
}

#[test]
fn against_a_rolling_reference_and_after_old_windows_went_a_window_is_judged_again_bit_for_bit() {
    let Some(library) = support::onnxruntime() else { return };
    let seed = u64::try_from(SystemClock.now_ms()).unwrap() % 1_000_000;
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::start().unwrap();
    let settings = flow(folder.path(), &broker, seed, &library, "rolling:8 windows", 9);
    let reader = StoreReader::open(&settings.store.path).unwrap();
    let judging = recsae::monitor::models::Models::open(&settings).unwrap().judging(&settings).unwrap().remove(0);
    // The newest window ended at 11 h: by rule, nobody's doing, those that ended by 2 h are gone, and the chain holds.
    let oldest = reader.summaries(&WindowQuery::default()).unwrap().last().unwrap().window_start;
    assert_eq!((oldest - 1_772_409_600_000) / 3_600_000, 2);
    let mut told = Vec::new();
    let found = reader.verify_audit(|entry| told.extend((entry.kind == "pruned").then(|| entry.body.clone()))).unwrap();
    assert!(matches!(found, recsae::store::audit::Verification::Intact { .. }), "{found:?}");
    assert!(
        told.len() == 2 && told.iter().all(|body| body.contains("\"who\":\"\"") && body.contains("[store] retention = 9h")),
        "{told:?}"
    );
    let (mut starts, mut references) = (Vec::new(), Vec::new());
    reader
        .for_each_report(&WindowQuery::default(), |report| -> Result<(), StoreError> {
            starts.push((report.start_ms, report.model_version.clone()));
            references.extend(report.reference);
            Ok(())
        })
        .unwrap();
    println!("{references:?}");
    // The first one, and those it rolled on to: none is fitted while anything is in alert.
    assert!(references.len() == 3 && references[0].starts_with("first-"), "{references:?}");
    for (at, (start_ms, model)) in (2..).zip(&starts).skip(6) {
        let again = rejudge(&reader, model, *start_ms, &judging).unwrap();
        assert!(again.differences.is_empty(), "window {at}: {again:?}");
        assert_eq!(
            (again.reference.as_str(), again.windows),
            (references[at - 8].as_str(), at as u64 - 7),
            "from where evidence was empty on"
        );
    }
}
