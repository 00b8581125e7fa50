//! What workers and the judge share: rules that do not change, and the few places where they meet.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::drift::partition::PartitionPosition;
use crate::drift::window::{CountingSpec, WindowSpec};
use crate::metrics::registry::ProcessMetrics;
use crate::monitor::admission::AdmissionBoard;
use crate::monitor::cluster::together::Together;
use crate::monitor::pace::Pace;
use crate::monitor::progress::Progress;
use crate::record::TopicPartition;
use crate::snapshot::Live;

/// What all workers share.
pub struct Shared {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The process's metrics.
    pub metrics: Arc<ProcessMetrics>,
    /// Lag and positions as the page shows them.
    pub live: Arc<Live>,
    /// Segments.
    pub board: AdmissionBoard,
    /// How far to read ahead of the judge.
    pub pace: Pace,
    /// Idle partitions and ends.
    pub progress: Progress,
    /// Positions as stored.
    pub positions: StoredPositions,
    /// Whether the store takes what it is given: while it does not, nothing is read.
    pub store_works: AtomicBool,
    /// A topic was found to be another than the one that was counted: what is not stored yet may be of it.
    pub counts_another_log: AtomicBool,
    /// What threads of an instance in a cluster tell each other.
    pub together: Together,
    /// Rules that do not change.
    pub rules: WorkerRules,
}

/// Rules of a worker that do not change while it runs.
#[derive(Clone, Debug)]
pub struct WorkerRules {
    /// Windows.
    pub window: WindowSpec,
    /// Version and counting of each model.
    pub models: Vec<(String, CountingSpec)>,
    /// Hash of everything that counts depend on.
    pub counting_hash: String,
    /// Steps at least this often.
    pub checkpoint_every: Duration,
    /// Longest drain.
    pub drain: Duration,
    /// Idle after, ms.
    pub idle_after_ms: i64,
    /// Stop at the end the log had at the start.
    pub until_end: bool,
    /// Name of the consumer group.
    pub group: String,
    /// Partitions of all topics.
    pub n_partitions: usize,
}

/// Positions as stored: the judge writes, workers read when a partition is assigned.
///
/// A partition is not taken over while a step of it is on its way to the store: who began before that step would count
/// what the step holds once more, and differently where the log has moved on meanwhile.
///
/// A partition that the store knows nothing of (its topic appeared later, or it has more partitions by now) begins
/// behind what is judged: an older record of it is late, as it would be in any other partition. Both are decided
/// under one lock, so that the judge never judges a window in which such a partition has begun already.
#[derive(Debug)]
pub struct StoredPositions {
    known: Mutex<Known>,
    oldest_closed_ms: Mutex<Option<i64>>,
}

#[derive(Debug)]
struct Known {
    positions: BTreeMap<TopicPartition, PartitionPosition>,
    /// Watermarks of partitions that were begun here and have no position stored yet.
    begun: BTreeMap<TopicPartition, i64>,
    /// Steps on their way to the store.
    in_flight: BTreeMap<TopicPartition, usize>,
    /// Windows that start before this are judged, or about to be; `i64::MIN` while none is.
    judged_before_ms: i64,
}

