//! References as an operator makes them: what is left out and listed, what the check of a reference against itself says
//! and refuses, and spans that hold nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use recsae::bundle::build::{BuildRequest, build};
use recsae::clock::{Clock, SystemClock};
use recsae::drift::reference::{Reference, ReferenceError, SelfCheck};
use recsae::drift::settings::JudgeSettings;
use recsae::encode;
use recsae::simulate::dictionary::N_CONCEPTS;
use recsae::simulate::setup::write_files;
use recsae::simulate::world::World;
use serde_json::Value;

use crate::recorded::{BUDGET, START_MS, closed, record};
use crate::support;

fn seed() -> u64 {
    let seed = SystemClock.now_ms().unsigned_abs() % 1_000_000;
    println!("seed {seed}");
    seed
}

#[test]
fn a_change_inside_a_reference_is_found_by_its_self_check_and_a_quiet_one_says_what_it_found() {
    let settings = JudgeSettings { harmonics: Some(1), weekend: Some(false), budget_windows: BUDGET, ..JudgeSettings::hourly(N_CONCEPTS) };
    let quiet = World::new(seed(), START_MS).unwrap();
    let mut changed = quiet.clone();
    let shift = changed.plant_shift(136..137).clone();
    println!("{shift:?}");
    // Three of the windows are fed with vectors the SAE does not fit.
    let fit = |world: &World| {
        let windows: Vec<_> = (0..180).map(|window| closed(world, window)).collect();
        Reference::fit("week", "8c1f5e20", &windows, &settings)
    };
    let reference = fit(&quiet).unwrap();
    let left_out: Vec<&str> = reference.left_out.iter().map(|window| window.why.as_str()).collect();
    assert_eq!((reference.n_windows, left_out), (177, vec!["contract_broken"; 3]));
    let SelfCheck::Passed { judged, alarm_windows, worst } = &reference.self_check else { panic!("{:?}", reference.self_check) };
    assert!(*judged >= 50 && *alarm_windows <= 2 && worst.len() == 5, "{judged} judged, {alarm_windows} alarm, {worst:?}");

    let refused = fit(&changed).unwrap_err();
    let ReferenceError::SelfCheck { allowed: 2, found, worst, .. } = &refused else { panic!("{refused}") };
    assert!(*found > 2 && worst.starts_with(&format!("latent:{} ", shift.concept)), "{refused}");
    assert!(refused.to_string().contains("the stream changed inside the reference: choose or exclude windows"), "{refused}");
}

/// A recorded history with a bundle beside it, and the configuration of both.
fn site(folder: &Path, library: &Path) -> PathBuf {
    let seed = seed();
    let store = folder.join("recsae.db");
    drop(record(&store, seed));
    let files = write_files(&World::new(seed, START_MS).unwrap(), folder).unwrap();
    let bundle = folder.join("bundle");
    let request = BuildRequest { onnx: files.onnx, concepts: Some(files.concepts), out: bundle.clone(), ..BuildRequest::default() };
    build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, Some(library))).unwrap();
    let config = folder.join("recsae.toml");
    let text = format!(
        "[[model]]\nversion = \"v12\"\nbundle = {:?}\n[store]\npath = {:?}\n[drift]\nharmonics = 1\n[http]\nlisten = \"127.0.0.1:1\"\n",
        bundle.display().to_string(),
        store.display().to_string()
    );
    std::fs::write(&config, text).unwrap();
    config
}

#[test]
fn an_operator_is_told_what_is_left_out_and_what_the_self_check_said_and_refused_where_a_span_holds_nothing() {
    let Some(library) = support::onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = site(folder.path(), &library);
    let reference = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
        let output = command.arg("reference").args(arguments).arg("-c").arg(&config).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let hours = "2026-03-02T05:00:00Z..2026-03-02T09:00:00Z";
    let (code, said, errors) = reference(&["build", "--name", "march", "--exclude", hours]);
    assert!(code == 0 && said.contains("self-check: not run, too few windows"), "{code} {said} {errors}");
    let shown: Value = serde_json::from_str(&reference(&["show", "march"]).1).unwrap();
    let count = |why: &str| shown["left_out"].as_array().unwrap().iter().filter(|window| window["why"] == why).count();
    assert_eq!(count("excluded"), 4, "{shown}");
    assert!(count("alert") > 0 && shown["windows"].as_u64().unwrap() >= 72, "the planted shift alarms: {shown}");

    for (arguments, words) in [
        (
            &["build", "--name", "x", "--exclude", "2026-03-03..2026-03-02"][..],
            "expected an excluded span to begin before it ends, found 2026-03-03",
        ),
        (&["build", "--name", "x", "--from", "2026-03-05", "--to", "2026-03-02"], "expected the span to begin before it ends"),
        (&["build", "--name", "x", "--from", "2030-03-05"], "found 0 usable windows"),
        (&["build", "--name", "march"], "a reference named \"march\" is in the store with other contents"),
        (&["approve", "march", "--who", "ana", "--why", " "], "an approval needs to say why"),
        (&["approve", "april", "--who", "ana", "--why", "quiet"], "no reference \"april\""),
        (&["compare", "march", "april"], "no reference \"april\""),
    ] {
        let (code, said, errors) = reference(arguments);
        assert!(code == 2 && errors.contains(words), "{arguments:?}: {code} {said} {errors}");
    }
    // A wrong path is said, and no empty store is made there.
    let lost = folder.path().join("lost.db");
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    let output = command.args(["reference", "build", "--name", "x", "-c"]).arg(&config).env("RECSAE__STORE__PATH", &lost).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && errors.contains("no store at") && !lost.exists(), "{errors}");
    let (code, said, errors) = reference(&["approve", "march", "--who", "ana", "--why", "quiet days"]);
    assert!(code == 0 && said.contains("self-check: not run") && said.contains("march approved"), "{code} {said} {errors}");
    let (code, said, _) = reference(&["list"]);
    assert!(code == 0 && said.contains("approved by ana"), "{said}");
    let (code, said, errors) = reference(&["compare", "first-v12", "march"]);
    assert!(code == 2 && errors.contains("belong to different SAEs"), "{code} {said} {errors}");
}
