//! The process's own metrics: registered once, handles passed down, one update a batch.
//!
//! Records are booked batch by batch under one lock that a scrape takes too, so that
//! `consumed = encoded + rejected` holds in every scrape and not only at rest. Consumed is what the poll
//! returned, counted apart from the two others: if a record is lost between them, the sum shows it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::drift::report::Direction;
use crate::metrics::cpu::{self, ClientThreads};
use crate::record::RejectReason;

/// Part of the work whose CPU time is told apart. All together are the process's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Polling: what a worker does to be handed messages.
    Consume,
    /// librdkafka's threads: fetching, decompressing, checking, committing.
    Client,
    /// Payload to record.
    Decode,
    /// Embedding to sparse activations.
    Encode,
    /// Into the open windows.
    Count,
    /// Closing windows.
    Close,
    /// Storing steps and committing.
    Step,
    /// Judging windows.
    Judge,
    /// What a worker does between batches: orders of the group, steps handed over, commits, looks at ends and lag.
    Rest,
    /// Everything else: opening the broker and the store, HTTP, explaining alerts, following a cluster.
    Other,
}

impl Stage {
    /// Every stage, in the order of declaration.
    pub const ALL: [Self; 10] = [
        Self::Consume,
        Self::Client,
        Self::Decode,
        Self::Encode,
        Self::Count,
        Self::Close,
        Self::Step,
        Self::Judge,
        Self::Rest,
        Self::Other,
    ];

    /// Stable name: the metric's label.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Client => "client",
            Self::Decode => "decode",
            Self::Encode => "encode",
            Self::Count => "count",
            Self::Close => "close",
            Self::Step => "step",
            Self::Judge => "judge",
            Self::Rest => "rest",
            Self::Other => "other",
        }
    }
}

/// What became of one polled batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTally {
    /// Messages the poll returned that were not read before.
    pub consumed: u64,
    /// Of those, encoded and counted.
    pub encoded: u64,
    /// Of those, rejected, by position in [`RejectReason::ALL`].
    pub rejected: [u64; RejectReason::ALL.len()],
    /// Messages read again to rebuild open windows: in none of the other numbers.
    pub replayed: u64,
}

impl BatchTally {
    /// Counts one reject.
    pub fn reject(&mut self, reason: RejectReason) {
        self.rejected[reason as usize] += 1;
    }
}

/// All metrics that the process itself writes.
#[derive(Debug)]
pub struct ProcessMetrics {
    registry: Registry,
    /// Held while a batch is booked and while a scrape reads.
    booking: Mutex<()>,
    consumed: IntCounter,
    encoded: IntCounter,
    rejected: [IntCounter; RejectReason::ALL.len()],
    replayed: IntCounter,
    stage_seconds: [Counter; Stage::ALL.len()],
    client_threads: Mutex<ClientThreads>,
    /// CPU time of the process when this was made: a reload makes it anew, and begins all counters anew.
    cpu_before: Duration,
    alerts: [IntCounter; 2],
    checkpoint: Histogram,
    worker_wait: Histogram,
    /// `recsae_windows_closed_total`: partial windows closed by this instance.
    pub windows_closed: IntCounter,
    /// `recsae_windows_judged_total`.
    pub windows_judged: IntCounter,
    /// `recsae_windows_incomplete_total`: windows without a verdict because records of theirs are missing.
    pub windows_incomplete: IntCounter,
    /// `recsae_records_lost_total`: records the broker deleted before they were counted.
    pub records_lost: IntCounter,
    /// `recsae_window_end_timestamp_seconds`: end of the newest judged window.
    pub window_end: Gauge,
    /// `recsae_last_record_timestamp_seconds`: newest event time counted.
    pub last_record: Gauge,
    /// `recsae_entities_split_ratio`: entities seen on more than one partition.
    pub entities_split: Gauge,
    /// `recsae_checkpoint_failures_total`.
    pub checkpoint_failures: IntCounter,
    /// `recsae_encode_mismatches_total`: rows that two engines encoded differently.
    pub encode_mismatches: IntCounter,
    /// `recsae_dead_letters_total`: rejects the broker acknowledged in the dead-letter topic.
    pub dead_letters: IntCounter,
    /// `recsae_dead_letters_truncated_total`: of those, rejects of which only the beginning is kept.
    pub dead_letters_truncated: IntCounter,
    /// `recsae_dead_letter_failures_total`: rejects that could not be written there.
    pub dead_letter_failures: IntCounter,
    /// `recsae_unequal_parts_total`: parts of windows that two members of a cluster counted with different results.
    pub unequal_parts: IntCounter,
    /// `recsae_diverged`: 1 on an instance whose history is not that of the one that judges.
    pub diverged: Gauge,
    /// `recsae_rebalances_total`.
    pub rebalances: IntCounter,
    /// `recsae_http_requests_rejected_total`: requests refused by a cap, a limit or a missing token.
    pub http_rejected: IntCounter,
}

