//! What the record proves and lets go of: cut, rolled back and rewritten stores, deletion that keeps the
//! chain, a copy while writing, and an export that other programs read.

use std::path::{Path, PathBuf};
use std::process::Command;

use recsae::clock::{Clock, SystemClock};
use recsae::store::retention::Actor;
use recsae::store::{Store, StoreReader};
use recsae::workshop::report::{ReportRequest, gather};
use serde_json::Value;

use crate::pictured::explanation;
use crate::recorded::{N_WINDOWS, START_MS, record};
use crate::support;

const HOUR_MS: i64 = 3_600_000;

fn recorded() -> (tempfile::TempDir, PathBuf, Store) {
    let seed = u64::try_from(SystemClock.now_ms()).unwrap() % 1_000_000;
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recsae.db");
    let store = record(&path, seed).store;
    std::fs::write(
        folder.path().join("recsae.toml"),
        format!("[[model]]\nbundle = \"none\"\n[store]\npath = {:?}\n", path.display().to_string()),
    )
    .unwrap();
    (folder, path, store)
}

/// `recsae history ARGUMENTS`: exit code, what it printed as JSON (or null), errors.
fn history(folder: &Path, arguments: &[&str]) -> (i32, Value, String) {
    let config = folder.join("recsae.toml").display().to_string();
    let output =
        Command::new(env!("CARGO_BIN_EXE_recsae")).arg("history").args(arguments).args(["-c", &config, "--json"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), errors)
}

fn actor() -> Actor {
    Actor { who: "cleo".into(), why: "data protection, ticket 41".into(), at_ms: START_MS + 900 * HOUR_MS }
}

