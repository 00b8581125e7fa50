//! `recsae backtest` over an exported history: the same judge as live, and what its settings change.

use std::path::{Path, PathBuf};
use std::process::Command;

use recsae::clock::{Clock, SystemClock};
use recsae::drift::alert::utc_text;
use recsae::drift::report::AlertChange;
use recsae::store::reader::WindowQuery;
use recsae::store::{Store, StoreError};
use serde_json::Value;

use crate::recorded::{BUDGET, START_MS, record};

const HOUR_MS: i64 = 3_600_000;
/// From here on the history holds windows that live judging left out for their input contract, which a windows file
/// does not carry.
const SAME_UNTIL_MS: i64 = START_MS + 126 * HOUR_MS;

/// A budget under which something crosses.
const LOUD: [&str; 2] = ["--budget", "1 per 2 windows"];

fn recsae(arguments: &[&str]) -> (i32, String, String) {
    // The history was judged with one daily harmonic.
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    let output = command.env("RECSAE__DRIFT__HARMONICS", "1").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A recorded history and its export.
fn exported(folder: &Path) -> (Store, PathBuf) {
    let seed = u64::try_from(SystemClock.now_ms()).unwrap() % 1_000_000;
    println!("seed {seed}");
    let path = folder.join("recsae.db");
    let store = record(&path, seed).store;
    let (config, file) = (folder.join("recsae.toml"), folder.join("windows.parquet"));
    std::fs::write(&config, format!("[[model]]\nbundle = \"none\"\n[store]\npath = {:?}\n", path.display().to_string())).unwrap();
    let (code, _, errors) = recsae(&["history", "export", "--out", file.to_str().unwrap(), "-c", config.to_str().unwrap()]);
    assert_eq!(code, 0, "{errors}");
    (store, file)
}

fn backtest(file: &Path, more: &[&str]) -> Value {
    let common = ["backtest", "--windows", file.to_str().unwrap(), "--reference", "72", "--json"];
    let (code, out, errors) = recsae(&[&common[..], more].concat());
    assert!(code == 0 || code == 1, "{more:?}: {code} {errors}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn an_exported_history_is_judged_as_it_was_live() {
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = exported(folder.path());
    let mut live = Vec::new();
    let note = |report: recsae::drift::report::DriftReport| -> Result<(), StoreError> {
        for change in report.changes {
            if let AlertChange::Opened(c) | AlertChange::CrossedAgain(c) | AlertChange::Relapsing(c) = change {
                live.push((utc_text(c.window_start_ms), c.segment, c.stream.to_string(), c.direction.kind().to_owned(), c.evidence_log));
            }
        }
        Ok(())
    };
    store.read().for_each_report(&WindowQuery { to_ms: Some(SAME_UNTIL_MS), ..WindowQuery::default() }, note).unwrap();
    assert!(!live.is_empty(), "the planted shift lies before");
    let found = backtest(&file, &["--budget", &format!("1 per {BUDGET} windows")]);
    let text = |crossing: &Value, name: &str| crossing[name].as_str().unwrap().to_owned();
    let again: Vec<_> = found["crossings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            (text(c, "window_start"), text(c, "segment"), text(c, "stream"), text(c, "direction"), c["evidence_log"].as_f64().unwrap())
        })
        .filter(|crossing| crossing.0 < utc_text(SAME_UNTIL_MS))
        .collect();
    let places = |crossings: &[(String, String, String, String, f64)]| {
        let mut places: Vec<_> = crossings.iter().map(|(a, b, c, d, _)| (a.clone(), b.clone(), c.clone(), d.clone())).collect();
        places.sort();
        places
    };
    assert_eq!(places(&again), places(&live));
    for (start, segment, stream, _, evidence) in &again {
        let same = live.iter().find(|c| (&c.0, &c.1, &c.2) == (start, segment, stream)).unwrap();
        assert!((evidence - same.4).abs() < 1e-9, "{start} {segment} {stream}: {evidence} and {} live", same.4);
    }
}

#[test]
fn settings_are_tried_side_by_side_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, file) = exported(folder.path());
    let tried = backtest(
        &file,
        &["--budget", "1 per 100 windows", "--budget", "1 per 100000 windows", "--min-effect", "0.01", "--min-effect", "0.9"],
    );
    let rows = tried["settings"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "each budget with each effect: {tried}");
    let alarms = |budget: &str, effect: f64| {
        let row = rows.iter().find(|row| row["budget"] == budget && row["min_effect"] == effect);
        let row = row.unwrap_or_else(|| &rows[0]);
        assert_eq!((row["budget"].as_str(), row["min_effect"].as_f64()), (Some(budget), Some(effect)), "{tried}");
        row["crossings"].as_u64().unwrap()
    };
    assert!(alarms("1 per 100 windows", 0.01) >= alarms("1 per 100000 windows", 0.01), "a dearer alarm is rarer");
    assert!(alarms("1 per 100 windows", 0.01) >= alarms("1 per 100 windows", 0.9), "shifts that do not matter are not told");
    let plot = folder.path().join("evidence.svg");
    let found = backtest(&file, &["--mode", "rolling", "--plot", plot.to_str().unwrap()]);
    assert!(found["alerts"].is_array() && std::fs::read_to_string(&plot).unwrap().contains("<svg"));
    let families = folder.path().join("families.json");
    std::fs::write(&families, r#"{"family:0": {"name": "the first ten", "latents": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}}"#).unwrap();
    let threshold =
        |found: &Value| found["crossings"].as_array().unwrap().iter().find(|c| c["segment"] == "_all").unwrap()["threshold_log"].as_f64();
    let (without, with) = (backtest(&file, &LOUD), backtest(&file, &[&LOUD[..], &["--families", families.to_str().unwrap()]].concat()));
    assert!(threshold(&with) > threshold(&without), "one more stream shares the budget");
    for (more, words) in [
        (&["--budget", "often"][..], "budget"),
        (&["--families", "nowhere.json"][..], "nowhere.json"),
        (&["--reference", "3"][..], "reference"),
    ] {
        let (code, _, errors) = recsae(&[&["backtest", "--windows", file.to_str().unwrap()][..], more].concat());
        assert!(code == 2 && errors.to_lowercase().contains(words), "{more:?}: {code} {errors}");
    }
}
