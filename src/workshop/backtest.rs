//! The judge over recorded windows: the same code as live, under any settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::drift::alert::{Alert, AlertConcept, AlertListing, rfc3339, utc_text};
use crate::drift::closed::ALL;
use crate::drift::judge::ModelJudge;
use crate::drift::observed::ObservedWindow;
use crate::drift::reference::Reference;
use crate::drift::report::{AlertChange, AlertState, Crossing, Direction, DriftReport, SegmentReport, Verdict};
use crate::drift::rolling::Rolling;
use crate::drift::settings::JudgeSettings;
use crate::drift::stream::StreamId;
use crate::sae::latent::LatentId;
use crate::workshop::plot;

/// One group of latents in a families file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// Name for people.
    pub name: String,
    /// Members.
    pub latents: Vec<LatentId>,
}

/// `M >= A m / w` in a window, as printed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CrossingListing {
    /// Start of the window.
    #[serde(with = "rfc3339")]
    pub window_start: i64,
    /// Its end.
    #[serde(with = "rfc3339")]
    pub window_end: i64,
    /// Model version.
    pub model_version: String,
    /// Segment.
    pub segment: String,
    /// Stream.
    pub stream: StreamId,
    /// Up or down.
    pub direction: Direction,
    /// ln M.
    pub evidence_log: f64,
    /// ln(A m / w).
    pub threshold_log: f64,
    /// Ratio since the change point.
    pub ratio: f64,
    /// Change point.
    #[serde(with = "rfc3339")]
    pub began: i64,
}

/// A segment of a window without a verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Skipped {
    /// Start of the window.
    #[serde(with = "rfc3339")]
    pub window_start: i64,
    /// Segment.
    pub segment: String,
    /// Why.
    pub why: String,
}

/// What the judge says of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BacktestReport {
    /// Every crossing, in order of time, then evidence.
    pub crossings: Vec<CrossingListing>,
    /// The alerts people would have been told of.
    pub alerts: Vec<AlertListing>,
    /// Windows without a verdict.
    pub skipped: Vec<Skipped>,
    /// Windows after the reference.
    pub windows: usize,
    /// Windows of the references.
    pub reference_windows: usize,
    /// References fitted after the first: rolling mode.
    pub references: u32,
    /// For the plot: the largest evidence of each window and segment.
    #[serde(skip)]
    pub evidence: Vec<EvidencePoint>,
}

/// Largest evidence of a segment in a window, in nats above (below: < 0) the threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct EvidencePoint {
    /// Start of the window.
    pub window_start: i64,
    /// Segment.
    pub segment: String,
    /// `ln M - ln(A m / w)` of the stream with the most.
    pub over: f64,
}

/// Which reference the windows are judged against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The first windows, for good.
    #[default]
    Fixed,
    /// The last windows as many, fitted anew each fourteenth of them, frozen while anything is in alert.
    Rolling,
}

/// Judges the windows of each model after its first `n_reference`, which become its reference.
///
/// # Errors
/// The first windows make no reference.
pub fn backtest(
    models: &BTreeMap<String, Vec<ObservedWindow>>,
    settings: &JudgeSettings,
    mode: Mode,
    n_reference: impl Fn(&[ObservedWindow]) -> usize,
    concept_name: impl Fn(StreamId) -> String,
) -> anyhow::Result<BacktestReport> {
    let mut found = BacktestReport::default();
    for (model, windows) in models {
        let (first, rest) = windows.split_at(n_reference(windows).min(windows.len()));
        let reference = Reference::fit_observed("backtest", "", first, settings)
            .with_context(|| format!("the first {} windows of model {model:?} make no reference", first.len()))?;
        let mut judge = ModelJudge::new(Arc::new(reference), settings.clone())?;
        let mut rolling = (mode == Mode::Rolling).then(|| Rolling::new(first.len(), first.iter().cloned()));
        let mut alerts = Vec::new();
        for window in rest {
            let report = judge.judge_observed(window);
            found.skipped.extend(skipped(&report));
            found.evidence.extend(most_evidence(&report));
            follow(&report, &mut alerts, &mut found.crossings);
            if let Some(rolling) = &mut rolling {
                rolling.push(window.clone(), &report);
                if let Some(windows) = rolling.due() {
                    found.references += 1;
                    judge = renewed(judge, windows, found.references, settings, &mut found.skipped)?;
                }
            }
        }
        let n_before = found.alerts.len();
        for (i, mut alert) in alerts.into_iter().enumerate() {
            alert.id = i64::try_from(n_before + i + 1).unwrap_or(i64::MAX);
            found.alerts.push(AlertListing::of(&alert, &concept_name(alert.opened.stream), "unverified"));
        }
        found.windows += rest.len();
        found.reference_windows += first.len();
    }
    Ok(found)
}

