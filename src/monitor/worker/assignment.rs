//! Partitions that come and go, and logs that moved on: where a worker begins, and what it says is lost.

use std::time::{Duration, Instant};

use crate::drift::alert::utc_text;
use crate::drift::partition::PartitionPosition;
use crate::fault::{self, RELEASED};
use crate::kafka::rebalance::{AssignedPartition, RebalanceEvent};
use crate::monitor::error::MonitorError;
use crate::monitor::resume;
use crate::monitor::tracked::Tracked;
use crate::monitor::worker::Worker;
use crate::record::TopicPartition;

/// Longest wait for a partition's ends, once its log has moved on.
const WATERMARKS: Duration = Duration::from_secs(10);

/// Longest wait for what the last owner of a partition published. Members of the group wait too meanwhile.
const PUBLISHED: Duration = Duration::from_secs(10);

impl Worker {
    /// Answers the group's orders, but for partitions of which a step is on its way to the store: what came before a
    /// loss must be stored before they are taken over. That order and those behind it wait.
    pub(super) fn answer(&mut self, rebalances: Vec<RebalanceEvent>) -> Result<(), MonitorError> {
        let mut orders = rebalances.into_iter();
        while let Some(event) = orders.next() {
            if let RebalanceEvent::Assigned(assigned) = &event
                && !assigned.iter().all(|assigned| self.shared.positions.is_settled(&assigned.partition))
            {
                self.waiting.push(event);
                self.waiting.extend(orders);
                break;
            }
            self.shared.metrics.rebalances.inc();
            match event {
                RebalanceEvent::Assigned(assigned) => {
                    let mut starts = Vec::new();
                    for assigned in assigned {
                        let tracked = self.take_over(&assigned)?;
                        starts.push((assigned.partition.clone(), tracked.windows.read_from().max(assigned.low)));
                        self.partitions.push(tracked);
                    }
                    tracing::info!(partitions = starts.len(), "partitions assigned");
                    if !starts.is_empty() {
                        // A group that waited for members that are gone gives everything at once, and late.
                        self.shared.progress.distributed(self.shared.clock.now_ms());
                        self.is_scattered = false;
                    }
                    self.consumer.start(&starts)?;
                    self.shared.live.set_ready("group");
                }
                RebalanceEvent::Revoked { partitions, lost } => {
                    if lost {
                        tracing::warn!(partitions = partitions.len(), "partitions lost: their state is dropped and nothing is committed");
                        // A broker that hangs says nothing: the session that ended is the first sign of it.
                        let why = "partitions were lost, the session with the broker ended; waiting to be assigned again";
                        self.shared.live.set_not_ready("group", why.to_owned());
                        self.broker_asked.get_or_insert_with(Instant::now);
                    } else if let Err(error) = self.drain(self.shared.rules.drain) {
                        tracing::warn!(%error, "revoked partitions were not drained in time: their next owner reads again");
                    }
                    for partition in &partitions {
                        self.shared.progress.forget(partition);
                        self.shared.positions.release(partition);
                        self.shared.live.remove_partition(partition);
                    }
                    self.partitions.retain(|tracked| !partitions.contains(tracked.windows.partition()));
                    self.to_commit.retain(|position| !partitions.contains(&position.partition));
                    self.consumer.release(&partitions)?;
                    fault::point(RELEASED);
                }
            }
        }
        Ok(())
    }

