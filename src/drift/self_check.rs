//! The self-check of a reference: fit its first 70 %, judge the rest. What alarms there is either a
//! rhythm that is not modelled or a change inside the reference; either way nothing can be judged against it.

use std::sync::Arc;

use crate::drift::closed::ALL;
use crate::drift::judge::ModelJudge;
use crate::drift::observed::ObservedWindow;
use crate::drift::reference::{ReferenceError, SelfCheck, fit_kept};
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

/// Fits the first 70 % of the windows and judges the rest of `_all`.
///
/// # Errors
/// More than `2 + 3 n/A` of the n judged windows alarm.
pub(super) fn self_check(kept: &[&ObservedWindow], season: Season, settings: &JudgeSettings) -> Result<SelfCheck, ReferenceError> {
    let (fitted, judged) = kept.split_at(kept.len() * 7 / 10);
    let span_ms = fitted.first().zip(fitted.last()).map_or(0, |(first, last)| last.end_ms - first.start_ms);
    if kept.len() < MIN_WINDOWS_TO_REFUSE || (season.weekend && span_ms < WEEK_MS) {
        return Ok(SelfCheck::TooShort);
    }
    let same = JudgeSettings { harmonics: Some(season.harmonics), weekend: Some(season.weekend), ..settings.clone() };
    let first = fit_kept("self-check", "", fitted, Vec::new(), &same)?;
    let Ok(mut judge) = ModelJudge::new(Arc::new(first), same) else { return Ok(SelfCheck::TooShort) };
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
    let allowed = ALLOWED + extra_alarms(n_judged, settings.budget_windows);
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
