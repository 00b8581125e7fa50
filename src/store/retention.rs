//! Letting go of what is old or personal, and a copy while the writer runs. Each is an entry of the chain,
//! so that what is missing can be told from what was taken away.

use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::store::error::{StoreError, StoreResult};
use crate::store::reader::StoreReader;
use crate::store::writer::Store;
use crate::store::{audit, salt};

/// Who does it, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Who; empty where the program does it by rule.
    pub who: String,
    /// Why.
    pub why: String,
    /// When, ms since 1970 UTC.
    pub at_ms: i64,
}

impl Store {
    /// Deletes counts, reports and explanations of windows that ended by `before_ms`; how many windows.
    ///
    /// | kept for ever                                  | deleted                                    |
    /// |------------------------------------------------|--------------------------------------------|
    /// | the chain, with the digest of every window      | counts, reports, columns by segment        |
    /// | that the window was judged, digests of its parts | examples and contributors of old alerts    |
    /// | alerts, crossings, actions, references           |                                            |
    ///
    /// The chain still proves all that is left, and names the deletion: a window that is missing without
    /// such an entry is a fault. Nothing to delete: no entry.
    ///
    /// # Errors
    /// No reason is given, or the database refuses.
    pub fn prune(&mut self, before_ms: i64, actor: &Actor) -> StoreResult<u64> {
        has_reason(actor)?;
        self.zeroing()?;
        let transaction = self.transaction()?;
        let old = "EXISTS (SELECT 1 FROM windows w WHERE w.lineage = o.lineage AND w.window_start = o.window_start AND w.window_end <= ?1)";
        let n: i64 = transaction.query_row(
            &format!("SELECT count(*) FROM (SELECT DISTINCT o.lineage, o.window_start FROM judged_models o WHERE {old})"),
            [before_ms],
            |row| row.get(0),
        )?;
        if n == 0 {
            return Ok(0);
        }
        transaction.execute(&format!("DELETE FROM judged_segments AS o WHERE {old}"), [before_ms])?;
        transaction.execute(&format!("DELETE FROM judged_models AS o WHERE {old}"), [before_ms])?;
        let explained =
            "UPDATE explanations SET body = NULL WHERE alert IN (SELECT alert FROM crossings GROUP BY alert HAVING min(window_end) <= ?1)";
        transaction.execute(explained, [before_ms])?;
        let body = json!({"before_ms": before_ms, "windows": n, "who": actor.who, "why": actor.why});
        audit::append(&transaction, actor.at_ms, "pruned", &body)?;
        transaction.commit()?;
        Ok(u64::try_from(n).unwrap_or(0))
    }

    /// Deletes every salt: entity hashes that were stored can then be tied to nobody, not even by trying all
    /// entities. The next run draws a new one. How many there were; none: no entry.
    ///
    /// # Errors
    /// No reason is given, or the database refuses.
    pub fn forget_salt(&mut self, actor: &Actor) -> StoreResult<usize> {
        has_reason(actor)?;
        self.zeroing()?;
        let transaction = self.transaction()?;
        let n = transaction.execute("DELETE FROM salts", [])?;
        if n == 0 {
            return Ok(0);
        }
        audit::append(&transaction, actor.at_ms, "salt_forgotten", &json!({"salts": n, "who": actor.who, "why": actor.why}))?;
        transaction.commit()?;
        // The log of the database still holds the page: written back and cut off.
        self.reader.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(n)
    }

    /// What is deleted is overwritten with zeros, not only unlinked.
    fn zeroing(&self) -> StoreResult<()> {
        Ok(self.reader.connection.pragma_update(None, "secure_delete", true)?)
    }
}

/// What was let go of cannot be asked any more: why has to be on the record.
fn has_reason(actor: &Actor) -> StoreResult<()> {
    if actor.why.trim().is_empty() {
        return Err(StoreError::Refused("a deletion needs to say why, found an empty text".into()));
    }
    Ok(())
}

impl StoreReader {
    /// Judged windows that start in `from_ms..to_ms` and whose counts retention took: start and end, oldest first.
    ///
    /// # Errors
    /// The database refuses.
    pub fn pruned_windows(&self, from_ms: i64, to_ms: i64) -> StoreResult<Vec<(i64, i64)>> {
        let sql = "SELECT window_start, window_end FROM windows w WHERE window_start >= ?1 AND window_start < ?2 AND window_end <= ?3
                   AND NOT EXISTS (SELECT 1 FROM judged_models m WHERE m.lineage = w.lineage AND m.window_start = w.window_start)
                   ORDER BY window_start";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([from_ms, to_ms, self.pruned_before()?], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Copies the store as of one commit into a new file, while its writer goes on.
    ///
    /// # Errors
    /// The file exists, cannot be written, or the database refuses.
    pub fn backup(&self, to: &Path) -> StoreResult<()> {
        if to.exists() {
            return Err(StoreError::Refused(format!("{} exists: a backup never writes over a file, name another", to.display())));
        }
        let part = to.with_extension("part");
        let io = |source| StoreError::Io { path: to.to_owned(), source };
        if part.exists() {
            std::fs::remove_file(&part).map_err(io)?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut copy = Connection::open_with_flags(&part, flags)
            .map_err(|error| StoreError::Io { path: part.clone(), source: std::io::Error::other(error) })?;
        // All pages in one step: one read transaction, which in WAL mode holds no writer up; page by page a
        // commit in between would begin the copy anew.
        let done = Backup::new(&self.connection, &mut copy)?.step(-1)?;
        if !matches!(done, StepResult::Done) {
            return Err(StoreError::Refused("the store is locked by another program: try again".to_owned()));
        }
        copy.close().map_err(|(_, error)| StoreError::Database(error))?;
        std::fs::rename(&part, to).map_err(io)
    }

    /// The salt of entity hashes; `None` before the first run, or after it was forgotten.
    ///
    /// # Errors
    /// The database refuses.
    pub fn entity_salt(&self) -> StoreResult<Option<[u8; 16]>> {
        salt::stored(&self.connection)
    }
}
