//! Where a partition goes on when it is assigned: the store's position, or the one in Kafka.
//!
//! Every commit carries, beside the offset, what is needed to rebuild the open windows from the log
//! alone: `1;<counting hash>;<replay offset>;<watermark>;<late>;<gap, or nothing>`. A lost disk then
//! costs a re-read, not counts.
//!
//! | store (this lineage) | commit in Kafka     | goes on at                                                      |
//! |----------------------|---------------------|-----------------------------------------------------------------|
//! | yes                  | any                 | the store: it is written first, so it is never behind           |
//! | no                   | same counting hash  | the commit: windows closed before are in another store, those not judged here are marked |
//! | no                   | other, or not ours  | the committed offset, nothing open, the window it lies in marked |
//! | no                   | none                | where `kafka.start` says; marked too, unless that is offset 0   |
//!
//! A partition of which nothing is known begins with every window closed that is judged here: its records of those are
//! late. They were counted as encoded once, and were in no verdict.
//!
//! Whatever the position: where the log begins later by now, the windows that miss records are marked.

use std::collections::BTreeMap;

use crate::drift::gap::{Gap, GapCause};
use crate::drift::partition::PartitionPosition;
use crate::drift::window::WindowSpec;
use crate::kafka::rebalance::{AssignedPartition, Committed};
use crate::record::TopicPartition;

/// Text beside a committed offset; far below the 4,096 bytes that Kafka allows.
#[must_use]
pub fn metadata(counting_hash: &str, position: &PartitionPosition) -> String {
    // Its words are JSON of numbers and two names: no semicolon, some hundred bytes.
    let gap = position.gap.and_then(|gap| serde_json::to_string(&gap).ok()).unwrap_or_default();
    format!("1;{};{};{};{};{gap}", short(counting_hash), position.replay_offset, position.watermark_ms, position.n_late)
}

/// Position from a commit's metadata; `None` where it is not ours or counts in another way.
#[must_use]
pub fn parse(counting_hash: &str, offset: i64, metadata: &str) -> Option<PartitionPosition> {
    let mut parts = metadata.split(';');
    if parts.next()? != "1" || parts.next()? != short(counting_hash) {
        return None;
    }
    let replay_offset: i64 = parts.next()?.parse().ok()?;
    let watermark_ms = parts.next()?.parse().ok()?;
    let n_late = parts.next()?.parse().ok()?;
    let gap = match parts.next() {
        // Written before gaps were.
        None | Some("") => None,
        Some(text) => Some(serde_json::from_str(text).ok()?),
    };
    (parts.next().is_none() && (0..=offset).contains(&replay_offset)).then(|| PartitionPosition {
        replay_offset,
        watermark_ms,
        n_late,
        gap,
        ..PartitionPosition::starting_at(offset)
    })
}

/// Where the partition goes on; `stored` is the store's position in the current lineage, `oldest_ms` the start of the
/// oldest window that this store has something of and is not judged, `closed_at_ms` the watermark at which all that is
/// judged is closed (`i64::MIN`: nothing is).
#[must_use]
pub fn position(
    counting_hash: &str,
    window: &WindowSpec,
    assigned: &AssignedPartition,
    stored: Option<&PartitionPosition>,
    (oldest_ms, closed_at_ms): (Option<i64>, i64),
    now_ms: i64,
) -> PartitionPosition {
    let committed = || {
        let commit = assigned.committed.as_ref()?;
        parse(counting_hash, commit.offset, &commit.metadata).map(|position| counted_elsewhere(position, oldest_ms, window, now_ms))
    };
    let known = stored.cloned().or_else(committed).unwrap_or_else(|| {
        let mid_window = || Gap::open(GapCause::Start, i64::MIN, window, now_ms);
        let gap = (assigned.start > 0).then(mid_window);
        PartitionPosition { gap, watermark_ms: closed_at_ms, ..PartitionPosition::starting_at(assigned.start) }
    });
    known.in_log_from(assigned.low, window, now_ms)
}

/// The position of a commit that another store was written with: what is closed there is marked here.
fn counted_elsewhere(position: PartitionPosition, oldest_ms: Option<i64>, window: &WindowSpec, now_ms: i64) -> PartitionPosition {
    let until = window.closed_before(position.watermark_ms);
    let Some(from) = oldest_ms.filter(|from| *from < until) else { return position };
    let gap = Gap { from_ms: Some(from), ..Gap::ending(GapCause::Elsewhere, position.watermark_ms, until, window, now_ms) };
    PartitionPosition { gap: Some(position.gap.map_or(gap, |known| known.joined(gap))), ..position }
}

/// Positions for a store that has none, from the group's commits alone.
///
/// What partitions had closed went into the store that is gone. A window that one of them had closed and
/// another has still open would be judged from the other alone: such windows are marked, in every partition.
#[must_use]
pub fn without_store(
    counting_hash: &str,
    window: &WindowSpec,
    commits: &[(TopicPartition, Committed)],
    now_ms: i64,
) -> BTreeMap<TopicPartition, PartitionPosition> {
    let parsed = commits.iter().filter_map(|(at, commit)| Some((at.clone(), parse(counting_hash, commit.offset, &commit.metadata)?)));
    let mut positions: BTreeMap<TopicPartition, PartitionPosition> = parsed.collect();
    let edges = positions.values().filter(|position| position.watermark_ms != i64::MIN);
    let edges: Vec<i64> = edges.map(|position| window.closed_before(position.watermark_ms)).collect();
    if let (Some(&from), Some(&until)) = (edges.iter().min(), edges.iter().max())
        && from < until
    {
        for position in positions.values_mut() {
            let gap = Gap { from_ms: Some(from), ..Gap::ending(GapCause::Store, position.watermark_ms, until, window, now_ms) };
            position.gap = Some(position.gap.map_or(gap, |known| known.joined(gap)));
        }
    }
    positions
}

fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn assigned(committed: Option<(i64, String)>) -> AssignedPartition {
        AssignedPartition {
            partition: TopicPartition { topic: Arc::from("t"), partition: 0 },
            committed: committed.map(|(offset, metadata)| Committed { offset, metadata }),
            start: 7,
            low: 0,
            high: 100,
        }
    }

    const WINDOW: WindowSpec = WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 0 };

    fn some_position() -> PartitionPosition {
        let gap = Some(Gap::ending(GapCause::Lineage, 350, 500, &WINDOW, 7));
        PartitionPosition { replay_offset: 40, watermark_ms: 350, n_late: 2, gap, ..PartitionPosition::starting_at(50) }
    }

    fn goes_on(hash: &str, assigned: &AssignedPartition, stored: Option<&PartitionPosition>) -> PartitionPosition {
        position(hash, &WINDOW, assigned, stored, (None, i64::MIN), 9_999)
    }

    #[test]
    fn what_was_committed_comes_back() {
        let text = metadata("abc", &some_position());
        assert!(text.len() < 200, "{text}");
        assert_eq!(goes_on("abc", &assigned(Some((50, text.clone()))), None), some_position());
        assert_eq!(goes_on("abc", &assigned(None), Some(&some_position())), some_position());
        let foreign = goes_on("other", &assigned(Some((50, text))), None);
        assert_eq!((foreign.next_offset, foreign.gap.unwrap().cause), (7, GapCause::Start));
        assert_eq!(parse("abc", 50, "1;abc;40;350;2").unwrap(), PartitionPosition { gap: None, ..some_position() }, "of an older program");
    }

    #[test]
    fn a_window_that_one_partition_closed_into_a_lost_store_is_marked_in_all() {
        let commit = |partition: i32, watermark_ms: i64| {
            let position = PartitionPosition { watermark_ms, ..PartitionPosition::starting_at(50) };
            let at = TopicPartition { topic: Arc::from("t"), partition };
            (at, Committed { offset: 50, metadata: metadata("abc", &position) })
        };
        let apart = without_store("abc", &WINDOW, &[commit(0, 420), commit(1, 680), commit(2, i64::MIN)], 7);
        let gaps: Vec<Gap> = apart.values().map(|position| position.gap.unwrap()).collect();
        assert!(gaps.iter().all(|gap| (gap.cause, gap.from_ms, gap.until_ms) == (GapCause::Store, Some(400), Some(600))), "{gaps:?}");
        let together = without_store("abc", &WINDOW, &[commit(0, 610), commit(1, 680)], 7);
        assert!(together.len() == 2 && together.values().all(|position| position.gap.is_none()), "all windows are rebuilt from the log");
        assert!(without_store("other", &WINDOW, &[commit(0, 420)], 7).is_empty());
    }

    #[test]
    fn only_a_start_at_the_very_first_record_misses_none() {
        let at = |start| AssignedPartition { start, low: start, ..assigned(None) };
        assert_eq!(goes_on("abc", &at(0), None), PartitionPosition::starting_at(0));
        assert_eq!(goes_on("abc", &at(7), None).gap.unwrap().cause, GapCause::Start);
    }

    #[test]
    fn what_retention_deleted_is_marked_from_the_oldest_open_window_on() {
        let stored = PartitionPosition { gap: None, ..some_position() };
        let log_from = |low| goes_on("abc", &AssignedPartition { low, ..assigned(None) }, Some(&stored));
        assert_eq!(log_from(40), stored, "everything is still there");
        // Some of what is to be read again: all of it is older than the watermark 350.
        let again = log_from(45);
        assert_eq!((again.next_offset, again.replay_offset), (50, 45));
        assert_eq!(again.gap, Some(Gap::ending(GapCause::Retention, 350, 400, &WINDOW, 9_999)));
        // Records that were never counted: the first one that is left tells.
        let lost = log_from(60);
        assert_eq!((lost.next_offset, lost.replay_offset), (60, 60));
        assert_eq!(lost.gap, Some(Gap::open(GapCause::Retention, 350, &WINDOW, 9_999)));
    }

    #[test]
    fn windows_that_another_store_has_a_part_of_are_marked_from_the_oldest_that_is_not_judged_here() {
        let commit = metadata("abc", &PartitionPosition { gap: None, ..some_position() });
        let taken = |oldest_ms| position("abc", &WINDOW, &assigned(Some((50, commit.clone()))), None, (oldest_ms, i64::MIN), 9).gap;
        let gap = taken(Some(100)).unwrap();
        assert_eq!((gap.cause, gap.from_ms, gap.until_ms), (GapCause::Elsewhere, Some(100), Some(300)));
        assert!(gap.covers(200) && !gap.covers(300), "300 is open at the commit, and read again whole");
        assert_eq!((taken(Some(300)), taken(None)), (None, None), "nothing is missing here");
    }

    proptest! {
        #[test]
        fn foreign_metadata_is_never_taken_for_ours(text in ".{0,40}", offset in 0_i64..1000) {
            prop_assert_eq!(parse("abc", offset, &text), None);
        }
    }
}
