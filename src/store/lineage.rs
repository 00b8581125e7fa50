//! A lineage: a stretch of history counted in one way. What changes counts begins a new one, at a window's edge.
//!
//! The new lineage goes on at the records where the old one stopped. What the old one had open is not
//! finished: half of such a window was counted in another way. So every partition carries its position and
//! watermark over, and windows up to the edge, the end of the one with the newest record of any partition, are
//! marked as incomplete. The first window with a verdict starts at the edge, in all partitions the same.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use crate::drift::partition::PartitionPosition;
use crate::drift::window::WindowSpec;
use crate::record::TopicPartition;
use crate::store::error::{StoreError, StoreResult};
use crate::store::step::store_position;
use crate::store::writer::Store;
use crate::store::{alerts, audit};

/// A stretch of history counted in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Number, from 1.
    pub id: i64,
    /// Whether the store already counted this way when it was opened.
    pub continued: bool,
    /// First window start from which the new lineage gives verdicts; `None` where it continues or nothing was counted before.
    pub edge_ms: Option<i64>,
}

impl Store {
    /// Continues the newest lineage that counted anything when it has the same counting hash, else starts a new one at
    /// the next edge of `window`; what was counted before stays. Nothing of it is in the file before
    /// [`Store::confirm_lineage`]: a start that is refused after all leaves the store as it was. Until then this store
    /// reads what is proposed, and takes positions, but no step.
    ///
    /// | newest lineage with a window       | newest lineage    | outcome                                                        |
    /// |------------------------------------|-------------------|----------------------------------------------------------------|
    /// | same counting hash                 | any               | continued; later ones, which counted no window, are taken back |
    /// | another, or none                   | same counting hash | continued                                                     |
    /// | another, or none                   | another, or none  | a new one, with the positions carried over                     |
    ///
    /// What fires in another lineage than this one ends, with an audit entry: its detectors are gone.
    ///
    /// A lineage that counted no window is in no verdict: without it the partitions go on where the one before it
    /// stopped, and every record since is read again. Behind one that did count, an older lineage is never taken up
    /// again: the records in between were not counted in its way.
    ///
    /// # Errors
    /// The database refuses.
    pub fn propose_lineage(&mut self, counting_hash: &str, description: &str, window: &WindowSpec, now_ms: i64) -> StoreResult<Lineage> {
        self.reader.connection.execute_batch("BEGIN IMMEDIATE")?;
        let found = self.find_or_begin(counting_hash, description, window, now_ms).and_then(|lineage| {
            // In event time where it is known, as alerts that recover.
            alerts::end_of_others(&self.reader.connection, lineage.id, lineage.edge_ms.unwrap_or(now_ms), now_ms)?;
            Ok(lineage)
        });
        match found {
            Ok(lineage) => {
                self.lineage = lineage.id;
                Ok(lineage)
            }
            Err(error) => {
                self.reader.connection.execute_batch("ROLLBACK")?;
                Err(error)
            }
        }
    }

    /// Keeps the proposed lineage: the last step before records are read.
    ///
    /// # Errors
    /// The database refuses.
    pub fn confirm_lineage(&mut self) -> StoreResult<()> {
        let connection = &self.reader.connection;
        if connection.is_autocommit() {
            return Ok(());
        }
        Ok(connection.execute_batch("COMMIT")?)
    }

    /// Proposes and confirms at once: for who has nothing else to check. Must be called once before any step.
    ///
    /// # Errors
    /// The database refuses.
    pub fn begin_lineage(&mut self, counting_hash: &str, description: &str, window: &WindowSpec, now_ms: i64) -> StoreResult<Lineage> {
        let lineage = self.propose_lineage(counting_hash, description, window, now_ms)?;
        self.confirm_lineage()?;
        Ok(lineage)
    }

