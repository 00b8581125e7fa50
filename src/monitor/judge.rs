//! The judge: one thread, owns the store, does everything that must be in one transaction.
//!
//! Steps come in, are stored and acknowledged. When every partition has passed the end of a window,
//! its parts are merged, judged model by model, stored in one transaction, and the picture that
//! metrics, API and page read is swapped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::drift::alert::{ActionKind, Alert, AlertAction, utc_text};
use crate::drift::closed::{ALL, counted_version};
use crate::drift::report::{AlertChange, DriftReport, Verdict};
use crate::fault;
use crate::metrics::registry::Stage;
use crate::monitor::admission::Admission;
use crate::monitor::assemble::{MAX_SPLIT, assemble};
use crate::monitor::command::{JudgeCommand, StepAck};
use crate::monitor::error::MonitorError;
use crate::monitor::questions::Questions;
use crate::monitor::retention::Retention;
use crate::monitor::shared::Shared;
use crate::monitor::version::Version;
use crate::snapshot::{InstanceFacts, Snapshot, SnapshotCell};
use crate::store::alerts::changeable;
use crate::store::judgement::{JudgedModel, Judgement};
use crate::store::reader::UnjudgedWindow;
use crate::store::step::StepOutcome;
use crate::store::{Store, StoreError};
use crate::task::Shutdown;

/// Alerts shown that do not fire any more.
const PAST_ALERTS: usize = 100;
/// Pause before a refused transaction is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The judge's state.
pub struct Judge {
    store: Store,
    versions: Vec<Version>,
    shared: Arc<Shared>,
    facts: Arc<InstanceFacts>,
    snapshot: Arc<SnapshotCell>,
    budget_windows: f64,
    min_segment_records: u64,
    max_segments: usize,
    workers: Arc<AtomicUsize>,
    questions: Questions,
    retention: Retention,
    n_judged: u64,
}

/// What does not change about a judge.
pub struct JudgeRules {
    /// A, windows per allowed false alarm.
    pub budget_windows: f64,
    /// Records a segment name needs in a window to be followed.
    pub min_segment_records: u64,
    /// Most segments.
    pub max_segments: usize,
    /// How long windows are kept.
    pub retention: Retention,
}

impl Judge {
    /// A judge over an opened store.
    #[must_use]
    pub fn new(
        store: Store,
        versions: Vec<Version>,
        shared: Arc<Shared>,
        facts: Arc<InstanceFacts>,
        snapshot: Arc<SnapshotCell>,
        rules: JudgeRules,
        (workers, questions): (Arc<AtomicUsize>, Questions),
    ) -> Self {
        let JudgeRules { budget_windows, min_segment_records, max_segments, retention } = rules;
        Self {
            store,
            versions,
            shared,
            facts,
            snapshot,
            budget_windows,
            min_segment_records,
            max_segments,
            workers,
            questions,
            retention,
            n_judged: 0,
        }
    }

    /// Serves until every worker has ended and everything they sent is stored and judged; windows judged.
    ///
    /// # Errors
    /// The store is damaged, or refuses for good.
    pub fn run(mut self, commands: &Receiver<JudgeCommand>, shutdown: &Shutdown) -> Result<u64, MonitorError> {
        if let Some((_, end_ms)) = self.store.read().last_judged()? {
            self.shared.metrics.window_end.set(end_ms as f64 / 1e3);
        }
        self.look_for_references()?;
        self.judge_due(shutdown)?;
        self.shared.live.set_ready("store");
        self.questions.ask(self.store.read())?;
        loop {
            match commands.recv_timeout(Duration::from_millis(100)) {
                Ok(command) => self.serve(command, shutdown)?,
                Err(RecvTimeoutError::Timeout) if self.workers.load(Ordering::SeqCst) > 0 => {}
                // A run that ends with the log has its alerts explained; a shutdown leaves that to the next start.
                Err(RecvTimeoutError::Timeout) if self.questions.are_open() && !shutdown.is_triggered() => {}
                Err(_) => break,
            }
        }
        self.judge_due(shutdown)?;
        tracing::info!(windows = self.n_judged, "judge ended: everything sent is stored");
        Ok(self.n_judged)
    }

