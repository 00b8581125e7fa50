//! What is said of a window without a verdict: counts and contract, no streams.

use crate::drift::closed::{ALL, ClosedWindow};
use crate::drift::contract::unreferenced;
use crate::drift::observed::{Observed, ObservedWindow};
use crate::drift::report::{DriftReport, SegmentReport, Verdict};
use crate::drift::settings::CountingUnit;

/// What is said of a window while there is no reference, or none that fits: counts, contract, no verdict.
#[must_use]
pub fn warmup_report(window: &ClosedWindow, verdict: Verdict) -> DriftReport {
    let observed = ObservedWindow::of(window, CountingUnit::Records, None, false);
    // Missing records come before a missing reference: such a window will not be in it.
    let verdict = if window.incomplete.is_some() { Verdict::Incomplete } else { verdict };
    let mut segments: Vec<SegmentReport> = observed.segments.iter().map(|(name, segment)| blank_report(name, segment, verdict)).collect();
    if verdict == Verdict::Incomplete && segments.is_empty() {
        segments.push(blank_report(ALL, &Observed::default(), verdict));
    }
    segments.iter_mut().for_each(|report| report.why.clone_from(&window.incomplete));
    segments.sort_by_key(|report| report.segment != ALL);
    DriftReport {
        start_ms: window.start_ms,
        end_ms: window.end_ms,
        model_version: window.model_version.clone(),
        reference: None,
        segments,
        changes: Vec::new(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of records and entities, below 2^53")]
pub(super) fn blank_report(segment: &str, observed: &Observed, verdict: Verdict) -> SegmentReport {
    SegmentReport {
        segment: segment.to_owned(),
        verdict,
        why: None,
        records: observed.records as u64,
        entities: observed.n_entities() as u64,
        units: None,
        parts: Vec::new(),
        streams: Vec::new(),
        concentration: None,
        session_mix: None,
        contract: unreferenced(observed),
        psi: None,
        js: None,
    }
}
