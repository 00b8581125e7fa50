//! One partition in a worker's hands: its open windows, and what of it is not stored yet.

use crate::drift::closed::PartialWindow;
use crate::drift::partition::{LogMark, PartitionPosition, PartitionWindows};
use crate::drift::segment::SegmentTable;
use crate::drift::window::{CountingSpec, WindowSpec};
use crate::monitor::kept::Waiting;
use crate::monitor::progress::PartitionProgress;
use crate::record::TopicPartition;
use crate::store::step::Step;

/// A position that has not moved for this long, with records waiting, is stalled.
const STALLED_AFTER_MS: i64 = 60_000;

/// A partition that was assigned and not released.
#[derive(Debug)]
pub struct Tracked {
    /// Its open windows.
    pub windows: PartitionWindows,
    /// Process clock at the last record, ms.
    pub last_record_ms: i64,
    /// Kafka timestamp of the last record, ms.
    pub last_timestamp_ms: Option<i64>,
    /// With `--until-end`: the log's end when it was assigned.
    pub end_target: i64,
    /// Messages too far ahead of the judge to be counted yet.
    pub waiting: Waiting,
    closed: Vec<PartialWindow>,
    /// The newest record that was counted.
    mark: Option<LogMark>,
    stepped: PartitionPosition,
    /// The store holds no position of it: that is owed even before a record is read. Else another instance that gets
    /// the partition meanwhile would leave a commit from which this store would go on, without what was counted there.
    unknown: bool,
}

impl Tracked {
    /// Goes on from a position; `stored` is the store's, which lies before it where records are lost. The log held
    /// records up to `end_target` when it was assigned.
    #[must_use]
    pub fn new(
        partition: TopicPartition,
        spec: WindowSpec,
        position: PartitionPosition,
        stored: Option<PartitionPosition>,
        end_target: i64,
        now_ms: i64,
    ) -> Self {
        let unknown = stored.is_none();
        let stepped = stored.unwrap_or_else(|| position.clone());
        let mark = position.mark;
        let windows = PartitionWindows::resume(partition, spec, position);
        Self {
            windows,
            last_record_ms: now_ms,
            last_timestamp_ms: None,
            end_target,
            waiting: Waiting::default(),
            closed: Vec::new(),
            mark,
            stepped,
            unknown,
        }
    }

    /// Takes the windows that are closed by now; how many.
    pub fn close(&mut self, models: &[(String, CountingSpec)], table: &SegmentTable) -> usize {
        if !self.windows.is_due() {
            return 0;
        }
        let closed = self.windows.close_due(models, table);
        let n = closed.len();
        self.closed.extend(closed);
        n
    }

    /// Whether closed windows wait to be stored.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// A record is about to be counted for the first time.
    pub fn mark(&mut self, offset: i64, timestamp_ms: Option<i64>) {
        self.mark = timestamp_ms.map(|timestamp_ms| LogMark { offset, timestamp_ms });
    }

    /// The mark, where the record read again at its offset is another: the log is not the one that was counted.
    #[must_use]
    pub fn is_not(&self, offset: i64, timestamp_ms: Option<i64>) -> Option<LogMark> {
        self.mark.filter(|mark| mark.offset == offset && timestamp_ms != Some(mark.timestamp_ms))
    }

    /// What is not stored yet, as a step; `None` where nothing is.
    pub fn step(&mut self) -> Option<Step> {
        let position = PartitionPosition { mark: self.mark, ..self.windows.position() };
        let decided = |position: &PartitionPosition| (position.next_offset, position.watermark_ms, position.gap);
        if !std::mem::take(&mut self.unknown) && self.closed.is_empty() && decided(&position) == decided(&self.stepped) {
            return None;
        }
        let starts_at = std::mem::replace(&mut self.stepped, position.clone()).next_offset;
        Some(Step { partition: self.windows.partition().clone(), starts_at, position, closed: std::mem::take(&mut self.closed) })
    }

    /// The partition as the other workers need to know it; `at` is the consumer's own position.
    #[must_use]
    pub fn progress(&self, at: i64, end: Option<i64>) -> PartitionProgress {
        let position = self.windows.position();
        PartitionProgress {
            at_end: end.is_some_and(|end| at >= end),
            last_record_ms: self.last_record_ms,
            watermark_ms: position.watermark_ms,
            finished: !self.windows.is_rereading() && at >= self.end_target,
        }
    }

    /// Whether the position has not moved for a minute although records wait.
    #[must_use]
    pub fn is_stalled(&self, at: i64, end: Option<i64>, now_ms: i64) -> bool {
        end.is_some_and(|end| end > at) && now_ms - self.last_record_ms >= STALLED_AFTER_MS
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const WINDOW: WindowSpec = WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 0 };

    fn taken_over(stored: Option<PartitionPosition>) -> Tracked {
        let partition = TopicPartition { topic: Arc::from("t"), partition: 0 };
        Tracked::new(partition, WINDOW, PartitionPosition::starting_at(7), stored, 9, 0)
    }

    #[test]
    fn where_it_begins_is_stored_before_a_record_is_read_and_once() {
        let mut tracked = taken_over(None);
        let step = tracked.step().unwrap();
        assert_eq!((step.starts_at, step.position), (7, PartitionPosition::starting_at(7)));
        assert!(step.closed.is_empty() && tracked.step().is_none());
        assert!(taken_over(Some(PartitionPosition::starting_at(7))).step().is_none(), "the store knows it");
    }

    #[test]
    fn a_log_is_known_again_by_the_newest_record_that_was_counted() {
        let mut tracked = taken_over(None);
        tracked.windows.consumed(11);
        tracked.mark(11, Some(500));
        let stored = tracked.step().unwrap().position;
        assert_eq!((stored.next_offset, stored.mark), (12, Some(LogMark { offset: 11, timestamp_ms: 500 })));

        let again = |position: &PartitionPosition| Tracked::new(tracked.windows.partition().clone(), WINDOW, position.clone(), None, 12, 0);
        let resumed = again(&stored);
        assert_eq!(resumed.windows.read_from(), 11, "no window is open: the mark alone is read again");
        assert!(resumed.windows.is_before_open_windows(11) && !resumed.windows.is_before_open_windows(12));
        assert_eq!(resumed.is_not(11, Some(500)), None);
        assert_eq!((resumed.is_not(11, Some(501)), resumed.is_not(11, None)), (stored.mark, stored.mark));
        assert_eq!(resumed.is_not(10, Some(9)), None, "nothing is known of it");

        let open = PartitionPosition { replay_offset: 8, ..stored.clone() };
        assert!(again(&open).windows.read_from() == 8 && !again(&open).windows.is_before_open_windows(8));
        let gone = stored.in_log_from(12, &WINDOW, 0);
        assert_eq!((gone.mark, again(&gone).windows.read_from()), (None, 12), "retention deleted it");
        tracked.mark(12, None);
        assert_eq!(tracked.mark, None, "a record without a time says nothing");
    }

    #[test]
    fn it_is_stalled_once_records_wait_for_a_minute() {
        let tracked = taken_over(None);
        assert!(!tracked.is_stalled(7, Some(9), STALLED_AFTER_MS - 1));
        assert!(tracked.is_stalled(7, Some(9), STALLED_AFTER_MS));
        assert!(!tracked.is_stalled(9, Some(9), STALLED_AFTER_MS), "nothing waits");
        assert!(!tracked.is_stalled(7, None, STALLED_AFTER_MS), "the end is not known");
    }
}
