//! From the record to the content of a report: twice over the stored reports, once for the sums and
//! once for the timelines of the streams the sums single out, so that a year does not fill memory.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;

use crate::drift::alert::{Alert, AlertListing};
use crate::drift::closed::{AGAINST, ALL};
use crate::drift::report::{AlertState, DriftReport, SegmentReport, StreamReport, Verdict};
use crate::drift::stream::StreamId;
use crate::store::audit::Verification;
use crate::store::reader::{WindowQuery, WindowSummary};
use crate::store::{StoreError, StoreReader};
use crate::workshop::report::comparison::compare;
use crate::workshop::report::content::{Deed, Finding, InputPoint, InputSeries, Point, Record, Report, Summary, Timeline};
use crate::workshop::report::deeds::deeds;
use crate::workshop::report::gaps::{Beside, gaps};
use crate::workshop::report::request::ReportRequest;
use crate::workshop::report::tally::{Place, Tally};

/// Timelines drawn for alerts; more are listed without one.
const DRAWN_ALERTS: usize = 24;
/// Timelines of streams that came close to an alert.
const CLOSEST: usize = 4;
/// Half the width of a band that holds 95 % of windows, in standard deviations.
const Z95: f64 = 1.96;

/// Reads everything a report says.
///
/// # Errors
/// The store cannot be read or is damaged, or the segment or the comparison asks for what is not there.
pub fn gather(reader: &StoreReader, request: &ReportRequest) -> anyhow::Result<Report> {
    let query = WindowQuery { from_ms: Some(request.from_ms), to_ms: Some(request.to_ms), all_lineages: true, ..WindowQuery::default() };
    let wanted = |segment: &str| request.segment.as_deref().is_none_or(|only| only == segment);

    let mut tally = Tally::new(request.from_ms, request.to_ms);
    reader.for_each_report(&query, |report| -> Result<(), StoreError> {
        report.segments.iter().filter(|segment| wanted(&segment.segment)).for_each(|segment| tally.add(&report, segment));
        Ok(())
    })?;
    let alerts = alerts_in(reader, request, &wanted)?;
    let drawn: BTreeSet<Place> = alerts.iter().map(place_of).take(DRAWN_ALERTS).collect();
    let in_alert: BTreeSet<Place> = alerts.iter().map(place_of).collect();
    let closest = tally.closest(CLOSEST, &in_alert);
    let timelines = timelines(reader, &query, drawn.iter().chain(&closest).cloned().collect(), request, &tally)?;

    let summaries: Vec<WindowSummary> = {
        let mut found = reader.summaries(&query)?;
        found.reverse();
        found
    };
    if let Some(segment) = &request.segment {
        let known: BTreeSet<&str> = summaries.iter().map(|summary| summary.segment.as_str()).collect();
        let listed = || known.iter().copied().collect::<Vec<_>>().join(", ");
        ensure!(known.is_empty() || known.contains(segment.as_str()), "no segment {segment:?} in the span; there are {}", listed());
        // Over a span without windows an empty report is right, but not one of a segment that nobody ever saw.
        let ever = if known.is_empty() { reader.segments()? } else { Vec::new() };
        let any = || if ever.is_empty() { "none: no window was judged yet".to_owned() } else { ever.join(", ") };
        ensure!(!known.is_empty() || ever.contains(segment), "no segment {segment:?} in the store; there are {}", any());
    }
    let beside = Beside {
        begun_before_until: reader.end_of_window_across(request.from_ms)?,
        deleted: reader.pruned_windows(request.from_ms, request.to_ms)?,
    };
    let input = input(&summaries, request.segment.as_deref());
    let (record, deeds) = audited(reader, request)?;
    let comparison = match &request.compare {
        Some((a, b)) => Some(compare(reader, &query, (a, b), request.segment.as_deref(), &request.names)?),
        None => None,
    };
    let summary = summary(&tally, &input, &alerts, deeds.iter().filter(|deed| !deed.who.is_empty()).count(), request);
    let offsets = |alert: &Alert| {
        let same = |s: &&WindowSummary| s.window_start == alert.opened.window_start_ms && s.model_version == alert.opened.model_version;
        summaries.iter().find(same).map(|s| s.offsets.clone()).unwrap_or_default()
    };
    let mut found = Vec::with_capacity(alerts.len());
    for alert in &alerts {
        found.push(Finding {
            alert: listing(alert, request),
            timeline: timelines.get(&place_of(alert)).cloned(),
            offsets: offsets(alert),
            explanation: reader.explanation(alert.id)?,
        });
    }
    Ok(Report {
        made_at: request.now_ms,
        program: format!("recsae {}", env!("CARGO_PKG_VERSION")),
        from: request.from_ms,
        to: request.to_ms,
        segment: request.segment.clone(),
        found,
        closest: closest.iter().filter_map(|place| timelines.get(place).cloned()).collect(),
        heat: tally.heat(),
        watched: tally.watched(),
        done: deeds,
        not_watched: gaps(&summaries, request, &beside, &wanted),
        input,
        comparison,
        record,
        summary,
    })
}

