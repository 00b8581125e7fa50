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
    /// In a cluster, what was published of partitions, those of other instances too.
    followed: BTreeMap<TopicPartition, PartitionProgress>,
    newest_event_ms: Option<i64>,
    /// When every partition was last in this process, or the last ones came.
    whole_ms: Option<i64>,
    /// Somebody does something about it that they are not.
    is_mended: bool,
    /// In a cluster: when the broker was last asked who has which, and since when some are nobody's.
    asked_ms: Option<i64>,
    nobodys_ms: Option<i64>,
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

impl State {
    /// Every partition that is known: as its worker here sees it, else as it was published.
    fn known(&self) -> impl Iterator<Item = &PartitionProgress> {
        let elsewhere = self.followed.iter().filter(|(partition, _)| !self.partitions.contains_key(*partition));
        self.partitions.values().chain(elsewhere.map(|(_, progress)| progress))
    }
}

impl Progress {
    /// What an instance published of a partition: its watermark, and whether it was read to its end. It is as new as it
    /// was when it last changed.
    pub fn follow(&self, partition: &TopicPartition, (watermark_ms, at_end): (i64, bool), now_ms: i64) {
        let mut state = self.lock();
        if watermark_ms != i64::MIN {
            state.newest_event_ms = state.newest_event_ms.max(Some(watermark_ms));
        }
        let known = state.followed.get(partition).filter(|known| known.watermark_ms == watermark_ms);
        let last_record_ms = known.map_or(now_ms, |known| known.last_record_ms);
        state.followed.insert(partition.clone(), PartitionProgress { at_end, last_record_ms, watermark_ms, finished: false });
    }

    /// Whether something is known of each of `n_partitions`.
    #[must_use]
    pub fn knows_all(&self, n_partitions: usize) -> bool {
        self.lock().known().count() >= n_partitions
    }

    /// Whether a worker here has the partition.
    #[must_use]
    pub fn is_here(&self, partition: &TopicPartition) -> bool {
        self.lock().partitions.contains_key(partition)
    }

