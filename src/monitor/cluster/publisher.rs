//! Where workers' steps go in a cluster: to the windows topic, by an idempotent producer, before anything is committed.
//!
//! Closed parts first, then where the partition stands, to the same partition of the topic: who reads a position has read
//! every part that was closed before it. A step is acknowledged when the broker has all of it. The store is written by what
//! is read back alone, so that every instance keeps the same in the same order, its own parts too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::drift::partition::PartitionPosition;
use crate::fault;
use crate::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use crate::metrics::cpu::Stopwatch;
use crate::metrics::registry::Stage;
use crate::monitor::cluster::wire::{Published, publish_part, publish_standing};
use crate::monitor::command::{JudgeCommand, SentStep, StepAck};
use crate::monitor::error::MonitorError;
use crate::monitor::shared::Shared;
use crate::record::TopicPartition;
use crate::store::step::{Step, StepOutcome};
use crate::task::Shutdown;

/// Steps that share one wait for the broker.
const AT_ONCE: usize = 32;
/// How often partitions that came to their end since their last step say so.
const TELL_ENDS: Duration = Duration::from_millis(500);
/// How often partitions say where they stand though nothing has changed: compaction may have kept what a frozen member said
/// last, and a topic that deletes too must not lose who is idle for long.
const TELL_ALL: Duration = Duration::from_secs(60);
/// How long the broker is waited for before that is said.
const PATIENCE: Duration = Duration::from_secs(2);

/// Publishes steps.
pub struct Publisher {
    /// Who sends.
    pub producer: Arc<ReliableProducer>,
    /// The windows topic.
    pub topic: String,
    /// Its partitions.
    pub partitions: i32,
    /// The largest record it takes.
    pub max_message_bytes: usize,
    /// What the workers share.
    pub shared: Arc<Shared>,
}

/// Where a partition stood when that was told last.
type Standings = BTreeMap<TopicPartition, (PartitionPosition, bool)>;

impl Publisher {
    /// Publishes until every worker is gone.
    ///
    /// # Errors
    /// The broker refuses a record, or is still away when a shutdown has waited for it.
    pub fn run(&self, steps: &Receiver<JudgeCommand>, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let (mut told, mut ends_told, mut all_told) = (Standings::new(), Instant::now(), Instant::now());
        let mut cpu = Stopwatch::start();
        loop {
            let mut batch = Vec::new();
            match steps.recv_timeout(TELL_ENDS) {
                Ok(step) => batch.push(step),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            batch.extend(steps.try_iter().take(AT_ONCE));
            let receipts = Arc::new(Receipts::default());
            let mut acks = Vec::new();
            for command in batch {
                let JudgeCommand::Step(of) = command else { continue };
                let SentStep { step, sent, reply } = *of;
                self.send_step(&step, &mut told, &receipts)?;
                acks.push((StepAck { partition: step.partition, position: step.position, outcome: StepOutcome::Applied }, sent, reply));
            }
            if ends_told.elapsed() >= TELL_ENDS {
                ends_told = Instant::now();
                let all = all_told.elapsed() >= TELL_ALL;
                if all {
                    all_told = Instant::now();
                }
                self.tell_ends(&mut told, all, &receipts)?;
            }
            self.settle(&receipts, shutdown)?;
            fault::point("step-published");
            for (ack, sent, reply) in acks {
                self.shared.metrics.checkpointed(sent.elapsed());
                self.shared.positions.answered(&ack.partition);
                // A worker that has gone needs no answer.
                drop(reply.send(ack));
            }
            self.shared.metrics.spent(Stage::Step, cpu.lap());
        }
    }

    fn send_step(&self, step: &Step, told: &mut Standings, receipts: &Arc<Receipts>) -> Result<(), MonitorError> {
        let hash = &self.shared.rules.counting_hash;
        for part in &step.closed {
            for record in publish_part(hash, part, self.max_message_bytes)? {
                self.send(&step.partition, &record, receipts)?;
            }
            fault::point("part-published");
        }
        let at_end = self.shared.progress.is_at_end(&step.partition);
        told.insert(step.partition.clone(), (step.position.clone(), at_end));
        self.send(&step.partition, &publish_standing(hash, &step.partition, &step.position, at_end), receipts)
    }

    /// Who waits for an idle partition needs to know that it is: a step may have been sent before its end was seen.
    fn tell_ends(&self, told: &mut Standings, all: bool, receipts: &Arc<Receipts>) -> Result<(), MonitorError> {
        told.retain(|partition, _| self.shared.progress.is_here(partition));
        for (partition, (position, at_end)) in told {
            let is_at_end = self.shared.progress.is_at_end(partition);
            if is_at_end != std::mem::replace(at_end, is_at_end) || all {
                let record = publish_standing(&self.shared.rules.counting_hash, partition, position, is_at_end);
                self.send(partition, &record, receipts)?;
            }
        }
        Ok(())
    }

    fn send(&self, of: &TopicPartition, record: &Published, receipts: &Arc<Receipts>) -> Result<(), MonitorError> {
        let outgoing = Outgoing {
            topic: &self.topic,
            partition: Some(partition_of(of, self.partitions)),
            key: Some(record.key.as_bytes()),
            payload: Some(&record.value),
            timestamp_ms: None,
        };
        while !self.producer.try_send(&outgoing, &[], receipts)? {
            self.producer.poll(Duration::from_millis(10));
        }
        Ok(())
    }

    fn settle(&self, receipts: &Receipts, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let began = Instant::now();
        while let Err(error) = self.producer.settle(receipts, Instant::now() + PATIENCE) {
            if receipts.failed() > 0 || (shutdown.is_triggered() && began.elapsed() > self.shared.rules.drain) {
                return Err(error.into());
            }
            self.shared.live.set_not_ready("windows_topic", error.to_string());
        }
        self.shared.live.set_ready("windows_topic");
        Ok(())
    }
}

/// The partition of the windows topic that all records about a partition go to, whoever sends them.
fn partition_of(of: &TopicPartition, partitions: i32) -> i32 {
    // FNV-1a of the topic, so that the first partitions of many topics do not meet.
    let hash = of.topic.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let number = (i64::from(hash) + i64::from(of.partition)).rem_euclid(i64::from(partitions.max(1)));
    i32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_a_topic_are_spread_and_each_has_one_place() {
        let places: Vec<i32> = (0..12).map(|partition| partition_of(&TopicPartition { topic: "views".into(), partition }, 4)).collect();
        for place in 0..4 {
            assert_eq!(places.iter().filter(|found| **found == place).count(), 3, "{places:?}");
        }
        assert_eq!(partition_of(&TopicPartition { topic: "views".into(), partition: 7 }, 1), 0);
    }
}