impl ProcessMetrics {
    /// Registers everything. `version` and `revision` are shown in `recsae_build_info`.
    ///
    /// # Errors
    /// Never in practice: two metrics of one name.
    pub fn new(version: &str, revision: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let add = Registration { registry: &registry };
        let rejected = add.counters(
            "recsae_records_rejected_total",
            "Records not counted, by reason.",
            "reason",
            RejectReason::ALL.map(RejectReason::kind),
        )?;
        let build = Opts::new("recsae_build_info", "Version of the program; always 1.")
            .const_label("version", version)
            .const_label("revision", revision);
        add.it(IntGauge::with_opts(build)?)?.set(1);
        let stages = CounterVec::new(
            Opts::new(
                "recsae_stage_seconds_total",
                "CPU time spent in each stage; all together are the CPU time of the process since its configuration was taken up.",
            ),
            &["stage"],
        )?;
        add.it(stages.clone())?;
        let checkpoint = HistogramOpts::new("recsae_checkpoint_seconds", "Time from a step being sent to its being stored.")
            .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        let wait = HistogramOpts::new(
            "recsae_worker_wait_seconds",
            "Time off the CPU in a worker's turn, but for records: for the judge, a lock, the store or a core.",
        )
        .buckets(vec![0.000_1, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0]);
        let metrics = Self {
            booking: Mutex::new(()),
            consumed: add.counter("recsae_records_consumed_total", "Records polled for the first time; equals encoded plus rejected.")?,
            encoded: add.counter("recsae_records_encoded_total", "Records encoded and counted.")?,
            rejected,
            replayed: add.counter("recsae_records_replayed_total", "Records read again to rebuild open windows; counted nowhere else.")?,
            stage_seconds: Stage::ALL.map(|stage| stages.with_label_values(&[stage.kind()])),
            client_threads: Mutex::default(),
            cpu_before: cpu::process(),
            alerts: add.counters(
                "recsae_drift_alerts_total",
                "Alerts opened, by direction.",
                "direction",
                [Direction::Up, Direction::Down].map(Direction::kind),
            )?,
            checkpoint: add.it(Histogram::with_opts(checkpoint)?)?,
            worker_wait: add.it(Histogram::with_opts(wait)?)?,
            windows_closed: add.counter("recsae_windows_closed_total", "Partial windows closed by this instance.")?,
            windows_judged: add.counter("recsae_windows_judged_total", "Windows judged by this instance.")?,
            windows_incomplete: add
                .counter("recsae_windows_incomplete_total", "Windows without a verdict because some of their records are missing.")?,
            records_lost: add.counter("recsae_records_lost_total", "Records the broker deleted before they were counted.")?,
            window_end: add.gauge("recsae_window_end_timestamp_seconds", "End of the newest judged window, Unix time.")?,
            last_record: add.gauge("recsae_last_record_timestamp_seconds", "Newest event time counted, Unix time.")?,
            entities_split: add.gauge("recsae_entities_split_ratio", "Share of entities seen on more than one partition.")?,
            checkpoint_failures: add.counter("recsae_checkpoint_failures_total", "Steps that could not be stored or committed.")?,
            encode_mismatches: add
                .counter("recsae_encode_mismatches_total", "Rows that two engines encoded differently by more than rounding explains.")?,
            dead_letters: add.counter("recsae_dead_letters_total", "Rejects acknowledged in the dead-letter topic.")?,
            dead_letters_truncated: add.counter(
                "recsae_dead_letters_truncated_total",
                "Dead letters that keep only the beginning of a record too large for their topic.",
            )?,
            dead_letter_failures: add
                .counter("recsae_dead_letter_failures_total", "Rejects that could not be written to the dead-letter topic.")?,
            unequal_parts: add.counter(
                "recsae_unequal_parts_total",
                "Parts of windows that were published a second time with another result, or after their window was judged.",
            )?,
            diverged: add.gauge("recsae_diverged", "1 on an instance whose history is not that of the instance that judges.")?,
            rebalances: add.counter("recsae_rebalances_total", "Assignments and revocations seen.")?,
            http_rejected: add
                .counter("recsae_http_requests_rejected_total", "HTTP requests refused by a cap, a limit or a missing token.")?,
            registry,
        };
        Ok(metrics)
    }

