//! One batch of a worker: poll, decode, encode, count, close; and the partitions that wait for the judge.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fault;
use crate::kafka::rebalance::RebalanceEvent;
use crate::metrics::registry::{BatchTally, Stage};
use crate::monitor::error::MonitorError;
use crate::monitor::intake::{Intake, Taken};
use crate::monitor::kept::Fetching;
use crate::monitor::rejects::Rejects;
use crate::monitor::shared::Shared;
use crate::monitor::tracked::Tracked;
use crate::monitor::worker::{POLL, Worker};
use crate::record::{RawMessage, TopicPartition};

/// Longest wait for a record while a partition waits for the judge, whom a closed window of this one may let go on.
const POLL_WAITING: Duration = Duration::from_millis(5);
/// Most messages that waited and are taken in one batch, beside what the poll brings.
const RELEASED: usize = 512;
/// One message of so many is timed: two looks at the clock cost as much as taking a raw record apart.
const TIMED_ONE_OF: u32 = 16;

impl Worker {
    /// One batch: poll, encode, count, close.
    pub(super) fn read(&mut self) -> Result<Vec<RebalanceEvent>, MonitorError> {
        let holds = self.shared.pace.is_holding();
        let polling = if holds { POLL_WAITING } else { POLL };
        self.intake.limit_ms = if self.is_scattered { i64::MAX } else { self.shared.pace.limit_ms() };
        let mut batch = Batch {
            intake: &mut self.intake,
            partitions: &mut self.partitions,
            rejects: &mut self.rejects,
            tally: BatchTally::default(),
            decode_time: Duration::ZERO,
            n_messages: 0,
            now_ms: self.shared.clock.now_ms(),
            shared: &self.shared,
            replaced: None,
        };
        batch.release();
        let mut last = 0;
        let outcome = self.consumer.poll(polling, |message| {
            let Some(at) = position_of(batch.partitions, message.partition, last) else { return };
            last = at;
            batch.meet(&message, at);
        })?;
        if let Some(replaced) = batch.replaced {
            return Err(replaced);
        }
        let (tally, decode_time) = (batch.tally, batch.decode_time);
        fault::point("poll");
        let polled = self.cpu.lap();
        // Waiting for records is no fault of ours; for a judge who lets partitions wait it is.
        if !holds {
            let _for_records = self.cpu.take_off_cpu();
        }
        // Timed by samples and by the wall clock, so that one that was interrupted would be more than the whole.
        let decode_time = decode_time.min(polled);
        self.shared.metrics.spent(Stage::Consume, polled - decode_time);
        self.shared.metrics.spent(Stage::Decode, decode_time);
        if tally.encoded > 0 {
            self.shared.metrics.last_record.set(self.intake.last_event_time_ms() as f64 / 1e3);
        }
        self.counting.flush(
            &mut self.intake.batches,
            &self.shared.rules.models,
            &mut self.partitions,
            (&self.shared.metrics, &mut self.cpu),
        )?;
        // Booked after encoding, in one piece: consumed = encoded + rejected in every scrape.
        self.shared.metrics.book(&tally);
        self.close_windows();
        self.pause_and_resume()?;
        self.rejects.send(&self.shared.metrics)?;
        fault::point("dead-letter-sent");
        self.moved_on.extend(outcome.out_of_range);
        self.heed(outcome.faults)?;
        Ok(outcome.rebalances)
    }

    pub(super) fn close_windows(&mut self) {
        for tracked in &mut self.partitions {
            let n = tracked.close(&self.shared.rules.models, self.intake.table());
            if n > 0 {
                fault::point("close");
            }
            self.shared.metrics.windows_closed.inc_by(n as u64);
        }
        self.shared.metrics.spent(Stage::Close, self.cpu.lap());
    }

    /// Looks where the other partitions are: what decides how far may be counted.
    pub(super) fn look_around(&mut self, now_ms: i64) {
        let Shared { pace, progress, rules, .. } = &*self.shared;
        if pace.limit_ms() == i64::MIN
            && let Some(first_ms) = progress.first_open_ms(rules.n_partitions, &rules.window)
        {
            // In a cluster a window may be closed elsewhere already, and not judged.
            let closed_ms = self.shared.positions.oldest_closed().filter(|_| self.shared.together.is_cluster());
            pace.judged_before(closed_ms.map_or(first_ms, |closed_ms| closed_ms.min(first_ms)));
        }
        self.look_at_group(now_ms);
    }

