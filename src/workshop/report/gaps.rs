//! What was not watched, and when: windows without a verdict, and time without windows.

use std::collections::BTreeMap;

use crate::drift::report::Verdict;
use crate::store::reader::WindowSummary;
use crate::workshop::report::content::Gap;
use crate::workshop::report::request::ReportRequest;
use crate::workshop::report::words::verdict_words;

/// Name of the reason where there is no window at all.
pub const NO_WINDOW: &str = "no_window";
/// Name of the reason where the window began before the span.
pub const BEGUN_BEFORE: &str = "begun_before";
/// Name of the reason where a window was judged and retention took what was counted.
pub const DELETED: &str = "deleted";

/// What the columns by segment do not tell of the span.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// End of a window across the span's begin.
    pub begun_before_until: Option<i64>,
    /// Windows whose counts were deleted: start and end, oldest first.
    pub deleted: Vec<(i64, i64)>,
}

/// Runs of windows without a verdict, segment by segment, and stretches without any window; by time.
/// `summaries` oldest first. A stretch with a verdict for the whole is listed once and not again for each segment.
#[must_use]
pub fn gaps(summaries: &[WindowSummary], request: &ReportRequest, beside: &Beside, wanted: &dyn Fn(&str) -> bool) -> Vec<Gap> {
    let mut runs: BTreeMap<(&str, &str), Vec<Gap>> = BTreeMap::new();
    for summary in summaries.iter().filter(|summary| wanted(&summary.segment)) {
        if summary.verdict == Verdict::Judged.kind() || summary.verdict == Verdict::Merging.kind() {
            continue;
        }
        let run = runs.entry((&summary.model_version, &summary.segment)).or_default();
        match run.last_mut().filter(|last| last.to == summary.window_start && last.verdict == summary.verdict) {
            Some(last) => {
                last.to = summary.window_end;
                last.windows += 1;
            }
            None => run.push(Gap {
                from: summary.window_start,
                to: summary.window_end,
                model_version: summary.model_version.clone(),
                segment: summary.segment.clone(),
                windows: 1,
                verdict: summary.verdict.clone(),
                why: summary.why.clone().unwrap_or_else(|| verdict_words(&summary.verdict).to_owned()),
            }),
        }
    }
    let whole: Vec<Gap> =
        runs.iter().filter(|((_, segment), _)| *segment == crate::drift::closed::ALL).flat_map(|(_, run)| run.clone()).collect();
    let told = |gap: &Gap| {
        let covers = |all: &&Gap| {
            all.segment != gap.segment
                && all.model_version == gap.model_version
                && all.verdict == gap.verdict
                && all.from <= gap.from
                && all.to >= gap.to
        };
        whole.iter().any(|all| covers(&all))
    };
    let mut gaps: Vec<Gap> = runs.into_values().flatten().filter(|gap| !told(gap)).chain(missing(summaries, request, beside)).collect();
    gaps.sort_by(|a, b| (a.from, &a.model_version, &a.segment).cmp(&(b.from, &b.model_version, &b.segment)));
    gaps
}

/// Stretches of the span that no window of any model covers, that one covers that began before it, or whose windows were deleted.
fn missing(summaries: &[WindowSummary], request: &ReportRequest, beside: &Beside) -> Vec<Gap> {
    let gap = |from: i64, to: i64, windows: u64, verdict: &str| Gap {
        from,
        to: to.min(request.to_ms),
        model_version: String::new(),
        segment: String::new(),
        windows,
        verdict: verdict.to_owned(),
        why: verdict_words(verdict).to_owned(),
    };
    let mut spans: Vec<(i64, i64)> = summaries.iter().map(|summary| (summary.window_start, summary.window_end)).collect();
    spans.extend(&beside.deleted);
    spans.sort_unstable();
    spans.push((request.to_ms, request.to_ms));
    let across = beside.begun_before_until;
    let mut missing: Vec<Gap> = across.map(|end| gap(request.from_ms, end, 0, BEGUN_BEFORE)).into_iter().collect();
    for &(start, end) in &beside.deleted {
        match missing.last_mut().filter(|last| last.verdict == DELETED && last.to == start) {
            Some(last) => (last.to, last.windows) = (end, last.windows + 1),
            None => missing.push(gap(start, end, 1, DELETED)),
        }
    }
    let mut covered = across.unwrap_or(request.from_ms);
    for (start, end) in spans {
        if start > covered {
            missing.push(gap(covered, start, 0, NO_WINDOW));
        }
        covered = covered.max(end);
    }
    missing
}
