//! The check of the record against every row: whatever is changed, taken away or put in by hand is found.

use rand::{Rng, SeedableRng};
use rusqlite::Connection;
use rusqlite::types::Value as Cell;

use super::{WINDOW, crossing, judgement, open, partial, step, temp};
use crate::drift::alert::{ActionKind, AlertAction, AlertConcept};
use crate::drift::explanation::{Described, Explanation};
use crate::drift::report::AlertChange;
use crate::drift::stream::StreamId;
use crate::record::TopicPartition;
use crate::sae::latent::LatentId;
use crate::store::audit::Verification;
use crate::store::error::StoreResult;
use crate::store::judgement::{Judgement, JudgementOutcome};
use crate::store::reader::{StoreReader, WindowQuery};
use crate::store::references::{Approval, ReferenceEntry};
use crate::store::retention::Actor;
use crate::store::step::StepOutcome;
use crate::store::{Store, audit};

/// What the monitor works with and nobody is shown as a record, or what shows nothing; and why each may be otherwise.
const NOT_RECORDS: [(&str, &str); 7] = [
    ("positions", "*"),
    ("topics", "*"),
    ("partials", "*"),
    ("salts", "*"),
    ("followed", "*"),
    ("cluster", "*"),
    // Only the order of actions is read.
    ("actions", "id"),
];

/// A store with a row in every table.
fn full(path: &std::path::Path) -> Store {
    let mut store = open(path);
    store.entity_salt().unwrap();
    store.bind("founded").unwrap();
    assert_eq!(store.know_topics(&[("t".to_owned(), "an id".to_owned())].into()).unwrap(), None);
    store.put_applied(&TopicPartition { topic: "judge".into(), partition: 0 }, 7, 1, "pod").unwrap();
    assert_eq!(store.apply_step(&step(0, 0, 41, vec![partial(0, 1000), partial(0, 9000)])).unwrap(), StepOutcome::Applied);
    let commit = |store: &mut Store, start, n_partials, changes| {
        let mut judged: Judgement = judgement(start, n_partials, changes);
        let concept = AlertConcept { fingerprint: Some("SAE".into()), name: Some(("westerns".into(), "accepted".into())) };
        judged.models[0].concepts.insert(StreamId::Latent(LatentId(1)), concept);
        assert_eq!(store.commit_judgement(&judged).unwrap(), JudgementOutcome::Stored);
    };
    let recovered = AlertChange::Recovered { segment: "_all".into(), stream: StreamId::Latent(LatentId(2)), window_end_ms: 4000 };
    commit(&mut store, 1000, 1, vec![AlertChange::Opened(crossing(1, 1000)), AlertChange::Opened(crossing(2, 1000))]);
    commit(&mut store, 2000, 0, vec![AlertChange::CrossedAgain(crossing(1, 2000)), AlertChange::CrossedAgain(crossing(2, 2000))]);
    commit(&mut store, 3000, 0, vec![recovered]);
    commit(&mut store, 4000, 0, vec![AlertChange::Relapsing(crossing(2, 4000))]);
    store.put_judge_state("", 4000, b"renewed", 4600).unwrap();
    for until_ms in [None, Some(9_500)] {
        let action = if until_ms.is_some() { ActionKind::Mute } else { ActionKind::Acknowledge };
        store.act(1, &AlertAction { action, who: "ana".into(), why: "known".into(), at_ms: 9000, until_ms }).unwrap();
    }
    let explanation = Explanation { reference: None, described: Described::default(), records: None, unread: Some("no broker".into()) };
    store.put_explanation(1, &explanation, 9100).unwrap();
    for name in ["spring", "autumn"] {
        let entry = ReferenceEntry {
            name: name.into(),
            fingerprint: "SAE".into(),
            created_ms: 5,
            from_ms: 0,
            to_ms: 8000,
            windows: 8,
            approval: None,
        };
        store.put_reference(&entry, b"rates").unwrap();
    }
    store.approve_reference("spring", &Approval { who: "ana".into(), why: "quiet".into(), at_ms: 6 }).unwrap();
    store
}