    fn take_over(&self, assigned: &AssignedPartition) -> Result<Tracked, MonitorError> {
        let rules = &self.shared.rules;
        let stored = self.stored_position(assigned);
        let oldest_ms = self.shared.positions.oldest_not_judged(&rules.window);
        let now_ms = self.shared.clock.now_ms();
        let closed_at_ms = if stored.is_some() { i64::MIN } else { self.shared.positions.begin(&assigned.partition, &rules.window) };
        let position = resume::position(&rules.counting_hash, &rules.window, assigned, stored.as_ref(), (oldest_ms, closed_at_ms), now_ms);
        if position.watermark_ms == closed_at_ms && closed_at_ms != i64::MIN {
            let closed_before = utc_text(rules.window.closed_before(closed_at_ms));
            tracing::info!(partition = %assigned.partition, closed_before, "a partition that is new here: its records of windows that are judged are late");
        }
        if position.next_offset > assigned.high {
            return Err(MonitorError::LogBehind {
                partition: assigned.partition.clone(),
                stored: position.next_offset,
                end: assigned.high,
            });
        }
        let known = stored.as_ref().map(|stored| stored.next_offset).or(assigned.committed.as_ref().map(|committed| committed.offset));
        if let (Some(stored), Some(committed)) = (&stored, &assigned.committed)
            && committed.offset > stored.next_offset
        {
            // A commit follows its step, so it is never ahead of the store it was made with.
            let (partition, committed, stored) = (&assigned.partition, committed.offset, stored.next_offset);
            tracing::warn!(%partition, committed, stored, "the store is older than what was committed: records since are counted again from the log");
        }
        self.lost(&assigned.partition, known.unwrap_or(assigned.low), assigned.low);
        Ok(Tracked::new(assigned.partition.clone(), rules.window, position, stored, assigned.high, now_ms))
    }

    /// Where the store has the partition. In a cluster it was read from what its last owner published before it committed:
    /// that is waited for.
    fn stored_position(&self, assigned: &AssignedPartition) -> Option<PartitionPosition> {
        let get = || self.shared.positions.get(&assigned.partition);
        let committed = assigned.committed.as_ref().map_or(i64::MIN, |committed| committed.offset);
        let deadline = Instant::now() + PUBLISHED;
        let is_behind = |stored: &Option<PartitionPosition>| stored.as_ref().map_or(i64::MIN, |stored| stored.next_offset) < committed;
        let mut stored = get();
        while self.shared.together.is_cluster() && is_behind(&stored) {
            if Instant::now() > deadline {
                tracing::warn!(partition = %assigned.partition, committed, "what was published of the partition was not read in time");
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            stored = get();
        }
        stored
    }

    /// The broker deleted what this worker was about to read: goes on where the logs begin by now.
    ///
    /// Orders of the group come first: to librdkafka a partition that is given up looks like the answer to an order that
    /// waits, and the partitions it is about would be read by nobody.
    pub(super) fn follow_logs(&mut self) -> Result<(), MonitorError> {
        while self.waiting.is_empty()
            && let Some(partition) = self.moved_on.pop()
        {
            let (low, high) = self.consumer.watermarks(&partition, WATERMARKS)?;
            let orders = self.consumer.keep_alive()?;
            self.heed(orders.faults)?;
            if !orders.rebalances.is_empty() {
                self.waiting.extend(orders.rebalances);
                self.moved_on.push(partition);
                continue;
            }
            let Some(tracked) = self.partitions.iter_mut().find(|tracked| *tracked.windows.partition() == partition) else { continue };
            let next = tracked.windows.position().next_offset;
            if next > high {
                return Err(MonitorError::LogBehind { partition, stored: next, end: high });
            }
            tracked.waiting.clear();
            tracked.windows.lost_before(low, self.shared.clock.now_ms());
            let read_from = tracked.windows.read_from();
            self.lost(&partition, next, low);
            self.consumer.restart(&partition, read_from)?;
        }
        Ok(())
    }

    /// Says that records from `next` on are gone, where the log begins behind it.
    fn lost(&self, partition: &TopicPartition, next: i64, low: i64) {
        if let Ok(n_lost) = u64::try_from(low - next)
            && n_lost > 0
        {
            self.shared.metrics.records_lost.inc_by(n_lost);
            tracing::error!(%partition, n_lost, "retention deleted records before they were counted: their windows are marked incomplete");
        }
    }
}
