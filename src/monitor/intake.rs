//! From a polled message to a row in a batch: decode, find its model, find its window.
//!
//! Everything that can be wrong with a record is decided here, before encoding, in one order: decode,
//! model, entity, future, late, width and size of the values. A record that fails moves no watermark and touches no count.

use ahash::AHashMap;

use crate::decode::Decoder;
use crate::drift::partition::{Admission, PartitionWindows};
use crate::drift::segment::{SegmentMask, SegmentTable};
use crate::fault;
use crate::monitor::admission::AdmissionBoard;
use crate::record::{RawMessage, Record, Reject, RejectReason};
use crate::sae::embedding::{EmbeddingBatch, EmbeddingError};

/// Which model reads which version: positions in the list of models.
#[derive(Clone, Debug, Default)]
pub struct ModelIndex {
    /// Listed versions.
    pub by_version: AHashMap<String, usize>,
    /// The model without a version: every version that is not listed.
    pub default: Option<usize>,
}

impl ModelIndex {
    fn of(&self, version: &str) -> Option<usize> {
        if self.by_version.is_empty() { self.default } else { self.by_version.get(version).copied().or(self.default) }
    }
}

/// Rules that do not change while the process runs.
#[derive(Clone, Copy, Debug)]
pub struct IntakeRules {
    /// Presence and Kish counting need an entity.
    pub needs_entity: bool,
    /// How far an event time may lie ahead of the Kafka timestamp.
    pub future_tolerance_ms: i64,
}

/// A row that waits to be encoded.
#[derive(Clone, Copy, Debug)]
pub struct PendingRow {
    /// Position of the partition in the worker's list.
    pub partition: usize,
    /// Its offset.
    pub offset: i64,
    /// Start of its window.
    pub window_start_ms: i64,
    /// Its entity.
    pub entity: Option<u64>,
    /// Its segments.
    pub segments: SegmentMask,
}

/// Rows of one model.
#[derive(Debug)]
pub struct ModelBatch {
    /// Vectors, `[n, d_in]`.
    pub embeddings: EmbeddingBatch,
    /// What belongs to each.
    pub rows: Vec<PendingRow>,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It waits in a batch.
    Pending,
    /// Read again, and counted or rejected before.
    Skipped,
    /// Good, but in a window later than [`Intake::limit_ms`]: nothing was counted, to be taken again. Its time moved the
    /// watermark, so that what is to come before it comes.
    Ahead,
    /// It cannot be counted.
    Rejected(Reject),
}

/// One worker's intake.
pub struct Intake {
    decoder: Decoder,
    rules: IntakeRules,
    models: ModelIndex,
    record: Record,
    table: SegmentTable,
    n_admitted: usize,
    newest_window_ms: i64,
    /// Start of the newest window that may be counted (see `pace`).
    pub limit_ms: i64,
    /// Batches by model.
    pub batches: Vec<ModelBatch>,
}

impl Intake {
    /// An empty intake for models that read what `embeddings` (one empty batch a model) take. `table` holds no more than
    /// `_all` and `_other`: names come from the board.
    #[must_use]
    pub fn new(decoder: Decoder, rules: IntakeRules, models: ModelIndex, table: SegmentTable, embeddings: Vec<EmbeddingBatch>) -> Self {
        let batches = embeddings.into_iter().map(|embeddings| ModelBatch { embeddings, rows: Vec::new() }).collect();
        Self {
            decoder,
            rules,
            models,
            record: Record::default(),
            table,
            n_admitted: 0,
            newest_window_ms: i64::MIN,
            limit_ms: i64::MAX,
            batches,
        }
    }

    /// The segments as this worker knows them.
    #[must_use]
    pub fn table(&self) -> &SegmentTable {
        &self.table
    }

    /// The last record that was decoded.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Event time of the last record that was taken.
    #[must_use]
    pub fn last_event_time_ms(&self) -> i64 {
        self.record.event_time_ms
    }

