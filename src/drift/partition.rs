//! The open windows of one partition: which window a record belongs to, and when a window closes.
//!
//! Closing depends on the partition's records alone, in their order: the watermark is the newest
//! accepted event time, never the process clock. So reading a partition again from the first record
//! of its oldest open window rebuilds the same windows, and the log is the state.
//!
//! | offset against `counted_next` | window            | outcome                                            |
//! |-------------------------------|-------------------|----------------------------------------------------|
//! | >= (new)                      | open              | counted; the watermark may move                    |
//! | >= (new)                      | closed            | late: a counted reject                             |
//! | <  (read again)               | open              | counted into the rebuilt window; no watermark move |
//! | <  (read again)               | closed            | skipped: it was counted, or rejected, before       |
//!
//! A record is late exactly when its window is closed at the watermark, so what was rejected as late
//! before can never fall into a window that is still open now.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::drift::closed::{ENTITY_SKETCH, PartialWindow};
use crate::drift::gap::{Gap, GapCause};
use crate::drift::rejected::RejectsByWindow;
use crate::drift::segment::{SeenSegments, SegmentTable};
use crate::drift::window::{CountedRow, CountingSpec, OpenCounts, WindowSpec};
use crate::record::{RejectReason, TopicPartition};

/// A record by which its log is known again: no two logs have one of the same time at the same offset, unless one is a
/// copy of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in the broker's log, ms since 1970 UTC.
    pub timestamp_ms: i64,
}

/// Where a partition stands: what is stored with each step and given back at a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPosition {
    /// Offset of the next record to count: what Kafka's lag tools see.
    pub next_offset: i64,
    /// Offset to read again from: the first record of the oldest open window, or `next_offset`.
    pub replay_offset: i64,
    /// Newest accepted event time, or what an idle partition was raised to; `i64::MIN` at none.
    pub watermark_ms: i64,
    /// Records rejected as late so far.
    pub n_late: u64,
    /// Rejects since the last window closed.
    pub rejected: BTreeMap<RejectReason, u64>,
    /// Windows that may miss records.
    #[serde(default)]
    pub gap: Option<Gap>,
    /// The newest record that was counted; `None` where that is not known.
    #[serde(default)]
    pub mark: Option<LogMark>,
}

impl PartitionPosition {
    /// A partition of which nothing was counted, read from `offset`.
    #[must_use]
    pub fn starting_at(offset: i64) -> Self {
        Self {
            next_offset: offset,
            replay_offset: offset,
            watermark_ms: i64::MIN,
            n_late: 0,
            rejected: BTreeMap::new(),
            gap: None,
            mark: None,
        }
    }

    /// The same position in a log that begins at `low` by now: what was to be read before it is gone.
    #[must_use]
    pub fn in_log_from(mut self, low: i64, spec: &WindowSpec, now_ms: i64) -> Self {
        self.mark = self.mark.filter(|mark| mark.offset >= low);
        if self.replay_offset >= low {
            return self;
        }
        let watermark_ms = self.watermark_ms;
        let gap = if low > self.next_offset {
            Some(Gap::open(GapCause::Retention, watermark_ms, spec, now_ms))
        } else {
            // All that is gone was counted once, and is older than the watermark.
            let until = |()| Gap::ending(GapCause::Retention, watermark_ms, spec.end_of(spec.start_of(watermark_ms)), spec, now_ms);
            (watermark_ms != i64::MIN).then_some(()).map(until)
        };
        self.gap = match (self.gap, gap) {
            (Some(known), Some(new)) => Some(known.joined(new)),
            (known, new) => new.or(known),
        };
        self.replay_offset = low;
        self.next_offset = self.next_offset.max(low);
        self
    }

    /// The same position for windows that are counted in another way from here on: what is open begins anew, and
    /// gives no verdict up to `edge_ms`, the end of the window that holds the newest record of any partition.
    #[must_use]
    pub fn in_new_lineage(self, edge_ms: Option<i64>, spec: &WindowSpec, now_ms: i64) -> Self {
        let gap = edge_ms.map(|edge| Gap::ending(GapCause::Lineage, self.watermark_ms, edge, spec, now_ms));
        Self { replay_offset: self.next_offset, gap, ..self }
    }
}

/// What becomes of a record by its event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Belongs to the open window that starts there.
    Open {
        /// Start of the window.
        window_start_ms: i64,
    },
    /// Its window is closed: a reject.
    Late,
    /// Read again, and its window was closed before: nothing to do.
    Replayed,
}

#[derive(Debug)]
struct OpenWindow {
    models: Vec<Option<OpenCounts>>,
    first_offset: i64,
    last_offset: i64,
    seen: SeenSegments,
}

impl OpenWindow {
    /// Without records; the next one has this offset.
    fn empty(offset: i64) -> Self {
        Self { models: Vec::new(), first_offset: offset, last_offset: offset - 1, seen: SeenSegments::default() }
    }
}

