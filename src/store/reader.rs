//! Everything read back: by the writer, and by the API and offline commands through a read-only connection.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use crate::drift::alert::{Alert, rfc3339};
use crate::drift::closed::{ClosedWindow, OffsetRange, PartialWindow};
use crate::drift::partition::{LogMark, PartitionPosition};
use crate::drift::report::DriftReport;
use crate::record::TopicPartition;
use crate::store::audit;
use crate::store::error::{StoreError, StoreResult};
use crate::store::reference_rows::{self, ReferenceEntry};
use crate::store::{alert_rows, codec, schema};

pub(super) const OLDEST_UNJUDGED: &str = "SELECT p.window_start, p.window_end FROM partials p
    WHERE p.lineage = (SELECT max(id) FROM lineages) AND p.counts IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM windows w WHERE w.lineage = p.lineage AND w.window_start = p.window_start)
    ORDER BY p.window_start LIMIT 1";

/// Read access. `Send`, not `Sync`: one a thread, or behind a mutex.
#[derive(Debug)]
pub struct StoreReader {
    pub(super) connection: Connection,
}

/// Which windows of which model. The default is everything of the current lineage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowQuery {
    /// Only windows that start at or after this, ms since 1970 UTC.
    pub from_ms: Option<i64>,
    /// Only windows that start before this.
    pub to_ms: Option<i64>,
    /// Only this model version.
    pub model_version: Option<String>,
    /// Only this segment (summaries).
    pub segment: Option<String>,
    /// At most this many, the newest (summaries).
    pub limit: Option<usize>,
    /// Windows of earlier lineages too.
    pub all_lineages: bool,
}

/// A window that is not judged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnjudgedWindow {
    /// First instant, ms since 1970 UTC.
    pub start_ms: i64,
    /// One past the last.
    pub end_ms: i64,
}

/// One segment of a judged window as `/api/v1/windows` prints it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowSummary {
    /// First instant.
    #[serde(with = "rfc3339")]
    pub window_start: i64,
    /// One past the last.
    #[serde(with = "rfc3339")]
    pub window_end: i64,
    /// Model version, "" = the only one.
    pub model_version: String,
    /// Segment.
    pub segment: String,
    /// Records counted.
    pub records: i64,
    /// Entities counted.
    pub entities: i64,
    /// Records of the window's time that were rejected, in all.
    pub rejected: i64,
    /// Fraction of variance unexplained.
    pub fvu: Option<f64>,
    /// Mean cosine.
    pub cosine: Option<f64>,
    /// Mean norm ratio.
    pub norm_ratio: Option<f64>,
    /// Mean active latents.
    pub l0: Option<f64>,
    /// Judged, or why not.
    pub verdict: String,
    /// In words.
    pub why: Option<String>,
    /// Where the records lie.
    pub offsets: Vec<OffsetRange>,
}

impl StoreReader {
    /// Opens an existing store read-only; a running writer is not disturbed.
    ///
    /// # Errors
    /// There is none, it is no store, damaged, or of another schema version.
    pub fn open(path: &Path) -> StoreResult<Self> {
        Ok(Self::over(schema::open_for_reading(path)?))
    }

    pub(super) fn over(connection: Connection) -> Self {
        Self { connection }
    }

