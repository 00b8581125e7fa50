//! A worker's step: what it counted, in one transaction with the offsets it came from.

use rusqlite::{Connection, OptionalExtension, params};

use crate::drift::closed::PartialWindow;
use crate::drift::partition::PartitionPosition;
use crate::fault;
use crate::record::TopicPartition;
use crate::store::codec;
use crate::store::error::{StoreError, StoreResult};
use crate::store::writer::Store;

/// One worker's step on one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The partition.
    pub partition: TopicPartition,
    /// The position it was counted from: the stored next offset, unless this is a replay.
    pub starts_at: i64,
    /// The position afterwards.
    pub position: PartitionPosition,
    /// Windows that closed.
    pub closed: Vec<PartialWindow>,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "after a gap nothing was stored"]
pub enum StepOutcome {
    /// Stored.
    Applied,
    /// Everything in it was stored before.
    Replayed,
    /// Records between the stored position and the step are missing; nothing was stored.
    Gap {
        /// Next offset in the store.
        stored: i64,
    },
}

impl Store {
    /// Stores steps in one transaction, each as if it came alone after those before it.
    ///
    /// | stored next offset | step            | outcome                                                        |
    /// |--------------------|-----------------|----------------------------------------------------------------|
    /// | none               | any             | applied                                                        |
    /// | n                  | starts at n     | applied                                                        |
    /// | n                  | s < n < next    | applied: a replay that went on past the stored position          |
    /// | n                  | next <= n, s<n  | replayed: closed windows not yet stored are kept, nothing else |
    /// | n                  | starts after n  | gap, nothing of this step is stored                            |
    ///
    /// A closed window is stored once by (lineage, window start, topic, partition): an equal duplicate is
    /// ignored, whatever the outcome.
    ///
    /// # Errors
    /// An unequal duplicate of a closed window (named; nothing of any step is stored), no lineage, or the database refuses.
    pub fn apply_steps(&mut self, steps: &[&Step]) -> StoreResult<Vec<StepOutcome>> {
        let lineage = self.lineage();
        if lineage == 0 {
            return Err(StoreError::NoLineage);
        }
        let transaction = self.transaction()?;
        fault::point("step-begun");
        let outcomes = steps.iter().map(|step| write_step(&transaction, lineage, step)).collect::<StoreResult<Vec<StepOutcome>>>()?;
        fault::point("step-written");
        transaction.commit()?;
        fault::point("step-stored");
        Ok(outcomes)
    }

    /// Stores one step.
    #[cfg(test)]
    pub(crate) fn apply_step(&mut self, step: &Step) -> StoreResult<StepOutcome> {
        Ok(self.apply_steps(&[step])?[0])
    }
}

fn write_step(transaction: &Connection, lineage: i64, step: &Step) -> StoreResult<StepOutcome> {
    let outcome = match stored_next(transaction, lineage, &step.partition)? {
        Some(stored) if step.starts_at > stored => return Ok(StepOutcome::Gap { stored }),
        Some(stored) if step.starts_at < stored && step.position.next_offset <= stored => StepOutcome::Replayed,
        _ => StepOutcome::Applied,
    };
    for window in &step.closed {
        store_partial(transaction, lineage, window)?;
    }
    if outcome == StepOutcome::Applied {
        store_position(transaction, lineage, &step.partition, &step.position)?;
    }
    Ok(outcome)
}

fn stored_next(transaction: &Connection, lineage: i64, partition: &TopicPartition) -> StoreResult<Option<i64>> {
    let sql = "SELECT next_offset FROM positions WHERE lineage = ?1 AND topic = ?2 AND partition = ?3";
    Ok(transaction.prepare_cached(sql)?.query_row(params![lineage, &*partition.topic, partition.partition], |row| row.get(0)).optional()?)
}

pub(super) fn store_position(
    connection: &Connection,
    lineage: i64,
    partition: &TopicPartition,
    position: &PartitionPosition,
) -> StoreResult<()> {
    let not_json = |error| StoreError::damaged("position to be stored", error);
    let rejected = serde_json::to_string(&position.rejected).map_err(not_json)?;
    let gap = position.gap.map(|gap| serde_json::to_string(&gap)).transpose().map_err(not_json)?;
    let sql = "INSERT INTO positions (lineage, topic, partition, next_offset, replay_offset, watermark_ms, n_late, rejected, gap,
                                      mark_offset, mark_timestamp_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
               ON CONFLICT DO UPDATE SET next_offset = ?4, replay_offset = ?5, watermark_ms = ?6, n_late = ?7, rejected = ?8, gap = ?9,
                                         mark_offset = ?10, mark_timestamp_ms = ?11";
    connection.prepare_cached(sql)?.execute(params![
        lineage,
        &*partition.topic,
        partition.partition,
        position.next_offset,
        position.replay_offset,
        position.watermark_ms,
        i64::try_from(position.n_late).unwrap_or(i64::MAX),
        rejected,
        gap,
        position.mark.map(|mark| mark.offset),
        position.mark.map(|mark| mark.timestamp_ms)
    ])?;
    Ok(())
}

/// Whether it is new; an equal one is left as it is.
pub(super) fn store_partial(transaction: &Connection, lineage: i64, window: &PartialWindow) -> StoreResult<bool> {
    let bytes = codec::partial_bytes(window)?;
    let digest = codec::digest(&bytes);
    let TopicPartition { topic, partition } = &window.partition;
    let sql = "SELECT digest FROM partials WHERE lineage = ?1 AND window_start = ?2 AND topic = ?3 AND partition = ?4";
    let known: Option<Vec<u8>> =
        transaction.prepare_cached(sql)?.query_row(params![lineage, window.start_ms, &**topic, partition], |row| row.get(0)).optional()?;
    match known {
        Some(known) if known == digest => return Ok(false),
        Some(_) => return Err(StoreError::UnequalPartial { partition: window.partition.clone(), start_ms: window.start_ms }),
        None => {}
    }
    let sql =
        "INSERT INTO partials (lineage, window_start, topic, partition, window_end, digest, counts) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let counts = codec::compress_quickly(&bytes)?;
    transaction.prepare_cached(sql)?.execute(params![
        lineage,
        window.start_ms,
        &**topic,
        partition,
        window.end_ms,
        digest.as_slice(),
        counts
    ])?;
    Ok(true)
}