    /// Whether a worker here has read all that the partition's log holds.
    #[must_use]
    pub fn is_at_end(&self, partition: &TopicPartition) -> bool {
        self.lock().partitions.get(partition).is_some_and(|progress| progress.at_end)
    }

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
        let raised = if state.known().all(idle) { time } else { state.newest_event_ms?.min(time) };
        (raised > me.watermark_ms).then_some(raised)
    }

    /// With `--until-end`: how far a partition that is read to its end follows the others, so that the judge need not
    /// wait for the end of them all. Its own records are all counted; `None` while there are more.
    #[must_use]
    pub fn watermark_past_end(&self, partition: &TopicPartition) -> Option<i64> {
        let state = self.lock();
        let me = state.partitions.get(partition).filter(|me| me.finished)?;
        state.newest_event_ms.filter(|newest| *newest > me.watermark_ms)
    }

    /// Partitions came to this process: the others may be on their way.
    pub fn distributed(&self, now_ms: i64) {
        self.lock().whole_ms = Some(now_ms);
    }

    /// How many partitions are in this process.
    #[must_use]
    pub fn n_partitions(&self) -> usize {
        self.lock().partitions.len()
    }

    /// For how many ms some of `n_partitions` have not been in this process and none has come; 0 while all are here.
    pub fn scattered_for_ms(&self, n_partitions: usize, now_ms: i64) -> i64 {
        let mut state = self.lock();
        if state.partitions.len() >= n_partitions {
            state.whole_ms = Some(now_ms);
            state.is_mended = false;
        }
        now_ms - *state.whole_ms.get_or_insert(now_ms)
    }

    /// Whether the caller is to ask the broker now whom the group has given its partitions: one of the workers, every so
    /// often.
    pub fn is_to_ask(&self, every_ms: i64, now_ms: i64) -> bool {
        let mut state = self.lock();
        let is_due = state.asked_ms.is_none_or(|asked_ms| (now_ms - asked_ms).abs() >= every_ms);
        if is_due {
            state.asked_ms = Some(now_ms);
        }
        is_due
    }

    /// The broker told whether some partitions are nobody's: for how many ms they are by now, and were when it told last.
    pub fn are_nobodys(&self, some: bool, now_ms: i64) -> (i64, i64) {
        let mut state = self.lock();
        let before = state.nobodys_ms.map_or(0, |since_ms| now_ms - since_ms);
        if some {
            state.nobodys_ms.get_or_insert(now_ms);
            return (before, before);
        }
        (state.nobodys_ms, state.is_mended) = (None, false);
        (0, before)
    }

    /// Whether the caller is the first to ask since all partitions were here: one does something about it.
    pub fn is_first_to_mend(&self) -> bool {
        !std::mem::replace(&mut self.lock().is_mended, true)
    }

    /// Start of the oldest window that can still be open, once every one of `n_partitions` has shown a record or is
    /// known to hold none.
    #[must_use]
    pub fn first_open_ms(&self, n_partitions: usize, spec: &WindowSpec) -> Option<i64> {
        let state = self.lock();
        let is_heard = |p: &PartitionProgress| p.at_end || p.watermark_ms != i64::MIN;
        if state.known().count() < n_partitions || !state.known().all(is_heard) {
            return None;
        }
        let watermarks = state.known().map(|p| p.watermark_ms).filter(|watermark| *watermark != i64::MIN);
        watermarks.map(|watermark| spec.closed_before(watermark)).min()
    }

    /// With `--until-end`: once every one of `n_partitions` has passed its recorded end, the watermark that closes every
    /// open window, the same for all; `i64::MIN` where no record came at all. One answer, from one look: a worker that
    /// asked for the end and for its watermark apart could end with its last window open.
    #[must_use]
    pub fn final_watermark(&self, n_partitions: usize, spec: &WindowSpec) -> Option<i64> {
        let state = self.lock();
        let done = state.partitions.len() >= n_partitions && state.partitions.values().all(|p| p.finished);
        let closing = |newest: i64| spec.end_of(spec.start_of(newest)) + spec.lateness_ms;
        done.then(|| state.newest_event_ms.map_or(i64::MIN, closing))
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
    fn a_partition_read_to_its_end_follows_the_others() {
        let progress = Progress::default();
        progress.tell(&at(0), PartitionProgress { finished: true, ..seen(300, 0) });
        progress.tell(&at(1), seen(420, 0));
        assert_eq!(progress.watermark_past_end(&at(0)), Some(420));
        assert_eq!(progress.watermark_past_end(&at(1)), None, "it has more records");
    }

    #[test]
    fn the_oldest_window_is_known_once_every_partition_was_heard() {
        let spec = WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 10 };
        let progress = Progress::default();
        progress.tell(&at(0), seen(905, 0));
        assert_eq!(progress.first_open_ms(2, &spec), None, "one is not here");
        assert_eq!((progress.scattered_for_ms(2, 50), progress.scattered_for_ms(2, 80)), (0, 30));
        progress.distributed(82);
        assert_eq!(progress.scattered_for_ms(2, 85), 3, "more may be on their way");
        progress.tell(&at(1), PartitionProgress { at_end: false, ..seen(i64::MIN, 0) });
        assert_eq!(progress.first_open_ms(2, &spec), None, "its first record is still to come");
        progress.tell(&at(1), seen(i64::MIN, 0));
        assert_eq!(progress.first_open_ms(2, &spec), Some(800), "it is empty; 905 may be followed by a record of 895");
        progress.tell(&at(1), seen(410, 0));
        assert_eq!(progress.first_open_ms(2, &spec), Some(400));
        assert_eq!((progress.is_first_to_mend(), progress.is_first_to_mend()), (true, false));
        assert_eq!(progress.scattered_for_ms(2, 90), 0);
        assert!(progress.is_first_to_mend(), "they were all here");
    }

    #[test]
    fn partitions_are_nobodys_until_the_broker_tells_that_all_are_given() {
        let progress = Progress::default();
        assert_eq!([0, 40, 50, 60].map(|now_ms| progress.is_to_ask(50, now_ms)), [true, false, true, false]);
        assert_eq!(progress.are_nobodys(false, 0), (0, 0));
        assert_eq!(progress.are_nobodys(true, 10), (0, 0));
        assert_eq!(progress.are_nobodys(true, 30), (20, 20));
        assert!(progress.is_first_to_mend() && !progress.is_first_to_mend());
        assert_eq!(progress.are_nobodys(false, 35), (0, 25));
        assert!(progress.is_first_to_mend());
    }

    #[test]
    fn the_end_closes_all_windows_once_every_partition_is_there() {
        let spec = WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 10 };
        let progress = Progress::default();
        progress.tell(&at(0), PartitionProgress { finished: true, ..seen(420, 0) });
        assert_eq!(progress.final_watermark(2, &spec), None);
        assert_eq!(Progress::default().final_watermark(0, &spec), Some(i64::MIN), "nothing to close");
        progress.tell(&at(1), PartitionProgress { finished: true, ..seen(i64::MIN, 0) });
        assert_eq!(progress.final_watermark(2, &spec), Some(510));
        assert_eq!(spec.closed_before(510), 500);
    }
}