fn change(path: &Path, sql: &str) {
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.commit()";
    let done = Command::new(support::python().unwrap()).args(["-c", script]).arg(path).arg(sql).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_head_that_was_written_down_finds_a_store_that_was_cut_rolled_back_or_rewritten() {
    if support::python().is_none() {
        return;
    }
    let (folder, path, mut store) = recorded();
    let copy = folder.path().join("older.db");
    store.read().backup(&copy).unwrap();
    store.record_test_alert("ana", "monthly", START_MS, START_MS + 901 * HOUR_MS).unwrap();
    let head = store.read().audit_head().unwrap();
    drop(store);
    let (code, said, _) = history(folder.path(), &["verify", "--head", &head]);
    assert_eq!((code, &said["intact"]), (0, &Value::Bool(true)));
    let whole = std::fs::read(&path).unwrap();
    let refused = |what: &str| {
        let (code, said, _) = history(folder.path(), &["verify", "--head", &head]);
        assert_eq!((code, &said["intact"]), (1, &Value::Bool(false)), "{what}: {said}");
        let (code, said, _) = history(folder.path(), &["verify"]);
        assert_eq!((code, &said["intact"]), (0, &Value::Bool(true)), "{what}: without the head it looks intact");
    };
    // Truncation: the last entries are gone, what is left is a proper chain.
    change(&path, "DELETE FROM audit WHERE id = (SELECT max(id) FROM audit)");
    refused("truncated");
    // Rollback: an older copy in its place.
    std::fs::copy(&copy, &path).unwrap();
    refused("rolled back");
    // Rewritten: an entry is changed and every hash after it computed anew, as somebody with the file can.
    std::fs::write(&path, &whole).unwrap();
    let rewrite = "import sqlite3, sys, hashlib, struct
c = sqlite3.connect(sys.argv[1])
c.execute(\"UPDATE audit SET body = replace(body, 'monthly', 'weekly')\")
previous = bytes(32)
for id, at, kind, body in c.execute('SELECT id, at_ms, kind, body FROM audit ORDER BY id').fetchall():
    previous = hashlib.sha256(previous + struct.pack('<qqQ', id, at, len(kind.encode())) + kind.encode() + body.encode()).digest()
    c.execute('UPDATE audit SET hash = ? WHERE id = ?', (previous, id))
c.commit()";
    assert!(Command::new(support::python().unwrap()).args(["-c", rewrite]).arg(&path).status().unwrap().success());
    refused("rewritten");
    // Changed without that: the entry is named.
    std::fs::write(&path, &whole).unwrap();
    change(&path, "UPDATE audit SET body = replace(body, 'ana', 'eve') WHERE kind = 'reference_approved'");
    let (code, said, _) = history(folder.path(), &["verify"]);
    assert_eq!((code, said["broken_entry"].as_i64()), (1, Some(75)), "{said}");
    for (what, sql) in [
        ("an action", "UPDATE actions SET who = 'eve' WHERE id = 1"),
        ("an alert", "UPDATE crossings SET ratio = ratio * 1.01"),
        ("counts", "UPDATE judged_models SET counts = (SELECT counts FROM judged_models ORDER BY window_start LIMIT 1)"),
        (
            "a window",
            "DELETE FROM judged_segments; DELETE FROM judged_models WHERE window_start = (SELECT max(window_start) FROM judged_models)",
        ),
    ] {
        std::fs::write(&path, &whole).unwrap();
        change(&path, sql);
        let (code, said, _) = history(folder.path(), &["verify", "--head", &head]);
        assert!(code == 1 && said["broken_entry"].is_i64(), "{what} that was changed is found: {said}");
    }
}

#[test]
fn what_was_pruned_is_told_from_what_is_missing_and_the_chain_holds() {
    let (folder, path, mut store) = recorded();
    let head = store.read().audit_head().unwrap();
    assert_eq!(store.prune(START_MS, &actor()).unwrap(), 0);
    for head in ["", "17c1", &head[..63], &format!("{head}x")] {
        let (code, _, errors) = history(folder.path(), &["verify", "--head", head]);
        assert!(code == 2 && errors.contains("the 64 hexadecimal digits"), "{head:?}: {errors}");
    }
    assert_eq!(history(folder.path(), &["verify", "--head", &head.to_uppercase()]).0, 0);
    assert_eq!(store.read().audit_head().unwrap(), head, "nothing to delete, nothing to tell");
    let before = START_MS + 60 * HOUR_MS;
    assert_eq!(store.prune(before, &actor()).unwrap(), 60);
    let n_alerts = store.read().alerts(usize::MAX).unwrap().len();
    drop(store);
    assert!(n_alerts > 0, "alerts stay");
    let (code, said, _) = history(folder.path(), &["verify", "--head", &head]);
    assert_eq!((code, &said["intact"]), (0, &Value::Bool(true)), "{said}");
    for (arguments, words) in [
        (["prune", "--before", "2026-03-05T00:00:00Z", "--who", " ", "--why", "again"], "needs to say who"),
        (["prune", "--before", "2026-03-05T00:00:00Z", "--who", "cleo", "--why", " "], "needs to say why"),
        (["prune", "--before", "9999-03-05T00:00:00Z", "--who", "cleo", "--why", "again"], "expected --before in the past"),
    ] {
        let (code, _, errors) = history(folder.path(), &arguments);
        assert!(code == 2 && errors.contains(words), "{arguments:?}: {errors}");
    }
    let (code, said, errors) = history(folder.path(), &["prune", "--before", "2026-03-05T00:00:00Z", "--who", "cleo", "--why", "again"]);
    assert_eq!((code, said["windows"].as_i64()), (0, Some(12)), "{errors}");
    let reader = StoreReader::open(&path).unwrap();
    let left = reader.summaries(&Default::default()).unwrap();
    let request = ReportRequest { from_ms: START_MS, to_ms: START_MS + 72 * HOUR_MS, ..ReportRequest::default() };
    let told = gather(&reader, &request).unwrap().not_watched;
    let told: Vec<_> = told.iter().map(|gap| (gap.verdict.as_str(), gap.to - gap.from, gap.windows)).collect();
    assert_eq!(told, [("deleted", 72 * HOUR_MS, 72)], "not a time in which nothing was there");
    assert!(left.iter().all(|summary| summary.window_end > START_MS + 72 * HOUR_MS) && !left.is_empty());
    // A window that vanished without an entry is a fault still.
    let mut told = Vec::new();
    reader.verify_audit(|entry| told.push(entry.clone())).unwrap();
    let entry = told.iter().find(|entry| entry.kind == "pruned").unwrap();
    assert!(entry.body.contains("cleo") && entry.body.contains("ticket 41") && entry.body.contains("\"windows\":60"), "{}", entry.body);
    drop(reader);
    if support::python().is_some() {
        change(
            &path,
            "DELETE FROM judged_segments WHERE window_start > 0; DELETE FROM judged_models WHERE window_start = (SELECT max(window_start) FROM judged_models)",
        );
        let (code, said, _) = history(folder.path(), &["verify"]);
        assert!(code == 1 && said["message"].as_str().unwrap().contains("is missing"), "{said}");
    }
}

#[test]
fn an_explanation_is_proved_by_the_chain_and_goes_with_its_windows() {
    let (folder, path, mut store) = recorded();
    let alerts = store.read().alerts(usize::MAX).unwrap();
    let (id, opened) = (alerts[0].id, alerts[0].opened.clone());
    assert!(store.read().unexplained().unwrap().contains(&id));
    let first = explanation(opened.began_ms);
    store.put_explanation(id, &first, START_MS).unwrap();
    let head = store.read().audit_head().unwrap();
    store.put_explanation(id, &explanation(opened.began_ms + HOUR_MS), START_MS).unwrap();
    assert_eq!(store.read().explanation(id).unwrap(), Some(first), "the first one is kept");
    assert_eq!((store.read().audit_head().unwrap(), store.read().unexplained().unwrap().contains(&id)), (head, false));
    assert_eq!(store.put_explanation(9_999, &explanation(0), START_MS).unwrap_err().kind(), "not_found");
    let whole = {
        drop(store);
        std::fs::read(&path).unwrap()
    };
    if support::python().is_some() {
        for sql in ["DELETE FROM explanations", "UPDATE explanations SET body = NULL", "UPDATE explanations SET body = x'00'"] {
            std::fs::write(&path, &whole).unwrap();
            change(&path, sql);
            let (code, said, _) = history(folder.path(), &["verify"]);
            assert!(code == 1 && said["message"].as_str().unwrap().contains(&format!("explanation of alert {id}")), "{sql}: {said}");
        }
    }
    std::fs::write(&path, &whole).unwrap();
    let mut store = Store::open(&path).unwrap();
    store.prune(opened.window_end_ms - 1, &actor()).unwrap();
    assert!(store.read().explanation(id).unwrap().is_some(), "its window is kept still");
    assert_eq!(store.prune(opened.window_end_ms, &actor()).unwrap(), 1);
    assert_eq!(store.read().explanation(id).unwrap(), None);
    assert!(!store.read().unexplained().unwrap().contains(&id), "it is not asked for again");
    drop(store);
    let (code, said, _) = history(folder.path(), &["verify"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_forgotten_salt_is_in_no_byte_of_the_file_and_the_chain_holds() {
    let (folder, path, mut store) = recorded();
    let salt = store.entity_salt().unwrap();
    let head = store.read().audit_head().unwrap();
    let holds = |bytes: &[u8]| bytes.windows(16).any(|window| window == salt);
    // A running instance is asked to stop first.
    let (code, _, errors) = history(folder.path(), &["forget-salt", "--who", "cleo", "--why", "ticket 41"]);
    assert!(code == 2 && errors.contains("stop the monitor first"), "{code} {errors}");
    drop(store);
    assert!(holds(&std::fs::read(&path).unwrap()));
    let (code, said, errors) = history(folder.path(), &["forget-salt", "--who", "cleo", "--why", "ticket 41"]);
    assert_eq!((code, said["salts"].as_i64()), (0, Some(1)), "{errors}");
    for file in std::fs::read_dir(folder.path()).unwrap().flatten().filter(|file| file.file_name().to_string_lossy().contains(".db")) {
        assert!(!holds(&std::fs::read(file.path()).unwrap()), "{:?} still holds the salt", file.path());
    }
    assert_eq!(history(folder.path(), &["verify", "--head", &head]).0, 0);
    assert_eq!(history(folder.path(), &["forget-salt", "--who", "cleo", "--why", "again"]).1["salts"].as_i64(), Some(0));
    let mut store = Store::open(&path).unwrap();
    assert_ne!(store.entity_salt().unwrap(), salt, "the next run draws a new one");
}

#[test]
fn a_backup_is_taken_while_the_writer_goes_on_and_never_over_a_file() {
    let (folder, _path, mut store) = recorded();
    let out = folder.path().join("backup.db").display().to_string();
    let head = store.read().audit_head().unwrap();
    let (code, said, errors) = history(folder.path(), &["backup", "--out", &out]);
    assert_eq!((code, said["head"].as_str()), (0, Some(head.as_str())), "{errors}");
    // The writer was never held up, and goes on.
    store.record_test_alert("ana", "after the backup", START_MS, START_MS + 902 * HOUR_MS).unwrap();
    let (code, _, errors) = history(folder.path(), &["backup", "--out", &out]);
    assert!(code == 2 && errors.contains("never writes over a file"), "{errors}");
    let copy = Store::open(Path::new(&out)).unwrap();
    assert_eq!(copy.read().audit_head().unwrap(), head);
    assert_eq!(copy.read().summaries(&Default::default()).unwrap(), store.read().summaries(&Default::default()).unwrap());
}

#[test]
fn an_export_is_read_by_duckdb_and_pandas() {
    let Some(python) = support::python() else { return };
    let (folder, _path, store) = recorded();
    let out = folder.path().join("windows.parquet").display().to_string();
    let (code, said, errors) = history(folder.path(), &["export", "--out", &out]);
    assert_eq!((code, said["windows"].as_u64()), (0, Some(N_WINDOWS - 4)), "{errors}");
    let script = "import duckdb, json, pandas, sys
rows = duckdb.sql(f\"SELECT segment, sum(value) FROM '{sys.argv[1]}' WHERE stream = 'records' GROUP BY segment ORDER BY segment\").fetchall()
frame = pandas.read_parquet(sys.argv[1])
records = frame[frame.stream == 'records'].groupby('segment').value.sum()
assert str(frame.window_start.dtype.tz) == 'UTC', frame.dtypes
print(json.dumps({'duckdb': dict(rows), 'pandas': records.to_dict(), 'windows': int(frame.window_start.nunique())}))";
    let output = Command::new(python).args(["-c", script, &out]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut expected = std::collections::BTreeMap::<String, f64>::new();
    for summary in store.read().summaries(&Default::default()).unwrap() {
        *expected.entry(summary.segment).or_default() += summary.records as f64;
    }
    for (segment, records) in expected {
        assert_eq!((read["duckdb"][&segment].as_f64(), read["pandas"][&segment].as_f64()), (Some(records), Some(records)), "{segment}");
    }
    assert_eq!(read["windows"].as_u64(), Some(N_WINDOWS - 4));
}
