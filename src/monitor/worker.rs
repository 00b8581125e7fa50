//! A worker: one thread with its own consumer, its own encoders and its own partitions.
//!
//! Nothing is handed to another thread between the poll and the closed window; measured, that is the
//! cheapest arrangement. A turn of the loop is poll, encode and count, close, store, commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, TrySendError, channel};
use std::time::{Duration, Instant};

use crate::encode::Encoder;
use crate::fault;
use crate::kafka::consumer::WorkerConsumer;
use crate::kafka::dead_letter::DeadLetters;
use crate::kafka::error::KafkaError;
use crate::kafka::rebalance::{Position, RebalanceEvent};
use crate::metrics::cpu::Stopwatch;
use crate::metrics::registry::Stage;
use crate::monitor::command::{Commands, JudgeCommand, SentStep, StepAck};
use crate::monitor::counting::Counting;
use crate::monitor::error::MonitorError;
use crate::monitor::intake::Intake;
use crate::monitor::rejects::Rejects;
use crate::monitor::resume;
use crate::monitor::shared::Shared;
use crate::monitor::tracked::Tracked;
use crate::record::TopicPartition;
use crate::snapshot::PartitionFacts;
use crate::store::step::Step;
use crate::task::Shutdown;

mod assignment;
mod group;
mod reading;
mod stored;

/// Longest wait for a record; also how soon a shutdown is noticed.
const POLL: Duration = Duration::from_millis(100);
/// How often idle partitions, lag and ends are looked at.
const TICK: Duration = Duration::from_millis(200);
/// Steps of one worker are at least this far apart: a step costs an fsync.
const STEP_GAP: Duration = Duration::from_millis(50);
/// Longest wait for the judge once the end of the log is reached, with `--until-end`.
const CATCH_UP: Duration = Duration::from_secs(3600);
/// How often a broker that may be away is asked, and how long each answer is waited for.
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_PATIENCE: Duration = Duration::from_millis(500);
/// More than this between two ticks by the clock, either way: it was set, or this worker, its process or its machine
/// stood still.
const LOOKED_AWAY_MS: i64 = 5_000;

/// One worker's state.
pub struct Worker {
    consumer: WorkerConsumer,
    intake: Intake,
    counting: Counting,
    rejects: Rejects,
    partitions: Vec<Tracked>,
    steps: Commands,
    acks: Receiver<StepAck>,
    ack_to: Sender<StepAck>,
    n_unacked: usize,
    /// Orders of the group that are not answered yet: they came while a step waited for the store, or wait for one.
    waiting: Vec<RebalanceEvent>,
    /// Partitions whose next record is not in the log any more.
    moved_on: Vec<TopicPartition>,
    to_commit: Vec<Position>,
    committing: Vec<Position>,
    /// When the last commit was refused.
    commit_refused: Option<Instant>,
    /// Partitions that wait for the judge.
    n_waiting: usize,
    /// Partitions are in other hands for so long that nobody waits for the judge.
    is_scattered: bool,
    shared: Arc<Shared>,
    last_step: Instant,
    /// Where the CPU time of this thread goes, stage by stage.
    cpu: Stopwatch,
    last_tick: Instant,
    /// The same by the clock, ms.
    last_tick_ms: i64,
    /// When the broker was last asked whether it is there, while that is in doubt.
    broker_asked: Option<Instant>,
    /// It did not answer: nobody knows what it holds by now, so no partition counts as idle.
    broker_is_away: bool,
}

impl Worker {
    /// A worker that has joined the group and owns nothing yet.
    #[must_use]
    pub fn new(
        consumer: WorkerConsumer,
        intake: Intake,
        encoders: Vec<Box<dyn Encoder>>,
        bundles: &[Arc<crate::bundle::Bundle>],
        dead_letters: Option<DeadLetters>,
        steps: Commands,
        shared: Arc<Shared>,
    ) -> Self {
        let (ack_to, acks) = channel();
        Self {
            consumer,
            intake,
            counting: Counting::new(encoders, bundles.to_vec()),
            rejects: Rejects::new(dead_letters),
            partitions: Vec::new(),
            steps,
            acks,
            ack_to,
            n_unacked: 0,
            waiting: Vec::new(),
            moved_on: Vec::new(),
            to_commit: Vec::new(),
            committing: Vec::new(),
            commit_refused: None,
            n_waiting: 0,
            is_scattered: false,
            last_tick_ms: shared.clock.now_ms(),
            shared,
            last_step: Instant::now(),
            cpu: Stopwatch::start(),
            last_tick: Instant::now(),
            broker_asked: None,
            broker_is_away: false,
        }
    }

