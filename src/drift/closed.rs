//! Closed windows: a partition's part of one, and the whole that the judge reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::drift::counts::SegmentCounts;
use crate::record::{RejectReason, TopicPartition};

/// Everything of a window, counted on its own: never the sum of the other segments.
pub const ALL: &str = "_all";
/// Values of a segment field that are not admitted.
pub const OTHER: &str = "_other";

/// What stands between a version's label and that of the version by whose reference it is judged a second time.
pub const AGAINST: &str = " against ";

/// The version whose records a window of that label holds: `v12` of `v12 against v11`, any other itself.
#[must_use]
pub fn counted_version(label: &str) -> &str {
    label.split_once(AGAINST).map_or(label, |(version, _)| version)
}

/// Most entity hashes a partial window names.
pub const ENTITY_SKETCH: usize = 256;

/// Which records a window's counts came from: offsets `from..to` of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRange {
    /// Topic and partition.
    #[serde(flatten)]
    pub partition: TopicPartition,
    /// Offset of the first record that was counted in the window.
    pub from: i64,
    /// One past the last record that was.
    pub to: i64,
}

/// Counts of one model version in one window: segment name (`_all`, `surface=home`, ...) to sums.
pub type SegmentMap = BTreeMap<String, SegmentCounts>;

/// One partition's closed part of a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartialWindow {
    /// Partition it was counted from.
    pub partition: TopicPartition,
    /// First instant of the window, ms since 1970 UTC.
    pub start_ms: i64,
    /// One past its last instant.
    pub end_ms: i64,
    /// Model version ("" = the only one) to its counts.
    pub models: BTreeMap<String, SegmentMap>,
    /// Records of the partition rejected since its previous window closed, by reason.
    pub rejected: BTreeMap<RejectReason, u64>,
    /// First and one-past-last offset counted in it.
    pub offsets: std::ops::Range<i64>,
    /// Segment names that were seen and are not admitted, with their records: what the judge may admit next.
    pub seen: BTreeMap<String, u64>,
    /// The smallest entity hashes of the window, ascending, at most [`ENTITY_SKETCH`]: two partitions
    /// that share some hold a topic that is not keyed by the entity.
    pub entity_sketch: Vec<u64>,
    /// Why the counts cannot be trusted (too many entities, records lost to retention), if so.
    pub incomplete: Option<String>,
}

/// A window of one model version with all partitions merged: what is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClosedWindow {
    /// First instant, ms since 1970 UTC.
    pub start_ms: i64,
    /// One past the last instant.
    pub end_ms: i64,
    /// Model version ("" = the only one).
    pub model_version: String,
    /// Segment to counts; `_all` is present unless the window is empty.
    pub segments: SegmentMap,
    /// Rejected records (of all models), by reason.
    pub rejected: BTreeMap<RejectReason, u64>,
    /// Where the records lie.
    pub offsets: Vec<OffsetRange>,
    /// Why there can be no verdict, if so.
    pub incomplete: Option<String>,
}
