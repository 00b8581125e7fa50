//! The judge: one thread, owns the store, does everything that must be in one transaction.
//!
//! Steps come in, are stored and acknowledged. When every partition has passed the end of a window,
//! its parts are merged, judged model by model, stored in one transaction, and the picture that
//! metrics, API and page read is swapped. In a cluster nothing is judged or done here that the judge's log
//! does not have first ([`crate::monitor::cluster`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::drift::alert::{ActionKind, Alert, AlertAction};
use crate::kafka::topic_ids::TopicIds;
use crate::monitor::cluster::member::Member;
use crate::monitor::command::JudgeCommand;
use crate::monitor::deed::{Deed, Reply};
use crate::monitor::error::MonitorError;
use crate::monitor::questions::Questions;
use crate::monitor::retention::Retention;
use crate::monitor::shared::Shared;
use crate::monitor::version::Version;
use crate::snapshot::{InstanceFacts, Snapshot, SnapshotCell};
use crate::store::alerts::changeable;
use crate::store::{Store, StoreError};
use crate::task::Shutdown;

mod following;
mod steps;
mod window;

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
    member: Option<Member>,
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
    /// What it is in its cluster; `None` alone.
    pub member: Option<Member>,
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
        let JudgeRules { budget_windows, min_segment_records, max_segments, retention, member } = rules;
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
            member,
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
        self.publish()?;
        self.go_on(shutdown)?;
        self.shared.live.set_ready("store");
        self.ask_for_explanations()?;
        loop {
            match commands.recv_timeout(Duration::from_millis(100)) {
                Ok(command) => self.serve_with_waiting(command, commands, shutdown)?,
                // In a cluster an order may have been refused, or be due by now.
                Err(RecvTimeoutError::Timeout) if self.workers.load(Ordering::SeqCst) > 0 && self.member.is_some() => {
                    self.go_on(shutdown)?
                }
                Err(RecvTimeoutError::Timeout) if self.workers.load(Ordering::SeqCst) > 0 => {}
                // A run that ends with the log has its alerts explained; a shutdown leaves that to the next start.
                Err(RecvTimeoutError::Timeout) if self.questions.are_open() && !shutdown.is_triggered() => {}
                Err(_) => break,
            }
        }
        self.go_on(shutdown)?;
        tracing::info!(windows = self.n_judged, "judge ended: everything sent is stored");
        Ok(self.n_judged)
    }

    /// Judges what is due; in a cluster, carries out the log and says what is to be judged next.
    fn go_on(&mut self, shutdown: &Shutdown) -> Result<(), MonitorError> {
        if self.member.is_some() { self.go_on_together(shutdown) } else { self.judge_due(shutdown) }
    }

    fn serve(&mut self, command: JudgeCommand, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let (deed, reply) = match command {
            JudgeCommand::Step(of) => return self.keep_steps(vec![*of], shutdown),
            JudgeCommand::Followed(followed) => return self.follow(*followed, shutdown),
            JudgeCommand::Duty(is_ours) => return self.on_duty(is_ours, shutdown),
            JudgeCommand::KnowTopics(ids) => return self.know_topics(&ids, shutdown),
            JudgeCommand::Act { alert, action, reply } => (Deed::Act { alert, action }, Reply::Alert(reply)),
            JudgeCommand::PutReference { reference, reply } => (Deed::PutReference { reference }, Reply::Done(reply)),
            JudgeCommand::ApproveReference { name, approval, reply } => (Deed::ApproveReference { name, approval }, Reply::Done(reply)),
            JudgeCommand::Explained { alert, explanation } => {
                self.questions.answered();
                let Some(explanation) = explanation else { return Ok(()) };
                (Deed::Explain { alert, explanation }, Reply::Nobody)
            }
            JudgeCommand::TestAlert { who, why, until_ms, reply } => (Deed::TestAlert { who, why, until_ms }, Reply::Done(reply)),
        };
        match &mut self.member {
            Some(member) => {
                member.ask(deed, reply, self.shared.clock.now_ms());
                Ok(())
            }
            None => {
                let outcome = self.carry_out(&deed, self.shared.clock.now_ms(), shutdown)?;
                // Before the answer: who asks next is told of it.
                self.publish()?;
                reply.send(outcome);
                Ok(())
            }
        }
    }

    /// Does it, at that time; what became of it.
    fn carry_out(&mut self, deed: &Deed, now_ms: i64, shutdown: &Shutdown) -> Result<Result<Option<Alert>, StoreError>, MonitorError> {
        let outcome = match deed {
            Deed::Act { alert, action } => act(&mut self.store, &mut self.versions, *alert, action).map(Some),
            Deed::PutReference { reference } => {
                let outcome = self.store.put_fitted(reference, now_ms);
                self.look_for_references()?;
                outcome.map(|()| None)
            }
            Deed::ApproveReference { name, approval } => {
                let outcome = self.store.approve_reference(name, approval);
                self.look_for_references()?;
                outcome.map(|()| None)
            }
            Deed::Explain { alert, explanation } => {
                self.keep_trying(shutdown, |store| store.put_explanation(*alert, explanation, now_ms))?;
                Ok(None)
            }
            Deed::TestAlert { who, why, until_ms } => {
                let outcome = self.store.record_test_alert(who, why, *until_ms, now_ms);
                if outcome.is_ok() && self.judges() {
                    self.shared.live.set_test_alert(Some(*until_ms));
                }
                outcome.map(|()| None)
            }
        };
        Ok(outcome)
    }

    /// Keeps what the broker told of topics; one that was made anew since some of it was counted ends the run.
    fn know_topics(&mut self, ids: &TopicIds, shutdown: &Shutdown) -> Result<(), MonitorError> {
        match self.keep_trying(shutdown, |store| store.know_topics(ids))? {
            Some(another) => {
                // What is counted of it is not stored, nor shown to a cluster.
                self.shared.counts_another_log.store(true, Ordering::SeqCst);
                Err(MonitorError::TopicReplaced(another))
            }
            None => Ok(()),
        }
    }

    /// Whether it is this instance that judges.
    fn judges(&self) -> bool {
        self.member.as_ref().is_none_or(Member::judges)
    }

    fn ask_for_explanations(&mut self) -> Result<(), MonitorError> {
        if self.judges() {
            self.questions.ask(self.store.read())?;
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
        Ok(())
    }

    /// A refused transaction (disk full, read-only) stops the flow, not the program: not ready, and tried
    /// again until it works or the shutdown comes. A part of a whole fails with the whole.
    fn keep_trying<T>(
        &mut self,
        shutdown: &Shutdown,
        mut attempt: impl FnMut(&mut Store) -> Result<T, StoreError>,
    ) -> Result<T, MonitorError> {
        let is_part = self.store.is_in_whole();
        loop {
            match attempt(&mut self.store) {
                Ok(done) => {
                    if !self.shared.store_works.swap(true, Ordering::SeqCst) {
                        tracing::info!("the store works again: consumption goes on");
                    }
                    self.shared.live.set_ready("store");
                    return Ok(done);
                }
                Err(error @ (StoreError::Database(_) | StoreError::Io { .. })) if !is_part && !shutdown.is_triggered() => {
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
            judging: self.judges(),
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