    /// Runs until the shutdown, or until the end of the log where that was asked for; then drains.
    ///
    /// # Errors
    /// The broker needs a human, the encoder failed, or the store has gone.
    pub fn run(mut self, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let mut finished = false;
        while !finished && !shutdown.is_triggered() {
            let waiting = std::mem::take(&mut self.waiting);
            self.answer(waiting)?;
            if !self.waiting.is_empty() || !self.shared.store_works.load(Ordering::SeqCst) {
                self.wait_for_store()?;
                continue;
            }
            let rebalances = self.read()?;
            self.answer(rebalances)?;
            self.follow_logs()?;
            self.step(false)?;
            self.commit()?;
            if self.last_tick.elapsed() >= TICK || self.shared.pace.is_holding() {
                self.tick()?;
                finished = self.is_finished();
            }
            self.shared.metrics.spent(Stage::Rest, self.cpu.lap());
            self.shared.metrics.waited(self.cpu.take_off_cpu());
        }
        // Nobody waits for an end that the log itself has: a judge that lags is let to catch up.
        let drained = self.drain(if finished { CATCH_UP } else { self.shared.rules.drain });
        match &drained {
            Ok(()) if self.shared.counts_another_log.load(Ordering::SeqCst) => {
                tracing::warn!("worker ended: what was counted since the last step may be of another topic, and is not stored");
            }
            Ok(()) => tracing::info!("worker drained: everything counted is stored and committed"),
            Err(error) => tracing::warn!(%error, "worker not drained in time: open windows are read again at the next start"),
        }
        self.consumer.close();
        drained
    }

    /// Nothing is read while nothing can be stored, or while an order of the group waits for what is to be stored; the
    /// worker stays in the group and goes on when the store does.
    fn wait_for_store(&mut self) -> Result<(), MonitorError> {
        let outcome = self.consumer.keep_alive()?;
        self.heed(outcome.faults)?;
        self.waiting.extend(outcome.rebalances);
        self.take_acks()?;
        self.commit()?;
        if self.last_tick.elapsed() >= TICK {
            self.tick()?;
        }
        std::thread::sleep(POLL / 5);
        self.shared.metrics.spent(Stage::Rest, self.cpu.lap());
        self.shared.metrics.waited(self.cpu.take_off_cpu());
        Ok(())
    }

    /// Stops for what waiting cannot mend; notes that a broker may be away.
    fn heed(&mut self, faults: Vec<KafkaError>) -> Result<(), MonitorError> {
        for fault in faults {
            if fault.needs_human() || matches!(fault, KafkaError::Fatal { .. }) {
                return Err(fault.into());
            }
            if matches!(fault, KafkaError::Unreachable { .. }) {
                self.broker_asked.get_or_insert_with(Instant::now);
            }
            tracing::warn!(%fault, "broker fault, librdkafka goes on trying");
        }
        Ok(())
    }

    /// After a fault that a broker may be away: asks it, and says in `/readyz` what it answers.
    fn ask_broker(&mut self) {
        if self.broker_asked.is_none_or(|asked| asked.elapsed() < ASK_EVERY) {
            return;
        }
        let answer = match self.partitions.first() {
            Some(tracked) => self.consumer.watermarks(tracked.windows.partition(), ASK_PATIENCE).map(drop),
            None => self.consumer.topic_partitions(ASK_PATIENCE).map(drop),
        };
        let was_away = std::mem::replace(&mut self.broker_is_away, answer.is_err());
        self.broker_asked = match answer {
            Ok(()) => {
                self.shared.live.set_ready("broker");
                None
            }
            Err(fault) => {
                self.shared.live.set_not_ready("broker", fault.to_string());
                Some(Instant::now())
            }
        };
        if was_away && !self.broker_is_away {
            // What was written before it went, and by whom waited for it, is still to come.
            let now_ms = self.shared.clock.now_ms();
            self.partitions.iter_mut().for_each(|tracked| tracked.last_record_ms = now_ms);
        }
    }

    /// Sends what is not stored yet, when it is time (or at once, when `now`).
    fn step(&mut self, now: bool) -> Result<(), MonitorError> {
        self.take_acks()?;
        if self.shared.counts_another_log.load(Ordering::SeqCst) {
            return Ok(());
        }
        let since = self.last_step.elapsed();
        let hurry = self.partitions.iter().any(Tracked::has_closed) || self.shared.pace.is_holding();
        let due = now || since >= self.shared.rules.checkpoint_every || (hurry && since >= STEP_GAP);
        // A position is stored only after the dead letters below it are acknowledged.
        if !due || !self.rejects.is_settled()? {
            return Ok(());
        }
        fault::point("dead-letter-acked");
        self.last_step = Instant::now();
        for at in 0..self.partitions.len() {
            if let Some(step) = self.partitions[at].step() {
                self.send(step)?;
            }
        }
        Ok(())
    }

