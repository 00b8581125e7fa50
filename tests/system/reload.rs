//! SIGHUP: a new SAE is taken up at a window edge by the same process, a faulty file changes nothing.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use recsae::simulate::world::World;
use recsae::store::Store;
use toml::Value;

use crate::background::until;
use crate::gaps::{assert_incomplete, judged};
use crate::kafka_server;
use crate::scene::{Monitor, Scene, build_bundle};

const NO_PAUSE: Duration = Duration::ZERO;

fn fingerprint(monitor: &Monitor) -> Option<String> {
    Some(monitor.api("status")?["models"][0]["fingerprint"].as_str()?.to_owned())
}

/// Writes the configuration with another bundle, where the running monitor reads it.
pub(crate) fn name_bundle(scene: &mut Scene, monitor: &Monitor, bundle: &Path) {
    scene.settings.model[0].bundle = bundle.to_owned();
    scene.write_configuration(monitor);
}

/// The first bundle with the graph of the second, under hashes that fit: only its golden rows tell.
pub(crate) fn mixed_bundle(first: &Path, second: &Path, out: &Path) -> PathBuf {
    std::fs::create_dir(out).unwrap();
    for file in std::fs::read_dir(first).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), out.join(file.file_name())).unwrap();
    }
    let graph = std::fs::read(second.join("sae.onnx")).unwrap();
    let manifest = out.join("manifest.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    json["files"]["sae.onnx"] = recsae::bundle::manifest::sha256(&graph).into();
    std::fs::write(&manifest, serde_json::to_vec(&json).unwrap()).unwrap();
    std::fs::write(out.join("sae.onnx"), graph).unwrap();
    out.to_owned()
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
    std::fs::write(scene.folder().join("token"), "a-token-of-the-test").unwrap();
    scene.settings.http.token_file = Some(scene.folder().join("token"));
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
    let mixed = mixed_bundle(&sound, &bundle, &scene.folder().join("mixed"));
    name_bundle(&mut scene, &monitor, &mixed);
    monitor.process.signal("HUP");
    let refused =
        || monitor.process.printed().lines().rfind(|line| line.contains("reload refused") && line.contains("golden row")).map(drop);
    until(Duration::from_secs(30), refused, || monitor.process.printed());
    assert_eq!(fingerprint(&monitor), Some(old.clone()), "a graph that does not do what its golden rows say is never used");
    name_bundle(&mut scene, &monitor, &bundle);
    let asked = monitor.post("reload", &serde_json::json!({"who": "ana", "why": "a new SAE"}), "a-token-of-the-test").unwrap();
    assert!(asked["reload"].as_str().unwrap().contains("sound"), "{asked}");
    let swapped = || fingerprint(&monitor).filter(|new| *new != old);
    until(Duration::from_secs(60), swapped, || monitor.process.printed());
    scene.produce(8..12, NO_PAUSE);
    let verdicts = judged(&scene, &monitor, 10);
    assert_eq!(verdicts.keys().copied().collect::<Vec<_>>(), [7, 8, 9, 10], "the windows of the new SAE alone");
    assert_incomplete(&verdicts, &[7], "a new lineage began within this window");

    let n_swaps = std::env::var("SWAPS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let mut memory = Vec::new();
    for swap in 0..n_swaps {
        name_bundle(&mut scene, &monitor, if swap % 2 == 0 { &sound } else { &bundle });
        let started = monitor.process.printed().matches("listening").count();
        monitor.process.signal("HUP");
        let again = || (monitor.process.printed().matches("listening").count() > started).then_some(());
        until(Duration::from_secs(60), again, || format!("swap {swap}\n{}", monitor.process.printed()));
        until(Duration::from_secs(60), || fingerprint(&monitor), || monitor.process.printed());
        memory.push(resident_kib(&monitor));
    }
    println!("resident after each swap (SWAPS=100 for more), KiB: {memory:?}");
    let most = |of: &[u64]| of.iter().copied().max().unwrap();
    let (early, late) = memory.split_at(n_swaps / 2);
    assert!(most(late) < most(early) + (8 << 10), "{memory:?}");
    assert_eq!(monitor.process.pid(), pid, "one process all the time");
    let log = monitor.end();
    assert!(log.contains("worker drained"), "{log}");
    assert!(scene.good.load(Ordering::SeqCst) > 0);
}

/// Changes keys of the file that the running monitor reads, sends SIGHUP, and waits for the words.
fn reload(scene: &Scene, monitor: &Monitor, changes: &[(&str, &str, &str)], words: &str) {
    scene.write_configuration(monitor);
    let file = scene.folder().join("recsae.toml");
    let mut table: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    for (section, key, value) in changes {
        table[*section].as_table_mut().unwrap().insert((*key).to_owned(), Value::String((*value).to_owned()));
    }
    std::fs::write(&file, toml::to_string(&table).unwrap()).unwrap();
    let said = monitor.process.printed().matches(words).count();
    monitor.process.signal("HUP");
    let again = || (monitor.process.printed().matches(words).count() > said).then_some(());
    until(Duration::from_secs(60), again, || format!("{changes:?}\n{}", monitor.process.printed()));
}

/// Section, key and value of each change, and what the refusal must name.
type Fault<'a> = (&'a [(&'a str, &'a str, &'a str)], &'a str);

#[test]
fn a_file_that_could_not_start_is_refused_before_anything_is_torn_down() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = Scene::new(kafka, "") else { return };
    scene.produce(0..3, NO_PAUSE);
    let monitor = scene.start(&[]);
    monitor.wait_for(scene.sent());
    let (pid, running) = (monitor.process.pid(), fingerprint(&monitor).unwrap());
    let lineage = monitor.api("status").unwrap()["lineage"].clone();

    let path = |name: &str| scene.folder().join(name).to_str().unwrap().to_owned();
    let garbage = path("garbage.pem");
    std::fs::write(&garbage, "not PEM").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap().to_string();
    let (gone, store) = (path("gone"), path("gone/recsae.db"));
    let faults: [Fault<'_>; 7] = [
        (&[("http", "token_file", &gone)], "cannot read "),
        (&[("record", "entity", "embedding")], "record.entity"),
        (&[("store", "path", &store)], "store.path: expected a folder"),
        (&[("store", "path", &garbage)], "garbage.pem"),
        (&[("http", "tls_cert_file", &garbage), ("http", "tls_key_file", &garbage)], "expected a certificate"),
        (&[("http", "listen", &busy)], "cannot listen on "),
        (&[("metrics", "listen", &busy)], "cannot listen on "),
    ];
    for (changes, words) in faults {
        reload(&scene, &monitor, changes, "reload refused, the old configuration goes on");
        let printed = monitor.process.printed();
        let refused = printed.lines().rfind(|line| line.contains("reload refused")).unwrap();
        assert!(refused.contains("ERROR") && refused.contains(words), "{refused}");
        assert_eq!(fingerprint(&monitor).as_ref(), Some(&running), "{changes:?}: it answers at the old addresses");
    }
    assert_eq!(monitor.process.printed().matches("worker drained").count(), 0, "nothing was torn down");
    scene.produce(3..6, NO_PAUSE);
    assert_incomplete(&judged(&scene, &monitor, 4), &[], "");
    assert_eq!((monitor.process.pid(), &monitor.api("status").unwrap()["lineage"]), (pid, &lineage));
    drop(taken);

    // Sound again, and taken up.
    reload(&scene, &monitor, &[("drift", "false_alarm_budget", "1 per 60d")], "listening");
    until(Duration::from_secs(60), || fingerprint(&monitor), || monitor.process.printed());
    monitor.end();
}

/// A store that another process writes is seen only by the start itself.
#[test]
fn a_start_that_is_refused_after_the_old_run_ended_goes_back_to_the_old_configuration() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = Scene::new(kafka, "") else { return };
    scene.produce(0..3, NO_PAUSE);
    let monitor = scene.start(&[]);
    monitor.wait_for(scene.sent());
    let pid = monitor.process.pid();
    let path = scene.folder().join("other.db");
    let other = Store::open(&path).unwrap();
    let words = "the new configuration does not start, the old one goes on";
    reload(&scene, &monitor, &[("store", "path", path.to_str().unwrap())], words);
    let printed = monitor.process.printed();
    let said = printed.lines().rfind(|line| line.contains(words)).unwrap();
    assert!(said.contains("ERROR") && said.contains("other.db"), "{said}");
    scene.produce(3..6, NO_PAUSE);
    assert_incomplete(&judged(&scene, &monitor, 4), &[], "");
    assert_eq!(monitor.process.pid(), pid);
    assert_eq!(monitor.process.printed().matches("a new lineage begins").count(), 0);
    drop(other);
    monitor.end();
}
