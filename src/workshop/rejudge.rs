//! A judged window judged again from the record: the evidence must come out bit for bit.
//!
//! Detectors gather evidence from window to window, so the judge is taken back to where its reference was
//! first used, with no evidence, and given every stored window since, and every level that was accepted on
//! the way. A rolling reference goes on with the evidence of the one before, so the judge is taken back to where the
//! first of them was used, and changes references where the live one did.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::drift::closed::ClosedWindow;
use crate::drift::judge::ModelJudge;
use crate::drift::reference::Reference;
use crate::drift::report::{DriftReport, Verdict};
use crate::drift::rolling::ROLLING_PREFIX;
use crate::drift::settings::JudgeSettings;
use crate::drift::stream::StreamId;
use crate::store::reader::WindowQuery;
use crate::store::{StoreError, StoreReader};

/// What judging again found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rejudged {
    /// Model version.
    pub model_version: String,
    /// The reference it was judged against.
    pub reference: String,
    /// Windows judged on the way, this one included.
    pub windows: u64,
    /// Streams compared.
    pub streams: u64,
    /// What differs, in words; empty when the report is the same bit for bit.
    pub differences: Vec<String>,
}

/// Judges the window that starts at `start_ms` again.
///
/// # Errors
/// No such window, it was not judged against a reference, the reference or a window on the way is gone
/// (pruned), or the settings no longer fit the reference.
pub fn rejudge(reader: &StoreReader, model_version: &str, start_ms: i64, settings: &JudgeSettings) -> anyhow::Result<Rejudged> {
    let stored = the_report(reader, model_version, start_ms)?;
    let name = stored.reference.clone().context("the window was not judged against a reference: there is no evidence to reproduce")?;
    let uses = uses(reader, model_version, start_ms, &name)?;
    let mut judge: Option<ModelJudge> = None;
    let query = WindowQuery {
        from_ms: uses.keys().next().copied(),
        to_ms: Some(start_ms + 1),
        model_version: Some(model_version.to_owned()),
        ..WindowQuery::default()
    };
    let accepted = accepted_levels(reader, model_version)?;
    let (mut n_windows, mut last) = (0, None);
    reader.for_each_window(&query, |window: ClosedWindow| -> anyhow::Result<()> {
        n_windows += 1;
        let mut now = match (judge.take(), uses.get(&window.start_ms)) {
            (Some(judge), None) => judge,
            (None, None) => bail!("the first window on the way has no report"),
            (None, Some(name)) => ModelJudge::new(fitted(reader, name)?, settings.clone())?,
            (Some(judge), Some(name)) => judge.renewed(fitted(reader, name)?)?,
        };
        last = Some(now.judge(&window));
        for (_, segment, stream) in accepted.iter().filter(|(after, _, _)| *after == window.start_ms) {
            now.accept(segment, *stream)?;
        }
        judge = Some(now);
        Ok(())
    })?;
    let again = last.context("no stored counts")?;
    Ok(Rejudged {
        model_version: model_version.to_owned(),
        reference: name,
        windows: n_windows,
        streams: stored.segments.iter().map(|segment| segment.streams.len() as u64).sum(),
        differences: differences(&stored, &again),
    })
}

/// Levels that operators accepted: after which window, segment and stream.
fn accepted_levels(reader: &StoreReader, model_version: &str) -> anyhow::Result<Vec<(i64, String, StreamId)>> {
    let mut acts = Vec::new();
    reader.verify_audit(|entry| {
        let body: serde_json::Value = serde_json::from_str(&entry.body).unwrap_or_default();
        acts.extend((entry.kind == "action").then(|| body["alert"].as_i64().zip(body["accepted"]["window_start"].as_i64())).flatten());
    })?;
    let mut levels = Vec::new();
    for (alert, after) in acts {
        let opened = reader.alert(alert)?.with_context(|| format!("alert {alert} is not in the store"))?.opened;
        levels.extend((opened.model_version == model_version).then_some((after, opened.segment, opened.stream)));
    }
    Ok(levels)
}

