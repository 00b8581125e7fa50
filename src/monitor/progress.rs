//! How far the partitions are together: what an idle partition's watermark may be raised to.
//!
//! A partition without records holds the judge up, because its window could still get one. After
//! `idle_after` at its end it follows the others; when all are idle, time itself goes on, so the
//! last window of a topic closes once the wall clock has passed it. Never further than `now -
//! idle_after`: a record served now must not find its window closed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::drift::window::WindowSpec;
use crate::record::TopicPartition;

/// What workers tell each other.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<TopicPartition, PartitionProgress>,
    newest_event_ms: Option<i64>,
}

/// One partition as its worker sees it.
#[derive(Clone, Copy, Debug)]
pub struct PartitionProgress {
    /// Everything the log holds has been read.
    pub at_end: bool,
    /// When the last record came, by the process clock, ms.
    pub last_record_ms: i64,
    /// Its watermark.
    pub watermark_ms: i64,
    /// Past the end that was recorded at start (`--until-end`).
    pub finished: bool,
}

impl Progress {
    /// A worker tells where its partition is.
    pub fn tell(&self, partition: &TopicPartition, progress: PartitionProgress) {
        let mut state = self.lock();
        if progress.watermark_ms != i64::MIN {
            state.newest_event_ms = state.newest_event_ms.max(Some(progress.watermark_ms));
        }
        state.partitions.insert(partition.clone(), progress);
    }

    /// The partition went to somebody else.
    pub fn forget(&self, partition: &TopicPartition) {
        self.lock().partitions.remove(partition);
    }

    /// What an idle partition may be raised to at `now_ms`; `None` while it is not idle.
    #[must_use]
    pub fn idle_watermark(&self, partition: &TopicPartition, now_ms: i64, idle_after_ms: i64) -> Option<i64> {
        let state = self.lock();
        let idle = |p: &PartitionProgress| p.at_end && now_ms - p.last_record_ms >= idle_after_ms;
        let me = state.partitions.get(partition).filter(|me| idle(me))?;
        let time = now_ms - idle_after_ms;
        let raised = if state.partitions.values().all(idle) { time } else { state.newest_event_ms?.min(time) };
        (raised > me.watermark_ms).then_some(raised)
    }

    /// With `--until-end`: once every one of `n_partitions` has passed its recorded end, the watermark
    /// that closes every open window, the same for all.
    #[must_use]
    pub fn final_watermark(&self, n_partitions: usize, spec: &WindowSpec) -> Option<i64> {
        let state = self.lock();
        let done = state.partitions.len() >= n_partitions && state.partitions.values().all(|p| p.finished);
        let newest = state.newest_event_ms?;
        done.then(|| spec.end_of(spec.start_of(newest)) + spec.lateness_ms)
    }

    /// Whether every one of `n_partitions` has passed its recorded end.
    #[must_use]
    pub fn finished(&self, n_partitions: usize) -> bool {
        let state = self.lock();
        state.partitions.len() >= n_partitions && state.partitions.values().all(|p| p.finished)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: Arc::from("t"), partition }
    }

    fn seen(watermark_ms: i64, last_record_ms: i64) -> PartitionProgress {
        PartitionProgress { at_end: true, last_record_ms, watermark_ms, finished: false }
    }

    #[test]
    fn an_idle_partition_follows_the_others_and_never_passes_now() {
        let progress = Progress::default();
        progress.tell(&at(0), seen(i64::MIN, 0));
        progress.tell(&at(1), seen(900, 990));
        assert_eq!(progress.idle_watermark(&at(0), 50, 100), None, "not idle for long enough");
        assert_eq!(progress.idle_watermark(&at(0), 1000, 100), Some(900));
        progress.tell(&at(1), seen(5000, 990));
        assert_eq!(progress.idle_watermark(&at(0), 1000, 100), Some(900), "now - idle_after");
    }

    #[test]
    fn when_all_are_idle_time_goes_on() {
        let progress = Progress::default();
        progress.tell(&at(0), seen(400, 400));
        progress.tell(&at(1), seen(500, 500));
        assert_eq!(progress.idle_watermark(&at(1), 10_000, 100), Some(9_900));
    }

    #[test]
    fn the_end_closes_all_windows_once_every_partition_is_there() {
        let spec = WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 10 };
        let progress = Progress::default();
        progress.tell(&at(0), PartitionProgress { finished: true, ..seen(420, 0) });
        assert_eq!(progress.final_watermark(2, &spec), None);
        progress.tell(&at(1), PartitionProgress { finished: true, ..seen(i64::MIN, 0) });
        assert_eq!(progress.final_watermark(2, &spec), Some(510));
        assert_eq!(spec.closed_before(510), 500);
    }
}
