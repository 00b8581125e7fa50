//! The self-check of a reference: fit its first 70 %, judge the rest. What alarms there is either a
//! rhythm that is not modelled or a change inside the reference; either way nothing can be judged against it.

use std::sync::Arc;

use crate::drift::closed::ALL;
use crate::drift::fired::FiredSums;
use crate::drift::fit::FittedStreams;
use crate::drift::judge::ModelJudge;
use crate::drift::observed::ObservedWindow;
use crate::drift::reference::{Reference, ReferenceError, SelfCheck, add_segments, fit_all};
use crate::drift::report::{AlertChange, Verdict};
use crate::drift::season::Season;
use crate::drift::settings::JudgeSettings;
use crate::drift::stream::StreamId;
use crate::drift::wander::MIN_WINDOWS_TO_REFUSE;

/// What a weekend does needs a week in the fitted part.
const WEEK_MS: i64 = 7 * 86_400_000;
/// Alarm windows that chance may bring beyond three times the budget.
const ALLOWED: usize = 2;
/// Streams named as worst.
const N_WORST: usize = 5;

/// How many of so many windows are fitted, the others being judged.
pub(super) fn n_fitted(n_kept: usize) -> usize {
    n_kept * 7 / 10
}

/// The reference that the first 70 % of the windows give, on its way.
pub(super) struct SelfChecking {
    first: Reference,
    streams: FittedStreams,
    settings: JudgeSettings,
}

impl SelfChecking {
    /// Fits `_all`; `None` where there are too few windows to be checked.
    ///
    /// # Errors
    /// As a fit's.
    pub(super) fn begin(kept: &[&ObservedWindow], season: Season, settings: &JudgeSettings) -> Result<Option<Self>, ReferenceError> {
        let fitted = &kept[..n_fitted(kept.len())];
        let span_ms = fitted.first().zip(fitted.last()).map_or(0, |(first, last)| last.end_ms - first.start_ms);
        if kept.len() < MIN_WINDOWS_TO_REFUSE || (season.weekend && span_ms < WEEK_MS) {
            return Ok(None);
        }
        let settings = JudgeSettings { harmonics: Some(season.harmonics), weekend: Some(season.weekend), ..settings.clone() };
        let (first, streams) = fit_all("self-check", "", fitted, Vec::new(), &settings)?;
        Ok(Some(Self { first, streams, settings }))
    }

    /// Fits some segments of the same windows, of which the fitted ones fired so much: how many there are is part of what alarms.
    pub(super) fn add_segments(&mut self, kept: &[&ObservedWindow], fired: &FiredSums) {
        add_segments(&mut self.first, &self.streams, &kept[..n_fitted(kept.len())], fired, &self.settings);
    }

    /// Judges the rest of `_all`.
    ///
    /// # Errors
    /// More than `2 + 3 n/A` of the n judged windows alarm.
    pub(super) fn judge(self, kept: &[&ObservedWindow]) -> Result<SelfCheck, ReferenceError> {
        let budget_windows = self.settings.budget_windows;
        let Ok(judge) = ModelJudge::new(Arc::new(self.first), self.settings) else { return Ok(SelfCheck::TooShort) };
        judge_rest(judge, &kept[n_fitted(kept.len())..], budget_windows)
    }
}

fn judge_rest(mut judge: ModelJudge, judged: &[&ObservedWindow], budget_windows: f64) -> Result<SelfCheck, ReferenceError> {
    let mut alarm_windows = 0;
    let mut n_judged = 0;
    let mut evidence: std::collections::BTreeMap<StreamId, f64> = std::collections::BTreeMap::new();
    for window in judged {
        let report = judge.judge_observed(&all_only(window));
        let Some(all) = report.segments.first().filter(|segment| segment.verdict == Verdict::Judged) else { continue };
        n_judged += 1;
        alarm_windows += usize::from(report.changes.iter().any(|change| !matches!(change, AlertChange::Recovered { .. })));
        for stream in &all.streams {
            let over = stream.evidence_log - stream.threshold_log;
            evidence.entry(stream.stream).and_modify(|most| *most = most.max(over)).or_insert(over);
        }
    }
    let mut worst: Vec<(StreamId, f64)> = evidence.into_iter().collect();
    worst.sort_by(|a, b| b.1.total_cmp(&a.1));
    worst.truncate(N_WORST);
    let allowed = ALLOWED + extra_alarms(n_judged, budget_windows);
    if alarm_windows > allowed {
        let worst = worst.iter().map(|(stream, over)| format!("{stream} {over:+.1} nats")).collect::<Vec<_>>().join(", ");
        return Err(ReferenceError::SelfCheck { allowed, found: alarm_windows, judged: n_judged, worst });
    }
    Ok(SelfCheck::Passed { judged: n_judged, alarm_windows, worst })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most three times the windows")]
fn extra_alarms(n_judged: usize, budget_windows: f64) -> usize {
    (3.0 * n_judged as f64 / budget_windows.max(1.0)).floor() as usize
}

fn all_only(window: &ObservedWindow) -> ObservedWindow {
    let segments = window.segments.get(ALL).map(|all| (ALL.to_owned(), all.clone()));
    ObservedWindow {
        start_ms: window.start_ms,
        end_ms: window.end_ms,
        model_version: window.model_version.clone(),
        incomplete: None,
        segments: segments.into_iter().collect(),
    }
}
