//! Records that a partition's windows miss, and the windows that therefore get no verdict.
//!
//! Half a window looks like a drift: fewer entities, fewer records of each, another time of day. So a
//! window that may miss records is marked, whatever the reason they are missing.
//!
//! | cause       | first window that misses records       | first one that does not                                      |
//! |-------------|----------------------------------------|--------------------------------------------------------------|
//! | `retention` | the oldest that was open               | after the first record that is left, plus the lateness        |
//! | `lineage`   | the oldest that was open               | after the newest record counted in the old way, of all partitions |
//! | `store`     | the oldest that any partition had open | after the newest that any partition had closed               |
//! | `elsewhere` | the oldest that is not judged here     | after the newest that the other member had closed            |
//! | `start`     | unknown: as old as the first record    | after the first record that is read, plus the lateness        |
//!
//! The lateness, because a record that is gone may be that much newer than one that is left.

use serde::{Deserialize, Serialize};

use crate::drift::window::WindowSpec;

/// Most windows without a record that a gap is said to hold; older ones are not listed. Two years of hours:
/// more would only follow from a clock that is wrong by decades.
const MOST_EMPTY: i64 = 20_000;

/// Why records are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The broker deleted them before they were counted, or before they could be read again.
    Retention,
    /// They were counted in another way: a new lineage began.
    Lineage,
    /// The store is gone that held what some partitions had counted of them.
    Store,
    /// Reading began in the middle of the log.
    Start,
    /// Another member of the group counted them, into a store of its own.
    Elsewhere,
}

impl GapCause {
    /// What is said of a window in the gap.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Retention => {
                "retention deleted records of this window before they were counted: raise the topic's retention above the longest stop"
            }
            Self::Lineage => "a new lineage began within this window: part of it was counted in another way",
            Self::Store => "the store that held a part of this window is gone: keep it on a volume that outlives the instance",
            Self::Start => "reading began within this window",
            Self::Elsewhere => {
                "another member of the group counted a part of this window, into a store of its own: one instance must read all partitions"
            }
        }
    }
}

/// Windows of one partition that may miss records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Why.
    pub cause: GapCause,
    /// Start of the oldest window that may miss some and is not closed; `None`: nobody knows.
    pub from_ms: Option<i64>,
    /// Windows that start before this may miss some; `None` until something tells.
    pub until_ms: Option<i64>,
    /// Whether `until_ms` is final.
    pub settled: bool,
    /// When it was noticed, by the process clock, ms: nothing that is missing was served later.
    pub noticed_ms: i64,
}

impl Gap {
    /// A gap whose end the first record after it tells. `watermark_ms`: `i64::MIN` where nothing was counted before.
    #[must_use]
    pub fn open(cause: GapCause, watermark_ms: i64, spec: &WindowSpec, noticed_ms: i64) -> Self {
        let from_ms = (watermark_ms != i64::MIN).then(|| spec.closed_before(watermark_ms));
        Self { cause, from_ms, until_ms: None, settled: false, noticed_ms }
    }

    /// A gap that ends before the window that starts at `until_ms`.
    #[must_use]
    pub fn ending(cause: GapCause, watermark_ms: i64, until_ms: i64, spec: &WindowSpec, noticed_ms: i64) -> Self {
        Self { until_ms: Some(until_ms), settled: true, ..Self::open(cause, watermark_ms, spec, noticed_ms) }
    }

    /// Both: windows that miss records for either reason.
    #[must_use]
    pub fn joined(self, later: Self) -> Self {
        let from_ms = self.from_ms.zip(later.from_ms).map(|(a, b)| a.min(b));
        let until_ms = self.until_ms.zip(later.until_ms).map(|(a, b)| a.max(b));
        Self { from_ms, until_ms, settled: self.settled && later.settled, ..later }
    }

    /// Whether the window that starts then may miss records.
    #[must_use]
    pub fn covers(&self, start_ms: i64) -> bool {
        self.until_ms.is_none_or(|until| start_ms < until)
    }

    /// The first record after the gap.
    pub(super) fn met(&mut self, event_time_ms: i64, spec: &WindowSpec) {
        if !self.settled {
            let until = after(event_time_ms.saturating_add(spec.lateness_ms), spec);
            self.until_ms = Some(self.until_ms.map_or(until, |known| known.min(until)));
            self.settled = true;
        }
    }

