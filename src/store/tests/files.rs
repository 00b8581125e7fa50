//! What is no store, or a damaged one, or in other hands: refused by name, never read as something else.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{crossing, judgement, open, partial, step, temp};
use crate::drift::partition::PartitionPosition;
use crate::drift::report::AlertChange;
use crate::store::audit::Verification;
use crate::store::judgement::JudgementOutcome;
use crate::store::references::{Approval, ReferenceEntry};
use crate::store::schema::{APPLICATION_ID, MIGRATIONS, VERSION};
use crate::store::step::StepOutcome;
use crate::store::{Store, StoreReader};

#[test]
fn a_second_writer_is_refused_and_a_reader_is_not() {
    let (_folder, path) = temp();
    let store = open(&path);
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error.kind(), "store_locked");
    assert!(error.to_string().contains("in use by another recsae process"), "{error}");
    assert_eq!(StoreReader::open(&path).unwrap().audit_head().unwrap(), store.read().audit_head().unwrap());
    drop(store);
    assert!(Store::open(&path).is_ok());
}

#[test]
fn files_that_are_no_store_are_refused_and_left_alone() {
    let (folder, path) = temp();
    std::fs::write(&path, "not a database at all, but long enough to have had a header".repeat(4)).unwrap();
    assert_eq!(Store::open(&path).unwrap_err().kind(), "not_a_store");
    std::fs::write(&path, "x").unwrap();
    assert_eq!(Store::open(&path).unwrap_err().kind(), "not_a_store");
    assert_eq!(std::fs::read(&path).unwrap(), b"x");

    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(Store::open(&foreign).unwrap_err().to_string().contains("another program's"));
    assert_eq!(StoreReader::open(&folder.path().join("absent.db")).unwrap_err().kind(), "no_store");
    assert!(!folder.path().join("absent.db").exists());
}

#[test]
fn a_truncated_store_is_refused() {
    let (_folder, path) = temp();
    drop(open(&path));
    let length = std::fs::metadata(&path).unwrap().len();
    for keep in [length - 1, length / 2, 4096, 200, 50] {
        let bytes = std::fs::read(&path).unwrap();
        let cut = path.with_extension("cut");
        std::fs::write(&cut, &bytes[..usize::try_from(keep).unwrap()]).unwrap();
        let kind = Store::open(&cut).unwrap_err().kind();
        assert!(["store_damaged", "not_a_store"].contains(&kind), "{keep} bytes: {kind}");
    }
}

#[test]
fn a_store_whose_checkpoint_was_killed_after_its_first_page_goes_on() {
    let (folder, path) = temp();
    let mut store = open(&path);
    let beside = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    let copy = |name: &str| {
        let to = folder.path().join(name);
        std::fs::copy(&path, &to).unwrap();
        std::fs::copy(beside(&path), beside(&to)).unwrap();
        to
    };
    for i in 0..40 {
        assert_eq!(store.apply_step(&step(0, i, i + 1, vec![partial(0, 1000 * (i + 1))])).unwrap(), StepOutcome::Applied);
    }
    let (whole, cut) = (copy("whole.db"), copy("cut.db"));
    rusqlite::Connection::open(&whole).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let whole = std::fs::read(&whole).unwrap();
    let mut first_page_ahead = std::fs::read(&cut).unwrap();
    assert!(first_page_ahead.len() < whole.len(), "{} of {}", first_page_ahead.len(), whole.len());
    first_page_ahead.resize(first_page_ahead.len().max(4096), 0);
    first_page_ahead[..4096].copy_from_slice(&whole[..4096]);
    std::fs::write(&cut, &first_page_ahead).unwrap();
    assert_eq!(StoreReader::open(&cut).unwrap().positions().unwrap(), store.read().positions().unwrap());
    let opened = Store::open(&cut).unwrap();
    assert!((1..=40).all(|i| opened.read().partials_of(1000 * i).unwrap().len() == 1));
}

#[test]
fn a_newer_store_is_refused_naming_both_versions() {
    let (_folder, path) = temp();
    let store = open(&path);
    store.reader.connection.pragma_update(None, "user_version", VERSION + 1).unwrap();
    drop(store);
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error.kind(), "store_newer");
    let words = format!("schema version {}, this program knows up to {VERSION}", VERSION + 1);
    assert!(error.to_string().contains(&words), "{error}");
    assert_eq!(StoreReader::open(&path).unwrap_err().kind(), "store_newer");
}

