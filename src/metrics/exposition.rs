//! Everything that `/metrics` answers: drift series from the snapshot, live facts, process metrics.
//!
//! The drift part is written and deflated once a snapshot and reused; the small rest is written at each
//! scrape. Label values come from data here, so nothing goes through the client library's vectors.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::drift::report::{ContractReport, SegmentReport, StreamReport, StreamState, Verdict};
use crate::metrics::gzip::Deflated;
use crate::metrics::quiet::quiet_series;
use crate::metrics::registry::ProcessMetrics;
use crate::metrics::selection::{Exported, Limits, Selection, stream_labels};
use crate::metrics::text::{Text, count, labels, readable, seconds};
use crate::snapshot::{Live, LiveState, ModelPicture, Snapshot, SnapshotCell};

/// Name of the marked test alert's model, segment and stream.
pub const TEST_ALERT: &str = "test";

/// The whole of `/metrics`.
#[derive(Debug)]
pub struct Exposition {
    snapshots: Arc<SnapshotCell>,
    live: Arc<Live>,
    process: Arc<ProcessMetrics>,
    drift: DriftSeries,
}

impl Exposition {
    /// Serves from these, within `limits`.
    #[must_use]
    pub fn new(snapshots: Arc<SnapshotCell>, live: Arc<Live>, process: Arc<ProcessMetrics>, limits: Limits) -> Self {
        Self { snapshots, live, process, drift: DriftSeries::new(limits) }
    }

    /// Text format 0.0.4 of one moment; `gzip`: as one gzip member.
    #[must_use]
    pub fn render(&self, now_ms: i64, gzip: bool) -> Vec<u8> {
        let live = self.live.load();
        let test_alert = live.test_alert_until_ms.is_some_and(|until| now_ms < until);
        let drift = self.drift.render(&self.snapshots.load(), test_alert);
        let mut rest = live_text(&live);
        rest.extend_from_slice(self.process.render().as_bytes());
        if gzip {
            return drift.deflated.get_or_init(|| Deflated::of(&drift.text)).followed_by(&rest);
        }
        [drift.text.as_slice(), &rest].concat()
    }
}

/// Drift series of one snapshot, as text and, once asked for, deflated.
#[derive(Debug)]
pub struct DriftText {
    /// Text format 0.0.4.
    pub text: Vec<u8>,
    /// Series in it.
    pub n_series: u64,
    deflated: OnceLock<Deflated>,
}

/// Writes drift series; remembers what was exported.
#[derive(Debug)]
pub struct DriftSeries {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    selection: Selection,
    last: Option<(Arc<Snapshot>, bool, Arc<DriftText>)>,
}

impl DriftSeries {
    /// Nothing exported yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// The snapshot's series; the same object while the snapshot is the same.
    pub fn render(&self, snapshot: &Arc<Snapshot>, test_alert: bool) -> Arc<DriftText> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let same = state.last.as_ref().filter(|(last, test, _)| Arc::ptr_eq(last, snapshot) && *test == test_alert);
        if let Some((_, _, text)) = same {
            return Arc::clone(text);
        }
        if snapshot.judging && state.last.as_ref().is_none_or(|(last, _, _)| !Arc::ptr_eq(last, snapshot)) {
            state.selection.update(snapshot, &self.limits);
        }
        let capacity = state.last.as_ref().map_or(0, |(_, _, text)| text.text.len() + 4096);
        let text = Arc::new(write(snapshot, &state.selection, test_alert, capacity));
        state.last = Some((Arc::clone(snapshot), test_alert, Arc::clone(&text)));
        text
    }
}

/// One value of a stream: name, help, how to read it from its report and its shares (found, expected).
type StreamValue = (&'static str, &'static str, fn(&StreamReport, (f64, f64)) -> f64);

const STREAM_VALUES: [StreamValue; 9] = [
    ("recsae_concept_state", "0 ok, 1 warn, 2 alert, 3 recovered, -1 no verdict.", |s, _| f64::from(s.state.gauge())),
    ("recsae_concept_evidence_log", "Evidence against no drift, natural log; in alert its value at the alarm.", |s, _| s.evidence_log),
    ("recsae_concept_threshold_log", "Evidence at which an alert opens, natural log.", |s, _| s.threshold_log),
    ("recsae_concept_rate", "Share of entities (or records) that showed it in the last window.", |_, (found, _)| found),
    ("recsae_concept_expected_rate", "Share expected in the last window.", |_, (_, expected)| expected),
    ("recsae_concept_ratio", "Counted over expected since the change point.", |s, _| s.ratio),
    ("recsae_concept_ratio_low", "Lower 95 % limit of the ratio.", |s, _| s.ratio_low),
    ("recsae_concept_ratio_high", "Upper 95 % limit of the ratio.", |s, _| s.ratio_high),
    ("recsae_concept_mde_ratio", "Smallest ratio above 1 that 20 windows would show.", |s, _| s.mde_ratio),
];