    fn serve(&mut self, command: JudgeCommand, shutdown: &Shutdown) -> Result<(), MonitorError> {
        match command {
            JudgeCommand::Step { step, sent, reply } => {
                let outcome = self.keep_trying(shutdown, |store| store.apply_step(&step))?;
                self.shared.metrics.checkpointed(sent.elapsed());
                self.shared.metrics.spent(Stage::Step, sent.elapsed());
                if outcome == StepOutcome::Applied {
                    self.shared.positions.set(&step.partition, step.position.clone());
                }
                self.shared.positions.answered(&step.partition);
                // A worker that has gone needs no answer.
                drop(reply.send(StepAck { partition: step.partition.clone(), position: step.position.clone(), outcome }));
                self.judge_due(shutdown)?;
            }
            JudgeCommand::Act { alert, action, reply } => {
                let outcome = act(&mut self.store, &mut self.versions, alert, &action);
                self.publish()?;
                drop(reply.send(outcome));
            }
            JudgeCommand::PutReference { reference, reply } => {
                let outcome = self.store.put_fitted(&reference, self.shared.clock.now_ms());
                // Before the answer: who asks next is told of it.
                self.look_for_references()?;
                drop(reply.send(outcome));
            }
            JudgeCommand::ApproveReference { name, approval, reply } => {
                let outcome = self.store.approve_reference(&name, &approval);
                self.look_for_references()?;
                drop(reply.send(outcome));
            }
            JudgeCommand::Explained { alert, explanation } => {
                self.questions.answered();
                if let Some(explanation) = explanation {
                    let now_ms = self.shared.clock.now_ms();
                    self.keep_trying(shutdown, |store| store.put_explanation(alert, &explanation, now_ms))?;
                    self.publish()?;
                }
            }
            JudgeCommand::TestAlert { who, why, until_ms, reply } => {
                let outcome = self.store.record_test_alert(&who, &why, until_ms, self.shared.clock.now_ms());
                if outcome.is_ok() {
                    self.shared.live.set_test_alert(Some(until_ms));
                }
                self.publish()?;
                drop(reply.send(outcome));
            }
        }
        Ok(())
    }

    /// Takes up the references that are waited for, where they are there by now; without one there is no verdict,
    /// and the instance is not ready.
    fn look_for_references(&mut self) -> Result<(), MonitorError> {
        for version in &mut self.versions {
            version.take_up_named(&self.store)?;
        }
        let missing: Vec<&str> = self.versions.iter().filter_map(Version::waits_for).collect();
        if missing.is_empty() {
            self.shared.live.set_ready("reference");
        } else {
            self.shared.live.set_not_ready("reference", missing.join("; "));
        }
        self.publish()
    }

    /// Judges every window that all partitions have passed, oldest first.
    fn judge_due(&mut self, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let edge = self.shared.positions.judge_before(self.shared.rules.n_partitions, &self.shared.rules.window);
        let unjudged = self.store.read().unjudged_windows()?;
        self.shared.positions.set_oldest_closed(unjudged.iter().map(|window| window.start_ms).find(|start| *start >= edge));
        let due: Vec<UnjudgedWindow> = unjudged.into_iter().filter(|window| window.start_ms < edge).collect();
        let any = !due.is_empty();
        for window in due {
            self.judge_window(&window, shutdown)?;
            self.shared.pace.judged_before(window.end_ms);
        }
        self.shared.pace.judged_before(edge);
        if any {
            self.publish()?;
        }
        Ok(())
    }