/// The open windows of one partition.
#[derive(Debug)]
pub struct PartitionWindows {
    partition: TopicPartition,
    spec: WindowSpec,
    counted_next: i64,
    /// Without its rejects, which are kept by window.
    position: PartitionPosition,
    rejects: RejectsByWindow,
    open: BTreeMap<i64, OpenWindow>,
    /// The watermark that moves the edge before which windows are closed.
    edge_moves_at_ms: i64,
}

impl PartitionWindows {
    /// Goes on from a stored position: reading starts at `position.replay_offset`, or at the mark before it.
    #[must_use]
    pub fn resume(partition: TopicPartition, spec: WindowSpec, position: PartitionPosition) -> Self {
        let counted_next = position.next_offset;
        let read_from = position.mark.map_or(position.replay_offset, |mark| position.replay_offset.min(mark.offset));
        let mut position = PartitionPosition { next_offset: read_from, ..position };
        let rejects = RejectsByWindow::resume(std::mem::take(&mut position.rejected));
        let edge_moves_at_ms = edge_moves_at(&spec, position.watermark_ms);
        Self { partition, spec, counted_next, position, rejects, open: BTreeMap::new(), edge_moves_at_ms }
    }

    /// Which partition.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// Offset of the next record to read: below what was counted while open windows are rebuilt.
    #[must_use]
    pub fn read_from(&self) -> i64 {
        self.position.next_offset
    }

    /// Whether a record at this offset was counted before.
    #[must_use]
    pub fn is_replay(&self, offset: i64) -> bool {
        offset < self.counted_next
    }

    /// Whether a record at this offset is read for its mark alone: it is in no window that is open.
    #[must_use]
    pub fn is_before_open_windows(&self, offset: i64) -> bool {
        self.is_rereading() && offset < self.position.replay_offset
    }

    /// The record at this offset was read, whatever became of it.
    pub fn consumed(&mut self, offset: i64) {
        self.position.next_offset = self.position.next_offset.max(offset + 1);
    }

    /// Whether a window is open for the record; changes nothing.
    #[must_use]
    pub fn admit(&self, offset: i64, event_time_ms: i64) -> Admission {
        let window_start_ms = self.spec.start_of(event_time_ms);
        if window_start_ms >= self.spec.closed_before(self.position.watermark_ms) {
            Admission::Open { window_start_ms }
        } else if self.is_replay(offset) {
            Admission::Replayed
        } else {
            Admission::Late
        }
    }

    /// The record passed every check: its time moves the watermark, unless it is read again.
    pub fn accepted(&mut self, offset: i64, event_time_ms: i64) {
        if !self.is_replay(offset) {
            self.advance(event_time_ms);
            if let Some(gap) = &mut self.position.gap {
                gap.met(event_time_ms, &self.spec);
            }
        }
    }

    /// A record was rejected; once only, however often it is read.
    pub fn rejected(&mut self, offset: i64, reason: RejectReason) {
        if !self.is_replay(offset) {
            self.rejects.add(reason);
            self.position.n_late += u64::from(reason == RejectReason::Late);
        }
    }

    /// Counts an encoded record in its window; `model` is the position of its model in `specs` of [`Self::close_due`].
    pub fn count(&mut self, window_start_ms: i64, offset: i64, model: usize, spec: &CountingSpec, row: &CountedRow<'_>) {
        let window = self.window(window_start_ms, offset);
        if window.models.len() <= model {
            window.models.resize_with(model + 1, || None);
        }
        window.models[model].get_or_insert_with(|| OpenCounts::new(spec)).add(spec, row);
    }

    /// Names a record showed that are not followed; counted so that the judge can admit them later.
    pub fn seen(&mut self, window_start_ms: i64, offset: i64, names: Vec<String>) {
        let window = self.window(window_start_ms, offset);
        names.into_iter().for_each(|name| window.seen.add(name));
    }

    /// Raises the watermark of an idle partition; never lowers it.
    pub fn raise_watermark(&mut self, watermark_ms: i64) {
        self.advance(watermark_ms);
        if let Some(gap) = &mut self.position.gap {
            gap.idle(self.position.watermark_ms, &self.spec);
        }
        self.leave_rejects();
    }

    fn advance(&mut self, watermark_ms: i64) {
        self.position.watermark_ms = self.position.watermark_ms.max(watermark_ms);
        if self.position.watermark_ms >= self.edge_moves_at_ms && watermark_ms != i64::MIN {
            self.rejects.edge_moved(self.closed_before());
            self.edge_moves_at_ms = edge_moves_at(&self.spec, self.position.watermark_ms);
        }
    }

