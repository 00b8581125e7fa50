//! The one writer: its lock, its lineage, its transactions.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::store::error::{StoreError, StoreResult};
use crate::store::reader::StoreReader;
use crate::store::schema;

/// The writer. There is one at a time; dropping it releases the lock.
#[derive(Debug)]
pub struct Store {
    /// The connection, through which the writer reads too.
    pub(super) reader: StoreReader,
    pub(super) lineage: i64,
    _lock: File,
}

impl Store {
    /// Opens or creates the store at `path` and takes its lock.
    ///
    /// # Errors
    /// Another process has it, it is no store or a damaged one, it was written by a newer program, or
    /// the file system refuses.
    pub fn open(path: &Path) -> StoreResult<Self> {
        let lock = take_lock(path)?;
        let connection = schema::open_for_writing(path)?;
        let lineage = connection.query_row("SELECT coalesce(max(id), 0) FROM lineages", [], |row| row.get(0))?;
        Ok(Self { reader: StoreReader::over(connection), lineage, _lock: lock })
    }

    /// Everything that can be read, as of the last commit.
    #[must_use]
    pub fn read(&self) -> &StoreReader {
        &self.reader
    }

    /// Number of the current lineage; 0 before the first.
    #[must_use]
    pub fn lineage(&self) -> i64 {
        self.lineage
    }
}

/// Path of the file that is locked while a writer has the store.
#[must_use]
pub fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// The lock is on a file of its own: closing any handle of the database itself would drop SQLite's locks.
fn take_lock(path: &Path) -> StoreResult<File> {
    let lock_path = lock_path(path);
    let refused = |source| StoreError::Io { path: lock_path.clone(), source };
    let lock = File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(refused)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(refused(source)),
    }
}
