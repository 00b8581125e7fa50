//! The tables, their version, and the checks before a file is trusted.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::store::error::{StoreError, StoreResult};

/// `application_id` of a store: "RSAE". `file` and SQLite's tools show it.
pub(super) const APPLICATION_ID: i64 = 0x5253_4145;

/// Migrations: entry i leads from schema version i to i + 1. Never edited once released, only added to.
pub(super) const MIGRATIONS: [&str; 9] = [
    include_str!("schema_v1.sql"),
    include_str!("schema_v2.sql"),
    include_str!("schema_v3.sql"),
    include_str!("schema_v4.sql"),
    include_str!("schema_v5.sql"),
    include_str!("schema_v6.sql"),
    include_str!("schema_v7.sql"),
    include_str!("schema_v8.sql"),
    include_str!("schema_v9.sql"),
];

/// Schema version this program writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Prepared statements that the writer keeps: more than a step and a judgement use, so that neither parses SQL again.
const STATEMENTS: usize = 64;

/// Opens or creates the file, checks what it is, and brings it to [`VERSION`].
pub(super) fn open_for_writing(path: &Path) -> StoreResult<Connection> {
    let mut connection = Connection::open(path).map_err(|error| not_a_store(path, error))?;
    let found = check_identity(&connection, path)?;
    check_length(&connection, path, found)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    migrate(&mut connection, found)?;
    Ok(connection)
}

/// Opens an existing store without the right to change it.
pub(super) fn open_for_reading(path: &Path) -> StoreResult<Connection> {
    if !path.exists() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| not_a_store(path, error))?;
    let found = check_identity(&connection, path)?;
    check_length(&connection, path, found)?;
    if found < VERSION {
        return Err(StoreError::Older { path: path.to_owned(), found, supported: VERSION });
    }
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

/// A file that lost the end of its last page is refused. One that lost whole pages SQLite refuses by itself, when it has
/// looked into the log beside it (`-wal`): while a checkpoint is under way, or was killed, the file is rightly shorter
/// than its first page says.
///
/// The file is looked at from outside and never opened but by SQLite: closing any descriptor of it gives up the locks
/// that POSIX holds for the whole process, and another program would then take the log away under a writer.
fn check_length(connection: &Connection, path: &Path, version: i64) -> StoreResult<()> {
    let length_of = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let log = PathBuf::from(format!("{}-wal", path.display()));
    let page_size: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(|error| not_a_store(path, error))?;
    let length = length_of(path);
    if length_of(&log) == 0 && length % page_size.max(1).unsigned_abs() != 0 {
        // SQLite takes a few bytes of anything for a database that is still empty.
        if version == 0 {
            let found = format!("a file of {length} bytes that is no SQLite database");
            return Err(StoreError::NotAStore { path: path.to_owned(), found });
        }
        let found = format!("{length} bytes are no whole number of pages of {page_size}");
        return Err(StoreError::damaged(path.display().to_string(), found));
    }
    Ok(())
}

/// Version of the store; 0 for a new file.
fn check_identity(connection: &Connection, path: &Path) -> StoreResult<i64> {
    let pragma = |name: &str| -> StoreResult<i64> {
        connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|error| not_a_store(path, error))
    };
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(|error| not_a_store(path, error))?;
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    match (application, tables) {
        (0, 0) => Ok(0),
        (APPLICATION_ID, _) if version > VERSION => Err(StoreError::Newer { path: path.to_owned(), found: version, supported: VERSION }),
        (APPLICATION_ID, _) => Ok(version),
        _ => Err(StoreError::NotAStore { path: path.to_owned(), found: "another program's SQLite database".into() }),
    }
}

fn migrate(connection: &mut Connection, found: i64) -> StoreResult<()> {
    for (step, version) in MIGRATIONS.iter().zip(1_i64..).skip_while(|(_, version)| *version <= found) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

fn not_a_store(path: &Path, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => StoreError::NotAStore { path: path.to_owned(), found: "no SQLite database".into() },
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => StoreError::damaged(path.display().to_string(), error),
        Some(rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::PermissionDenied) => {
            StoreError::Io { path: path.to_owned(), source: std::io::Error::other(error) }
        }
        _ => StoreError::Database(error),
    }
}