/// The judge against a newer reference; one that cannot be fitted is listed, and the old one stays.
fn renewed(
    judge: ModelJudge,
    windows: &[ObservedWindow],
    revision: u32,
    settings: &JudgeSettings,
    skipped: &mut Vec<Skipped>,
) -> anyhow::Result<ModelJudge> {
    match Reference::fit_observed("backtest", "", windows, settings) {
        Ok(reference) => Ok(judge.renewed(Arc::new(reference.with_revision(revision + 1)))?),
        Err(error) => {
            let window_start = windows.last().map_or(0, |window| window.start_ms);
            skipped.push(Skipped { window_start, segment: ALL.to_owned(), why: format!("reference kept: {error}") });
            Ok(judge)
        }
    }
}

/// The largest evidence of a window's segments, relative to the threshold.
fn most_evidence(report: &DriftReport) -> Vec<EvidencePoint> {
    let most = |segment: &SegmentReport| {
        let over = segment.streams.iter().map(|stream| stream.evidence_log - stream.threshold_log).fold(f64::NEG_INFINITY, f64::max);
        (segment.verdict == Verdict::Judged && over.is_finite()).then(|| EvidencePoint {
            window_start: report.start_ms,
            segment: segment.segment.clone(),
            over,
        })
    };
    report.segments.iter().filter_map(most).collect()
}

/// A line for each segment, at most six: the largest evidence relative to the threshold over time. SVG.
#[must_use]
pub fn plot(report: &BacktestReport) -> String {
    let first = first_start(report);
    let mut by_segment: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for point in &report.evidence {
        let days = (point.window_start - first) as f64 / 86_400_000.0;
        by_segment.entry(&point.segment).or_default().push((days, point.over));
    }
    let mut series: Vec<plot::Series> =
        by_segment.into_iter().map(|(segment, points)| plot::Series { name: segment.to_owned(), points, band: Vec::new() }).collect();
    series.sort_by(|a, b| (a.name != ALL, &a.name).cmp(&(b.name != ALL, &b.name)));
    series.truncate(6);
    let title = format!("{} alerts in {} windows; an alert at 0", report.alerts.len(), report.windows);
    let x = format!("days since {}", utc_text(first));
    plot::lines(plot::Axes { title: &title, x: &x, y: "largest evidence - threshold, nats", log_y: false }, &series)
}

/// The same of `_all` under several settings, a line each (six at most); an alert at 0 under each.
#[must_use]
pub fn plot_settings(reports: &[(String, &BacktestReport)]) -> String {
    let first = reports.iter().map(|(_, report)| first_start(report)).min().unwrap_or(0);
    let line = |(name, report): &(String, &BacktestReport)| {
        let all = report.evidence.iter().filter(|point| point.segment == ALL);
        let points = all.map(|point| ((point.window_start - first) as f64 / 86_400_000.0, point.over)).collect();
        let n_alerts = report.alerts.iter().filter(|alert| alert.segment == ALL).count();
        plot::Series { name: format!("{name}: {n_alerts} alerts"), points, band: Vec::new() }
    };
    let series: Vec<plot::Series> = reports.iter().take(6).map(line).collect();
    let title = format!("_all under {} of {} settings; an alert at 0", series.len(), reports.len());
    let x = format!("days since {}", utc_text(first));
    plot::lines(plot::Axes { title: &title, x: &x, y: "largest evidence - threshold, nats", log_y: false }, &series)
}

fn first_start(report: &BacktestReport) -> i64 {
    report.evidence.iter().map(|point| point.window_start).min().unwrap_or(0)
}

