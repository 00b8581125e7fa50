//! The demo as a visitor runs it: ten worlds nobody chose, and one with nothing planted.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value as Json;

use crate::background::until;
use crate::support;

fn demo(arguments: &[&str]) -> Option<Output> {
    let library = support::onnxruntime()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.arg("demo").args(arguments).args(["--exit-when-found", "--json"]).env("ORT_DYLIB_PATH", library);
    Some(command.output().unwrap())
}

fn first_seed() -> u64 {
    use recsae::clock::Clock;
    u64::try_from(recsae::clock::SystemClock.now_ms()).unwrap() % 1_000_000_000
}

/// Two at a time: one after the other they take as long as all other tests.
#[test]
fn ten_random_worlds_each_name_the_right_concept_on_the_right_surface() {
    let first = first_seed();
    std::thread::scope(|scope| {
        for lane in 0..2 {
            scope.spawn(move || (first + lane..first + 10).step_by(2).for_each(names_what_was_planted));
        }
    });
}

fn names_what_was_planted(seed: u64) {
    let Some(output) = demo(&["--seed", &seed.to_string()]) else { return };
    let log = String::from_utf8_lossy(&output.stderr);
    let verdict: Json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{log}"));
    let (planted, alert) = (&verdict["planted"], &verdict["alert"]);
    println!(
        "seed {seed}: planted {} on {} {} x{:.2} ({:.2} in entities), alert {} ratio {:.2} [{:.2}, {:.2}], began {} (planted {}), {:.1} s",
        planted["concept"],
        planted["segment"],
        planted["direction"],
        planted["ratio_in_records"].as_f64().unwrap_or(f64::NAN),
        verdict["planted_ratio_in_entities"].as_f64().unwrap_or(f64::NAN),
        alert["verification"],
        alert["ratio"].as_f64().unwrap_or(f64::NAN),
        alert["ratio_low"].as_f64().unwrap_or(f64::NAN),
        alert["ratio_high"].as_f64().unwrap_or(f64::NAN),
        alert["began"],
        planted["began"],
        verdict["seconds"].as_f64().unwrap_or(f64::NAN),
    );
    assert_eq!(output.status.code(), Some(0), "seed {seed}: {verdict:#}\n{log}");
    for key in ["stream", "segment", "direction"] {
        assert_eq!(planted[key], alert[key], "seed {seed}");
    }
    // Nobody has accepted the name that was found.
    assert_eq!(alert["concept"], format!("{}?", planted["concept"].as_str().unwrap()), "seed {seed}");
    assert_eq!(verdict["other_alerts"], serde_json::json!([]), "seed {seed}");
}

/// By the budget's bound this fails once in 330 runs (60 windows judged without drift at one false alarm in
/// 20,000), by the measured rate of false alarms far more seldom.
#[test]
fn a_world_without_drift_raises_no_alert_and_exits_with_1() {
    let seed = first_seed();
    println!("seed {seed}");
    let Some(output) = demo(&["--no-drift", "--seed", &seed.to_string()]) else { return };
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let verdict: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["other_alerts"], serde_json::json!([]));
    assert_eq!((&verdict["planted"], &verdict["alert"]), (&Json::Null, &Json::Null));
    assert!(verdict["windows_judged"].as_u64().unwrap() >= 100, "{verdict:#}");
}

/// The API goes away while the demo still looks: that is no failure of it.
#[test]
fn an_interrupted_demo_ends_with_its_verdict() {
    let Some(library) = support::onnxruntime() else { return };
    for patience_ms in [0, 400, 1_100] {
        let folder = tempfile::tempdir().unwrap();
        let output = |name: &str| std::fs::File::create(folder.path().join(name)).unwrap();
        let printed = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
        command.args(["demo", "--seed", &first_seed().to_string()]).env("ORT_DYLIB_PATH", &library);
        let mut demo = command.stdout(output("out")).stderr(output("err")).spawn().unwrap();
        until(Duration::from_secs(60), || printed("out").contains("metrics  http").then_some(()), || printed("err"));
        std::thread::sleep(Duration::from_millis(patience_ms));
        assert!(Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap().success());
        let code = demo.wait().unwrap().code();
        assert_eq!(code, Some(1), "nothing was found yet: {}{}", printed("out"), printed("err"));
        assert!(!printed("err").contains("recsae:"), "{}", printed("err"));
    }
}
