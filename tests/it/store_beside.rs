//! A store that others look into while it is written: another program of SQLite's, and readers of our own process.

use std::path::PathBuf;
use std::process::Command;

use recsae::drift::window::WindowSpec;
use recsae::store::{Store, StoreReader};

use crate::support;

#[test]
fn a_reader_that_closes_leaves_the_locks_so_that_no_other_program_takes_the_log_away() {
    let Some(python) = support::python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recsae.db");
    let mut store = Store::open(&path).unwrap();
    drop(StoreReader::open(&path).unwrap());
    let look =
        "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nprint(c.execute('SELECT count(*) FROM lineages').fetchone()[0])\nc.close()";
    let output = Command::new(python).args(["-c", look]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(PathBuf::from(format!("{}-wal", path.display())).exists(), "the log is the writer's");

    // What is written now must be there for whoever opens the store next, as after a kill.
    let window = WindowSpec { length_ms: 1000, origin_ms: 0, lateness_ms: 0 };
    store.begin_lineage("counting", "models", &window, 0).unwrap();
    let copy = folder.path().join("copy.db");
    for suffix in ["", "-wal"] {
        std::fs::copy(format!("{}{suffix}", path.display()), format!("{}{suffix}", copy.display())).unwrap();
    }
    assert_eq!(StoreReader::open(&copy).unwrap().audit_head().unwrap(), store.read().audit_head().unwrap());
}
