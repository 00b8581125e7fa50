//! The immutable picture that metrics, API and page read.
//!
//! The judge publishes a new one after each window and each operator action; a reader takes an `Arc`
//! and sees one moment, never half of two. What changes every second (lag, positions, readiness) is
//! kept apart in [`Live`], so that a slow reader of the picture never holds up a worker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::Serialize;

use crate::drift::alert::Alert;
use crate::drift::report::DriftReport;
use crate::drift::stream::StreamId;
use crate::record::TopicPartition;

/// Windows kept for sparklines. 32 fill the width a line has on the page; each costs 8 bytes a stream.
pub const HISTORY_WINDOWS: usize = 32;

/// One moment of the judge's knowledge.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Facts of this process.
    pub instance: Arc<InstanceFacts>,
    /// Whether this instance judges.
    pub judging: bool,
    /// Number of the store's current lineage.
    pub lineage: i64,
    /// Head of the audit chain, hexadecimal; empty before the first entry.
    pub history_head: String,
    /// End of the last judged window, ms since 1970 UTC.
    pub last_window_end_ms: Option<i64>,
    /// Windows per allowed false alarm: A of the test.
    pub false_alarm_budget_windows: f64,
    /// Model by model, in the configuration's order.
    pub models: Vec<ModelPicture>,
    /// Alerts, newest first: all that fire, and the latest of the others.
    pub alerts: Vec<Alert>,
}

impl Snapshot {
    /// Name of a stream of a model; of a model that is no longer configured, the stream's own.
    #[must_use]
    pub fn name_in(&self, model_version: &str, stream: StreamId) -> ConceptName {
        let model = self.models.iter().find(|model| model.model_version == model_version);
        model.map_or_else(|| ModelPicture::default().name_of(stream), |model| model.name_of(stream))
    }

    /// Name of an alert's concept: the one it was opened under. Of an alert that kept none, the name in use if the SAE is
    /// still the same, else the stream's own: another SAE has another concept there.
    #[must_use]
    pub fn name_of_alert(&self, alert: &Alert) -> ConceptName {
        let (version, stream) = (&alert.opened.model_version, alert.opened.stream);
        match &alert.concept.name {
            Some((name, verification)) => ConceptName { name: name.clone(), verification: verification.clone(), family: None },
            None if self.names_hold_for(alert) => self.name_in(version, stream),
            None => ModelPicture::default().name_of(stream),
        }
    }

    /// Whether the names in use are those of the SAE the alert was opened under; so too where that is not known.
    #[must_use]
    pub fn names_hold_for(&self, alert: &Alert) -> bool {
        let model = self.models.iter().find(|model| model.model_version == alert.opened.model_version);
        alert.concept.fingerprint.as_ref().zip(model).is_none_or(|(then, model)| *then == model.fingerprint)
    }
}

/// What does not change while the process runs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InstanceFacts {
    /// Version of the program.
    pub version: String,
    /// Hash of the configuration, secrets left out.
    pub config_hash: String,
    /// Engine that encodes.
    pub engine: String,
    /// When the process started, ms since 1970 UTC.
    pub started_ms: i64,
}

/// What is known of one model version.
#[derive(Clone, Debug, Default)]
pub struct ModelPicture {
    /// Version as records carry it; "" = the only one.
    pub model_version: String,
    /// Fingerprint of its SAE.
    pub fingerprint: String,
    /// Latents of its SAE.
    pub d_sae: usize,
    /// Names of its streams. A stream without an entry is called by its own id.
    pub names: Arc<BTreeMap<StreamId, ConceptName>>,
    /// Streams tested, over all segments; 0 before there is a reference.
    pub streams_tested: usize,
    /// The reference in use.
    pub reference: Option<ReferenceFacts>,
    /// Report of the last window.
    pub report: Option<Arc<DriftReport>>,
    /// Rates of the last windows, oldest first.
    pub history: RateHistory,
}

impl ModelPicture {
    /// Name of a stream and its verification: the catalogue's, else "latent 123" and "unnamed".
    #[must_use]
    pub fn name_of(&self, stream: StreamId) -> ConceptName {
        self.names.get(&stream).cloned().unwrap_or_else(|| ConceptName {
            name: stream.to_string().replace([':', '_'], " "),
            verification: "unnamed".into(),
            family: None,
        })
    }
}