    fn judge_window(&mut self, due: &UnjudgedWindow, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let began = Instant::now();
        fault::point("judge-begun");
        let parts = self.store.read().partials_of(due.start_ms)?;
        let labels: Vec<String> = self.versions.iter().map(|version| counted_version(version.label()).to_owned()).collect();
        let by_entity = self.shared.rules.models.iter().any(|(_, spec)| spec.by_entity);
        let assembled = assemble(due.start_ms, due.end_ms, &parts, &labels, by_entity);
        self.shared.metrics.entities_split.set(assembled.split_ratio);
        let mut models = Vec::new();
        for (version, mut window) in self.versions.iter_mut().zip(assembled.windows) {
            version.label().clone_into(&mut window.model_version);
            let mut report = version.judge(&window);
            if by_entity && assembled.split_ratio > MAX_SPLIT {
                name_split(&mut report);
            }
            let concepts = version.concepts(&report);
            models.push(JudgedModel { window, report, state: version.state()?, concepts });
        }
        let admitted = self.admit(&assembled.seen, self.shared.pace.edge_ms(due.end_ms));
        let now_ms = self.shared.clock.now_ms();
        let judgement = Judgement {
            start_ms: due.start_ms,
            end_ms: due.end_ms,
            n_partials: parts.len(),
            models,
            judged_ms: now_ms,
            admitted: admitted.into_iter().map(|admission| (admission.segment, admission.from_ms)).collect(),
        };
        let outcome = self.keep_trying(shutdown, |store| store.commit_judgement(&judgement))?;
        tracing::debug!(?outcome, window = due.start_ms, "window judged");
        for version in &mut self.versions {
            version.fit_first(&mut self.store, now_ms)?;
        }
        if let Some((before_ms, actor)) = self.retention.due(due.end_ms, now_ms) {
            let n = self.keep_trying(shutdown, |store| store.prune(before_ms, &actor))?;
            if n > 0 {
                tracing::info!(windows = n, before_ms, "windows beyond [store] retention deleted; the chain keeps their digests");
            }
        }
        self.n_judged += 1;
        self.shared.metrics.windows_judged.inc();
        let whole = judgement.models.iter().flat_map(|model| model.report.segments.iter().filter(|segment| segment.segment == ALL));
        if let Some(incomplete) = whole.clone().find(|segment| segment.verdict == Verdict::Incomplete) {
            self.shared.metrics.windows_incomplete.inc();
            tracing::warn!(window_start = due.start_ms, why = incomplete.why, "window without a verdict: it is incomplete");
        }
        self.shared.metrics.window_end.set(due.end_ms as f64 / 1e3);
        for change in judgement.models.iter().flat_map(|model| &model.report.changes) {
            self.say(change);
            if matches!(change, AlertChange::Opened(_)) {
                self.questions.ask(self.store.read())?;
            }
        }
        self.shared.metrics.spent(Stage::Judge, began.elapsed());
        Ok(())
    }

    fn say(&self, change: &AlertChange) {
        match change {
            AlertChange::Opened(crossing) => {
                self.shared.metrics.alerted(crossing.direction);
                // A warning, so that it is in the log of who asks for nothing quieter, under the name that people know.
                tracing::warn!(
                    concept = self.snapshot.load().name_in(&crossing.model_version, crossing.stream).name,
                    stream = %crossing.stream,
                    segment = %crossing.segment,
                    model = %crossing.model_version,
                    direction = crossing.direction.kind(),
                    ratio = crossing.ratio,
                    began = utc_text(crossing.began_ms),
                    "drift alert opened"
                );
            }
            AlertChange::CrossedAgain(_) | AlertChange::Relapsing(_) => {}
            AlertChange::Recovered { segment, stream, .. } => tracing::info!(%stream, %segment, "drift alert recovered"),
        }
    }

