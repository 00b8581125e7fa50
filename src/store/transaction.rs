//! A transaction of the writer that may stand inside a larger one.
//!
//! Alone it is a transaction that takes the write lock at once, so that it cannot fail half-way for being late. Inside
//! [`Store::begin_whole`] it is a savepoint: what belongs to one order of a cluster's judge (a judgement, the reference that
//! it completed, how far the log is applied) is then on the disk as a whole or not at all.

use std::ops::Deref;

use rusqlite::Connection;

use crate::store::error::{StoreError, StoreResult};
use crate::store::writer::Store;

/// What is written through it is kept by [`StoreTransaction::commit`], and undone when it is dropped without.
pub(super) struct StoreTransaction<'a> {
    connection: &'a Connection,
    is_inner: bool,
    is_open: bool,
}

impl<'a> StoreTransaction<'a> {
    pub(super) fn begin(connection: &'a Connection) -> StoreResult<Self> {
        let is_inner = !connection.is_autocommit();
        connection.execute_batch(if is_inner { "SAVEPOINT part" } else { "BEGIN IMMEDIATE" })?;
        Ok(Self { connection, is_inner, is_open: true })
    }

    pub(super) fn commit(mut self) -> StoreResult<()> {
        self.connection.execute_batch(if self.is_inner { "RELEASE part" } else { "COMMIT" })?;
        self.is_open = false;
        Ok(())
    }
}

impl Deref for StoreTransaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Drop for StoreTransaction<'_> {
    fn drop(&mut self) {
        // SQLite takes a transaction back by itself when the disk is full: then there is none any more.
        if self.is_open && !self.connection.is_autocommit() {
            let undo = if self.is_inner { "ROLLBACK TO part; RELEASE part" } else { "ROLLBACK" };
            if let Err(error) = self.connection.execute_batch(undo) {
                tracing::debug!(%error, "a transaction was not taken back by hand");
            }
        }
    }
}

impl Store {
    pub(super) fn transaction(&mut self) -> StoreResult<StoreTransaction<'_>> {
        StoreTransaction::begin(&self.reader.connection)
    }

    /// Begins what is stored as a whole: until [`Store::keep_whole`], nothing of it is in the file.
    ///
    /// # Errors
    /// The database refuses, or a whole is begun already.
    pub fn begin_whole(&mut self) -> StoreResult<()> {
        Ok(self.reader.connection.execute_batch("BEGIN IMMEDIATE")?)
    }

    /// Keeps what was stored since [`Store::begin_whole`].
    ///
    /// # Errors
    /// The database refuses; nothing of it is kept.
    pub fn keep_whole(&mut self) -> StoreResult<()> {
        let kept = self.reader.connection.execute_batch("COMMIT").map_err(StoreError::from);
        if kept.is_err() {
            self.undo_whole();
        }
        kept
    }

    /// Takes back what was stored since [`Store::begin_whole`].
    pub fn undo_whole(&mut self) {
        if self.is_in_whole()
            && let Err(error) = self.reader.connection.execute_batch("ROLLBACK")
        {
            tracing::debug!(%error, "a transaction was not taken back by hand");
        }
    }

    /// Whether a whole is begun and not kept: what fails then fails with all of it.
    #[must_use]
    pub fn is_in_whole(&self) -> bool {
        !self.reader.connection.is_autocommit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::window::WindowSpec;

    #[test]
    fn what_is_stored_as_a_whole_is_there_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("recsae.db")).unwrap();
        store.begin_lineage("a", "", &WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 0 }, 1).unwrap();
        let head = store.read().audit_head().unwrap();
        store.begin_whole().unwrap();
        store.record_test_alert("ann", "", 5, 1).unwrap();
        store.record_test_alert("bob", "", 5, 1).unwrap();
        assert!(store.is_in_whole());
        store.undo_whole();
        assert_eq!(store.read().audit_head().unwrap(), head);
        store.begin_whole().unwrap();
        store.record_test_alert("ann", "", 5, 1).unwrap();
        store
            .act(
                7,
                &crate::drift::alert::AlertAction {
                    action: crate::drift::alert::ActionKind::Acknowledge,
                    who: "ann".into(),
                    why: "?".into(),
                    at_ms: 1,
                    until_ms: None,
                },
            )
            .unwrap_err();
        store.keep_whole().unwrap();
        assert!(!store.is_in_whole());
        assert_ne!(store.read().audit_head().unwrap(), head, "a part that was refused takes nothing else with it");
    }
}