fn write(snapshot: &Snapshot, selection: &Selection, test_alert: bool, capacity: usize) -> DriftText {
    let mut text = Text::with_capacity(capacity);
    instance_series(&mut text, snapshot);
    let test = test_alert.then(test_stream);
    if snapshot.judging || test_alert {
        let exported: Vec<&Exported> = if snapshot.judging { selection.iter().collect() } else { Vec::new() };
        for (name, help, value) in STREAM_VALUES {
            text.gauge(name, help);
            for stream in &exported {
                text.series(&stream.labels, value(&stream.last, stream.shares));
            }
            if let Some((labels, report)) = &test {
                text.series(labels, value(report, (1.0, 1.0)));
            }
        }
        name_series(&mut text, snapshot, selection, test_alert);
    }
    if snapshot.judging {
        quiet_series(&mut text, snapshot);
        judge_series(&mut text, snapshot);
    }
    text.counter("recsae_series_dropped_total", "Drift series kept out by the cap, each time a snapshot was written.");
    text.series("", count(selection.dropped));
    text.gauge("recsae_series", "Series written from the snapshot, this one included.");
    let n_series = text.n_series + 1;
    text.series("", count(n_series));
    DriftText { text: text.bytes, n_series, deflated: OnceLock::new() }
}

fn instance_series(text: &mut Text, snapshot: &Snapshot) {
    text.gauge("recsae_judging", "1 on the instance that judges.");
    text.series("", f64::from(u8::from(snapshot.judging)));
    text.gauge("recsae_sae_info", "SAE in use by model version; always 1.");
    for model in &snapshot.models {
        let d_sae = model.d_sae.to_string();
        text.series(&labels(&[("model_version", &model.model_version), ("fingerprint", &model.fingerprint), ("d_sae", &d_sae)]), 1.0);
    }
}

fn name_series(text: &mut Text, snapshot: &Snapshot, selection: &Selection, test_alert: bool) {
    text.gauge("recsae_concept_info", "Name of an exported stream and where it comes from; always 1.");
    let info = |model: &str, stream: &str, concept: &str, verification: &str| {
        let (concept, verification) = (readable(concept), readable(verification));
        labels(&[("model_version", model), ("stream", stream), ("concept", &concept), ("verification", &verification)])
    };
    for model in snapshot.models.iter().filter(|_| snapshot.judging) {
        let Some(segments) = selection.models.get(&model.model_version) else { continue };
        let streams: std::collections::BTreeSet<_> = segments.values().flat_map(|streams| streams.keys()).collect();
        for &stream in streams {
            let name = model.name_of(stream);
            text.series(&info(&model.model_version, &stream.to_string(), &name.name, &name.verification), 1.0);
        }
    }
    if test_alert {
        text.series(&info(TEST_ALERT, TEST_ALERT, "test alert (no drift)", TEST_ALERT), 1.0);
    }
}

/// One value of a segment: name, help, how to read it; `None` is left out.
type SegmentValue = (&'static str, &'static str, fn(&SegmentReport) -> Option<f64>);

const SEGMENT_VALUES: [SegmentValue; 13] = [
    (
        "recsae_segment_state",
        "0 judged, 1 warmup, 2 insufficient_reference, 3 no_data, 4 volume, 5 session_mix, 6 calendar, 7 contract_broken, 8 incomplete, 9 merging, 10 entities_split.",
        |s| Verdict::ALL.iter().zip(0_u8..).find(|(verdict, _)| **verdict == s.verdict).map(|(_, idx)| f64::from(idx)),
    ),
    ("recsae_input_fvu", "Fraction of the reference's variance the SAE does not explain.", |s| s.contract.fvu),
    ("recsae_input_cosine", "Mean cosine of an embedding and its reconstruction.", |s| s.contract.cosine),
    ("recsae_input_norm_ratio", "Mean norm of the reconstruction over that of the embedding.", |s| s.contract.norm_ratio),
    ("recsae_l0", "Mean active latents a record.", |s| Some(s.contract.l0)),
    ("recsae_dead_latents", "Latents active in no record of the window.", |s| Some(count(s.contract.dead_latents))),
    ("recsae_contract_broken", "1 while the SAE does not fit its input.", |s| Some(broken(&s.contract, s.verdict))),
    ("recsae_concentration_factor", "How much more or less concentrated entities are than in the reference.", |s| s.concentration),
    ("recsae_session_mix", "Distance of session lengths from the reference; above 2.5 there is no verdict.", |s| s.session_mix),
    ("recsae_psi", "Population stability index over concepts: description, not the alarm.", |s| s.psi.map(|psi| psi.0)),
    ("recsae_psi_noise_floor", "PSI that no change at all would show at this volume.", |s| s.psi.map(|psi| psi.1)),
    ("recsae_js_divergence", "Jensen-Shannon divergence over concepts: description, not the alarm.", |s| s.js.map(|js| js.0)),
    ("recsae_js_divergence_noise_floor", "Divergence that no change at all would show at this volume.", |s| s.js.map(|js| js.1)),
];

