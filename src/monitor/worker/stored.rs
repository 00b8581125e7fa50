//! What became of what was sent: acknowledged steps, and the commits that follow them.

use std::time::{Duration, Instant};

use crate::fault;
use crate::kafka::error::KafkaError;
use crate::kafka::rebalance::Position;
use crate::monitor::command::StepAck;
use crate::monitor::error::MonitorError;
use crate::monitor::resume;
use crate::monitor::worker::Worker;
use crate::record::TopicPartition;
use crate::store::step::StepOutcome;

/// Pause after a refused commit: what refuses it, mostly a rebalance, takes longer.
const COMMIT_RETRY: Duration = Duration::from_millis(100);

impl Worker {
    pub(super) fn take_acks(&mut self) -> Result<(), MonitorError> {
        while let Ok(ack) = self.acks.try_recv() {
            self.acknowledged(ack)?;
        }
        Ok(())
    }

    pub(super) fn acknowledged(&mut self, mut ack: StepAck) -> Result<(), MonitorError> {
        self.n_unacked -= 1;
        fault::point("step-acked");
        match ack.outcome {
            StepOutcome::Applied | StepOutcome::Replayed => {
                if fault::planted("mutant-no-watermark") {
                    ack.position.watermark_ms = i64::MIN;
                }
                // What was lost meanwhile is not committed: it is somebody else's, or will be taken over again.
                if self.partitions.iter().any(|tracked| *tracked.windows.partition() == ack.partition) {
                    let metadata = resume::metadata(&self.shared.rules.counting_hash, &ack.position);
                    self.to_commit.retain(|position| position.partition != ack.partition);
                    self.to_commit.push(Position { partition: ack.partition, offset: ack.position.next_offset, metadata });
                }
                Ok(())
            }
            StepOutcome::Gap { stored } => Err(MonitorError::Gap { partition: ack.partition, stored, position: ack.position.next_offset }),
        }
    }

    /// Commits what is stored; never waits. One commit is in flight at a time.
    pub(super) fn commit(&mut self) -> Result<(), MonitorError> {
        if let Some(outcome) = self.consumer.poll_commit() {
            fault::point("commit-done");
            let failed = std::mem::take(&mut self.committing);
            self.commit_refused = outcome.is_err().then(Instant::now);
            if let Err(error) = outcome {
                tracing::debug!(%error, "commit refused");
                self.shared.metrics.checkpoint_failures.inc_by(u64::from(!matches!(error, KafkaError::Commit { retriable: true, .. })));
                if matches!(error, KafkaError::Commit { fenced: false, .. }) {
                    let newer: Vec<TopicPartition> = self.to_commit.iter().map(|position| position.partition.clone()).collect();
                    // What went to another member meanwhile is his to commit.
                    let is_ours =
                        |position: &Position| self.partitions.iter().any(|tracked| *tracked.windows.partition() == position.partition);
                    self.to_commit.extend(failed.into_iter().filter(|position| !newer.contains(&position.partition) && is_ours(position)));
                }
            }
        }
        let is_due = self.commit_refused.is_none_or(|refused| refused.elapsed() >= COMMIT_RETRY);
        if is_due && !self.to_commit.is_empty() && !self.consumer.commit_in_flight() && self.consumer.commit(&self.to_commit)? {
            self.committing = std::mem::take(&mut self.to_commit);
            tracing::trace!(positions = ?self.committing, "commit sent");
            fault::point("commit-sent");
        }
        Ok(())
    }
}
