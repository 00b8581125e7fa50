//! A lineage: a stretch of history counted in one way. What changes counts begins a new one, at a window's edge.
//!
//! The new lineage goes on at the records where the old one stopped. What the old one had open is not
//! finished: half of such a window was counted in another way. So every partition carries its position and
//! watermark over, and windows up to the edge, the end of the one with the newest record of any partition, are
//! marked as incomplete. The first window with a verdict starts at the edge, in all partitions the same.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};

use crate::drift::partition::PartitionPosition;
use crate::drift::window::WindowSpec;
use crate::record::TopicPartition;
use crate::store::audit;
use crate::store::error::{StoreError, StoreResult};
use crate::store::step::store_position;
use crate::store::writer::Store;

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
    /// Continues the newest lineage when it has the same counting hash, else starts a new one at the next
    /// edge of `window`; what was counted before stays. Must be called once before any step.
    ///
    /// | newest lineage      | outcome                                                          |
    /// |---------------------|------------------------------------------------------------------|
    /// | same counting hash  | continued                                                        |
    /// | another, or none    | a new one, with an audit entry and the positions carried over    |
    ///
    /// An older lineage is never taken up again: the records in between were not counted in its way.
    ///
    /// # Errors
    /// The database refuses.
    pub fn begin_lineage(&mut self, counting_hash: &str, description: &str, window: &WindowSpec, now_ms: i64) -> StoreResult<Lineage> {
        let positions = self.read().positions()?;
        let transaction = self.transaction()?;
        let newest: Option<(i64, String)> = transaction
            .query_row("SELECT id, counting_hash FROM lineages ORDER BY id DESC LIMIT 1", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let lineage = match newest {
            Some((id, hash)) if hash == counting_hash => Lineage { id, continued: true, edge_ms: None },
            _ => {
                transaction.execute(
                    "INSERT INTO lineages (counting_hash, description, began_ms) VALUES (?1, ?2, ?3)",
                    params![counting_hash, description, now_ms],
                )?;
                let id = transaction.last_insert_rowid();
                let edge_ms = edge(&positions, window);
                for (partition, position) in positions {
                    store_position(&transaction, id, &partition, &position.in_new_lineage(edge_ms, window, now_ms))?;
                }
                let body = serde_json::json!({"lineage": id, "counting_hash": counting_hash, "description": description, "verdicts_from": edge_ms});
                audit::append(&transaction, now_ms, "lineage", &body)?;
                Lineage { id, continued: false, edge_ms }
            }
        };
        transaction.commit()?;
        self.lineage = lineage.id;
        Ok(lineage)
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
        let transaction = self.transaction()?;
        for (partition, position) in positions {
            store_position(&transaction, lineage, partition, position)?;
        }
        Ok(transaction.commit()?)
    }
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
    fn a_lineage_after_one_that_counted_nothing_misses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("recsae.db")).unwrap();
        assert_eq!(store.begin_lineage("a", "", &HOURS, 1).unwrap().edge_ms, None);
        assert_eq!(store.begin_lineage("b", "", &HOURS, 2).unwrap().edge_ms, None);
        assert!(store.read().positions().unwrap().is_empty());
    }
}
