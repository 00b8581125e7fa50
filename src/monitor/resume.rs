//! Where a partition goes on when it is assigned: the store's position, or the one in Kafka.
//!
//! Every commit carries, beside the offset, what is needed to rebuild the open windows from the log
//! alone: `1;<counting hash>;<replay offset>;<watermark>;<late>`. A lost disk then costs a re-read,
//! not counts.
//!
//! | store (this lineage) | commit in Kafka     | goes on at                                                      |
//! |----------------------|---------------------|-----------------------------------------------------------------|
//! | yes                  | any                 | the store: it is written first, so it is never behind           |
//! | no                   | same counting hash  | the commit: windows closed before are history somewhere else    |
//! | no                   | other, or not ours  | the committed offset, nothing open                              |
//! | no                   | none                | where `kafka.start` says                                        |

use crate::drift::partition::PartitionPosition;
use crate::kafka::rebalance::AssignedPartition;

/// Text beside a committed offset; far below the 4,096 bytes that Kafka allows.
#[must_use]
pub fn metadata(counting_hash: &str, position: &PartitionPosition) -> String {
    format!("1;{};{};{};{}", short(counting_hash), position.replay_offset, position.watermark_ms, position.n_late)
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
    (parts.next().is_none() && (0..=offset).contains(&replay_offset)).then(|| PartitionPosition {
        replay_offset,
        watermark_ms,
        n_late,
        ..PartitionPosition::starting_at(offset)
    })
}

/// Where the partition goes on; `stored` is the store's position in the current lineage.
#[must_use]
pub fn position(counting_hash: &str, assigned: &AssignedPartition, stored: Option<&PartitionPosition>) -> PartitionPosition {
    if let Some(stored) = stored {
        return stored.clone();
    }
    let committed = assigned.committed.as_ref().and_then(|c| parse(counting_hash, c.offset, &c.metadata));
    committed.unwrap_or_else(|| PartitionPosition::starting_at(assigned.start))
}

fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::kafka::rebalance::Committed;
    use crate::record::TopicPartition;

    fn assigned(committed: Option<(i64, String)>) -> AssignedPartition {
        AssignedPartition {
            partition: TopicPartition { topic: Arc::from("t"), partition: 0 },
            committed: committed.map(|(offset, metadata)| Committed { offset, metadata }),
            start: 7,
            low: 0,
            high: 100,
        }
    }

    fn some_position() -> PartitionPosition {
        PartitionPosition { replay_offset: 40, watermark_ms: -3, n_late: 2, ..PartitionPosition::starting_at(50) }
    }

    #[test]
    fn what_was_committed_comes_back() {
        let text = metadata("abc", &some_position());
        assert_eq!(position("abc", &assigned(Some((50, text.clone()))), None), some_position());
        assert_eq!(position("other", &assigned(Some((50, text))), None), PartitionPosition::starting_at(7));
        assert_eq!(position("abc", &assigned(None), Some(&some_position())), some_position());
    }

    proptest! {
        #[test]
        fn foreign_metadata_is_never_taken_for_ours(text in ".{0,40}", offset in 0_i64..1000) {
            prop_assert_eq!(parse("abc", offset, &text), None);
        }
    }
}