    /// Takes a message of the partition at position `partition` in the worker's list.
    pub fn take(&mut self, message: &RawMessage<'_>, partition: usize, windows: &mut PartitionWindows, board: &AdmissionBoard) -> Taken {
        if fault::planted("mutant-not-read-again") && windows.is_replay(message.offset) {
            windows.consumed(message.offset);
            return Taken::Skipped;
        }
        let taken = match self.admit(message, partition, windows, board) {
            Ok(Taken::Ahead) => return Taken::Ahead,
            Ok(taken) => taken,
            // A record that is read again was rejected, counted and kept then.
            Err(_) if windows.is_replay(message.offset) => Taken::Skipped,
            Err(reject) => {
                windows.rejected(message.offset, reject.reason);
                Taken::Rejected(reject)
            }
        };
        windows.consumed(message.offset);
        taken
    }

    fn admit(
        &mut self,
        message: &RawMessage<'_>,
        partition: usize,
        windows: &mut PartitionWindows,
        board: &AdmissionBoard,
    ) -> Result<Taken, Reject> {
        self.decoder.decode(message, &mut self.record)?;
        let record = &self.record;
        let model = self.models.of(&record.model_version).ok_or_else(|| unknown_version(record))?;
        if self.rules.needs_entity && record.entity.is_none() {
            let words = "counting by entity needs an entity: neither the configured place nor the Kafka key has one";
            return Err(Reject::new(RejectReason::MissingEntity, words));
        }
        let event_time_ms = record.event_time_ms;
        if let Some(kafka_ms) = message.timestamp_ms
            && event_time_ms > kafka_ms.saturating_add(self.rules.future_tolerance_ms)
        {
            let words =
                format!("event time {event_time_ms} ms lies more than window.future_tolerance ahead of the Kafka timestamp {kafka_ms} ms");
            return Err(Reject::new(RejectReason::Future, words));
        }
        let window_start_ms = match windows.admit(message.offset, event_time_ms) {
            Admission::Open { window_start_ms } => window_start_ms,
            Admission::Replayed => return Ok(Taken::Skipped),
            Admission::Late => {
                let words = format!("event time {event_time_ms} ms lies in a window that is closed: raise window.lateness to wait longer");
                return Err(Reject::new(RejectReason::Late, words));
            }
        };
        let batch = &mut self.batches[model];
        // What is read again was counted before, under the admissions that are stored.
        if window_start_ms > self.limit_ms && !windows.is_replay(message.offset) {
            batch.embeddings.check(&record.embedding).map_err(|error| not_a_row(&error))?;
            windows.accepted(message.offset, event_time_ms);
            return Ok(Taken::Ahead);
        }
        batch.embeddings.push(&record.embedding).map_err(|error| not_a_row(&error))?;
        if window_start_ms > self.newest_window_ms {
            self.newest_window_ms = window_start_ms;
            for admission in board.open_window(window_start_ms, self.n_admitted) {
                self.n_admitted += 1;
                self.table.admit(&admission.segment, admission.from_ms);
            }
        }
        windows.accepted(message.offset, event_time_ms);
        let segments = self.table.mask(&record.fields, window_start_ms);
        if segments & crate::drift::segment::MASK_OTHER != 0 {
            windows.seen(window_start_ms, message.offset, self.table.unadmitted(&record.fields, window_start_ms));
        }
        batch.rows.push(PendingRow { partition, offset: message.offset, window_start_ms, entity: record.entity, segments });
        Ok(Taken::Pending)
    }
}

fn unknown_version(record: &Record) -> Reject {
    let words = format!("no [[model]] reads model_version {:?}, and none without a version is configured", record.model_version);
    Reject::new(RejectReason::UnknownModelVersion, words)
}

fn not_a_row(error: &EmbeddingError) -> Reject {
    let reason = match error {
        EmbeddingError::Width { .. } => RejectReason::WrongWidth,
        EmbeddingError::NotFinite { .. } => RejectReason::NotFinite,
        EmbeddingError::OutOfRange { .. } => RejectReason::OutOfRange,
    };
    Reject::new(reason, error.to_string())
}