#[test]
fn a_flipped_bit_in_counts_is_reported() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    assert_eq!(store.apply_step(&step(0, 0, 41, vec![partial(0, 1000)])).unwrap(), StepOutcome::Applied);
    let connection = &store.reader.connection;
    let blob: Vec<u8> = connection.query_row("SELECT counts FROM partials", [], |row| row.get(0)).unwrap();
    for bit in 0..blob.len() * 8 {
        let mut flipped = blob.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        connection.execute("UPDATE partials SET counts = ?1", [flipped]).unwrap();
        match store.read().partials_of(1000) {
            Ok(found) => assert_eq!(found, vec![partial(0, 1000)], "bit {bit}"),
            Err(error) => assert_eq!(error.kind(), "store_damaged", "bit {bit}"),
        }
    }
}

/// The store of a program that knew the first `version` of the tables: what a newer one holds in them.
fn as_of(version: usize, newer: &Path, older: &Path) {
    let connection = Connection::open(older).unwrap();
    MIGRATIONS[..version].iter().for_each(|migration| connection.execute_batch(migration).unwrap());
    connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    connection.pragma_update(None, "user_version", i64::try_from(version).unwrap()).unwrap();
    connection.execute("ATTACH ?1 AS newer", [newer.to_str().unwrap()]).unwrap();
    let names = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    for table in names("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid") {
        let columns = names(&format!("SELECT name FROM pragma_table_info('{table}', 'main')")).join(", ");
        connection.execute_batch(&format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")).unwrap();
    }
}

#[test]
fn a_store_of_every_older_schema_is_brought_up_with_all_it_holds_and_goes_on() {
    let (folder, path) = temp();
    let mut store = open(&path);
    store.entity_salt().unwrap();
    assert_eq!(store.apply_step(&step(0, 0, 41, vec![partial(0, 1000), partial(0, 9000)])).unwrap(), StepOutcome::Applied);
    assert_eq!(store.commit_judgement(&judgement(1000, 1, vec![])).unwrap(), JudgementOutcome::Stored);
    let (name, fingerprint) = ("spring".to_owned(), "SAE".to_owned());
    let entry = ReferenceEntry { name, fingerprint, created_ms: 5, from_ms: 0, to_ms: 8000, windows: 8, approval: None };
    store.put_reference(&entry, b"rates").unwrap();
    store.approve_reference("spring", &Approval { who: "ana".into(), why: "quiet".into(), at_ms: 6 }).unwrap();
    // But the mark of the log, which older programs did not write.
    let held = |store: &Store| {
        let of = store.read();
        let windows = of.summaries(&crate::store::reader::WindowQuery::default()).unwrap();
        let parts = of.partials_of(9000).unwrap();
        let positions: Vec<_> =
            of.positions().unwrap().into_iter().map(|(at, position)| (at, PartitionPosition { mark: None, ..position })).collect();
        (format!("{windows:?} {:?}", of.references().unwrap()), positions, parts, of.audit_head().unwrap())
    };
    let expected = held(&store);
    drop(store);
    for version in 1..MIGRATIONS.len() {
        let older = folder.path().join(format!("version-{version}.db"));
        as_of(version, &path, &older);
        let before = std::fs::read(&older).unwrap();
        let error = StoreReader::open(&older).unwrap_err();
        assert_eq!(error.kind(), "store_older");
        assert!(error.to_string().contains(&format!("schema version {version}, this program reads {}", MIGRATIONS.len())), "{error}");
        assert_eq!(std::fs::read(&older).unwrap(), before, "who only reads leaves it as it is");

        let mut store = open(&older);
        assert_eq!(held(&store), expected, "version {version}");
        let found: i64 = store.reader.connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(usize::try_from(found).unwrap(), MIGRATIONS.len());
        assert_eq!(store.apply_step(&step(0, 41, 60, vec![partial(0, 2000)])).unwrap(), StepOutcome::Applied);
        let changes = vec![AlertChange::Opened(crossing(1, 2000))];
        assert_eq!(store.commit_judgement(&judgement(2000, 1, changes)).unwrap(), JudgementOutcome::Stored);
        let verified = store.read().verify_audit(|_| {}).unwrap();
        assert!(matches!(verified, Verification::Intact { .. }), "version {version}: {verified:?}");
        drop(store);
        assert_eq!(StoreReader::open(&older).unwrap().alerts(9).unwrap().len(), 1);
    }
}