/// Alerts that were open at some time of the span, newest first.
fn alerts_in(reader: &StoreReader, request: &ReportRequest, wanted: &dyn Fn(&str) -> bool) -> anyhow::Result<Vec<Alert>> {
    let mut alerts = reader.alerts(usize::MAX)?;
    alerts.retain(|alert| {
        let began = alert.opened.window_start_ms < request.to_ms;
        began && alert.ended_ms.is_none_or(|ended| ended > request.from_ms) && wanted(&alert.opened.segment)
    });
    Ok(alerts)
}

fn place_of(alert: &Alert) -> Place {
    (alert.opened.model_version.clone(), alert.opened.segment.clone(), alert.opened.stream)
}

fn listing(alert: &Alert, request: &ReportRequest) -> AlertListing {
    let named = || request.names.of(&alert.opened.model_version, alert.opened.stream);
    let (name, verification) = alert.concept.name.clone().unwrap_or_else(named);
    AlertListing::of(alert, &name, &verification)
}

fn timelines(
    reader: &StoreReader,
    query: &WindowQuery,
    places: BTreeSet<Place>,
    request: &ReportRequest,
    tally: &Tally,
) -> anyhow::Result<BTreeMap<Place, Timeline>> {
    let empty = |place: &Place| {
        let (concept, verification) = request.names.of(&place.0, place.2);
        Timeline {
            model_version: place.0.clone(),
            segment: place.1.clone(),
            stream: place.2,
            concept,
            verification,
            evidence_share: tally.evidence_share(place),
            points: Vec::new(),
        }
    };
    let mut timelines: BTreeMap<Place, Timeline> = places.iter().map(|place| (place.clone(), empty(place))).collect();
    let mut by_segment: BTreeMap<(&str, &str), Vec<StreamId>> = BTreeMap::new();
    for (model, segment, stream) in &places {
        by_segment.entry((model, segment)).or_default().push(*stream);
    }
    reader.for_each_report(query, |report| -> Result<(), StoreError> {
        for segment in report.segments.iter().filter(|segment| segment.verdict == Verdict::Judged) {
            let Some(streams) = by_segment.get(&(report.model_version.as_str(), segment.segment.as_str())) else { continue };
            for stream in segment.streams.iter().filter(|stream| streams.contains(&stream.stream)) {
                let place = (report.model_version.clone(), segment.segment.clone(), stream.stream);
                if let Some(timeline) = timelines.get_mut(&place) {
                    timeline.points.push(point(&report, segment, stream));
                }
            }
        }
        Ok(())
    })?;
    Ok(timelines)
}