    fn find_or_begin(&self, counting_hash: &str, description: &str, window: &WindowSpec, now_ms: i64) -> StoreResult<Lineage> {
        let connection = &self.reader.connection;
        let continued = |id| Lineage { id, continued: true, edge_ms: None };
        if let Some((id, hash)) = newest(connection, COUNTED)?
            && hash == counting_hash
        {
            take_back(connection, id, now_ms)?;
            return Ok(continued(id));
        }
        if let Some((id, hash)) = newest(connection, "1")?
            && hash == counting_hash
        {
            return Ok(continued(id));
        }
        let positions = self.read().positions()?;
        connection.execute(
            "INSERT INTO lineages (counting_hash, description, began_ms) VALUES (?1, ?2, ?3)",
            params![counting_hash, description, now_ms],
        )?;
        let id = connection.last_insert_rowid();
        let edge_ms = edge(&positions, window);
        for (partition, position) in positions {
            store_position(connection, id, &partition, &position.in_new_lineage(edge_ms, window, now_ms))?;
        }
        let body = serde_json::json!({"lineage": id, "counting_hash": counting_hash, "description": description, "verdicts_from": edge_ms});
        audit::append(connection, now_ms, "lineage", &body)?;
        Ok(Lineage { id, continued: false, edge_ms })
    }

    /// Takes positions that were kept elsewhere into the current lineage, before any step of it.
    ///
    /// # Errors
    /// No lineage, or the database refuses.
    pub fn take_positions(&mut self, positions: &BTreeMap<TopicPartition, PartitionPosition>) -> StoreResult<()> {
        let lineage = self.lineage();
        if lineage == 0 {
            return Err(StoreError::NoLineage);
        }
        // A savepoint: the lineage may be proposed only, in a transaction that is still open.
        let savepoint = self.reader.connection.savepoint()?;
        for (partition, position) in positions {
            store_position(&savepoint, lineage, partition, position)?;
        }
        Ok(savepoint.commit()?)
    }
}

/// Whether anything of lineage `l` is in a window: one that is judged, or closed in a partition. A detector's state
/// outlives the windows that retention takes.
const COUNTED: &str = "EXISTS (SELECT 1 FROM windows WHERE lineage = l.id) OR EXISTS (SELECT 1 FROM partials WHERE lineage = l.id)
                       OR EXISTS (SELECT 1 FROM judge_states WHERE lineage = l.id)";

