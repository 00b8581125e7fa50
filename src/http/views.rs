//! What API and page show, made once from the snapshot so that the two cannot disagree.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::drift::alert::{Alert, AlertListing, rfc3339, rfc3339_option};
use crate::drift::report::{ContractReport, SegmentReport, StreamReport, StreamState};
use crate::drift::stream::StreamId;
use crate::snapshot::{ConceptName, LiveState, ModelPicture, PartitionFacts, ReferenceFacts, Snapshot};

/// `/api/v1/status`.
#[derive(Debug, Serialize)]
pub struct StatusView {
    /// Version of the program.
    pub version: String,
    /// Hash of the configuration.
    pub config_hash: String,
    /// Engine that encodes.
    pub engine: String,
    /// When the process started.
    #[serde(with = "rfc3339")]
    pub started: i64,
    /// Whether it is ready.
    pub ready: bool,
    /// Why not, by part.
    pub not_ready: BTreeMap<&'static str, String>,
    /// Whether this instance judges.
    pub judging: bool,
    /// Number of the lineage.
    pub lineage: i64,
    /// Head of the audit chain.
    pub history_head: String,
    /// End of the last judged window.
    #[serde(with = "rfc3339_option")]
    pub last_window: Option<i64>,
    /// Windows per allowed false alarm.
    pub false_alarm_budget_windows: f64,
    /// Models.
    pub models: Vec<ModelView>,
    /// Partitions.
    pub partitions: Vec<PartitionView>,
}

/// One model in the status.
#[derive(Debug, Serialize)]
pub struct ModelView {
    /// Version as records carry it.
    pub model_version: String,
    /// Fingerprint of its SAE.
    pub fingerprint: String,
    /// Latents of its SAE.
    pub d_sae: usize,
    /// The reference in use.
    pub reference: Option<ReferenceFacts>,
    /// Segments in the last window.
    pub segments: Vec<SegmentView>,
}

/// One segment of a model in the status: its verdict and its contract.
#[derive(Debug, Serialize)]
pub struct SegmentView {
    /// Name.
    pub segment: String,
    /// Judged, or why not.
    pub verdict: &'static str,
    /// In words.
    pub why: Option<String>,
    /// Records in the last window.
    pub records: u64,
    /// Entities in the last window.
    pub entities: u64,
    /// Whether the SAE fits its input.
    pub contract: ContractReport,
}

/// One partition in the status.
#[derive(Debug, Serialize)]
pub struct PartitionView {
    /// Topic.
    pub topic: String,
    /// Number.
    pub partition: i32,
    /// Where it stands.
    #[serde(flatten)]
    pub facts: PartitionFacts,
    /// Records not read yet.
    pub lag_records: Option<i64>,
}

/// One stream in one segment: `/api/v1/concepts`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConceptView {
    /// Stream.
    pub stream: StreamId,
    /// Its name.
    pub concept: String,
    /// Where the name comes from.
    pub verification: String,
    /// Family of the latent.
    pub family: Option<u32>,
    /// Model version.
    pub model_version: String,
    /// Segment.
    pub segment: String,
    /// Share of entities (or records) that showed it in the last window.
    pub rate: f64,
    /// Share expected.
    pub expected_rate: f64,
    /// Ratio since the change point; null where it is not finite.
    pub ratio: Option<f64>,
    /// Lower 95 % limit.
    pub ratio_low: Option<f64>,
    /// Upper 95 % limit.
    pub ratio_high: Option<f64>,
    /// Smallest ratio above 1 that 20 windows would show.
    pub mde_ratio: Option<f64>,
    /// ln M.
    pub evidence_log: f64,
    /// ln(A m / w).
    pub threshold_log: f64,
    /// State.
    pub state: StreamState,
}

/// Which concepts.
#[derive(Clone, Debug, Default)]
pub struct ConceptFilter {
    /// Only this segment.
    pub segment: Option<String>,
    /// Only this model version.
    pub model_version: Option<String>,
    /// Only this stream.
    pub stream: Option<StreamId>,
    /// Only in this state.
    pub state: Option<StreamState>,
}

