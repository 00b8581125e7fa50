//! Explains alerts: reads the records around an alert's change point again, beside the flow.
//!
//! ```text
//! judge: alert opened ──number──> explainer: offsets of up to 3 windows before and 3 since -> records -> explanation
//!   ^                                                                                                      │
//!   └───────────── kept with the alert, an entry of the chain <────────────────────────────────────────────┘
//! ```
//!
//! The log is the state here too: an explanation follows from the alert, the stored windows and their records, so one
//! that was not made before a stop is made after the next start. Counting pays nothing for it: no record is kept back
//! and no judged byte depends on it. What it costs is bounded: at most 20,000 records a window, encoded once for all
//! alerts of that window (64 at a time), by one thread, a few times a month where the budget is one false alarm a month.
//!
//! Rejected: sampling examples and heavy users of every latent while windows are open. It costs each of the millions of
//! records what one alert needs, makes the stored parts of windows several times as large, and holds only what was
//! thought of before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TrySendError};
use std::time::{Duration, Instant};

use crate::config::settings::Settings;
use crate::drift::alert::Alert;
use crate::drift::closed::counted_version;
use crate::drift::explanation::Explanation;
use crate::drift::stream::StreamId;
use crate::drift::witness::{Side, Witness};
use crate::monitor::command::{Commands, JudgeCommand};
use crate::monitor::error::MonitorError;
use crate::monitor::explained::{ReadWindow, Spans, described, windows};
use crate::monitor::models::Models;
use crate::monitor::reread::{Reread, position_of};
use crate::sae::latent::LatentId;
use crate::store::StoreReader;
use crate::task::Shutdown;

/// Alerts of one window explained in one pass: bounds the memory at some 30 MB with 2,048 latents.
const ALERTS_A_PASS: usize = 64;
/// Longest wait for the broker, and at most half a drain: a stop is not held up.
const PATIENCE: Duration = Duration::from_secs(3);
/// A broker that is away is asked again after this, times the number of failures so far.
const RETRY: Duration = Duration::from_secs(5);
/// Failures after which an alert is left as it is: with the pauses between them, a quarter of an hour.
const MAX_FAILURES: u32 = 18;
/// The same in a run that ends with the log.
const MAX_FAILURES_AT_END: u32 = 2;

/// The thread that explains.
pub struct Explainer {
    /// What is read again, and how.
    pub settings: Settings,
    /// The models of the flow.
    pub models: Models,
    /// Salt of entity hashes.
    pub salt: [u8; 16],
    /// Whether the run ends with the log, and waits for explanations.
    pub until_end: bool,
    /// Numbers of alerts to be explained.
    pub asked: Receiver<i64>,
    /// Where explanations go.
    pub commands: Commands,
    /// Dropped with the explainer: the judge sees whether it is there.
    pub alive: Arc<()>,
}

/// An alert that waits to be explained.
struct Waiting {
    alert: i64,
    failures: u32,
    not_before: Instant,
}

