//! Following topics outside the monitor, with a consumer group of its own: read, make durable, commit.
//!
//! A position is committed only for what the sink says is durable, so that an end at any point reads
//! records again and never leaves one out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::config::settings::KafkaSettings;
use crate::kafka::consumer::{ReadOptions, WorkerConsumer};
use crate::kafka::error::KafkaError;
use crate::kafka::rebalance::{AssignedPartition, Position, RebalanceEvent};
use crate::record::{RawMessage, TopicPartition};

/// Messages read together.
const BATCH: usize = 1024;
/// Longest wait for a message.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest wait for the group to take a commit.
const COMMIT: Duration = Duration::from_secs(10);

/// Next offset by partition.
pub type Positions = BTreeMap<TopicPartition, i64>;

/// Where the records go.
pub trait Sink {
    /// Whether headers are wanted.
    fn headers(&self) -> bool;
    /// Next offsets that are durable already, whatever the group remembers.
    fn durable(&self) -> Positions;
    /// Takes one record.
    ///
    /// # Errors
    /// The record cannot be kept: the following ends.
    fn take(&mut self, message: &RawMessage<'_>) -> anyhow::Result<()>;
    /// Makes what was taken durable, or, where `must` is false, only where it pays. Returns whether
    /// everything taken is durable now. `positions`: next offsets behind what was taken.
    ///
    /// # Errors
    /// It cannot be made durable.
    fn settle(&mut self, positions: &Positions, must: bool) -> anyhow::Result<bool>;
}

/// Follows the topics of `settings` until `stop` says so, or, with `until_end`, to the ends that all
/// partitions had when they were taken up.
///
/// # Errors
/// The broker refuses, or the sink fails.
pub fn follow(settings: &KafkaSettings, until_end: bool, stop: &dyn Fn() -> bool, sink: &mut dyn Sink) -> anyhow::Result<()> {
    let options = ReadOptions { batch: BATCH, linger: Duration::from_millis(5), headers: sink.headers() };
    let mut consumer = WorkerConsumer::new(settings, 0, options)?;
    let (mut next, mut ends) = (Positions::new(), Positions::new());
    let wanted = if until_end { consumer.topic_partitions(COMMIT)? } else { Vec::new() };
    while !stop() {
        let mut failed = None;
        let outcome = consumer.poll(PATIENCE, |message| {
            if failed.is_none() {
                match sink.take(&message) {
                    Ok(()) => drop(next.insert(message.partition.clone(), message.offset + 1)),
                    Err(error) => failed = Some(error.context(format!("{} offset {}", message.partition, message.offset))),
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(fault) = outcome.faults.into_iter().find(KafkaError::needs_human) {
            return Err(fault.into());
        }
        for event in outcome.rebalances {
            match event {
                RebalanceEvent::Assigned(partitions) => {
                    let durable = sink.durable();
                    let mut starts = Vec::new();
                    for assigned in partitions {
                        let start = start_of(&assigned, durable.get(&assigned.partition).copied());
                        next.insert(assigned.partition.clone(), start);
                        ends.entry(assigned.partition.clone()).or_insert(assigned.high);
                        starts.push((assigned.partition, start));
                    }
                    consumer.start(&starts)?;
                }
                RebalanceEvent::Revoked { partitions, lost } => {
                    sink.settle(&next, true)?;
                    if !lost {
                        commit(&mut consumer, &next)?;
                    }
                    next.retain(|partition, _| !partitions.contains(partition));
                    consumer.release(&partitions)?;
                }
            }
        }
        for partition in outcome.out_of_range {
            let (low, high) = consumer.watermarks(&partition, COMMIT)?;
            tracing::warn!(%partition, from = next.get(&partition), to = low, "records were deleted before they were read");
            consumer.restart(&partition, low.min(high))?;
            next.insert(partition, low);
        }
        // Offsets of transaction markers and compacted records pass without a message.
        for (partition, position) in consumer.positions()? {
            next.entry(partition).and_modify(|known| *known = (*known).max(position));
        }
        if sink.settle(&next, false)? {
            commit(&mut consumer, &next)?;
        }
        // A partition that was here and went to another member is that one's to finish.
        let is_done =
            |partition: &TopicPartition| ends.get(partition).is_some_and(|end| next.get(partition).is_none_or(|position| position >= end));
        if until_end && wanted.iter().all(is_done) {
            break;
        }
    }
    if !sink.settle(&next, true)? {
        bail!("what was read could not be made durable");
    }
    commit(&mut consumer, &next)?;
    consumer.close();
    Ok(())
}

/// Where to go on: behind what is durable here, or behind what the group has had since (another member's
/// work), whichever is further; without either, where `kafka.start` says.
fn start_of(assigned: &AssignedPartition, durable: Option<i64>) -> i64 {
    let committed = assigned.committed.as_ref().map(|committed| committed.offset);
    let known = durable.max(committed).unwrap_or(assigned.start);
    if known > assigned.high {
        tracing::warn!(partition = %assigned.partition, position = known, end = assigned.high, "the topic was made anew: from its start");
        return assigned.low;
    }
    known.max(assigned.low)
}

fn commit(consumer: &mut WorkerConsumer, next: &Positions) -> anyhow::Result<()> {
    let position =
        |(partition, offset): (&TopicPartition, &i64)| Position { partition: partition.clone(), offset: *offset, metadata: String::new() };
    let positions: Vec<Position> = next.iter().map(position).collect();
    if positions.is_empty() {
        return Ok(());
    }
    consumer.commit_and_wait(&positions, Instant::now() + COMMIT).context("positions could not be committed")
}