/// The status of the instance.
#[must_use]
pub fn status(snapshot: &Snapshot, live: &LiveState) -> StatusView {
    let instance = &snapshot.instance;
    StatusView {
        version: instance.version.clone(),
        config_hash: instance.config_hash.clone(),
        engine: instance.engine.clone(),
        started: instance.started_ms,
        ready: live.not_ready.is_empty(),
        not_ready: live.not_ready.clone(),
        judging: snapshot.judging,
        lineage: snapshot.lineage,
        history_head: snapshot.history_head.clone(),
        last_window: snapshot.last_window_end_ms,
        false_alarm_budget_windows: snapshot.false_alarm_budget_windows,
        models: snapshot.models.iter().map(model).collect(),
        partitions: live
            .partitions
            .iter()
            .map(|(partition, facts)| PartitionView {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                facts: *facts,
                lag_records: facts.lag_records(),
            })
            .collect(),
    }
}

/// Streams by evidence, the strongest first; ties by model, segment and stream.
#[must_use]
pub fn concepts(snapshot: &Snapshot, filter: &ConceptFilter, limit: usize) -> Vec<ConceptView> {
    let mut found: Vec<(&ModelPicture, &SegmentReport, &StreamReport)> = Vec::new();
    for model in snapshot.models.iter().filter(|model| filter.model_version.as_ref().is_none_or(|version| *version == model.model_version))
    {
        let segments = model.report.iter().flat_map(|report| &report.segments);
        for segment in segments.filter(|segment| filter.segment.as_ref().is_none_or(|name| *name == segment.segment)) {
            let wanted = |stream: &&StreamReport| {
                filter.stream.is_none_or(|id| id == stream.stream) && filter.state.is_none_or(|state| state == stream.state)
            };
            found.extend(segment.streams.iter().filter(wanted).map(|stream| (model, segment, stream)));
        }
    }
    found.sort_by(|(model_a, segment_a, a), (model_b, segment_b, b)| {
        let alarmed = |report: &StreamReport| report.state == StreamState::Alert;
        let strongest = alarmed(b).cmp(&alarmed(a)).then(b.evidence_log.total_cmp(&a.evidence_log));
        strongest.then_with(|| {
            (&model_a.model_version, &segment_a.segment, a.stream).cmp(&(&model_b.model_version, &segment_b.segment, b.stream))
        })
    });
    found.into_iter().take(limit).map(|(model, segment, report)| concept(model, segment, report)).collect()
}

/// All alerts of the snapshot, newest first.
#[must_use]
pub fn alerts(snapshot: &Snapshot) -> Vec<AlertListing> {
    snapshot.alerts.iter().map(|kept| alert(snapshot, kept)).collect()
}

/// One alert under its concept's name.
#[must_use]
pub fn alert(snapshot: &Snapshot, alert: &Alert) -> AlertListing {
    let name = snapshot.name_of_alert(alert);
    AlertListing::of(alert, &name.name, &name.verification)
}

fn model(model: &ModelPicture) -> ModelView {
    let segments = model.report.iter().flat_map(|report| &report.segments).map(|segment| SegmentView {
        segment: segment.segment.clone(),
        verdict: segment.verdict.kind(),
        why: segment.why.clone(),
        records: segment.records,
        entities: segment.entities,
        contract: segment.contract.clone(),
    });
    ModelView {
        model_version: model.model_version.clone(),
        fingerprint: model.fingerprint.clone(),
        d_sae: model.d_sae,
        reference: model.reference.clone(),
        segments: segments.collect(),
    }
}

fn concept(model: &ModelPicture, segment: &SegmentReport, report: &StreamReport) -> ConceptView {
    let (rate, expected_rate) = segment.shares(report);
    let ConceptName { name, verification, family } = model.name_of(report.stream);
    let finite = |value: f64| value.is_finite().then_some(value);
    ConceptView {
        stream: report.stream,
        concept: name,
        verification,
        family,
        model_version: model.model_version.clone(),
        segment: segment.segment.clone(),
        rate,
        expected_rate,
        ratio: finite(report.ratio),
        ratio_low: finite(report.ratio_low),
        ratio_high: finite(report.ratio_high),
        mde_ratio: finite(report.mde_ratio),
        evidence_log: report.evidence_log,
        threshold_log: report.threshold_log,
        state: report.state,
    }
}