/// Name of a concept and how far it can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConceptName {
    /// Accepted label, else proposed label with "?", else top items, else "latent 123".
    pub name: String,
    /// `accepted`, `proposed`, `items`, `unnamed`, ...
    pub verification: String,
    /// Family the latent belongs to.
    pub family: Option<u32>,
}

/// The reference a model is judged against.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReferenceFacts {
    /// Its name.
    pub name: String,
    /// Fingerprint it belongs to.
    pub fingerprint: String,
    /// When it was made, ms since 1970 UTC.
    pub created_ms: i64,
    /// First instant of its first window.
    pub from_ms: i64,
    /// One past the last instant of its last.
    pub to_ms: i64,
    /// Windows in it.
    pub windows: u64,
    /// Measured wander sigma_w.
    pub self_measured_wander: Option<f64>,
    /// Whether the 70/30 self-check ran.
    pub self_checked: bool,
}

/// Rates of the last [`HISTORY_WINDOWS`] windows; cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct RateHistory {
    windows: VecDeque<Arc<WindowRates>>,
}

/// One window's rates, f32 because they are only drawn.
#[derive(Debug)]
struct WindowRates {
    end_ms: i64,
    segments: BTreeMap<String, SegmentRates>,
}

/// Streams in order, shared with the window before where they are the same, and rate and expected rate of each.
type SegmentRates = (Arc<[StreamId]>, Vec<[f32; 2]>);

/// One point of a sparkline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RatePoint {
    /// End of the window, ms since 1970 UTC.
    pub end_ms: i64,
    /// Share of entities (or records) that show the stream.
    pub rate: f32,
    /// Share expected.
    pub expected: f32,
}

impl RateHistory {
    /// Adds a window's rates and forgets the oldest beyond the limit. Segments without streams leave a gap.
    pub fn push(&mut self, report: &DriftReport) {
        let mut segments = BTreeMap::new();
        for segment in report.segments.iter().filter(|segment| !segment.streams.is_empty()) {
            let known = self.windows.back().and_then(|last| last.segments.get(&segment.segment)).map(|(streams, _)| streams);
            let same = known.filter(|known| known.iter().copied().eq(segment.streams.iter().map(|stream| stream.stream)));
            let streams = same.cloned().unwrap_or_else(|| segment.streams.iter().map(|stream| stream.stream).collect());
            #[expect(clippy::cast_possible_truncation, reason = "drawn on 120 pixels")]
            let rates = segment.streams.iter().map(|s| segment.shares(s)).map(|(rate, expected)| [rate as f32, expected as f32]).collect();
            segments.insert(segment.segment.clone(), (streams, rates));
        }
        self.windows.push_back(Arc::new(WindowRates { end_ms: report.end_ms, segments }));
        while self.windows.len() > HISTORY_WINDOWS {
            self.windows.pop_front();
        }
    }

    /// The points of one stream in one segment, oldest first; windows without it are left out.
    #[must_use]
    pub fn points(&self, segment: &str, stream: StreamId) -> Vec<RatePoint> {
        let point = |window: &Arc<WindowRates>| {
            let (streams, rates) = window.segments.get(segment)?;
            let [rate, expected] = *rates.get(streams.iter().position(|&candidate| candidate == stream)?)?;
            Some(RatePoint { end_ms: window.end_ms, rate, expected })
        };
        self.windows.iter().filter_map(point).collect()
    }
}

/// Holds the newest snapshot: one writer swaps it, readers take an `Arc`.
#[derive(Debug, Default)]
pub struct SnapshotCell {
    current: RwLock<Arc<Snapshot>>,
}

impl SnapshotCell {
    /// A cell that shows `first`.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Self { current: RwLock::new(Arc::new(first)) }
    }

    /// Shows `next` from now on.
    pub fn publish(&self, next: Snapshot) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    /// The newest snapshot.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where a partition stands, as its worker saw it last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PartitionFacts {
    /// Next offset to read.
    pub position: i64,
    /// The broker's end offset, once known.
    pub end: Option<i64>,
    /// Age of the oldest unread record, else 0 at the end of the log.
    pub lag_seconds: Option<f64>,
    /// The position has not moved although there is lag.
    pub stalled: bool,
}

impl PartitionFacts {
    /// Records not yet read.
    #[must_use]
    pub fn lag_records(&self) -> Option<i64> {
        self.end.map(|end| (end - self.position).max(0))
    }
}

/// What changes every second: partitions, readiness, the marked test alert.
#[derive(Debug, Default)]
pub struct Live {
    state: Mutex<LiveState>,
}