    /// Positions of the current lineage.
    ///
    /// # Errors
    /// The database refuses.
    pub fn positions(&self) -> StoreResult<BTreeMap<TopicPartition, PartitionPosition>> {
        let sql = "SELECT topic, partition, next_offset, replay_offset, watermark_ms, n_late, rejected, gap, mark_offset, mark_timestamp_ms
                   FROM positions
                   WHERE lineage = (SELECT max(id) FROM lineages)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| {
            let rejected: String = row.get(6)?;
            let gap: Option<String> = row.get(7)?;
            let mark: (Option<i64>, Option<i64>) = (row.get(8)?, row.get(9)?);
            let position = PartitionPosition {
                next_offset: row.get(2)?,
                replay_offset: row.get(3)?,
                watermark_ms: row.get(4)?,
                n_late: u64::try_from(row.get::<_, i64>(5)?).unwrap_or(0),
                rejected: serde_json::from_str(&rejected).map_err(|error| not_json(6, error))?,
                gap: gap.map(|gap| serde_json::from_str(&gap).map_err(|error| not_json(7, error))).transpose()?,
                mark: mark.0.zip(mark.1).map(|(offset, timestamp_ms)| LogMark { offset, timestamp_ms }),
            };
            Ok((topic_partition(row, 0)?, position))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The oldest window of the current lineage that has parts and is not judged.
    ///
    /// # Errors
    /// The database refuses.
    pub fn oldest_unjudged(&self) -> StoreResult<Option<UnjudgedWindow>> {
        let mut statement = self.connection.prepare_cached(OLDEST_UNJUDGED)?;
        Ok(statement.query_row([], |row| Ok(UnjudgedWindow { start_ms: row.get(0)?, end_ms: row.get(1)? })).optional()?)
    }

    /// Hands the parts of an unjudged window to `each`, in the order of topic and partition, one at a time: with many
    /// partitions, segments and latents all of them at once are gigabytes. How many there were.
    ///
    /// # Errors
    /// Damaged counts, or the database refuses.
    pub fn each_partial_of(&self, window_start_ms: i64, mut each: impl FnMut(PartialWindow)) -> StoreResult<usize> {
        let sql = "SELECT counts, digest FROM partials WHERE lineage = (SELECT max(id) FROM lineages) AND window_start = ?1
                   AND counts IS NOT NULL ORDER BY topic, partition";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([window_start_ms])?;
        let mut n = 0;
        while let Some(row) = rows.next()? {
            let bytes = codec::decompress(&row.get::<_, Vec<u8>>(0)?)?;
            if row.get::<_, Vec<u8>>(1)? != codec::digest(&bytes) {
                return Err(StoreError::damaged(format!("partial window {window_start_ms}"), "counts that do not match their digest"));
            }
            let partial = codec::read_partial(&bytes)?;
            if partial.start_ms != window_start_ms {
                return Err(StoreError::damaged(
                    format!("partial window {window_start_ms}"),
                    format!("counts of window {}", partial.start_ms),
                ));
            }
            each(partial);
            n += 1;
        }
        Ok(n)
    }

    /// The same, all at once.
    ///
    /// # Errors
    /// As [`StoreReader::each_partial_of`].
    pub fn partials_of(&self, window_start_ms: i64) -> StoreResult<Vec<PartialWindow>> {
        let mut partials = Vec::new();
        self.each_partial_of(window_start_ms, |partial| partials.push(partial))?;
        Ok(partials)
    }

    /// Whether the window of the current lineage was judged.
    ///
    /// # Errors
    /// The database refuses.
    pub fn is_judged(&self, window_start_ms: i64) -> StoreResult<bool> {
        let sql = "SELECT count(*) FROM windows WHERE lineage = (SELECT max(id) FROM lineages) AND window_start = ?1";
        Ok(self.connection.query_row(sql, [window_start_ms], |row| row.get::<_, i64>(0))? > 0)
    }

    /// Start and end of the newest judged window of the current lineage.
    ///
    /// # Errors
    /// The database refuses.
    pub fn last_judged(&self) -> StoreResult<Option<(i64, i64)>> {
        let sql = "SELECT window_start, window_end FROM windows WHERE lineage = (SELECT max(id) FROM lineages)
                   ORDER BY window_start DESC LIMIT 1";
        Ok(self.connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    /// Newest detector state of a model in the current lineage, and the start of the window it belongs to.
    ///
    /// # Errors
    /// A damaged blob, or the database refuses.
    pub fn judge_state(&self, model_version: &str) -> StoreResult<Option<(i64, Vec<u8>)>> {
        let sql = "SELECT window_start, state FROM judge_states WHERE lineage = (SELECT max(id) FROM lineages) AND model_version = ?1";
        let found: Option<(i64, Vec<u8>)> =
            self.connection.query_row(sql, [model_version], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        found.map(|(start, blob)| Ok((start, codec::decompress(&blob)?))).transpose()
    }

    /// Windows of the current lineage that a model version was judged in.
    ///
    /// # Errors
    /// The database refuses.
    pub fn n_judged(&self, model_version: &str) -> StoreResult<usize> {
        let sql = "SELECT count(*) FROM judged_models WHERE lineage = (SELECT max(id) FROM lineages) AND model_version = ?1";
        let n = self.connection.query_row(sql, [model_version], |row| row.get::<_, i64>(0))?;
        Ok(usize::try_from(n).unwrap_or(0))
    }

    /// Judged windows with their counts, oldest first, one at a time so that a year does not fill memory.
    ///
    /// # Errors
    /// Damaged counts, the database refuses, or `each` does.
    pub fn for_each_window<E: From<StoreError>>(
        &self,
        query: &WindowQuery,
        mut each: impl FnMut(ClosedWindow) -> Result<(), E>,
    ) -> Result<(), E> {
        self.for_each_blob("counts", query, |bytes| each(codec::read_closed(bytes)?))
    }

    /// Reports of judged windows, oldest first.
    ///
    /// # Errors
    /// A damaged report, the database refuses, or `each` does.
    pub fn for_each_report<E: From<StoreError>>(
        &self,
        query: &WindowQuery,
        mut each: impl FnMut(DriftReport) -> Result<(), E>,
    ) -> Result<(), E> {
        self.for_each_blob("report", query, |bytes| each(codec::unpack(bytes)?))
    }

    /// Summaries of judged segments, newest first.
    ///
    /// # Errors
    /// The database refuses.
    pub fn summaries(&self, query: &WindowQuery) -> StoreResult<Vec<WindowSummary>> {
        let sql = "SELECT w.window_start, w.window_end, s.model_version, s.segment, s.records, s.entities, m.rejected, s.fvu, s.cosine,
                   s.norm_ratio, s.l0, s.verdict, s.why, m.offsets
                   FROM judged_segments s
                   JOIN judged_models m USING (lineage, window_start, model_version)
                   JOIN windows w USING (lineage, window_start)
                   WHERE (?1 OR s.lineage = (SELECT max(id) FROM lineages)) AND s.window_start >= ?2 AND s.window_start < ?3
                   AND (?4 IS NULL OR s.model_version = ?4) AND (?5 IS NULL OR s.segment = ?5)
                   ORDER BY s.window_start DESC, s.model_version, s.segment LIMIT ?6";
        let (from_ms, to_ms) = (query.from_ms.unwrap_or(i64::MIN), query.to_ms.unwrap_or(i64::MAX));
        let limit = query.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(-1));
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![query.all_lineages, from_ms, to_ms, query.model_version, query.segment, limit], summary)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Every segment that any window was judged in.
    ///
    /// # Errors
    /// The database refuses.
    pub fn segments(&self) -> StoreResult<Vec<String>> {
        let mut statement = self.connection.prepare("SELECT DISTINCT segment FROM judged_segments ORDER BY segment")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    /// End of the judged window, of any lineage, that began before `at_ms` and was not over then.
    ///
    /// # Errors
    /// The database refuses.
    pub fn end_of_window_across(&self, at_ms: i64) -> StoreResult<Option<i64>> {
        let sql = "SELECT max(window_end) FROM windows WHERE window_start < ?1 AND window_end > ?1";
        Ok(self.connection.query_row(sql, [at_ms], |row| row.get(0))?)
    }

    /// One alert.
    ///
    /// # Errors
    /// A damaged row, or the database refuses.
    pub fn alert(&self, id: i64) -> StoreResult<Option<Alert>> {
        alert_rows::load(&self.connection, id)
    }

    /// All firing alerts and the latest `n_others` of the rest, newest first.
    ///
    /// # Errors
    /// A damaged row, or the database refuses.
    pub fn alerts(&self, n_others: usize) -> StoreResult<Vec<Alert>> {
        alert_rows::list(&self.connection, n_others)
    }

    /// All references, newest first.
    ///
    /// # Errors
    /// The database refuses.
    pub fn references(&self) -> StoreResult<Vec<ReferenceEntry>> {
        reference_rows::list(&self.connection)
    }

    /// A reference and its body.
    ///
    /// # Errors
    /// A damaged body, or the database refuses.
    pub fn reference(&self, name: &str) -> StoreResult<Option<(ReferenceEntry, Vec<u8>)>> {
        reference_rows::load(&self.connection, name)
    }

    /// Head of the audit chain, hexadecimal; empty before the first entry.
    ///
    /// # Errors
    /// The database refuses.
    pub fn audit_head(&self) -> StoreResult<String> {
        audit::head(&self.connection)
    }

    /// Segments of the current lineage that were admitted while running, and the first window start
    /// each is counted from.
    ///
    /// # Errors
    /// The database refuses.
    pub fn admitted_segments(&self) -> StoreResult<BTreeMap<String, i64>> {
        let sql = "SELECT segment, from_ms FROM admitted_segments WHERE lineage = (SELECT max(id) FROM lineages)";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
    }

    fn for_each_blob<E: From<StoreError>>(
        &self,
        column: &str,
        query: &WindowQuery,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql = format!(
            "SELECT {column}, window_start FROM judged_models
             WHERE (?1 OR lineage = (SELECT max(id) FROM lineages)) AND window_start >= ?2 AND window_start < ?3
             AND (?4 IS NULL OR model_version = ?4) ORDER BY window_start, lineage, model_version"
        );
        let (from_ms, to_ms) = (query.from_ms.unwrap_or(i64::MIN), query.to_ms.unwrap_or(i64::MAX));
        let refused = |error| E::from(StoreError::Database(error));
        let mut statement = self.connection.prepare_cached(&sql).map_err(refused)?;
        let mut rows = statement.query(params![query.all_lineages, from_ms, to_ms, query.model_version]).map_err(refused)?;
        while let Some(row) = rows.next().map_err(refused)? {
            let blob = row.get_ref(0).and_then(|value| Ok(value.as_blob()?)).map_err(refused)?;
            each(&codec::decompress(blob)?)?;
        }
        Ok(())
    }
}

fn topic_partition(row: &Row<'_>, at: usize) -> rusqlite::Result<TopicPartition> {
    Ok(TopicPartition { topic: row.get::<_, String>(at)?.into(), partition: row.get(at + 1)? })
}

fn summary(row: &Row<'_>) -> rusqlite::Result<WindowSummary> {
    let offsets: String = row.get(13)?;
    Ok(WindowSummary {
        window_start: row.get(0)?,
        window_end: row.get(1)?,
        model_version: row.get(2)?,
        segment: row.get(3)?,
        records: row.get(4)?,
        entities: row.get(5)?,
        rejected: row.get(6)?,
        fvu: row.get(7)?,
        cosine: row.get(8)?,
        norm_ratio: row.get(9)?,
        l0: row.get(10)?,
        verdict: row.get(11)?,
        why: row.get(12)?,
        offsets: serde_json::from_str(&offsets).map_err(|error| not_json(13, error))?,
    })
}

fn not_json(column: usize, error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}
