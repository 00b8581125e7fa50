//! How far a partition may be read ahead of the judge, so that segments are followed alike at every reading.
//!
//! A name that window W showed is followed from `end of W + ahead` on. That edge is decided by event time alone, whatever
//! the speed of reading, if no record of a window at or after it is counted before W is judged. So a record waits whose
//! window starts later than
//!
//! ```text
//! limit = start of the oldest window that is not judged + ahead
//! ahead = (lateness + idle_after, in whole windows, rounded up) + 2 windows
//! ```
//!
//! At the log's end nobody waits: the judge is behind by the lateness, by `idle_after` where a partition is silent, and by
//! the window that is open; one more is room for its work. A backlog is read in steps of `ahead`.
//!
//! Nothing is held back where no segment can be admitted (no fields, or a full table), nor while partitions are in other
//! hands: the judge then stands still, and admits nothing.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use crate::drift::window::WindowSpec;

/// Where readers and the judge agree on how far to read.
#[derive(Debug)]
pub struct Pace {
    ahead_ms: i64,
    limit_ms: AtomicI64,
    n_waiting: AtomicUsize,
}

impl Pace {
    /// A pace for these windows; `admits` says whether a segment can still be admitted.
    #[must_use]
    pub fn new(window: &WindowSpec, idle_after_ms: i64, admits: bool) -> Self {
        let behind = window.lateness_ms.saturating_add(idle_after_ms).max(0);
        let n_windows = behind / window.length_ms + i64::from(behind % window.length_ms > 0) + 2;
        let limit_ms = if admits { i64::MIN } else { i64::MAX };
        Self { ahead_ms: n_windows.saturating_mul(window.length_ms), limit_ms: AtomicI64::new(limit_ms), n_waiting: AtomicUsize::new(0) }
    }

    /// First window a name can be followed in that a window which ends there has shown.
    #[must_use]
    pub fn edge_ms(&self, end_ms: i64) -> i64 {
        end_ms.saturating_add(self.ahead_ms)
    }

    /// Windows that start before this are judged, or hold no record. `i64::MIN` says nothing.
    pub fn judged_before(&self, edge_ms: i64) {
        if edge_ms != i64::MIN {
            self.limit_ms.fetch_max(edge_ms.saturating_add(self.ahead_ms), Ordering::SeqCst);
        }
    }

    /// No segment can be admitted any more.
    pub fn admits_no_more(&self) {
        self.limit_ms.store(i64::MAX, Ordering::SeqCst);
    }

    /// Start of the newest window that may be counted; `i64::MIN` while the oldest window is not known.
    #[must_use]
    pub fn limit_ms(&self) -> i64 {
        self.limit_ms.load(Ordering::SeqCst)
    }

    /// A worker holds so many partitions back, where it held `before`.
    pub fn hold(&self, before: usize, now: usize) {
        self.n_waiting.fetch_add(now, Ordering::SeqCst);
        self.n_waiting.fetch_sub(before, Ordering::SeqCst);
    }

    /// Whether a partition is held back: others hurry to let the judge come after.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.n_waiting.load(Ordering::SeqCst) > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_name_is_followed_from_where_nothing_can_have_been_counted() {
        let window = WindowSpec { length_ms: HOUR, origin_ms: 0, lateness_ms: 600_000 };
        let pace = Pace::new(&window, 120_000, true);
        assert_eq!(pace.limit_ms(), i64::MIN);
        pace.judged_before(i64::MIN);
        assert_eq!(pace.limit_ms(), i64::MIN, "nothing known yet");
        pace.judged_before(10 * HOUR);
        assert_eq!(pace.limit_ms(), 13 * HOUR);
        pace.judged_before(9 * HOUR);
        assert_eq!(pace.limit_ms(), 13 * HOUR, "never back");
        assert_eq!(pace.edge_ms(11 * HOUR), 14 * HOUR, "shown in the window of 10 h, which is judged next");
        pace.admits_no_more();
        pace.judged_before(20 * HOUR);
        assert_eq!(pace.limit_ms(), i64::MAX);
    }

    proptest! {
        /// At the log's end: all partitions stand within a window of now but a silent one, which follows `idle_after` behind.
        #[test]
        fn a_record_at_the_logs_end_never_waits(
            length_ms in 1_000i64..100_000,
            lateness_ms in 0i64..500_000,
            idle_after_ms in 0i64..500_000,
            now_ms in 10_000_000i64..20_000_000,
        ) {
            let window = WindowSpec { length_ms, origin_ms: 0, lateness_ms };
            let pace = Pace::new(&window, idle_after_ms, true);
            let judge_behind_ms = length_ms;
            pace.judged_before(window.closed_before(now_ms - judge_behind_ms - idle_after_ms));
            prop_assert!(window.start_of(now_ms) <= pace.limit_ms());
        }

        /// One cycle: every partition waits at a record beyond the limit, which is as far as its watermark then stands.
        #[test]
        fn partitions_that_all_wait_let_the_judge_come_after(length_ms in 1_000i64..100_000, lateness_ms in 0i64..500_000, idle_after_ms in 0i64..500_000, beyond in 1i64..9) {
            let window = WindowSpec { length_ms, origin_ms: 0, lateness_ms };
            let pace = Pace::new(&window, idle_after_ms, true);
            pace.judged_before(0);
            let limit = pace.limit_ms();
            pace.judged_before(window.closed_before(limit + beyond * length_ms));
            prop_assert!(pace.limit_ms() > limit, "{} {limit}", pace.limit_ms());
        }
    }
}
