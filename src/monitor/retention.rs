//! When windows beyond `[store] retention` are let go of.
//!
//! Their age is taken from the newest judged window, not from the process clock: a year that is replayed in an hour
//! keeps what a year's monitor would hold, and a stream that has stopped keeps its last windows.

use std::time::Duration;

use crate::store::retention::Actor;

/// Longest time between two deletions: each is an entry of the chain.
const DAY_MS: i64 = 86_400_000;

/// Decides when to delete, and up to where.
#[derive(Clone, Debug)]
pub struct Retention {
    keep_ms: i64,
    why: String,
    /// Stretch of time of the last look; a tenth of what is kept, at most a day.
    looked: Option<i64>,
}

impl Retention {
    /// Keeps windows for as long as `keep`.
    #[must_use]
    pub fn new(keep: Duration) -> Self {
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX).max(1);
        Self { keep_ms, why: format!("[store] retention = {}", humantime::format_duration(keep)), looked: None }
    }

    /// After a window that ended at `end_ms`: windows that ended by then may go; `None` where it was looked lately.
    pub fn due(&mut self, end_ms: i64, now_ms: i64) -> Option<(i64, Actor)> {
        let stretch = end_ms.div_euclid((self.keep_ms / 10).clamp(1, DAY_MS));
        if self.looked.replace(stretch) == Some(stretch) {
            return None;
        }
        let actor = Actor { who: String::new(), why: self.why.clone(), at_ms: now_ms };
        Some((end_ms.saturating_sub(self.keep_ms), actor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_looked_at_once_and_age_is_that_of_the_newest_window() {
        let mut retention = Retention::new(Duration::from_secs(400 * 86_400));
        let end_ms = 500 * DAY_MS;
        let (before_ms, actor) = retention.due(end_ms, 7).unwrap();
        assert_eq!((before_ms, actor.at_ms, actor.who.as_str()), (100 * DAY_MS, 7, ""), "by rule: nobody did it");
        assert!(actor.why.contains("400days") || actor.why.contains("1year"), "{}", actor.why);
        assert!(retention.due(end_ms + DAY_MS - 1, 8).is_none());
        assert!(retention.due(end_ms + DAY_MS, 9).is_some());
        let mut short = Retention::new(Duration::from_secs(36_000));
        assert!(short.due(3_600_000, 0).is_some() && short.due(7_200_000, 0).is_some(), "a tenth of ten hours");
    }
}
