//! What was not watched, and when: windows without a verdict, and time without windows.

use std::collections::BTreeMap;

use crate::drift::report::Verdict;
use crate::store::reader::WindowSummary;
use crate::workshop::report::content::Gap;
use crate::workshop::report::request::ReportRequest;
use crate::workshop::report::words::verdict_words;

/// Name of the reason where there is no window at all.
pub const NO_WINDOW: &str = "no_window";

/// Runs of windows without a verdict, segment by segment, and stretches without any window; by time.
/// `summaries` oldest first. A stretch with a verdict for the whole is listed once and not again for each segment.
#[must_use]
pub fn gaps(summaries: &[WindowSummary], request: &ReportRequest, wanted: &dyn Fn(&str) -> bool) -> Vec<Gap> {
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
    let mut gaps: Vec<Gap> = runs.into_values().flatten().filter(|gap| !told(gap)).chain(missing(summaries, request)).collect();
    gaps.sort_by(|a, b| (a.from, &a.model_version, &a.segment).cmp(&(b.from, &b.model_version, &b.segment)));
    gaps
}

/// Stretches of the span that no window of any model covers.
fn missing(summaries: &[WindowSummary], request: &ReportRequest) -> Vec<Gap> {
    let mut spans: Vec<(i64, i64)> = summaries.iter().map(|summary| (summary.window_start, summary.window_end)).collect();
    spans.sort_unstable();
    spans.push((request.to_ms, request.to_ms));
    let (mut covered, mut missing) = (request.from_ms, Vec::new());
    for (start, end) in spans {
        if start > covered {
            missing.push(Gap {
                from: covered,
                to: start.min(request.to_ms),
                model_version: String::new(),
                segment: String::new(),
                windows: 0,
                verdict: NO_WINDOW.to_owned(),
                why: verdict_words(NO_WINDOW).to_owned(),
            });
        }
        covered = covered.max(end);
    }
    missing
}