    /// Books one batch: in any scrape either all of it or nothing.
    pub fn book(&self, batch: &BatchTally) {
        let _booking = self.booking.lock().unwrap_or_else(PoisonError::into_inner);
        self.consumed.inc_by(batch.consumed);
        self.encoded.inc_by(batch.encoded);
        self.replayed.inc_by(batch.replayed);
        for (counter, &n) in self.rejected.iter().zip(&batch.rejected).filter(|(_, n)| **n > 0) {
            counter.inc_by(n);
        }
    }

    /// Records consumed so far, and of those, rejected.
    #[must_use]
    pub fn records(&self) -> (u64, u64) {
        let _booking = self.booking.lock().unwrap_or_else(PoisonError::into_inner);
        (self.consumed.get(), self.rejected.iter().map(IntCounter::get).sum())
    }

    /// Adds CPU time to a stage.
    pub fn spent(&self, stage: Stage, time: Duration) {
        self.stage_seconds[stage as usize].inc_by(time.as_secs_f64());
    }

    /// A step was stored after that time.
    pub fn checkpointed(&self, time: Duration) {
        self.checkpoint.observe(time.as_secs_f64());
    }

    /// A worker was off the CPU that long in a turn, waiting for records left out.
    pub fn waited(&self, time: Duration) {
        self.worker_wait.observe(time.as_secs_f64());
    }

    /// An alert was opened.
    pub fn alerted(&self, direction: Direction) {
        self.alerts[usize::from(direction == Direction::Down)].inc();
    }

    /// Takes in what threads used that are not timed stage by stage. What is being worked at, and is not in its stage
    /// yet, may be in "other" until then: all together are a batch of each worker and a judgement more than the process's own
    /// at most.
    fn look_at_threads(&self) {
        let mut threads = self.client_threads.lock().unwrap_or_else(PoisonError::into_inner);
        let rise = |stage: Stage, to: f64| {
            let counter = &self.stage_seconds[stage as usize];
            counter.inc_by((to - counter.get()).max(0.0));
        };
        rise(Stage::Client, threads.look().as_secs_f64());
        let known: f64 = self.stage_seconds.iter().map(Counter::get).sum::<f64>() - self.stage_seconds[Stage::Other as usize].get();
        rise(Stage::Other, cpu::process().saturating_sub(self.cpu_before).as_secs_f64() - known);
    }