/// The band: `(sqrt(mu) +- 1.96 sqrt(phi)/2)^2`, because the square root of a count has a standard deviation
/// of about `sqrt(phi)/2` whatever its mean; it never falls below zero.
fn point(report: &DriftReport, segment: &SegmentReport, stream: &StreamReport) -> Point {
    let (rate, expected) = segment.shares(stream);
    let scale = if stream.expected > 0.0 { expected / stream.expected } else { 0.0 };
    let half = Z95 * stream.dispersion.max(0.0).sqrt() / 2.0;
    let edge = |side: f64| (stream.expected.max(0.0).sqrt() + side * half).max(0.0).powi(2) * scale;
    Point {
        start: report.start_ms,
        end: report.end_ms,
        rate,
        expected,
        low: edge(-1.0),
        high: edge(1.0),
        evidence_log: stream.evidence_log,
        state: stream.state,
    }
}

/// Volume and contract of the whole (or of the one segment), oldest first.
fn input(summaries: &[WindowSummary], segment: Option<&str>) -> Vec<InputSeries> {
    let mut series: BTreeMap<&str, Vec<InputPoint>> = BTreeMap::new();
    for summary in summaries.iter().filter(|s| s.segment == segment.unwrap_or(ALL) && !s.model_version.contains(AGAINST)) {
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        series.entry(&summary.model_version).or_default().push(InputPoint {
            start: summary.window_start,
            end: summary.window_end,
            records: count(summary.records),
            entities: count(summary.entities),
            rejected: count(summary.rejected),
            fvu: summary.fvu,
            cosine: summary.cosine,
            norm_ratio: summary.norm_ratio,
            l0: summary.l0,
            verdict: summary.verdict.clone(),
        });
    }
    series.into_iter().map(|(model, windows)| InputSeries { model_version: model.to_owned(), windows }).collect()
}

/// Walks the whole chain once: whether it holds, and what it tells of the span.
fn audited(reader: &StoreReader, request: &ReportRequest) -> anyhow::Result<(Record, Vec<Deed>)> {
    let mut told = Vec::new();
    let mut last = (0, String::new());
    let found = reader.verify_audit(|entry| {
        last = (entry.id, entry.hash.clone());
        told.extend(deeds(entry).filter(|deed| (request.from_ms..request.to_ms).contains(&deed.at)));
    })?;
    let record = match found {
        Verification::Intact { entries, head } => Record { intact: true, entries, head, broken: None },
        Verification::Untold { entries, head, what } => {
            Record { intact: false, entries, head, broken: Some(format!("it holds {what}, which no entry tells of")) }
        }
        Verification::Broken { entry, why } => {
            Record { intact: false, entries: last.0, head: last.1, broken: Some(format!("at entry {entry}, {why}")) }
        }
    };
    Ok((record, told))
}

fn summary(tally: &Tally, input: &[InputSeries], alerts: &[Alert], actions: usize, request: &ReportRequest) -> Summary {
    let windows = || input.iter().flat_map(|series| &series.windows);
    let judged = windows().filter(|window| window.verdict == Verdict::Judged.kind()).count() as u64;
    let opened = |alert: &&Alert| (request.from_ms..request.to_ms).contains(&alert.opened.window_start_ms);
    let open = |alert: &&Alert| alert.ended_ms.is_none_or(|ended| ended > request.to_ms) && alert.state != AlertState::Accepted;
    // Rejects are of the window, the same for each model.
    let rejected = input.first().map_or(0, |series| series.windows.iter().map(|window| window.rejected).sum());
    let budget_windows = tally.budget_windows();
    Summary {
        windows: windows().count() as u64,
        judged,
        records: windows().map(|window| window.records).sum(),
        rejected,
        alerts_opened: alerts.iter().filter(opened).count() as u64,
        alerts_open: alerts.iter().filter(open).count() as u64,
        actions: actions as u64,
        budget_windows,
        false_alarms_allowed: budget_windows.map(|budget| judged as f64 / budget),
    }
}