    /// Stops fetching that of which enough waits for the judge, and goes on with what does not wait any more.
    fn pause_and_resume(&mut self) -> Result<(), MonitorError> {
        let (mut to_pause, mut to_resume) = (Vec::new(), Vec::new());
        let mut n_waiting = 0;
        for tracked in &mut self.partitions {
            n_waiting += usize::from(!tracked.waiting.is_empty());
            match tracked.waiting.change() {
                Some(Fetching::Stop) => to_pause.push(tracked.windows.partition().clone()),
                Some(Fetching::GoOn) => to_resume.push(tracked.windows.partition().clone()),
                None => {}
            }
        }
        self.shared.pace.hold(std::mem::replace(&mut self.n_waiting, n_waiting), n_waiting);
        if !to_pause.is_empty() {
            tracing::debug!(partitions = ?to_pause, limit_ms = self.intake.limit_ms, "enough messages wait for the judge: not fetched meanwhile");
            self.consumer.pause(&to_pause)?;
        }
        if !to_resume.is_empty() {
            self.consumer.resume(&to_resume)?;
        }
        Ok(())
    }
}

/// One batch in the making.
struct Batch<'a> {
    intake: &'a mut Intake,
    partitions: &'a mut Vec<Tracked>,
    rejects: &'a mut Rejects,
    shared: &'a Shared,
    tally: BatchTally,
    decode_time: Duration,
    n_messages: u32,
    now_ms: i64,
    /// A record was met that says that its log is not the one that was counted.
    replaced: Option<MonitorError>,
}

impl Batch<'_> {
    /// Takes messages that waited, as far as the judge has come.
    fn release(&mut self) {
        let mut left = RELEASED;
        for at in 0..self.partitions.len() {
            if self.partitions[at].waiting.is_empty() {
                continue;
            }
            let partition = self.partitions[at].windows.partition().clone();
            while left > 0
                && let Some(kept) = self.partitions[at].waiting.pop()
            {
                if !kept.lend(&partition, |message| self.take(message, at)) {
                    self.partitions[at].waiting.put_back(kept);
                    break;
                }
                left -= 1;
            }
        }
    }

    /// Takes a message of the partition at that place of the worker's list, or lets it wait.
    fn meet(&mut self, message: &RawMessage<'_>, at: usize) {
        // What follows a message that waits is not looked at before it.
        if !self.partitions[at].waiting.is_empty() || !self.take(message, at) {
            self.partitions[at].waiting.push(message);
        }
    }

    /// Whether the message could be taken by now.
    fn take(&mut self, message: &RawMessage<'_>, at: usize) -> bool {
        let tracked = &mut self.partitions[at];
        // A client that was paused may hand over again what it had fetched.
        if message.offset < tracked.windows.read_from() {
            return true;
        }
        let replayed = tracked.windows.is_replay(message.offset);
        if replayed {
            if let Some(mark) = tracked.is_not(message.offset, message.timestamp_ms) {
                let partition = message.partition.clone();
                self.replaced = Some(MonitorError::LogReplaced { partition, mark, found_ms: message.timestamp_ms });
                return true;
            }
            if tracked.windows.is_before_open_windows(message.offset) {
                tracked.windows.consumed(message.offset);
                return true;
            }
        }
        let decode_began = self.n_messages.is_multiple_of(TIMED_ONE_OF).then(Instant::now);
        self.n_messages += 1;
        let taken = self.intake.take(message, at, &mut tracked.windows, &self.shared.board);
        if taken == Taken::Ahead {
            return false;
        }
        tracked.last_record_ms = self.now_ms;
        tracked.last_timestamp_ms = message.timestamp_ms;
        if replayed {
            self.tally.replayed += 1;
        } else {
            tracked.mark(message.offset, message.timestamp_ms);
            self.tally.consumed += 1;
        }
        match taken {
            Taken::Pending => self.tally.encoded += u64::from(!replayed),
            Taken::Skipped | Taken::Ahead => {}
            Taken::Rejected(reject) => {
                self.tally.reject(reject.reason);
                self.rejects.keep(message, reject);
            }
        }
        fault::point("decode");
        self.decode_time += decode_began.map_or(Duration::ZERO, |began| began.elapsed() * TIMED_ONE_OF);
        true
    }
}

/// Position of a partition in the worker's list; runs of one partition are the rule, so `last` is tried first.
fn position_of(partitions: &[Tracked], partition: &TopicPartition, last: usize) -> Option<usize> {
    let is = |tracked: &Tracked| {
        let own = tracked.windows.partition();
        own.partition == partition.partition && (Arc::ptr_eq(&own.topic, &partition.topic) || own.topic == partition.topic)
    };
    if partitions.get(last).is_some_and(is) { Some(last) } else { partitions.iter().position(is) }
}