fn judge_series(text: &mut Text, snapshot: &Snapshot) {
    let segments: Vec<(String, &SegmentReport)> = snapshot
        .models
        .iter()
        .filter_map(|model| Some((model, model.report.as_ref()?)))
        .flat_map(|(model, report)| {
            report.segments.iter().map(|s| (labels(&[("model_version", &model.model_version), ("segment", &s.segment)]), s))
        })
        .collect();
    for (name, help, value) in SEGMENT_VALUES {
        text.gauge(name, help);
        for (labels, segment) in &segments {
            if let Some(value) = value(segment) {
                text.series(labels, value);
            }
        }
    }
    model_series(text, &snapshot.models);
    text.gauge("recsae_false_alarm_budget_windows", "Windows per allowed false alarm.");
    text.series("", snapshot.false_alarm_budget_windows);
    text.gauge("recsae_history_head_info", "Head of the audit chain; always 1.");
    if !snapshot.history_head.is_empty() {
        text.series(&labels(&[("hash", &snapshot.history_head)]), 1.0);
    }
}

fn model_series(text: &mut Text, models: &[ModelPicture]) {
    let version = |model: &ModelPicture| labels(&[("model_version", &model.model_version)]);
    text.gauge("recsae_streams_tested", "Streams tested, over all segments.");
    for model in models {
        text.series(&version(model), count(model.streams_tested as u64));
    }
    let with_reference = || models.iter().filter_map(|model| Some((model, model.reference.as_ref()?)));
    text.gauge("recsae_reference_info", "Reference in use; always 1.");
    for (model, reference) in with_reference() {
        let (name, checked) = (readable(&reference.name), reference.self_checked.to_string());
        text.series(&labels(&[("model_version", &model.model_version), ("reference", &name), ("self_checked", &checked)]), 1.0);
    }
    text.gauge("recsae_reference_created_timestamp_seconds", "When the reference was made, Unix time.");
    for (model, reference) in with_reference() {
        text.series(&version(model), seconds(reference.created_ms));
    }
    text.gauge("recsae_reference_windows", "Windows in the reference.");
    for (model, reference) in with_reference() {
        text.series(&version(model), count(reference.windows));
    }
    text.gauge("recsae_self_measured_wander", "Benign wander measured in the reference itself, as a standard deviation of log rates.");
    for (model, wander) in with_reference().filter_map(|(model, reference)| Some((model, reference.self_measured_wander?))) {
        text.series(&version(model), wander);
    }
}

fn live_text(live: &LiveState) -> Vec<u8> {
    let mut text = Text::default();
    text.gauge("recsae_consumer_lag_records", "Records of a partition not read yet.");
    for (partition, facts) in &live.partitions {
        if let Some(lag) = facts.lag_records() {
            let number = partition.partition.to_string();
            text.series(&labels(&[("topic", &partition.topic), ("partition", &number)]), count(u64::try_from(lag).unwrap_or(0)));
        }
    }
    text.gauge("recsae_consumer_lag_seconds", "Age of the oldest unread record over all partitions, 0 at the end of the log.");
    text.series("", live.partitions.values().filter_map(|facts| facts.lag_seconds).fold(0.0, f64::max));
    text.gauge("recsae_consumer_stalled", "Partitions whose position does not move although there is lag.");
    text.series("", count(live.partitions.values().filter(|facts| facts.stalled).count() as u64));
    text.gauge("recsae_assigned_partitions", "Partitions assigned to this instance.");
    text.series("", count(live.partitions.len() as u64));
    text.gauge("recsae_ready", "1 when the instance is ready.");
    text.series("", f64::from(u8::from(live.not_ready.is_empty())));
    text.gauge("recsae_not_ready", "A part for want of which the instance is not ready; always 1. /readyz says why.");
    for part in live.not_ready.keys() {
        text.series(&labels(&[("part", part)]), 1.0);
    }
    text.bytes
}

/// What the marked test alert shows: a stream in alert with nothing behind it.
fn test_stream() -> (String, StreamReport) {
    let report = StreamReport {
        stream: crate::drift::stream::StreamId::DeadRecord,
        state: StreamState::Alert,
        evidence_log: 0.0,
        threshold_log: 0.0,
        count: 1.0,
        expected: 1.0,
        exposure: 1.0,
        dispersion: 1.0,
        ratio: 1.0,
        ratio_low: 1.0,
        ratio_high: 1.0,
        mde_ratio: 1.0,
    };
    (stream_labels(TEST_ALERT, TEST_ALERT, TEST_ALERT), report)
}

fn broken(contract: &ContractReport, verdict: Verdict) -> f64 {
    f64::from(u8::from(contract.broken.is_some() || verdict == Verdict::ContractBroken))
}

#[cfg(test)]
mod tests;
