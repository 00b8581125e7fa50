//! The detectors of a model version as they stand: one row, replaced by each window and each accepted level.

use rusqlite::{Connection, params};

use crate::store::codec;
use crate::store::error::StoreResult;

/// The detector state after a window, or after a level was accepted.
pub(super) fn store_state(
    transaction: &Connection,
    lineage: i64,
    model_version: &str,
    window_start_ms: i64,
    state: &[u8],
) -> StoreResult<()> {
    let sql = "INSERT INTO judge_states (lineage, model_version, window_start, state) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT DO UPDATE SET window_start = ?3, state = ?4";
    transaction.prepare_cached(sql)?.execute(params![lineage, model_version, window_start_ms, codec::compress(state)?])?;
    Ok(())
}
