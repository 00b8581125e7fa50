//! What workers and the judge share: rules that do not change, and the few places where they meet.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::drift::partition::PartitionPosition;
use crate::drift::window::{CountingSpec, WindowSpec};
use crate::metrics::registry::ProcessMetrics;
use crate::monitor::admission::AdmissionBoard;
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
#[derive(Debug, Default)]
pub struct StoredPositions {
    positions: Mutex<BTreeMap<TopicPartition, PartitionPosition>>,
    oldest_closed_ms: Mutex<Option<i64>>,
}

impl StoredPositions {
    /// What the store holds at start.
    #[must_use]
    pub fn new(positions: BTreeMap<TopicPartition, PartitionPosition>) -> Self {
        Self { positions: Mutex::new(positions), oldest_closed_ms: Mutex::default() }
    }

    /// One partition's position.
    #[must_use]
    pub fn get(&self, partition: &TopicPartition) -> Option<PartitionPosition> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner).get(partition).cloned()
    }

    /// A step was stored.
    pub fn set(&self, partition: &TopicPartition, position: PartitionPosition) {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner).insert(partition.clone(), position);
    }

    /// Start of the oldest window that is closed in some partition and not judged.
    pub fn set_oldest_closed(&self, start_ms: Option<i64>) {
        *self.oldest_closed_ms.lock().unwrap_or_else(PoisonError::into_inner) = start_ms;
    }

    /// Start of the oldest window that something is counted of and that is not judged; `None` while nothing is counted.
    #[must_use]
    pub fn oldest_not_judged(&self, window: &WindowSpec) -> Option<i64> {
        let closed = *self.oldest_closed_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let open = positions.values().map(|p| p.watermark_ms).filter(|watermark| *watermark != i64::MIN).min();
        closed.into_iter().chain(open.map(|watermark| window.closed_before(watermark))).min()
    }

    /// Windows that start before this are closed in all of `n_partitions`; `i64::MIN` while one is unknown.
    #[must_use]
    pub fn closed_before(&self, n_partitions: usize, window: &WindowSpec) -> i64 {
        let positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        if positions.len() < n_partitions {
            return i64::MIN;
        }
        positions.values().map(|p| window.closed_before(p.watermark_ms)).min().unwrap_or(i64::MIN)
    }
}
