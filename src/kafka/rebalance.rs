//! A rebalance as values: what the group ordered, and what the worker needs to answer it.

use crate::record::TopicPartition;

/// What the group ordered. Each order must be answered once: [`RebalanceEvent::Assigned`] with
/// `WorkerConsumer::start` (also when the list is empty), [`RebalanceEvent::Revoked`] with
/// `WorkerConsumer::release`. The group waits for the answer, up to `max.poll.interval.ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RebalanceEvent {
    /// Partitions that are now this worker's.
    Assigned(Vec<AssignedPartition>),
    /// Partitions that are this worker's no more.
    Revoked {
        /// Which.
        partitions: Vec<TopicPartition>,
        /// They may already have a new owner (the session timed out): neither flush nor commit, drop the state.
        lost: bool,
    },
}

/// A partition as it was found at assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedPartition {
    /// Which.
    pub partition: TopicPartition,
    /// The group's position, with the metadata the last owner left beside it.
    pub committed: Option<Committed>,
    /// Where to start: the committed position, or else what `kafka.start` says.
    pub start: i64,
    /// First offset the log still has. Above the replay position: records were deleted unread.
    pub low: i64,
    /// First offset the log does not have yet. Below the committed position: the topic was made anew.
    pub high: i64,
}

/// A committed position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Offset of the next record.
    pub offset: i64,
    /// What was committed beside it; empty when nothing was, or when it is not UTF-8 (not ours).
    pub metadata: String,
}

/// A position to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which partition.
    pub partition: TopicPartition,
    /// Offset of the next record.
    pub offset: i64,
    /// Committed beside it, at most 4,096 bytes on Apache Kafka.
    pub metadata: String,
}
