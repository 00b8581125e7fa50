//! A window's judgement: its parts merged, judged model by model, stored with what follows from it.

use std::collections::BTreeMap;

use crate::drift::alert::utc_text;
use crate::drift::closed::{ALL, counted_version};
use crate::drift::report::{AlertChange, DriftReport, Verdict};
use crate::fault;
use crate::metrics::cpu::Stopwatch;
use crate::metrics::registry::Stage;
use crate::monitor::admission::Admission;
use crate::monitor::assemble::{Assembly, MAX_SPLIT};
use crate::monitor::error::MonitorError;
use crate::monitor::judge::Judge;
use crate::store::judgement::{JudgedModel, Judgement};
use crate::store::reader::UnjudgedWindow;
use crate::store::retention::Actor;
use crate::store::shared_log::NamedPart;
use crate::task::Shutdown;

impl Judge {
    /// Judges every window that all partitions have passed, oldest first.
    pub(super) fn judge_due(&mut self, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let edge = self.shared.positions.judge_before(self.shared.rules.n_partitions, &self.shared.rules.window);
        let mut any = false;
        loop {
            let oldest = self.store.read().oldest_unjudged()?;
            let Some(window) = oldest.filter(|window| window.start_ms < edge) else {
                self.shared.positions.set_oldest_closed(oldest.map(|window| window.start_ms));
                break;
            };
            any = true;
            self.judge_window(&window, None, self.shared.clock.now_ms(), shutdown)?;
            self.prune(window.end_ms, shutdown)?;
            self.shared.pace.judged_before(window.end_ms);
        }
        self.shared.pace.judged_before(edge);
        if any {
            self.publish()?;
        }
        Ok(())
    }

    /// Judges a window at that time, from those of its stored parts that are named, or all.
    pub(super) fn judge_window(
        &mut self,
        due: &UnjudgedWindow,
        named: Option<&[NamedPart]>,
        now_ms: i64,
        shutdown: &Shutdown,
    ) -> Result<(), MonitorError> {
        let mut cpu = Stopwatch::start();
        fault::point("judge-begun");
        let labels: Vec<String> = self.versions.iter().map(|version| counted_version(version.label()).to_owned()).collect();
        let by_entity = self.shared.rules.models.iter().any(|(_, spec)| spec.by_entity);
        let mut assembly = Assembly::new(due.start_ms, due.end_ms, &labels);
        let n_stored = self.store.read().each_partial_of(due.start_ms, |part| {
            if named.is_none_or(|named| named.iter().any(|(partition, _)| *partition == part.partition)) {
                assembly.add(&part);
            }
        })?;
        let assembled = assembly.finish(by_entity);
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
        let judgement = Judgement {
            start_ms: due.start_ms,
            end_ms: due.end_ms,
            n_partials: n_stored,
            models,
            judged_ms: now_ms,
            admitted: admitted.into_iter().map(|admission| (admission.segment, admission.from_ms)).collect(),
        };
        let outcome = self.keep_trying(shutdown, |store| store.commit_judgement(&judgement))?;
        tracing::debug!(?outcome, window = due.start_ms, "window judged");
        for version in &mut self.versions {
            version.fit_first(&mut self.store, now_ms)?;
        }
        self.tell(due, &judgement.models)?;
        self.shared.metrics.spent(Stage::Judge, cpu.lap());
        Ok(())
    }

    /// Says what became of the window. What is counted is counted by the instance that judges, and so once.
    fn tell(&mut self, due: &UnjudgedWindow, models: &[JudgedModel]) -> Result<(), MonitorError> {
        self.shared.metrics.window_end.set(due.end_ms as f64 / 1e3);
        if !self.judges() {
            return Ok(());
        }
        self.n_judged += 1;
        self.shared.metrics.windows_judged.inc();
        let whole = models.iter().flat_map(|model| model.report.segments.iter().filter(|segment| segment.segment == ALL));
        if let Some(incomplete) = whole.clone().find(|segment| segment.verdict == Verdict::Incomplete) {
            self.shared.metrics.windows_incomplete.inc();
            tracing::warn!(window_start = due.start_ms, why = incomplete.why, "window without a verdict: it is incomplete");
        }
        for change in models.iter().flat_map(|model| &model.report.changes) {
            self.say(change);
            // In a cluster once the entry is kept: whoever looks an alert up before does not find it.
            if matches!(change, AlertChange::Opened(_)) && !self.store.is_in_whole() {
                self.questions.ask(self.store.read())?;
            }
        }
        Ok(())
    }

    /// Lets go of windows beyond the retention.
    fn prune(&mut self, end_ms: i64, shutdown: &Shutdown) -> Result<(), MonitorError> {
        if let Some((before_ms, actor)) = self.retention.due(end_ms, self.shared.clock.now_ms()) {
            self.prune_before(before_ms, &actor, shutdown)?;
        }
        Ok(())
    }

    pub(super) fn prune_before(&mut self, before_ms: i64, actor: &Actor, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let n = self.keep_trying(shutdown, |store| store.prune(before_ms, actor))?;
        if n > 0 {
            tracing::info!(windows = n, before_ms, "windows beyond [store] retention deleted; the chain keeps their digests");
        }
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
}

/// `incomplete` because of split entities has a verdict of its own, so that it can be alerted on.
fn name_split(report: &mut DriftReport) {
    for segment in report.segments.iter_mut().filter(|segment| segment.verdict == Verdict::Incomplete) {
        segment.verdict = Verdict::EntitiesSplit;
    }
}