fn the_report(reader: &StoreReader, model_version: &str, start_ms: i64) -> anyhow::Result<DriftReport> {
    let query = WindowQuery {
        from_ms: Some(start_ms),
        to_ms: Some(start_ms + 1),
        model_version: Some(model_version.to_owned()),
        ..WindowQuery::default()
    };
    let mut found = None;
    reader.for_each_report(&query, |report| -> Result<(), StoreError> {
        found = Some(report);
        Ok(())
    })?;
    found.context("no judged window starts then in the current lineage, or it was pruned")
}

fn fitted(reader: &StoreReader, name: &str) -> anyhow::Result<Arc<Reference>> {
    let (_, reference) = reader.fitted(name)?.with_context(|| format!("reference {name:?} is not in the store"))?;
    Ok(Arc::new(reference))
}

/// The windows that were the first of a reference's stretch, and its name: from where evidence was empty on, up to
/// the window that starts at `start_ms`.
fn uses(reader: &StoreReader, model_version: &str, start_ms: i64, name: &str) -> anyhow::Result<BTreeMap<i64, String>> {
    let query = WindowQuery { to_ms: Some(start_ms + 1), model_version: Some(model_version.to_owned()), ..WindowQuery::default() };
    let (mut uses, mut current, mut before) = (BTreeMap::new(), None, false);
    reader.for_each_report(&query, |report| -> Result<(), StoreError> {
        before |= report.reference.is_none();
        if report.reference != current {
            // Another reference than a rolling one begins with no evidence, and so does one after windows without any.
            let goes_on = current.is_some() && report.reference.as_deref().is_some_and(|name| name.starts_with(ROLLING_PREFIX));
            if !goes_on {
                uses.clear();
                before |= current.is_some();
            }
            uses.extend(report.reference.clone().map(|name| (report.start_ms, name)));
            current = report.reference;
        }
        Ok(())
    })?;
    if uses.last_key_value().is_none_or(|(_, last)| last != name) {
        bail!("no window was judged against the reference");
    }
    // The oldest report left being of the first reference already: was it the first of it, or were older ones pruned?
    if !before && reader.pruned_before()? > i64::MIN {
        bail!(
            "windows at the beginning of reference {:?} were pruned: the evidence that they gave cannot be gathered again",
            uses.values().next()
        );
    }
    Ok(uses)
}

/// Segment by segment and stream by stream; floats by their bits.
fn differences(stored: &DriftReport, again: &DriftReport) -> Vec<String> {
    let mut found = Vec::new();
    let text = |report: &DriftReport| report.segments.iter().map(|segment| segment.segment.clone()).collect::<Vec<_>>();
    if text(stored) != text(again) {
        found.push(format!("segments: {:?} stored, {:?} judged", text(stored), text(again)));
    }
    for (a, b) in stored.segments.iter().zip(&again.segments) {
        // Split entities are named after judging; the judge itself says incomplete.
        let verdict = if a.verdict == Verdict::EntitiesSplit { Verdict::Incomplete } else { a.verdict };
        if verdict != b.verdict {
            found.push(format!("{}: {} stored, {} judged", a.segment, a.verdict.kind(), b.verdict.kind()));
        }
        if a.streams.len() != b.streams.len() {
            found.push(format!("{}: {} streams stored, {} judged", a.segment, a.streams.len(), b.streams.len()));
        }
        for (a_stream, b_stream) in a.streams.iter().zip(&b.streams) {
            let numbers = |s: &crate::drift::report::StreamReport| {
                [
                    s.evidence_log,
                    s.threshold_log,
                    s.count,
                    s.expected,
                    s.exposure,
                    s.dispersion,
                    s.ratio,
                    s.ratio_low,
                    s.ratio_high,
                    s.mde_ratio,
                ]
                .map(f64::to_bits)
            };
            if numbers(a_stream) != numbers(b_stream) || a_stream.state != b_stream.state || a_stream.stream != b_stream.stream {
                found.push(format!(
                    "{} {}: evidence {} stored, {} judged",
                    a.segment, a_stream.stream, a_stream.evidence_log, b_stream.evidence_log
                ));
            }
        }
    }
    if format!("{:?}", stored.changes) != format!("{:?}", again.changes) {
        found.push(format!("alerts: {:?} stored, {:?} judged", stored.changes, again.changes));
    }
    found
}