impl StoredPositions {
    /// What the store holds at start: positions, and the end of the newest judged window.
    #[must_use]
    pub fn new(positions: BTreeMap<TopicPartition, PartitionPosition>, judged_until_ms: Option<i64>) -> Self {
        let judged_before_ms = judged_until_ms.unwrap_or(i64::MIN);
        let known = Known { positions, begun: BTreeMap::new(), in_flight: BTreeMap::new(), judged_before_ms };
        Self { known: Mutex::new(known), oldest_closed_ms: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One partition's position.
    #[must_use]
    pub fn get(&self, partition: &TopicPartition) -> Option<PartitionPosition> {
        self.known().positions.get(partition).cloned()
    }

    /// Begins a partition without a stored position: its watermark, at which what is judged is closed; `i64::MIN`
    /// before anything is. From here on no window is judged that it may still count in.
    #[must_use]
    pub fn begin(&self, partition: &TopicPartition, window: &WindowSpec) -> i64 {
        let mut known = self.known();
        let watermark_ms = match known.judged_before_ms {
            i64::MIN => i64::MIN,
            judged => judged.saturating_add(window.lateness_ms),
        };
        known.begun.insert(partition.clone(), watermark_ms);
        watermark_ms
    }

    /// The partition is in other hands: what was begun here and not stored is forgotten.
    pub fn release(&self, partition: &TopicPartition) {
        self.known().begun.remove(partition);
    }

    /// A step was stored.
    pub fn set(&self, partition: &TopicPartition, position: PartitionPosition) {
        let mut known = self.known();
        known.begun.remove(partition);
        known.positions.insert(partition.clone(), position);
    }

    /// A step goes to the judge.
    pub fn sent(&self, partition: &TopicPartition) {
        *self.known().in_flight.entry(partition.clone()).or_default() += 1;
    }

    /// The judge is done with a step.
    pub fn answered(&self, partition: &TopicPartition) {
        let mut known = self.known();
        if let Some(n) = known.in_flight.get_mut(partition) {
            *n = n.saturating_sub(1);
        }
    }

    /// Whether no step of the partition is on its way to the store.
    #[must_use]
    pub fn is_settled(&self, partition: &TopicPartition) -> bool {
        self.known().in_flight.get(partition).is_none_or(|n| *n == 0)
    }

    /// A position was read that any instance published; an earlier one than is known is passed over.
    pub fn follow(&self, partition: &TopicPartition, position: PartitionPosition) {
        let mut known = self.known();
        let at = |position: &PartitionPosition| (position.next_offset, position.watermark_ms);
        if known.positions.get(partition).is_none_or(|known| at(known) <= at(&position)) {
            known.begun.remove(partition);
            known.positions.insert(partition.clone(), position);
        }
    }

    /// Start of the oldest window that is closed in some partition and not judged.
    pub fn set_oldest_closed(&self, start_ms: Option<i64>) {
        *self.oldest_closed_ms.lock().unwrap_or_else(PoisonError::into_inner) = start_ms;
    }

    /// Start of the oldest window that is closed in some partition and not judged, as it was last set.
    #[must_use]
    pub fn oldest_closed(&self) -> Option<i64> {
        *self.oldest_closed_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Start of the oldest window that something is counted of and that is not judged; `None` while nothing is counted.
    #[must_use]
    pub fn oldest_not_judged(&self, window: &WindowSpec) -> Option<i64> {
        let closed = *self.oldest_closed_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known();
        let open = known.positions.values().map(|p| p.watermark_ms).filter(|watermark| *watermark != i64::MIN).min();
        closed.into_iter().chain(open.map(|watermark| window.closed_before(watermark))).min()
    }

    /// Windows that start before this are closed in all of `n_partitions`, and judged from now on; `i64::MIN` while one
    /// is unknown.
    #[must_use]
    pub fn judge_before(&self, n_partitions: usize, window: &WindowSpec) -> i64 {
        let mut known = self.known();
        if known.positions.len() < n_partitions {
            return i64::MIN;
        }
        let watermarks = known.positions.values().map(|position| position.watermark_ms).chain(known.begun.values().copied());
        let edge = watermarks.map(|watermark| window.closed_before(watermark)).min().unwrap_or(i64::MIN);
        known.judged_before_ms = known.judged_before_ms.max(edge);
        edge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: WindowSpec = WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 30 };

    fn at(topic: &str) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition: 0 }
    }

    fn at_watermark(watermark_ms: i64) -> PartitionPosition {
        PartitionPosition { watermark_ms, ..PartitionPosition::starting_at(7) }
    }

    #[test]
    fn a_partition_is_settled_once_the_judge_is_done_with_every_step_of_it() {
        let stored = StoredPositions::new(BTreeMap::new(), None);
        assert!(stored.is_settled(&at("a")));
        stored.sent(&at("a"));
        stored.sent(&at("a"));
        stored.answered(&at("a"));
        assert!(!stored.is_settled(&at("a")) && stored.is_settled(&at("b")));
        stored.answered(&at("a"));
        assert!(stored.is_settled(&at("a")));
    }

    #[test]
    fn a_partition_that_appears_later_begins_behind_what_is_judged_and_holds_the_rest_until_it_has_passed() {
        let stored = StoredPositions::new(BTreeMap::from([(at("a"), at_watermark(450))]), None);
        assert_eq!(stored.begin(&at("early"), &WINDOW), i64::MIN, "nothing is judged: it may count in any window");
        assert_eq!(stored.judge_before(1, &WINDOW), i64::MIN);
        stored.release(&at("early"));
        assert_eq!(stored.judge_before(1, &WINDOW), 400);

        let watermark_ms = stored.begin(&at("b"), &WINDOW);
        assert_eq!(WINDOW.closed_before(watermark_ms), 400, "a record of the window before is late, one of this one is counted");
        stored.set(&at("a"), at_watermark(999));
        assert_eq!(stored.judge_before(1, &WINDOW), 400, "no window is judged that the new one may count in");
        stored.set(&at("b"), at_watermark(740));
        assert_eq!(stored.judge_before(1, &WINDOW), 700);

        let restarted = StoredPositions::new(BTreeMap::new(), Some(700));
        assert_eq!(WINDOW.closed_before(restarted.begin(&at("c"), &WINDOW)), 700, "so after a restart");
    }
}