/// Reads a families file: `{"family:0": {"name": "...", "latents": [0, 1, ...]}}`, numbered from 0 without gaps.
///
/// # Errors
/// The file is unreadable, or its keys are not `family:0`, `family:1`, ...
pub fn read_families(path: &Path) -> anyhow::Result<Vec<Family>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the families file {}", path.display()))?;
    let by_name: BTreeMap<StreamId, Family> = serde_json::from_str(&text).with_context(|| {
        format!("families file {}: expected {{\"family:0\": {{\"name\": \"...\", \"latents\": [0, 1]}}}}", path.display())
    })?;
    for (n, stream) in (0..).zip(by_name.keys()) {
        anyhow::ensure!(*stream == StreamId::Family(n), "families file {}: expected family:{n}, found {stream}", path.display());
    }
    for (stream, family) in &by_name {
        let distinct: BTreeSet<LatentId> = family.latents.iter().copied().collect();
        let (found, file) = (family.latents.len(), path.display());
        anyhow::ensure!(
            found > 0 && distinct.len() == found,
            "families file {file}, {stream}: expected at least one latent, each once, found {found} ({} distinct)",
            distinct.len()
        );
    }
    Ok(by_name.into_values().collect())
}

fn skipped(report: &DriftReport) -> Vec<Skipped> {
    let without = report.segments.iter().filter(|segment| segment.verdict != Verdict::Judged);
    without
        .map(|segment| Skipped {
            window_start: report.start_ms,
            segment: segment.segment.clone(),
            why: segment.why.as_ref().map_or_else(|| segment.verdict.kind().to_owned(), |why| format!("{}: {why}", segment.verdict.kind())),
        })
        .collect()
}

fn follow(report: &DriftReport, alerts: &mut Vec<Alert>, crossings: &mut Vec<CrossingListing>) {
    for change in &report.changes {
        match change {
            AlertChange::Opened(crossing) => {
                crossings.push(listing(crossing));
                alerts.push(Alert {
                    id: 0,
                    state: AlertState::Firing,
                    concept: AlertConcept::default(),
                    opened: crossing.clone(),
                    last: crossing.clone(),
                    n_crossings: 1,
                    alerted_at_ms: crossing.window_end_ms,
                    ended_ms: None,
                    actions: Vec::new(),
                });
            }
            AlertChange::CrossedAgain(crossing) => {
                crossings.push(listing(crossing));
                if let Some(alert) = firing(alerts, &crossing.segment, crossing.stream) {
                    alert.last = crossing.clone();
                    alert.n_crossings += 1;
                }
            }
            AlertChange::Relapsing(crossing) => {
                crossings.push(listing(crossing));
                if let Some(alert) = latest(alerts, &crossing.segment, crossing.stream) {
                    alert.n_crossings += 1;
                }
            }
            AlertChange::Recovered { segment, stream, window_end_ms } => {
                if let Some(alert) = firing(alerts, segment, *stream) {
                    alert.state = AlertState::Recovered;
                    alert.ended_ms = Some(*window_end_ms);
                }
            }
        }
    }
}

fn latest<'a>(alerts: &'a mut [Alert], segment: &str, stream: StreamId) -> Option<&'a mut Alert> {
    alerts.iter_mut().rev().find(|alert| alert.opened.stream == stream && alert.opened.segment == segment)
}

fn firing<'a>(alerts: &'a mut [Alert], segment: &str, stream: StreamId) -> Option<&'a mut Alert> {
    alerts
        .iter_mut()
        .rev()
        .find(|alert| alert.state == AlertState::Firing && alert.opened.stream == stream && alert.opened.segment == segment)
}

fn listing(crossing: &Crossing) -> CrossingListing {
    CrossingListing {
        window_start: crossing.window_start_ms,
        window_end: crossing.window_end_ms,
        model_version: crossing.model_version.clone(),
        segment: crossing.segment.clone(),
        stream: crossing.stream,
        direction: crossing.direction,
        evidence_log: crossing.evidence_log,
        threshold_log: crossing.threshold_log,
        ratio: crossing.ratio,
        began: crossing.began_ms,
    }
}
