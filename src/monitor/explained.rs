//! Which windows explain an alert, and what the record says of it without reading a record again.

use std::collections::BTreeMap;

use crate::drift::alert::Alert;
use crate::drift::closed::OffsetRange;
use crate::drift::explanation::{Described, Explanation, ReferenceAge};
use crate::drift::report::Verdict;
use crate::drift::witness::Side;
use crate::store::reader::WindowQuery;
use crate::store::{StoreError, StoreReader};

/// Windows read on each side of the change point: enough for a mean over some hours, few enough to be read in seconds.
const A_SIDE: usize = 3;
/// How far the windows before may lie from the change point, in windows: over a night without verdicts.
const FAR: i64 = 24;
/// Records read of one window; of larger ones the first part of each partition.
const RECORDS_A_WINDOW: i64 = 20_000;
/// Verdicts of windows whose records do not show what the recommender thought.
const NOT_TOLD: [Verdict; 4] = [Verdict::ContractBroken, Verdict::Incomplete, Verdict::EntitiesSplit, Verdict::NoData];

/// A window whose records can be read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadWindow {
    /// Its start.
    pub start_ms: i64,
    /// Its end.
    pub end_ms: i64,
    /// Where its records lie, cut to what is read.
    pub offsets: Vec<OffsetRange>,
    /// Whether they were cut.
    pub is_part: bool,
    /// The segments it names.
    pub segments: Vec<String>,
}

/// The windows of one alert on each side of its change point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans {
    before: Vec<i64>,
    after: Vec<i64>,
    began_ms: i64,
}

impl Spans {
    /// The last windows before the interval of the change point (of which no more than three windows are heeded: a weak
    /// change has a long one), and the newest since.
    #[must_use]
    pub fn of(alert: &Alert, known: &[ReadWindow], window_ms: i64) -> Self {
        let opened = &alert.opened;
        let doubt = (opened.began_ms - opened.began_low_ms).clamp(0, window_ms.saturating_mul(A_SIDE as i64));
        let side = |wanted: &dyn Fn(&ReadWindow) -> bool| {
            let mut starts: Vec<i64> = known.iter().filter(|window| wanted(window)).map(|window| window.start_ms).collect();
            starts.drain(..starts.len().saturating_sub(A_SIDE));
            starts
        };
        Self {
            before: side(&|window| window.end_ms <= opened.began_ms - doubt),
            after: side(&|window| window.start_ms >= opened.began_ms && window.start_ms <= opened.window_start_ms),
            began_ms: opened.began_ms,
        }
    }

    /// Starts of all of them.
    pub fn starts(&self) -> impl Iterator<Item = i64> {
        self.before.iter().chain(&self.after).copied()
    }

    /// The side a window is on; `None` where it is not read for this alert.
    #[must_use]
    pub fn side(&self, start_ms: i64) -> Option<Side> {
        match (self.before.contains(&start_ms), self.after.contains(&start_ms)) {
            (true, _) => Some(Side::Before),
            (_, true) => Some(Side::After),
            _ => None,
        }
    }

    /// First and last instant of each side, and whether a part of its records is left out.
    #[must_use]
    pub fn bounds(&self, known: &[ReadWindow]) -> [(i64, i64, bool); 2] {
        [&self.before, &self.after].map(|starts| {
            let mut read = known.iter().filter(|window| starts.contains(&window.start_ms));
            let nothing = (self.began_ms, self.began_ms, false);
            read.clone().next().map_or(nothing, |first| {
                let last = read.clone().next_back().map_or(first.end_ms, |last| last.end_ms);
                (first.start_ms, last, read.any(|window| window.is_part))
            })
        })
    }
}

