//! A native engine that goes wrong while it runs is found by the comparison with ONNX Runtime, stopped and said.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use recsae::config::settings::EngineChoice;

use crate::background::until;
use crate::kafka_server;
use crate::scene::Scene;

#[test]
fn a_native_engine_that_goes_wrong_is_stopped_counted_and_replaced_while_running() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    scene.settings.encode.engine = EngineChoice::Native;
    scene.settings.encode.compare_every = NonZeroU32::MIN;
    // After the third batch of each worker the signs of all its weights are turned, as no comparison at the start sees.
    let damage = "FAILPOINTS=mutant-native-weights=6*off->return";
    let monitor = scene.start_under(Path::new("/usr/bin/env"), &[damage], &[]);
    scene.produce(0..1, Duration::from_millis(5));
    let first = monitor.wait_for(scene.sent());
    assert!(first.encoded > 0);
    scene.produce(1..6, Duration::from_millis(5));
    let end = monitor.wait_for(scene.sent());
    let mismatches = until(
        Duration::from_secs(30),
        || monitor.metric("recsae_encode_mismatches_total").filter(|mismatches| *mismatches > 0.0),
        || monitor.process.printed(),
    );
    println!("{mismatches} rows differed");
    assert_eq!(end.encoded, scene.good.load(Ordering::SeqCst), "every record is encoded all the same");
    let log = monitor.end();
    let stopped = log.matches("the native engine is wrong and is stopped").count();
    println!("{stopped} of two workers stopped theirs");
    assert!((1..=2).contains(&stopped), "{log}");
    let last = scene.start(&["--until-end"]);
    until(Duration::from_secs(90), || last.process.printed().contains("windows judged").then_some(()), || last.process.printed());
    let log = last.end();
    assert_eq!(scene.judged(), (scene.good.load(Ordering::SeqCst), scene.poison.load(Ordering::SeqCst)), "{log}");
}