    /// Follows the most frequent new segments from a window on that nobody has opened yet: `not_before_ms`, unless
    /// records were read further while partitions were in other hands.
    fn admit(&self, seen: &BTreeMap<String, u64>, not_before_ms: i64) -> Vec<Admission> {
        let mut names: Vec<(&String, &u64)> = seen.iter().filter(|(_, n)| **n >= self.min_segment_records).collect();
        names.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        // `_all` and `_other` take two places.
        let free = self.max_segments.saturating_sub(2 + self.shared.board.n_admitted());
        let known = self.shared.board.names();
        let names = names.into_iter().map(|(name, _)| name.clone()).filter(|name| !known.contains(name)).take(free).collect();
        let admitted = self.shared.board.admit(names, self.shared.rules.window.length_ms, not_before_ms);
        for admission in &admitted {
            tracing::info!(segment = admission.segment, from_ms = admission.from_ms, "segment seen: it is followed from this window on");
        }
        if 2 + self.shared.board.n_admitted() >= self.max_segments {
            self.shared.pace.admits_no_more();
        }
        admitted
    }

    /// A refused transaction (disk full, read-only) stops the flow, not the program: not ready, and tried
    /// again until it works or the shutdown comes.
    fn keep_trying<T>(
        &mut self,
        shutdown: &Shutdown,
        mut attempt: impl FnMut(&mut Store) -> Result<T, StoreError>,
    ) -> Result<T, MonitorError> {
        loop {
            match attempt(&mut self.store) {
                Ok(done) => {
                    if !self.shared.store_works.swap(true, Ordering::SeqCst) {
                        tracing::info!("the store works again: consumption goes on");
                    }
                    self.shared.live.set_ready("store");
                    return Ok(done);
                }
                Err(error @ (StoreError::Database(_) | StoreError::Io { .. })) if !shutdown.is_triggered() => {
                    self.shared.store_works.store(false, Ordering::SeqCst);
                    self.shared.metrics.checkpoint_failures.inc();
                    self.shared.live.set_not_ready("store", error.to_string());
                    tracing::error!(%error, "the store refused: consumption waits until it works again");
                    // Whether the flag is up decides above.
                    let _up = shutdown.wait_timeout(RETRY);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn publish(&self) -> Result<(), MonitorError> {
        self.snapshot.publish(Snapshot {
            instance: Arc::clone(&self.facts),
            judging: true,
            lineage: self.store.lineage(),
            history_head: self.store.read().audit_head()?,
            last_window_end_ms: self.store.read().last_judged()?.map(|(_, end)| end),
            false_alarm_budget_windows: self.budget_windows,
            models: self.versions.iter().map(Version::picture).collect(),
            alerts: self.store.read().alerts(PAST_ALERTS)?,
        });
        Ok(())
    }
}

/// An operator's act on an alert; accepting changes the detectors, in the same transaction.
///
/// # Errors
/// As [`Store::act`] and [`Store::accept`], or the detectors do not hold that alert.
pub fn act(store: &mut Store, versions: &mut [Version], alert: i64, action: &AlertAction) -> Result<Alert, StoreError> {
    if action.action != ActionKind::Accept {
        return store.act(alert, action);
    }
    let not_found = |what, name: &str| StoreError::NotFound { what, name: name.to_owned() };
    let found = store.read().alert(alert)?.ok_or_else(|| not_found("alert", &alert.to_string()))?;
    // Before the detectors are asked: those of a lineage that is over are gone.
    changeable(&found, action.action)?;
    let opened = found.opened;
    let version = versions.iter_mut().find(|version| version.label() == opened.model_version);
    let version = version.ok_or_else(|| not_found("model version", &opened.model_version))?;
    let (judge, state) = version.accepting(&opened.segment, opened.stream).map_err(|error| match error {
        MonitorError::Store(error) => error,
        other => StoreError::Refused(other.to_string()),
    })?;
    let accepted = store.accept(alert, action, &state)?;
    version.adopt(judge);
    tracing::info!(alert, stream = %opened.stream, segment = %opened.segment, factor = state.factor, "level accepted");
    Ok(accepted)
}

/// `incomplete` because of split entities has a verdict of its own, so that it can be alerted on.
fn name_split(report: &mut DriftReport) {
    for segment in report.segments.iter_mut().filter(|segment| segment.verdict == Verdict::Incomplete) {
        segment.verdict = Verdict::EntitiesSplit;
    }
}
