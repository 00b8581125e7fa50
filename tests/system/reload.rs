//! SIGHUP: a new SAE is taken up at a window edge by the same process, a faulty one changes nothing.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use recsae::simulate::world::World;

use crate::background::until;
use crate::gaps::{assert_incomplete, judged};
use crate::kafka_server;
use crate::scene::{Monitor, Scene, build_bundle};

const NO_PAUSE: Duration = Duration::ZERO;

fn fingerprint(monitor: &Monitor) -> Option<String> {
    Some(monitor.api("status")?["models"][0]["fingerprint"].as_str()?.to_owned())
}

/// Writes the configuration with another bundle, where the running monitor reads it.
fn name_bundle(scene: &mut Scene, monitor: &Monitor, bundle: &Path) {
    scene.settings.model[0].bundle = bundle.to_owned();
    scene.write_configuration(monitor);
}

fn resident_kib(monitor: &Monitor) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", monitor.process.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_new_sae_is_taken_up_at_a_window_edge_and_a_faulty_one_keeps_the_old() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    scene.produce(0..6, NO_PAUSE);
    let monitor = scene.start(&[]);
    monitor.wait_for(scene.sent());
    judged(&scene, &monitor, 4);
    let (pid, old) = (monitor.process.pid(), fingerprint(&monitor).unwrap());

    let sound = scene.settings.model[0].bundle.clone();
    name_bundle(&mut scene, &monitor, Path::new("nowhere"));
    monitor.process.signal("HUP");
    let refused = || monitor.process.printed().contains("reload refused").then_some(());
    until(Duration::from_secs(30), refused, || monitor.process.printed());
    scene.produce(6..8, NO_PAUSE);
    assert_incomplete(&judged(&scene, &monitor, 6), &[], "");
    assert_eq!(fingerprint(&monitor), Some(old.clone()), "the old one goes on");

    let folder = scene.folder().join("new");
    std::fs::create_dir(&folder).unwrap();
    let other = World::new(scene.sent() + 1, scene.world.window_start_ms(0)).unwrap();
    let bundle = build_bundle(&other, &folder, &scene.library);
    name_bundle(&mut scene, &monitor, &bundle);
    monitor.process.signal("HUP");
    let swapped = || fingerprint(&monitor).filter(|new| *new != old);
    until(Duration::from_secs(60), swapped, || monitor.process.printed());
    scene.produce(8..12, NO_PAUSE);
    let verdicts = judged(&scene, &monitor, 10);
    assert_eq!(verdicts.keys().copied().collect::<Vec<_>>(), [7, 8, 9, 10], "the windows of the new SAE alone");
    assert_incomplete(&verdicts, &[7], "a new lineage began within this window");

    name_bundle(&mut scene, &monitor, &sound);
    let mut memory = Vec::new();
    for swap in 0..8 {
        let started = monitor.process.printed().matches("listening").count();
        monitor.process.signal("HUP");
        let again = || (monitor.process.printed().matches("listening").count() > started).then_some(());
        until(Duration::from_secs(60), again, || format!("swap {swap}\n{}", monitor.process.printed()));
        until(Duration::from_secs(60), || fingerprint(&monitor), || monitor.process.printed());
        memory.push(resident_kib(&monitor));
    }
    println!("resident after each reload, KiB: {memory:?}");
    assert!(memory[7] < memory[2] + (48 << 10), "{memory:?}");
    assert_eq!(monitor.process.pid(), pid, "one process all the time");
    let log = monitor.end();
    assert!(log.contains("worker drained"), "{log}");
    assert!(scene.good.load(Ordering::SeqCst) > 0);
}