    /// Everything as Prometheus text, format 0.0.4, of one moment.
    #[must_use]
    pub fn render(&self) -> String {
        self.look_at_threads();
        let families = {
            let _booking = self.booking.lock().unwrap_or_else(PoisonError::into_inner);
            self.registry.gather()
        };
        let mut text = Vec::new();
        // Writing into memory fails only for a family without samples, which is then left out.
        for family in families {
            let before = text.len();
            if TextEncoder::new().encode(&[family], &mut text).is_err() {
                text.truncate(before);
            }
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

/// Makes and registers metrics in one go.
struct Registration<'a> {
    registry: &'a Registry,
}

impl Registration<'_> {
    fn it<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.it(IntCounter::new(name, help)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.it(Gauge::new(name, help)?)
    }

    /// One counter for each value of one label; the only label, so that no two sets can be merged.
    fn counters<const N: usize>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: [&str; N],
    ) -> Result<[IntCounter; N], prometheus::Error> {
        let family = self.it(IntCounterVec::new(Opts::new(name, help), &[label])?)?;
        Ok(values.map(|value| family.with_label_values(&[value])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, series: &str) -> f64 {
        let line = text.lines().find(|line| line.starts_with(series) && line.as_bytes()[series.len()] == b' ');
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn every_reason_stage_and_direction_is_there_from_the_start() {
        let text = ProcessMetrics::new("0.1.0", "abc").unwrap().render();
        for reason in RejectReason::ALL {
            assert_eq!(value(&text, &format!("recsae_records_rejected_total{{reason=\"{}\"}}", reason.kind())), 0.0);
            assert_eq!(RejectReason::ALL[reason as usize], reason, "positions follow the declaration");
        }
        let of = |stage: Stage| value(&text, &format!("recsae_stage_seconds_total{{stage=\"{}\"}}", stage.kind()));
        for stage in Stage::ALL.into_iter().filter(|stage| !matches!(stage, Stage::Client | Stage::Other)) {
            assert_eq!(of(stage), 0.0, "{}", stage.kind());
        }
        assert!(of(Stage::Client) >= 0.0 && of(Stage::Other) > 0.0, "what this process used so far");
        assert_eq!(value(&text, "recsae_drift_alerts_total{direction=\"down\"}"), 0.0);
        assert_eq!(value(&text, "recsae_build_info{revision=\"abc\",version=\"0.1.0\"}"), 1.0);
    }

    #[test]
    fn all_stages_together_are_the_cpu_time_of_the_process() {
        let started = cpu::process().as_secs_f64();
        let metrics = ProcessMetrics::new("0", "0").unwrap();
        let made = cpu::process().as_secs_f64();
        let mut cpu = cpu::Stopwatch::start();
        for turn in 0..3 {
            let mut worked = Duration::ZERO;
            while worked < Duration::from_millis(20) {
                worked += cpu.lap();
            }
            metrics.spent(Stage::Encode, worked);
            let before = cpu::process().as_secs_f64();
            let text = metrics.render();
            let all: f64 =
                Stage::ALL.iter().map(|stage| value(&text, &format!("recsae_stage_seconds_total{{stage=\"{}\"}}", stage.kind()))).sum();
            // Looked at in between, and exact but for the rounding of sums.
            assert!(
                all >= before - made - 1e-6 && all <= cpu::process().as_secs_f64() - started + 1e-6,
                "turn {turn}: {all} s of {before}"
            );
        }
    }

    #[test]
    fn consumed_equals_encoded_plus_rejected_in_every_scrape() {
        let metrics = ProcessMetrics::new("0", "0").unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let mut batch = BatchTally { consumed: 20, encoded: 18, ..BatchTally::default() };
                        batch.reject(RejectReason::Late);
                        batch.reject(RejectReason::MalformedJson);
                        metrics.book(&batch);
                    }
                });
            }
            for _ in 0..100 {
                let text = metrics.render();
                let rejected: f64 = RejectReason::ALL
                    .iter()
                    .map(|reason| value(&text, &format!("recsae_records_rejected_total{{reason=\"{}\"}}", reason.kind())))
                    .sum();
                assert_eq!(value(&text, "recsae_records_consumed_total"), value(&text, "recsae_records_encoded_total") + rejected);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