    /// No record came, and the partition was idle until the watermark: what is missing is older than the notice of it.
    pub(super) fn idle(&mut self, watermark_ms: i64, spec: &WindowSpec) {
        if self.until_ms.is_none() {
            self.until_ms = Some(after(watermark_ms.max(self.noticed_ms), spec));
        }
    }

    /// Start of the next window before `edge_ms` that is to be closed although no record of it is left.
    pub(super) fn next_empty(&self, edge_ms: i64, spec: &WindowSpec) -> Option<i64> {
        let end = self.until_ms.unwrap_or(edge_ms).min(edge_ms);
        let oldest = end.saturating_sub(spec.length_ms.saturating_mul(MOST_EMPTY));
        self.from_ms.map(|from| spec.start_of(from.max(oldest))).filter(|from| *from < end)
    }

    /// The window that starts then is closed.
    pub(super) fn closed(&mut self, start_ms: i64, spec: &WindowSpec) {
        self.from_ms = Some(self.from_ms.unwrap_or(i64::MIN).max(spec.end_of(start_ms)));
    }

    /// Whether every window of the gap is closed at the edge.
    pub(super) fn is_over(&self, edge_ms: i64) -> bool {
        self.settled && self.until_ms.is_some_and(|until| until <= edge_ms)
    }
}

/// Start of the first window after the one that holds the instant.
fn after(time_ms: i64, spec: &WindowSpec) -> i64 {
    spec.end_of(spec.start_of(time_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: WindowSpec = WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 30 };

    #[test]
    fn the_first_record_after_a_gap_tells_where_it_ends() {
        let mut gap = Gap::open(GapCause::Retention, 250, &SPEC, 9_999);
        assert_eq!((gap.from_ms, gap.until_ms), (Some(200), None));
        assert!(gap.covers(1_000_000), "nobody knows yet");
        gap.met(480, &SPEC);
        assert_eq!(gap.until_ms, Some(600), "a missing record may be 30 ms newer than 480");
        gap.met(900, &SPEC);
        assert_eq!(gap.until_ms, Some(600), "only the first");
        assert!(gap.covers(500) && !gap.covers(600));
    }

    #[test]
    fn a_gap_without_records_after_it_ends_where_it_was_noticed() {
        let mut gap = Gap::open(GapCause::Retention, 250, &SPEC, 777);
        gap.idle(500, &SPEC);
        assert_eq!(gap.until_ms, Some(800));
        assert!(!gap.is_over(10_000), "a record may still tell that it ended earlier");
        gap.met(510, &SPEC);
        assert_eq!((gap.until_ms, gap.is_over(600)), (Some(600), true));
    }

    #[test]
    fn windows_without_a_record_are_listed_once_and_never_without_end() {
        let mut gap = Gap::ending(GapCause::Lineage, 250, 500, &SPEC, 0);
        let mut listed = Vec::new();
        while let Some(start) = gap.next_empty(400, &SPEC) {
            listed.push(start);
            gap.closed(start, &SPEC);
        }
        assert_eq!(listed, [200, 300]);
        assert_eq!(gap.next_empty(1_000, &SPEC), Some(400));
        let mut wild = Gap::open(GapCause::Retention, 0, &SPEC, i64::MAX / 4);
        wild.idle(0, &SPEC);
        let first = wild.next_empty(i64::MAX / 8, &SPEC).unwrap();
        assert!((i64::MAX / 8 - first) / SPEC.length_ms <= MOST_EMPTY);
    }

    #[test]
    fn two_gaps_make_one_that_covers_both() {
        let lineage = Gap::ending(GapCause::Lineage, 250, 500, &SPEC, 1);
        let lost = Gap::open(GapCause::Retention, 420, &SPEC, 2);
        let both = lineage.joined(lost);
        assert_eq!((both.cause, both.from_ms, both.until_ms, both.settled), (GapCause::Retention, Some(200), None, false));
        let start = Gap::open(GapCause::Start, i64::MIN, &SPEC, 3);
        assert_eq!(start.joined(lost).from_ms, None);
    }
}
