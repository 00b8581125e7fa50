//! Sums over the stored reports of a span: what was judged, with what power, how near to an alert.

use std::collections::{BTreeMap, BTreeSet};

use crate::drift::budget::{budget_windows, global_share, segment_share};
use crate::drift::closed::ALL;
use crate::drift::report::{DriftReport, SegmentReport, StreamState, Verdict};
use crate::drift::stream::StreamId;
use crate::workshop::report::content::{HeatCell, HeatRow, Power, Watched};
use crate::workshop::report::power::power;

/// Cells across a heat map: two millimetres each on paper.
const MAX_CELLS: i64 = 84;

/// A stream in a segment of a model: version, segment, stream.
pub(super) type Place = (String, String, StreamId);

/// The sums.
#[derive(Debug)]
pub struct Tally {
    from_ms: i64,
    to_ms: i64,
    n_cells: i64,
    segments: BTreeMap<(String, String), SegmentTally>,
    /// Largest evidence as a share of the threshold.
    nearest: BTreeMap<Place, f64>,
    /// Last threshold of `_all`, its streams, and segments judged beside it.
    budget: Option<f64>,
}

#[derive(Debug, Default)]
struct SegmentTally {
    references: BTreeSet<String>,
    windows: u64,
    judged: u64,
    records: u64,
    entities: Vec<u64>,
    streams: u64,
    power: Option<Power>,
    cells: Vec<HeatCell>,
}

impl Tally {
    /// Nothing yet, of the span `from_ms..to_ms`.
    #[must_use]
    pub fn new(from_ms: i64, to_ms: i64) -> Self {
        Self { from_ms, to_ms, n_cells: 0, segments: BTreeMap::new(), nearest: BTreeMap::new(), budget: None }
    }

    /// Adds one segment of one window.
    pub fn add(&mut self, report: &DriftReport, segment: &SegmentReport) {
        if self.n_cells == 0 {
            let windows = (self.to_ms - self.from_ms) / (report.end_ms - report.start_ms).max(1);
            self.n_cells = windows.clamp(1, MAX_CELLS);
        }
        let cell = self.cell_of(report.start_ms);
        let n_cells = usize::try_from(self.n_cells).unwrap_or(1);
        let judged = segment.verdict == Verdict::Judged;
        let share = |evidence: f64, threshold: f64| if threshold > 0.0 { (evidence / threshold).clamp(0.0, 1.0) } else { 0.0 };
        let strongest = segment.streams.iter().map(|s| share(s.evidence_log, s.threshold_log)).fold(0.0, f64::max);
        let alerts = segment.streams.iter().filter(|stream| stream.state == StreamState::Alert).count() as u64;

        let sums = self.segments.entry((report.model_version.clone(), segment.segment.clone())).or_default();
        sums.references.extend(report.reference.clone().filter(|_| judged));
        sums.windows += 1;
        sums.judged += u64::from(judged);
        sums.records += segment.records;
        sums.entities.push(segment.entities);
        if judged {
            sums.streams = segment.streams.len() as u64;
            sums.power = power(&segment.streams);
        }
        sums.cells.resize(n_cells, HeatCell::default());
        if let Some(cell) = sums.cells.get_mut(cell) {
            cell.windows += 1;
            cell.judged += u64::from(judged);
            cell.evidence_share = cell.evidence_share.max(strongest);
            cell.alerts = cell.alerts.max(alerts);
        }
        if !judged {
            return;
        }
        for stream in &segment.streams {
            let near = share(stream.evidence_log, stream.threshold_log);
            if near > 0.0 {
                let place = (report.model_version.clone(), segment.segment.clone(), stream.stream);
                let known = self.nearest.entry(place).or_insert(0.0);
                *known = known.max(near);
            }
        }
        let others = report.segments.iter().filter(|s| s.segment != ALL && s.verdict != Verdict::InsufficientReference).count();
        let is_all = segment.segment == ALL;
        if let Some(first) = segment.streams.iter().find(|s| !matches!(s.stream, StreamId::Family(_)) && (is_all || self.budget.is_none()))
        {
            // A report of one segment: its own share of the budget gives the same A.
            let share = if is_all { global_share(others) } else { segment_share(others) };
            self.budget = Some(budget_windows(first.threshold_log, segment.streams.iter().map(|s| &s.stream), share));
        }
    }

    /// A, windows per allowed false alarm.
    #[must_use]
    pub fn budget_windows(&self) -> Option<f64> {
        self.budget
    }

    /// Largest evidence of a stream as a share of its threshold.
    #[must_use]
    pub fn evidence_share(&self, place: &Place) -> f64 {
        self.nearest.get(place).copied().unwrap_or(0.0)
    }

    /// The `n` streams nearest to an alert that are not among `but`.
    #[must_use]
    pub fn closest(&self, n: usize, but: &BTreeSet<Place>) -> Vec<Place> {
        let mut near: Vec<(&Place, f64)> =
            self.nearest.iter().filter(|(place, _)| !but.contains(*place)).map(|(p, near)| (p, *near)).collect();
        near.sort_by(|(place_a, a), (place_b, b)| b.total_cmp(a).then(place_a.cmp(place_b)));
        near.into_iter().take(n).map(|(place, _)| place.clone()).collect()
    }

    /// Segments over time, `_all` first.
    #[must_use]
    pub fn heat(&self) -> Vec<HeatRow> {
        self.ordered()
            .map(|((model, segment), sums)| HeatRow { model_version: model.clone(), segment: segment.clone(), cells: sums.cells.clone() })
            .collect()
    }

    /// What was watched, `_all` first.
    #[must_use]
    pub fn watched(&self) -> Vec<Watched> {
        self.ordered()
            .map(|((model, segment), sums)| Watched {
                model_version: model.clone(),
                segment: segment.clone(),
                references: sums.references.iter().cloned().collect(),
                windows: sums.windows,
                judged: sums.judged,
                records: sums.records,
                median_entities: median(&sums.entities),
                streams: sums.streams,
                power: sums.power,
            })
            .collect()
    }

    fn ordered(&self) -> impl Iterator<Item = (&(String, String), &SegmentTally)> {
        let mut all: Vec<_> = self.segments.iter().collect();
        all.sort_by_key(|((model, segment), _)| (model.clone(), segment != ALL, segment.clone()));
        all.into_iter()
    }

    fn cell_of(&self, start_ms: i64) -> usize {
        let at = i128::from(start_ms - self.from_ms) * i128::from(self.n_cells) / i128::from((self.to_ms - self.from_ms).max(1));
        usize::try_from(at.clamp(0, i128::from(self.n_cells - 1))).unwrap_or(0)
    }
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}