/// Windows of the model around the change points of its alerts, oldest first. Those without a verdict for a reason that
/// taints their records are left out.
///
/// # Errors
/// The store cannot be read.
pub fn windows(reader: &StoreReader, alerts: &[Alert], window_ms: i64) -> Result<Vec<ReadWindow>, StoreError> {
    let Some(first) = alerts.first() else { return Ok(Vec::new()) };
    let earliest = alerts.iter().map(|alert| alert.opened.began_ms).min().unwrap_or(first.opened.began_ms);
    let query = WindowQuery {
        from_ms: Some(earliest.saturating_sub(window_ms.saturating_mul(FAR))),
        to_ms: Some(first.opened.window_start_ms.saturating_add(1)),
        model_version: Some(first.opened.model_version.clone()),
        ..WindowQuery::default()
    };
    let mut found: BTreeMap<i64, ReadWindow> = BTreeMap::new();
    let mut tainted = Vec::new();
    for summary in reader.summaries(&query)? {
        if summary.segment == crate::drift::closed::ALL && NOT_TOLD.iter().any(|verdict| verdict.kind() == summary.verdict) {
            tainted.push(summary.window_start);
        }
        let window = found.entry(summary.window_start).or_insert_with(|| {
            let (offsets, is_part) = cut(summary.offsets);
            ReadWindow { start_ms: summary.window_start, end_ms: summary.window_end, offsets, is_part, segments: Vec::new() }
        });
        if summary.records > 0 {
            window.segments.push(summary.segment);
        }
    }
    found.retain(|start, _| !tainted.contains(start));
    Ok(found.into_values().collect())
}

/// The first part of each partition's stretch, all of them shortened alike.
fn cut(offsets: Vec<OffsetRange>) -> (Vec<OffsetRange>, bool) {
    let total: i64 = offsets.iter().map(|range| (range.to - range.from).max(0)).sum();
    if total <= RECORDS_A_WINDOW {
        return (offsets, false);
    }
    let shortened = |range: OffsetRange| {
        let length = i128::from(range.to - range.from) * i128::from(RECORDS_A_WINDOW) / i128::from(total);
        OffsetRange { to: range.from + i64::try_from(length).unwrap_or(0).max(1), ..range }
    };
    (offsets.into_iter().map(shortened).collect(), true)
}

/// What the record says of the alert beside its own numbers.
///
/// # Errors
/// The store cannot be read.
pub fn described(reader: &StoreReader, alert: &Alert) -> Result<Explanation, StoreError> {
    let opened = &alert.opened;
    let reference = reader.references()?.into_iter().find(|entry| entry.name == opened.reference).map(|entry| ReferenceAge {
        name: entry.name,
        from: entry.from_ms,
        to: entry.to_ms,
        windows: entry.windows,
        age_hours: (opened.window_end_ms - entry.to_ms).max(0) / 3_600_000,
    });
    let query = WindowQuery {
        from_ms: Some(opened.window_start_ms),
        to_ms: Some(opened.window_start_ms.saturating_add(1)),
        model_version: Some(opened.model_version.clone()),
        ..WindowQuery::default()
    };
    let mut described = Described::default();
    reader.for_each_report(&query, |report| {
        if let Some(segment) = report.segments.iter().find(|segment| segment.segment == opened.segment) {
            described = Described::of(segment);
        }
        Ok::<(), StoreError>(())
    })?;
    Ok(Explanation { reference, described, records: None, unread: None })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::TopicPartition;

    fn range(partition: i32, from: i64, to: i64) -> OffsetRange {
        OffsetRange { partition: TopicPartition { topic: Arc::from("t"), partition }, from, to }
    }

    #[test]
    fn a_large_window_is_cut_alike_in_all_partitions_and_a_small_one_is_not() {
        let small = vec![range(0, 10, 20), range(1, 0, 5)];
        assert_eq!(cut(small.clone()), (small, false));
        let (cut, is_part) = cut(vec![range(0, 100, 100 + 3 * RECORDS_A_WINDOW), range(1, 0, RECORDS_A_WINDOW), range(2, 7, 8)]);
        assert!(is_part);
        let lengths: Vec<i64> = cut.iter().map(|range| range.to - range.from).collect();
        assert!((lengths[0] - 3 * lengths[1]).abs() <= 3 && lengths[2] == 1, "{lengths:?}");
        assert!((lengths.iter().sum::<i64>() - RECORDS_A_WINDOW).abs() <= 3);
    }
}
