//! Commits that never stall: a request whose reply comes to a queue, one in flight.
//!
//! A synchronous commit has no time limit (5-25 s with the broker away); an asynchronous one never
//! called back through the batch path. `rd_kafka_commit_queue` does neither.

use std::time::{Duration, Instant};

use rdkafka::client::NativeClient;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::error::KafkaError;
use crate::kafka::queue::{CommitReply, Queue};
use crate::kafka::rebalance::Position;

/// The reply queue and whether a reply is due.
pub(super) struct Commits {
    queue: Queue,
    in_flight: bool,
}

impl Commits {
    pub(super) fn new(queue: Queue) -> Self {
        Self { queue, in_flight: false }
    }

    pub(super) fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// Starts a commit; false when the last one is not answered yet.
    pub(super) fn start(&mut self, client: &NativeClient, positions: &[Position]) -> Result<bool, KafkaError> {
        if self.in_flight {
            return Ok(false);
        }
        if positions.is_empty() {
            return Ok(true);
        }
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for position in positions {
            let mut entry = list.add_partition(&position.partition.topic, position.partition.partition);
            entry.set_offset(Offset::Offset(position.offset)).map_err(|error| KafkaError::Commit {
                message: format!("{}: {error}", position.partition),
                retriable: false,
                fenced: false,
            })?;
            entry.set_metadata(&position.metadata);
        }
        match self.queue.commit(client, &list) {
            Some(code) => Err(failure(code, &code.to_string())),
            None => {
                self.in_flight = true;
                Ok(true)
            }
        }
    }

    /// The outcome of the commit in flight, once it is there.
    pub(super) fn poll(&mut self, timeout: Duration) -> Option<Result<(), KafkaError>> {
        if !self.in_flight {
            return None;
        }
        let reply = self.queue.poll_commit(timeout)?;
        self.in_flight = false;
        Some(outcome(&reply))
    }

    /// Waits for the commit in flight, until `deadline`.
    pub(super) fn wait(&mut self, deadline: Instant) -> Result<(), KafkaError> {
        while self.in_flight {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(outcome) = self.poll(left.min(Duration::from_millis(100))) {
                return outcome;
            }
            if left.is_zero() {
                return Err(KafkaError::Commit { message: "no answer before the deadline".into(), retriable: true, fenced: false });
            }
        }
        Ok(())
    }
}

fn outcome(reply: &CommitReply) -> Result<(), KafkaError> {
    let named = reply.partitions.iter().find_map(|entry| {
        let code = entry.error?;
        Some((code, format!("{}[{}] at {}: {code}", entry.topic, entry.partition, entry.offset)))
    });
    match (named, reply.error) {
        (Some((code, words)), _) => Err(failure(code, &words)),
        (None, Some(code)) => Err(failure(code, &code.to_string())),
        (None, None) => Ok(()),
    }
}

/// `IllegalGeneration` and `RebalanceInProgress` hit healthy members in every classic rebalance:
/// the same commit succeeds once it is over. `UnknownMemberId` is what a member that was frozen
/// past its session sees: its partitions have another owner.
fn failure(code: Code, words: &str) -> KafkaError {
    let retriable = matches!(
        code,
        Code::IllegalGeneration
            | Code::RebalanceInProgress
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
            | Code::BrokerTransportFailure
            | Code::OperationTimedOut
            | Code::RequestTimedOut
    );
    let fenced = matches!(code, Code::UnknownMemberId | Code::FencedInstanceId | Code::AssignmentLost);
    KafkaError::Commit { message: words.to_owned(), retriable, fenced }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::queue::Entry;

    #[test]
    fn a_rebalance_is_retried_and_a_lost_session_is_not() {
        assert!(matches!(failure(Code::IllegalGeneration, ""), KafkaError::Commit { retriable: true, fenced: false, .. }));
        assert!(matches!(failure(Code::UnknownMemberId, ""), KafkaError::Commit { retriable: false, fenced: true, .. }));
        assert!(matches!(failure(Code::OffsetMetadataTooLarge, ""), KafkaError::Commit { retriable: false, fenced: false, .. }));
    }

    #[test]
    fn the_partition_that_failed_is_named() {
        let reply = CommitReply {
            error: Some(Code::OffsetMetadataTooLarge),
            partitions: [(0, 5, None), (3, 9, Some(Code::OffsetMetadataTooLarge))]
                .map(|(partition, offset, error)| Entry { topic: "views".into(), partition, offset, error, metadata: Vec::new() })
                .into(),
        };
        assert!(outcome(&reply).unwrap_err().to_string().contains("views[3] at 9"));
    }
}