/// A copy of [`Live`] at one moment.
#[derive(Clone, Debug, Default)]
pub struct LiveState {
    /// Assigned partitions.
    pub partitions: BTreeMap<TopicPartition, PartitionFacts>,
    /// What keeps the instance from being ready, by part: `group`, `model`, `store`, ...
    pub not_ready: BTreeMap<&'static str, String>,
    /// Whether everything was ready at least once.
    pub started: bool,
    /// Until when the marked test alert is shown, ms since 1970 UTC.
    pub test_alert_until_ms: Option<i64>,
}

impl Live {
    /// Not ready for each of `gates` until [`Live::set_ready`] names it.
    #[must_use]
    pub fn new(gates: &[&'static str]) -> Self {
        let not_ready: BTreeMap<_, _> = gates.iter().map(|gate| (*gate, String::from("starting"))).collect();
        Self { state: Mutex::new(LiveState { started: not_ready.is_empty(), not_ready, ..LiveState::default() }) }
    }

    /// A copy of everything.
    #[must_use]
    pub fn load(&self) -> LiveState {
        self.lock().clone()
    }

    /// A worker says where its partition stands.
    pub fn set_partition(&self, partition: &TopicPartition, facts: PartitionFacts) {
        let mut state = self.lock();
        match state.partitions.get_mut(partition) {
            Some(known) => *known = facts,
            None => drop(state.partitions.insert(partition.clone(), facts)),
        }
    }

    /// The partition was revoked.
    pub fn remove_partition(&self, partition: &TopicPartition) {
        self.lock().partitions.remove(partition);
    }

    /// The part works.
    pub fn set_ready(&self, gate: &str) {
        let mut state = self.lock();
        state.not_ready.remove(gate);
        state.started |= state.not_ready.is_empty();
    }

    /// The part does not work, and why.
    pub fn set_not_ready(&self, gate: &'static str, why: impl Into<String>) {
        self.lock().not_ready.insert(gate, why.into());
    }

    /// Shows the marked test alert until then; `None` takes it back.
    pub fn set_test_alert(&self, until_ms: Option<i64>) {
        self.lock().test_alert_until_ms = until_ms;
    }

    fn lock(&self) -> MutexGuard<'_, LiveState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::report::{ContractReport, SegmentReport, StreamReport, StreamState, Verdict};
    use crate::sae::latent::LatentId;

    fn report(end_ms: i64, latents: &[u32]) -> DriftReport {
        let streams = latents.iter().map(|&latent| StreamReport {
            stream: StreamId::Latent(LatentId(latent)),
            state: StreamState::Ok,
            evidence_log: 0.0,
            threshold_log: 10.0,
            count: f64::from(latent),
            expected: 1.0,
            exposure: 2.0,
            dispersion: 1.0,
            ratio: 1.0,
            ratio_low: 0.5,
            ratio_high: 2.0,
            mde_ratio: 1.5,
        });
        DriftReport {
            start_ms: end_ms - 1,
            end_ms,
            model_version: String::new(),
            reference: None,
            segments: vec![SegmentReport {
                segment: "_all".into(),
                verdict: Verdict::Judged,
                why: None,
                records: 1,
                entities: 1,
                units: None,
                parts: Vec::new(),
                streams: streams.collect(),
                concentration: None,
                session_mix: None,
                contract: ContractReport::default(),
                psi: None,
                js: None,
            }],
            changes: Vec::new(),
        }
    }

    #[test]
    fn history_keeps_the_last_windows_and_follows_a_change_of_streams() {
        let mut history = RateHistory::default();
        for end in 0..40 {
            history.push(&report(end, if end < 20 { &[1, 2] } else { &[2, 3] }));
        }
        let two = history.points("_all", StreamId::Latent(LatentId(2)));
        assert_eq!(two.len(), HISTORY_WINDOWS);
        assert!(two.iter().all(|point| point.rate == 1.0 && point.expected == 0.5));
        assert_eq!(history.points("_all", StreamId::Latent(LatentId(1))).len(), 12);
        assert!(history.points("_other", StreamId::DeadRecord).is_empty());
    }

    #[test]
    fn started_stays_true_when_a_part_fails_later() {
        let live = Live::new(&["model", "store"]);
        live.set_ready("model");
        assert!(!live.load().started);
        live.set_ready("store");
        live.set_not_ready("store", "disk full");
        let state = live.load();
        assert!(state.started);
        assert_eq!(state.not_ready["store"], "disk full");
    }
}
