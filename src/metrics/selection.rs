//! Which streams are exported: the top of each segment by evidence, and whatever must not be missing.
//!
//! | class              | from                                              | under the cap                      |
//! |--------------------|---------------------------------------------------|------------------------------------|
//! | must               | in WARN or ALERT, or pinned                       | always exported, first             |
//! | once exported      | exported before (a series that ends looks like a reset) | as long as there is room, by evidence |
//! | new                | among the top of its segment by evidence          | the room that is left, by evidence |

use std::collections::{BTreeMap, BTreeSet};

use crate::drift::report::{SegmentReport, StreamReport, StreamState};
use crate::drift::stream::StreamId;
use crate::metrics::text::labels;
use crate::snapshot::Snapshot;

/// Series a stream costs: nine values and its name.
pub(super) const SERIES_PER_STREAM: usize = 10;

/// One exported stream: its labels, written once, and the last thing said of it.
#[derive(Debug)]
pub(super) struct Exported {
    pub(super) labels: Box<str>,
    pub(super) last: StreamReport,
    /// Share of entities that showed it and share expected, see [`SegmentReport::shares`].
    pub(super) shares: (f64, f64),
    seen_in: u64,
}

type Streams = BTreeMap<StreamId, Exported>;

/// What is exported since the process started.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Model version, segment, stream.
    pub(super) models: BTreeMap<String, BTreeMap<String, Streams>>,
    generation: u64,
    /// Series kept out by the cap, in all.
    pub(super) dropped: u64,
}

/// Limits of the selection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Hard cap on drift series.
    pub max_series: usize,
    /// Streams exported per segment by evidence.
    pub top_concepts: usize,
    /// Streams exported always.
    pub pinned: BTreeSet<StreamId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Must,
    OnceExported,
    New,
}

struct Candidate<'a> {
    class: Class,
    evidence: f64,
    model: &'a str,
    segment: &'a SegmentReport,
    report: &'a StreamReport,
}

impl Selection {
    /// Takes a new snapshot's reports over and chooses again.
    pub(super) fn update(&mut self, snapshot: &Snapshot, limits: &Limits) {
        self.generation += 1;
        let mut candidates = Vec::new();
        for model in &snapshot.models {
            let Some(report) = &model.report else { continue };
            for segment in &report.segments {
                let known = self.models.get(model.model_version.as_str()).and_then(|segments| segments.get(segment.segment.as_str()));
                candidates.extend(candidates_of(known, &segment.streams, limits).into_iter().map(|(class, report)| Candidate {
                    class,
                    evidence: report.evidence_log,
                    model: &model.model_version,
                    segment,
                    report,
                }));
            }
        }
        let capacity = limits.max_series / SERIES_PER_STREAM;
        let n_must = candidates.iter().filter(|candidate| candidate.class == Class::Must).count();
        let room = capacity.max(n_must);
        if candidates.len() > room {
            candidates.sort_by(|a, b| a.class.cmp(&b.class).then(b.evidence.total_cmp(&a.evidence)));
            self.dropped += ((candidates.len() - room) * SERIES_PER_STREAM) as u64;
            for out in candidates.drain(room..) {
                if let Some(streams) = self.models.get_mut(out.model).and_then(|segments| segments.get_mut(&out.segment.segment)) {
                    streams.remove(&out.report.stream);
                }
            }
        }
        for candidate in candidates {
            self.export(&candidate);
        }
        self.mark_absent(room);
    }

    /// All exported streams: labels, last report.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Exported> {
        self.models.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values)
    }

    fn export(&mut self, candidate: &Candidate<'_>) {
        if !self.models.contains_key(candidate.model) {
            self.models.insert(candidate.model.to_owned(), BTreeMap::new());
        }
        let Some(segments) = self.models.get_mut(candidate.model) else { return };
        let segment = &candidate.segment.segment;
        if !segments.contains_key(segment) {
            segments.insert(segment.clone(), BTreeMap::new());
        }
        let Some(streams) = segments.get_mut(segment) else { return };
        let (stream, generation) = (candidate.report.stream, self.generation);
        let exported = streams.entry(stream).or_insert_with(|| Exported {
            labels: stream_labels(candidate.model, segment, &stream.to_string()).into(),
            last: candidate.report.clone(),
            shares: (0.0, 0.0),
            seen_in: generation,
        });
        exported.last.clone_from(candidate.report);
        exported.shares = candidate.segment.shares(candidate.report);
        exported.seen_in = generation;
    }

    /// Exported streams that the newest reports do not name keep their values and have no verdict; they
    /// are the first to go when there is no room.
    fn mark_absent(&mut self, room: usize) {
        let mut over = self.iter().count().saturating_sub(room);
        let generation = self.generation;
        let mut dropped = 0;
        for streams in self.models.values_mut().flat_map(BTreeMap::values_mut) {
            streams.retain(|_, exported| {
                if exported.seen_in == generation {
                    return true;
                }
                exported.last.state = StreamState::NoVerdict;
                let keep = over == 0;
                over = over.saturating_sub(1);
                dropped += usize::from(!keep);
                keep
            });
        }
        self.dropped += (dropped * SERIES_PER_STREAM) as u64;
    }
}

/// Labels of a stream's series.
pub(super) fn stream_labels(model: &str, segment: &str, stream: &str) -> String {
    labels(&[("model_version", model), ("segment", segment), ("stream", stream)])
}

fn candidates_of<'a>(known: Option<&Streams>, streams: &'a [StreamReport], limits: &Limits) -> Vec<(Class, &'a StreamReport)> {
    let mut top: Vec<&StreamReport> = streams.iter().collect();
    if top.len() > limits.top_concepts {
        top.select_nth_unstable_by(limits.top_concepts, |a, b| b.evidence_log.total_cmp(&a.evidence_log).then(a.stream.cmp(&b.stream)));
        top.truncate(limits.top_concepts);
    }
    let top: ahash::HashSet<StreamId> = top.into_iter().map(|report| report.stream).collect();
    let class = |report: &StreamReport| {
        let must = matches!(report.state, StreamState::Warn | StreamState::Alert) || limits.pinned.contains(&report.stream);
        if must {
            Some(Class::Must)
        } else if known.is_some_and(|known| known.contains_key(&report.stream)) {
            Some(Class::OnceExported)
        } else {
            top.contains(&report.stream).then_some(Class::New)
        }
    };
    streams.iter().filter_map(|report| Some((class(report)?, report))).collect()
}