/// Number and counting hash of the newest lineage for which `holds`.
fn newest(connection: &Connection, holds: &str) -> StoreResult<Option<(i64, String)>> {
    let sql = format!("SELECT id, counting_hash FROM lineages l WHERE {holds} ORDER BY id DESC LIMIT 1");
    Ok(connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// Takes back the lineages after `kept`, which counted no window.
fn take_back(connection: &Connection, kept: i64, now_ms: i64) -> StoreResult<()> {
    let mut statement = connection.prepare("SELECT id FROM lineages WHERE id > ?1 ORDER BY id")?;
    let empty = statement.query_map([kept], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    if empty.is_empty() {
        return Ok(());
    }
    for table in ["positions WHERE lineage", "admitted_segments WHERE lineage", "lineages WHERE id"] {
        connection.execute(&format!("DELETE FROM {table} > ?1"), [kept])?;
    }
    let fires_again = alerts::reopen(connection, kept)?;
    let body = serde_json::json!({"lineages": empty, "continued": kept, "alerts": fires_again});
    audit::append(connection, now_ms, "lineage_taken_back", &body)
}

/// Start of the first window that holds no record counted so far; `None` where none was.
fn edge(positions: &BTreeMap<TopicPartition, PartitionPosition>, window: &WindowSpec) -> Option<i64> {
    let newest = positions.values().map(|position| position.watermark_ms).max()?;
    (newest != i64::MIN).then(|| window.end_of(window.start_of(newest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::gap::GapCause;
    use crate::store::step::{Step, StepOutcome};

    const HOURS: WindowSpec = WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 0 };
    const LONGER: WindowSpec = WindowSpec { length_ms: 300, origin_ms: 0, lateness_ms: 0 };

    fn step(number: i32, next_offset: i64, watermark_ms: i64) -> Step {
        let position = PartitionPosition { watermark_ms, replay_offset: 2, ..PartitionPosition::starting_at(next_offset) };
        Step { partition: TopicPartition { topic: "t".into(), partition: number }, starts_at: 0, position, closed: Vec::new() }
    }

    #[test]
    fn a_new_lineage_goes_on_where_the_old_one_stopped_and_judges_from_the_next_edge_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("recsae.db")).unwrap();
        let first = store.begin_lineage("a", "", &HOURS, 1).unwrap();
        assert_eq!(first, Lineage { id: 1, continued: false, edge_ms: None });
        for (number, next, watermark) in [(0, 10, 470), (1, 7, 610), (2, 3, i64::MIN)] {
            assert_eq!(store.apply_step(&step(number, next, watermark)).unwrap(), StepOutcome::Applied);
        }
        assert_eq!(store.begin_lineage("a", "", &HOURS, 2).unwrap(), Lineage { id: 1, continued: true, edge_ms: None });

        let second = store.begin_lineage("b", "", &LONGER, 3).unwrap();
        assert_eq!(second, Lineage { id: 2, continued: false, edge_ms: Some(900) }, "610 lies in 600..900");
        let positions: Vec<_> = store.read().positions().unwrap().into_values().collect();
        for (position, (next, watermark)) in positions.iter().zip([(10, 470), (7, 610), (3, i64::MIN)]) {
            assert_eq!((position.next_offset, position.replay_offset, position.watermark_ms), (next, next, watermark));
            let gap = position.gap.unwrap();
            assert!(gap.cause == GapCause::Lineage && gap.covers(600) && !gap.covers(900), "the same edge in every partition");
        }
        assert_eq!((positions[0].gap.unwrap().from_ms, positions[2].gap.unwrap().from_ms), (Some(300), None));
        assert!(!store.begin_lineage("a", "", &HOURS, 4).unwrap().continued, "an older lineage is never taken up again");
    }

    #[test]
    fn a_proposed_lineage_that_is_not_confirmed_leaves_the_store_byte_for_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recsae.db");
        let mut store = Store::open(&path).unwrap();
        store.begin_lineage("a", "", &HOURS, 1).unwrap();
        assert_eq!(store.apply_step(&step(0, 10, 470)).unwrap(), StepOutcome::Applied);
        drop(store);
        let before = std::fs::read(&path).unwrap();
        let mut refused = Store::open(&path).unwrap();
        assert_eq!(refused.propose_lineage("b", "", &LONGER, 2).unwrap(), Lineage { id: 2, continued: false, edge_ms: Some(600) });
        let gap = refused.read().positions().unwrap().into_values().next().unwrap().gap;
        assert_eq!(gap.unwrap().cause, GapCause::Lineage, "what is proposed is read");
        refused.take_positions(&refused.read().positions().unwrap()).unwrap();
        drop(refused);
        assert!(std::fs::read(&path).unwrap() == before, "the file is another one");
        assert_eq!(Store::open(&path).unwrap().lineage(), 1);
    }

    #[test]
    fn a_lineage_that_counted_no_window_is_taken_back_when_the_one_before_returns() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("recsae.db")).unwrap();
        store.begin_lineage("a", "", &HOURS, 1).unwrap();
        assert_eq!(store.apply_step(&step(0, 10, 470)).unwrap(), StepOutcome::Applied);
        store.reader.connection.execute_batch("INSERT INTO windows VALUES (1, 300, 400, 9)").unwrap();
        let positions = store.read().positions().unwrap();
        for (hash, now_ms, from) in [("b", 2, 10), ("c", 3, 12)] {
            assert!(!store.begin_lineage(hash, "", &LONGER, now_ms).unwrap().continued);
            let counted = Step { starts_at: from, ..step(0, from + 2, 480) };
            assert_eq!(store.apply_step(&counted).unwrap(), StepOutcome::Applied, "records, but no window");
        }
        assert_eq!(store.begin_lineage("a", "", &HOURS, 4).unwrap(), Lineage { id: 1, continued: true, edge_ms: None });
        assert_eq!(store.read().positions().unwrap(), positions, "what the others read is read again");
        let mut kinds = Vec::new();
        store.read().verify_audit(|entry| kinds.push(entry.kind.clone())).unwrap();
        assert_eq!(kinds, ["lineage", "lineage", "lineage", "lineage_taken_back"]);

        store.begin_lineage("b", "", &LONGER, 5).unwrap();
        store.reader.connection.execute_batch("INSERT INTO windows VALUES (2, 600, 900, 9)").unwrap();
        assert!(!store.begin_lineage("a", "", &HOURS, 6).unwrap().continued, "an older lineage is never taken up behind one that counted");
    }

    #[test]
    fn a_lineage_after_one_that_counted_nothing_misses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("recsae.db")).unwrap();
        assert_eq!(store.begin_lineage("a", "", &HOURS, 1).unwrap().edge_ms, None);
        assert_eq!(store.begin_lineage("b", "", &HOURS, 2).unwrap().edge_ms, None);
        assert!(store.read().positions().unwrap().is_empty());
    }
}