    /// Hands a step to the judge. A full channel means that the store is slow: this worker then waits,
    /// reads nothing, and stays in the group.
    fn send(&mut self, step: Step) -> Result<(), MonitorError> {
        self.shared.positions.sent(&step.partition);
        if fault::planted("mutant-commit-first") {
            let metadata = resume::metadata(&self.shared.rules.counting_hash, &step.position);
            self.to_commit.retain(|position| position.partition != step.partition);
            self.to_commit.push(Position { partition: step.partition.clone(), offset: step.position.next_offset, metadata });
        }
        let mut command = JudgeCommand::Step(Box::new(SentStep { step, sent: Instant::now(), reply: self.ack_to.clone() }));
        loop {
            match self.steps.try_send(command) {
                Ok(()) => {
                    self.n_unacked += 1;
                    fault::point("step-sent");
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(MonitorError::JudgeGone),
                Err(TrySendError::Full(back)) => {
                    command = back;
                    // Orders of the group wait too: a partition must not go before what was counted of it is sent.
                    self.waiting.extend(self.consumer.keep_alive()?.rebalances);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    /// Looks at ends, idle partitions and lag.
    fn tick(&mut self) -> Result<(), MonitorError> {
        self.last_tick = Instant::now();
        self.ask_broker();
        let now_ms = self.shared.clock.now_ms();
        self.see_time_leap(now_ms);
        let rules = &self.shared.rules;
        let positions = self.consumer.positions()?;
        let ended = rules.until_end.then(|| self.shared.progress.final_watermark(rules.n_partitions, &rules.window)).flatten();
        let last_of_all = ended.filter(|watermark| *watermark != i64::MIN);
        for tracked in &mut self.partitions {
            let partition = tracked.windows.partition().clone();
            let next = tracked.windows.position().next_offset;
            // Past what a consumer never sees (transaction markers, compacted records): everything handed over is counted
            // by now, unless it waits for the judge.
            let handed_over = positions.iter().find(|(known, _)| *known == partition && tracked.waiting.is_empty());
            let at = handed_over.map_or(next, |(_, at)| next.max(*at));
            if let Some((_, seen)) = handed_over {
                tracked.windows.consumed(seen - 1);
            }
            let end = self.consumer.lag(&partition, at).and_then(|lag| i64::try_from(lag).ok()).map(|lag| at + lag);
            self.shared.progress.tell(&partition, tracked.progress(at, end));
            let follows = if rules.until_end {
                last_of_all.or_else(|| self.shared.progress.watermark_past_end(&partition))
            } else if self.broker_asked.is_some()
                || (self.shared.together.is_cluster() && !self.shared.progress.knows_all(rules.n_partitions))
            {
                // Others may just begin on records of long ago: this one must not pass them.
                None
            } else {
                self.shared.progress.idle_watermark(&partition, now_ms, rules.idle_after_ms)
            };
            if let Some(watermark_ms) = follows {
                tracked.windows.raise_watermark(watermark_ms);
            }
            let waiting = end.is_some_and(|end| end > at);
            let lag_seconds = if waiting { tracked.last_timestamp_ms.map(|ms| (now_ms - ms).max(0) as f64 / 1e3) } else { Some(0.0) };
            let facts = PartitionFacts { position: at, end, lag_seconds, stalled: tracked.is_stalled(at, end, now_ms) };
            self.shared.live.set_partition(&partition, facts);
        }
        self.shared.metrics.spent(Stage::Rest, self.cpu.lap());
        self.close_windows();
        self.look_around(now_ms);
        Ok(())
    }

    /// Time that leaps is no time without records: what was written meanwhile is still to come, so nobody is idle yet.
    fn see_time_leap(&mut self, now_ms: i64) {
        let leap_ms = now_ms - std::mem::replace(&mut self.last_tick_ms, now_ms);
        if leap_ms.unsigned_abs() > LOOKED_AWAY_MS.unsigned_abs() {
            tracing::warn!(leap_ms, "the clock was set, or this worker stood still: idle partitions are waited for anew");
            self.partitions.iter_mut().for_each(|tracked| tracked.last_record_ms = now_ms);
        }
    }

    /// With `--until-end`: everything is read, and every window of this worker is closed.
    fn is_finished(&self) -> bool {
        let rules = &self.shared.rules;
        let reached = |watermark: i64| self.partitions.iter().all(|t| t.windows.position().watermark_ms >= watermark);
        rules.until_end && self.shared.progress.final_watermark(rules.n_partitions, &rules.window).is_some_and(reached)
    }

    /// Stores and commits everything that is counted, within that time.
    fn drain(&mut self, within: Duration) -> Result<(), MonitorError> {
        let deadline = Instant::now() + within;
        fault::point("drain");
        self.rejects.settle(deadline)?;
        self.step(true)?;
        while self.n_unacked > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            let ack = self.acks.recv_timeout(left).map_err(|_| MonitorError::DrainTimeout { waiting: self.n_unacked })?;
            self.acknowledged(ack)?;
        }
        if !self.to_commit.is_empty() {
            let positions = std::mem::take(&mut self.to_commit);
            // Everything is stored by now, and a start goes by the store; a commit that is missed shows as lag until the next one.
            if let Err(error) = self.consumer.commit_and_wait(&positions, deadline) {
                tracing::warn!(%error, "stored, but not committed in time");
            }
        }
        Ok(())
    }
}