fn intact(store: &Store) -> bool {
    matches!(store.read().verify_audit(|_| {}).unwrap(), Verification::Intact { .. })
}

fn all<T: rusqlite::types::FromSql>(connection: &Connection, sql: &str, column: usize) -> Vec<T> {
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(column)).unwrap().map(Result::unwrap).collect()
}

/// Rows of a table, as values.
fn rows(connection: &Connection, table: &str, n_columns: usize) -> Vec<Vec<Cell>> {
    let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
    statement.query_map([], |row| (0..n_columns).map(|idx| row.get(idx)).collect()).unwrap().map(Result::unwrap).collect()
}

/// Another value of the same type, as a hand would write it.
fn other(cell: &Cell, declared: &str) -> Cell {
    match (cell, declared) {
        (Cell::Integer(n), _) => Cell::Integer(n + 1),
        (Cell::Real(x), _) => Cell::Real(if x.is_finite() { x + 0.001 } else { 2.0 }),
        (Cell::Text(text), _) => Cell::Text(format!("{text}x")),
        (Cell::Blob(bytes), _) => Cell::Blob(bytes.iter().map(|byte| byte ^ 1).collect()),
        (Cell::Null, "INTEGER") => Cell::Integer(7),
        (Cell::Null, "REAL") => Cell::Real(0.5),
        (Cell::Null, "BLOB") => Cell::Blob(vec![1]),
        (Cell::Null, _) => Cell::Text("x".into()),
    }
}