    /// The log begins at `low` by now: records that were to be read before it are gone. Reading goes on there;
    /// open windows stay, and are marked.
    pub fn lost_before(&mut self, low: i64, now_ms: i64) {
        let read_next = self.position.next_offset;
        let next_offset = read_next.max(self.counted_next);
        let position = PartitionPosition { next_offset, replay_offset: read_next, ..self.position.clone() };
        let position = position.in_log_from(low, &self.spec, now_ms);
        self.counted_next = position.next_offset;
        self.position = PartitionPosition { next_offset: read_next.max(low), ..position };
    }

    /// Whether a window is closed at the watermark and waits to be taken.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.next_due().is_some()
    }

    /// Takes the windows that are closed at the watermark, oldest first, those of a gap that hold no record among
    /// them. `models` names the versions and counting of the model positions given to [`Self::count`].
    pub fn close_due(&mut self, models: &[(String, CountingSpec)], table: &SegmentTable) -> Vec<PartialWindow> {
        let mut closed = Vec::new();
        while let Some(start_ms) = self.next_due() {
            let window = self.open.remove(&start_ms).unwrap_or_else(|| OpenWindow::empty(self.position.next_offset));
            closed.push(self.partial(start_ms, window, models, table));
            if let Some(gap) = &mut self.position.gap {
                gap.closed(start_ms, &self.spec);
            }
        }
        self.leave_rejects();
        let edge = self.closed_before();
        self.position.gap = self.position.gap.filter(|gap| !gap.is_over(edge));
        closed
    }

    fn leave_rejects(&mut self) {
        if !self.is_rereading() && !self.is_due() {
            self.rejects.leave_to_next();
        }
    }

    fn next_due(&self) -> Option<i64> {
        if self.is_rereading() {
            return None;
        }
        let edge = self.closed_before();
        let open = self.open.keys().next().copied().filter(|start| *start < edge);
        let empty = self.position.gap.and_then(|gap| gap.next_empty(edge, &self.spec));
        open.into_iter().chain(empty).min()
    }

    /// Where the partition stands now.
    #[must_use]
    pub fn position(&self) -> PartitionPosition {
        let next_offset = self.position.next_offset.max(self.counted_next);
        let oldest = self.open.values().map(|window| window.first_offset).min().unwrap_or(next_offset);
        // Until everything is read again, records of windows that are still to be rebuilt lie ahead.
        let replay_offset = if self.is_rereading() { self.position.replay_offset } else { oldest.min(next_offset) };
        PartitionPosition { next_offset, replay_offset, rejected: self.rejects.untold(), ..self.position.clone() }
    }

    /// Whether records that were counted before are still being read again.
    #[must_use]
    pub fn is_rereading(&self) -> bool {
        self.position.next_offset < self.counted_next
    }

    /// Windows at or after this start are open (or not begun).
    #[must_use]
    pub fn closed_before(&self) -> i64 {
        self.spec.closed_before(self.position.watermark_ms)
    }

    /// Start of the newest open window.
    #[must_use]
    pub fn newest_open(&self) -> Option<i64> {
        self.open.last_key_value().map(|(start, _)| *start)
    }

    fn window(&mut self, start_ms: i64, offset: i64) -> &mut OpenWindow {
        let window = self.open.entry(start_ms).or_insert_with(|| OpenWindow::empty(offset));
        window.first_offset = window.first_offset.min(offset);
        window.last_offset = window.last_offset.max(offset);
        window
    }

    fn partial(&mut self, start_ms: i64, window: OpenWindow, models: &[(String, CountingSpec)], table: &SegmentTable) -> PartialWindow {
        let mut partial = PartialWindow {
            partition: self.partition.clone(),
            start_ms,
            end_ms: self.spec.end_of(start_ms),
            models: BTreeMap::new(),
            rejected: self.rejects.told_with(start_ms),
            offsets: window.first_offset..window.last_offset + 1,
            seen: window.seen.into_counts(),
            entity_sketch: Vec::new(),
            incomplete: self.position.gap.filter(|gap| gap.covers(start_ms)).map(|gap| gap.cause.words().to_owned()),
        };
        for ((version, spec), counts) in models.iter().zip(window.models) {
            let Some(counts) = counts else { continue };
            if let Some(why) = counts.incomplete() {
                partial.incomplete.get_or_insert(why);
            }
            partial.entity_sketch.extend(counts.entity_sketch(ENTITY_SKETCH));
            partial.models.insert(version.clone(), counts.close(spec, table));
        }
        partial.entity_sketch.sort_unstable();
        partial.entity_sketch.dedup();
        partial.entity_sketch.truncate(ENTITY_SKETCH);
        partial
    }
}

/// The watermark at which the edge before which windows are closed moves on; `i64::MIN` while there is no watermark.
fn edge_moves_at(spec: &WindowSpec, watermark_ms: i64) -> i64 {
    match spec.closed_before(watermark_ms) {
        i64::MIN => i64::MIN,
        edge => spec.end_of(edge).saturating_add(spec.lateness_ms),
    }
}