impl Explainer {
    /// Explains what is asked for until the shutdown, or until nobody can ask any more.
    pub fn run(self, shutdown: &Shutdown) {
        let mut waiting: Vec<Waiting> = Vec::new();
        while !shutdown.is_triggered() {
            match self.asked.recv_timeout(Duration::from_millis(100)) {
                Ok(alert) => waiting.push(Waiting { alert, failures: 0, not_before: Instant::now() }),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            waiting.extend(self.asked.try_iter().map(|alert| Waiting { alert, failures: 0, not_before: Instant::now() }));
            let (due, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|waiting| waiting.not_before <= Instant::now());
            waiting = later;
            waiting.extend(self.explain_due(due, shutdown));
        }
    }

    /// Explains; gives back what must be tried again.
    fn explain_due(&self, due: Vec<Waiting>, shutdown: &Shutdown) -> Vec<Waiting> {
        if due.is_empty() {
            return due;
        }
        let numbers: Vec<i64> = due.iter().map(|waiting| waiting.alert).collect();
        let failures = due.iter().map(|waiting| waiting.failures).max().unwrap_or(0);
        let mut again = Vec::new();
        let groups = match self.groups(&numbers) {
            Ok(groups) => groups,
            Err(error) => {
                tracing::warn!(%error, "alerts cannot be read to be explained: tried again");
                return due.into_iter().filter_map(|waiting| self.later(waiting.alert, failures, shutdown)).collect();
            }
        };
        for group in groups {
            match self.explain(&group, shutdown) {
                // What was read in part is read again after the next start.
                _ if shutdown.is_triggered() => return Vec::new(),
                Ok(explained) => explained.into_iter().for_each(|(alert, explanation)| self.answer(alert, Some(explanation), shutdown)),
                Err(MonitorError::Kafka(error)) if !error.needs_human() => {
                    tracing::warn!(%error, alerts = group.len(), "alerts are not explained yet: tried again");
                    again.extend(group.iter().filter_map(|alert| self.later(alert.id, failures, shutdown)));
                }
                Err(error) => {
                    tracing::warn!(%error, alerts = group.len(), "alerts are explained without their records");
                    for alert in &group {
                        self.answer(alert.id, self.without_records(alert, &error), shutdown);
                    }
                }
            }
        }
        again
    }

    /// Another try, or none after too many.
    fn later(&self, alert: i64, failures: u32, shutdown: &Shutdown) -> Option<Waiting> {
        let failures = failures + 1;
        if failures > if self.until_end { MAX_FAILURES_AT_END } else { MAX_FAILURES } {
            self.answer(alert, None, shutdown);
            return None;
        }
        Some(Waiting { alert, failures, not_before: Instant::now() + RETRY * failures })
    }

    /// Tells the judge; a channel that is full means that the store is slow.
    fn answer(&self, alert: i64, explanation: Option<Explanation>, shutdown: &Shutdown) {
        let mut command = JudgeCommand::Explained { alert, explanation: explanation.map(Box::new) };
        while let Err(TrySendError::Full(back)) = self.commands.try_send(command) {
            command = back;
            if shutdown.wait_timeout(Duration::from_millis(50)) {
                return;
            }
        }
    }

    /// The alerts by model and window, in passes of bounded size.
    fn groups(&self, numbers: &[i64]) -> Result<Vec<Vec<Alert>>, MonitorError> {
        let reader = StoreReader::open(&self.settings.store.path)?;
        let mut groups: BTreeMap<(String, i64), Vec<Alert>> = BTreeMap::new();
        for number in numbers {
            if let Some(alert) = reader.alert(*number)? {
                groups.entry((alert.opened.model_version.clone(), alert.opened.window_start_ms)).or_default().push(alert);
            }
        }
        Ok(groups.into_values().flat_map(|group| group.chunks(ALERTS_A_PASS).map(<[Alert]>::to_vec).collect::<Vec<_>>()).collect())
    }

    fn without_records(&self, alert: &Alert, error: &MonitorError) -> Option<Explanation> {
        let reader = StoreReader::open(&self.settings.store.path).ok()?;
        let described = described(&reader, alert).ok()?;
        Some(Explanation { unread: Some(error.to_string()), ..described })
    }

    /// Alerts of one model and window, explained in one pass over the records.
    fn explain(&self, alerts: &[Alert], shutdown: &Shutdown) -> Result<Vec<(i64, Explanation)>, MonitorError> {
        let Some(first) = alerts.first() else { return Ok(Vec::new()) };
        let began = Instant::now();
        let reader = StoreReader::open(&self.settings.store.path)?;
        let version = counted_version(&first.opened.model_version);
        let model = self.models.labels.iter().position(|label| label == version);
        let model =
            model.ok_or_else(|| MonitorError::Start(format!("no [[model]] is called {:?} any more", first.opened.model_version)))?;
        let window_ms = self.settings.window.length_ms();
        let known = windows(&reader, alerts, window_ms)?;
        let mut watched = Vec::new();
        for alert in alerts {
            watched.push((Spans::of(alert, &known, window_ms), self.witness(&reader, alert, model)?));
        }
        let wanted: BTreeSet<i64> = watched.iter().flat_map(|(spans, _)| spans.starts()).collect();
        let mut reread = Reread::new(self.models.clone(), &self.settings, self.salt, PATIENCE.min(self.settings.kafka.drain / 2))?;
        for window in known.iter().filter(|window| wanted.contains(&window.start_ms)) {
            self.read(&mut reread, window, alerts, &mut watched, shutdown)?;
        }
        let mut explained = Vec::new();
        for (alert, (spans, witness)) in alerts.iter().zip(watched) {
            let records = Some(witness.evidence(spans.bounds(&known)));
            explained.push((alert.id, Explanation { records, ..described(&reader, alert)? }));
        }
        tracing::info!(alerts = explained.len(), windows = wanted.len(), took = ?began.elapsed(), "alerts explained from their records");
        Ok(explained)
    }

    fn read(
        &self,
        reread: &mut Reread,
        window: &ReadWindow,
        alerts: &[Alert],
        watched: &mut [(Spans, Witness)],
        shutdown: &Shutdown,
    ) -> Result<(), MonitorError> {
        let version = counted_version(&alerts[0].opened.model_version);
        let sides = |(alert, (spans, _)): (&Alert, &(Spans, Witness))| {
            spans.side(window.start_ms).zip(position_of(&alert.opened.segment, &window.segments))
        };
        let places: Vec<Option<(Side, usize)>> = alerts.iter().zip(watched.iter()).map(sides).collect();
        let starts_ms = window.start_ms..window.start_ms + 1;
        reread.records(starts_ms, &window.offsets, &window.segments, &|| shutdown.is_triggered(), &mut |label, seen| {
            if label == version {
                for ((_, witness), place) in watched.iter_mut().zip(&places) {
                    if let Some((side, segment)) = place {
                        witness.see(*side, *segment, seen);
                    }
                }
            }
        })
    }

    fn witness(&self, reader: &StoreReader, alert: &Alert, model: usize) -> Result<Witness, MonitorError> {
        let bundle = &self.models.bundles[model];
        let opened = &alert.opened;
        let members: Vec<LatentId> = match opened.stream {
            StreamId::Latent(latent) => vec![latent],
            StreamId::Family(family) => {
                let family = usize::try_from(family).ok().and_then(|family| bundle.catalogue().families.get(family));
                family.map(|family| family.latents.clone()).unwrap_or_default()
            }
            StreamId::ResidualOutlier | StreamId::DeadRecord => Vec::new(),
        };
        let reference = if opened.stream == StreamId::ResidualOutlier { reader.fitted(&opened.reference)? } else { None };
        let residual_from_bin = reference.and_then(|(_, reference)| reference.residual_from_bin);
        Ok(Witness::new((opened.stream, opened.direction), members, residual_from_bin, bundle.spec().d_sae.get()))
    }
}