#[test]
fn whatever_is_changed_taken_away_or_put_in_by_hand_is_found() {
    let (_folder, path) = temp();
    let store = full(&path);
    let connection = &store.reader.connection;
    connection.execute_batch("PRAGMA foreign_keys = false").unwrap();
    assert!(intact(&store), "{:?}", store.read().verify_audit(|_| {}));
    let tables: Vec<String> = all(connection, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'", 0);
    let (mut missed, mut tried) = (Vec::new(), 0);
    for table in &tables {
        let info = format!("PRAGMA table_info({table})");
        let (names, types): (Vec<String>, Vec<String>) = (all(connection, &info, 1), all(connection, &info, 2));
        let keys: Vec<i64> = all(connection, &info, 5);
        let stored = rows(connection, table, names.len());
        assert!(!stored.is_empty(), "{table} holds no row to change");
        let is_record = |column: &str| !NOT_RECORDS.iter().any(|(of, which)| of == table && ["*", column].contains(which));
        let mut attempt = |what: String, sql: &str, values: &[&Cell]| {
            connection.execute_batch("SAVEPOINT changed").unwrap();
            let done = connection.execute(sql, rusqlite::params_from_iter(values.iter()));
            if done.is_ok_and(|n| n == 1) {
                tried += 1;
                if intact(&store) {
                    missed.push(what);
                }
            }
            connection.execute_batch("ROLLBACK TO changed; RELEASE changed").unwrap();
        };
        for row in &stored {
            let by_key = (0..names.len()).filter(|idx| keys[*idx] > 0).collect::<Vec<_>>();
            let place =
                by_key.iter().enumerate().map(|(i, idx)| format!("{} IS ?{}", names[*idx], i + 2)).collect::<Vec<_>>().join(" AND ");
            for (idx, column) in names.iter().enumerate().filter(|(_, column)| is_record(column)) {
                let changed = other(&row[idx], &types[idx]);
                let values: Vec<&Cell> = std::iter::once(&changed).chain(by_key.iter().map(|idx| &row[*idx])).collect();
                attempt(
                    format!("{table}.{column} of {:?}", &row[..by_key.len()]),
                    &format!("UPDATE {table} SET {column} = ?1 WHERE {place}"),
                    &values,
                );
            }
            // The last entry that is cut off leaves a proper chain: `--head` finds it.
            if is_record("") && table != "audit" {
                let values: Vec<&Cell> = std::iter::once(&row[0]).chain(by_key.iter().map(|idx| &row[*idx])).collect();
                attempt(format!("a row of {table} taken away"), &format!("DELETE FROM {table} WHERE {place} AND ?1 IS ?1"), &values);
                // The same row again under another key: put in by hand.
                let mut another = row.clone();
                for idx in &by_key {
                    another[*idx] = other(&another[*idx], &types[*idx]);
                }
                let marks = (1..=names.len()).map(|i| format!("?{i}")).collect::<Vec<_>>().join(", ");
                attempt(
                    format!("a row of {table} put in"),
                    &format!("INSERT INTO {table} VALUES ({marks})"),
                    &another.iter().collect::<Vec<_>>(),
                );
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    assert!(tried > 300, "{tried} changes were tried");
    assert!(intact(&store));
}

/// Everything a reader is shown of a store.
fn shown(path: &std::path::Path) -> StoreResult<String> {
    use std::fmt::Write;
    let reader = StoreReader::open(path)?;
    let every = WindowQuery { all_lineages: true, ..WindowQuery::default() };
    let alerts = format!("{:?}", reader.alerts(usize::MAX)?);
    // What is no number is printed as none, whichever it is.
    let mut all = alerts.replace("-inf", "NaN").replace("inf", "NaN");
    write!(all, "{:?} {:?}", reader.summaries(&every)?, reader.references()?).unwrap();
    write!(all, "{:?} {:?}", reader.explanation(1)?, reader.audit_head()?).unwrap();
    let mut note = |what: String| -> StoreResult<()> {
        all += &what;
        Ok(())
    };
    reader.for_each_window(&every, |window| note(format!("{window:?}")))?;
    reader.for_each_report(&every, |report| note(format!("{report:?}")))?;
    Ok(all)
}

#[test]
fn no_flipped_bit_of_the_file_changes_what_is_shown_and_is_not_found() {
    let (folder, path) = temp();
    drop(full(&path));
    let bytes = std::fs::read(&path).unwrap();
    let whole = shown(&path).unwrap();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let copy = folder.path().join("flipped.db");
    let (mut refused, mut named, mut same) = (0, 0, 0);
    for _ in 0..1_500 {
        let mut flipped = bytes.clone();
        let at = rng.random_range(0..flipped.len());
        flipped[at] ^= 1 << rng.random_range(0..8);
        std::fs::write(&copy, &flipped).unwrap();
        for beside in ["flipped.db-wal", "flipped.db-shm"] {
            drop(std::fs::remove_file(folder.path().join(beside)));
        }
        match shown(&copy) {
            Err(_) => refused += 1,
            Ok(found) if found == whole => same += 1,
            Ok(found) => {
                let differs = whole.bytes().zip(found.bytes()).position(|(a, b)| a != b).unwrap_or(0);
                let part = |text: &str| text.get(differs.saturating_sub(60)..differs + 40).unwrap_or_default().to_owned();
                let verified = StoreReader::open(&copy).unwrap().verify_audit(|_| {});
                let (before, after) = (part(&whole), part(&found));
                assert!(!matches!(verified, Ok(Verification::Intact { .. })), "byte {at}: {before} became {after}, and nothing says so");
                named += 1;
            }
        }
    }
    println!("{} bytes: {refused} refused, {named} found by the check alone, {same} show the same", bytes.len());
    assert!(named > 0 && same > 0, "{refused} refused, {named} named, {same} the same");
}

/// The log beside a store is cut by SQLite at the first frame that is damaged: what is shown then is the store as it was at
/// an earlier commit, whole. The head of the chain tells that it is not the newest, and so do the group's commits.
#[test]
fn a_flipped_bit_of_the_log_beside_it_shows_what_was_stored_earlier_as_a_whole_or_nothing() {
    let (folder, path) = temp();
    let mut store = Store::open(&path).unwrap();
    let mut states = vec![shown(&path).unwrap()];
    store.begin_lineage("hash", "presence, 1 h", &WINDOW, 1).unwrap();
    states.push(shown(&path).unwrap());
    for i in 1..=12 {
        let start_ms = 1000 * i;
        assert_eq!(store.apply_step(&step(0, i, i + 1, vec![partial(0, start_ms)])).unwrap(), StepOutcome::Applied);
        states.push(shown(&path).unwrap());
        let changes = if i == 4 { vec![AlertChange::Opened(crossing(1, start_ms))] } else { vec![] };
        assert_eq!(store.commit_judgement(&judgement(start_ms, 1, changes)).unwrap(), JudgementOutcome::Stored);
        states.push(shown(&path).unwrap());
    }
    let (newest, seed): (&String, u64) = (states.last().unwrap(), rand::random());
    println!("seed {seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let beside = |path: &std::path::Path| std::path::PathBuf::from(format!("{}-wal", path.display()));
    let (bytes, log) = (std::fs::read(&path).unwrap(), std::fs::read(beside(&path)).unwrap());
    let copy = folder.path().join("flipped.db");
    let (mut refused, mut earlier, mut same) = (0, 0, 0);
    for _ in 0..500 {
        let mut flipped = log.clone();
        let at = rng.random_range(0..flipped.len());
        flipped[at] ^= 1 << rng.random_range(0..8);
        drop(std::fs::remove_file(folder.path().join("flipped.db-shm")));
        std::fs::write(&copy, &bytes).unwrap();
        std::fs::write(beside(&copy), &flipped).unwrap();
        match shown(&copy) {
            Err(_) => refused += 1,
            Ok(found) if found == *newest => same += 1,
            Ok(found) => {
                assert!(states.contains(&found), "byte {at} of {} of the log: shown is what never was stored: {found}", log.len());
                earlier += 1;
            }
        }
    }
    println!("a log of {} bytes: {refused} refused, {earlier} show an earlier state, {same} show the same", log.len());
    assert!(earlier > 0, "{refused} refused, {earlier} earlier, {same} the same");
}

#[test]
fn what_retention_takes_is_told_from_what_a_hand_takes() {
    let (_folder, path) = temp();
    let mut store = full(&path);
    assert_eq!(store.prune(3000, &Actor { who: String::new(), why: "retention".into(), at_ms: 10_000 }).unwrap(), 2);
    assert!(intact(&store));
    let connection = &store.reader.connection;
    // The report that held it is gone; its entry tells of it.
    for sql in ["UPDATE crossings SET ratio = 9 WHERE window_start = 2000", "DELETE FROM crossings WHERE window_start = 2000"] {
        connection.execute_batch(&format!("SAVEPOINT changed; {sql}")).unwrap();
        assert!(!intact(&store), "{sql}");
        connection.execute_batch("ROLLBACK TO changed; RELEASE changed").unwrap();
    }
}

#[test]
fn a_store_of_an_older_program_which_tells_less_verifies() {
    let (_folder, path) = temp();
    let mut store = full(&path);
    let mut entries = Vec::new();
    store.read().verify_audit(|entry| entries.push(entry.clone())).unwrap();
    store.reader.connection.execute_batch("DELETE FROM audit").unwrap();
    for entry in entries.iter().filter(|entry| !["alert_crossed", "detectors"].contains(&entry.kind.as_str())) {
        let mut body: serde_json::Value = serde_json::from_str(&entry.body).unwrap();
        if let Some(models) = body["models"].as_array_mut() {
            models.iter_mut().for_each(|model| drop(model.as_object_mut().unwrap().remove("state")));
        }
        if entry.kind == "reference" {
            ["from_ms", "to_ms"].iter().for_each(|key| drop(body.as_object_mut().unwrap().remove(*key)));
        }
        audit::append(&store.reader.connection, entry.at_ms, &entry.kind, &body).unwrap();
    }
    assert!(intact(&store), "{:?}", store.read().verify_audit(|_| {}));
    // What this program adds is told in full.
    let changes = vec![AlertChange::CrossedAgain(crossing(1, 5000))];
    assert_eq!(store.commit_judgement(&judgement(5000, 0, changes)).unwrap(), JudgementOutcome::Stored);
    assert!(intact(&store));
    store.reader.connection.execute_batch("UPDATE crossings SET ratio = 9 WHERE window_start = 5000").unwrap();
    assert!(!intact(&store));
}
