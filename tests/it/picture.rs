//! A running instance without a flow behind it: a made-up picture on real listeners, for the tests of
//! metrics, API and page.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use recsae::clock::ManualClock;
use recsae::drift::alert::{Alert, utc_text};
use recsae::drift::closed::{ClosedWindow, OffsetRange};
use recsae::drift::report::{
    AlertChange, ContractReport, Crossing, Direction, DriftReport, SegmentReport, StreamReport, StreamState, Verdict,
};
use recsae::drift::stream::StreamId;
use recsae::http::actions::{ActionError, ActionRequest, ActionSender, Token};
use recsae::http::server::ListenOptions;
use recsae::http::{History, HttpState, api_router, metrics_router, server};
use recsae::metrics::exposition::Exposition;
use recsae::metrics::registry::ProcessMetrics;
use recsae::metrics::selection::Limits;
use recsae::record::TopicPartition;
use recsae::sae::latent::LatentId;
use recsae::snapshot::{
    ConceptName, InstanceFacts, Live, ModelPicture, PartitionFacts, RateHistory, ReferenceFacts, Snapshot, SnapshotCell,
};
use recsae::store::Store;
use recsae::store::judgement::{JudgedModel, Judgement};
use recsae::task::{Shutdown, TaskGroup};

use crate::pictured::explanation;

/// First window of the made-up history: 2026-03-02T00:00:00Z.
pub(crate) const START_MS: i64 = 1_772_409_600_000;
const HOUR_MS: i64 = 3_600_000;
/// Windows in it.
pub(crate) const N_WINDOWS: i64 = 36;
/// Time of the instance's clock: five minutes after the last window.
pub(crate) const NOW_MS: i64 = START_MS + N_WINDOWS * HOUR_MS + 300_000;
/// The token of the instance.
pub(crate) const TOKEN: &str = "a-token-of-the-test";
const SEGMENTS: [&str; 4] = ["_all", "surface=home", "surface=search", "surface=mail & push"];
const N_STREAMS: u32 = 40;

/// Listeners on free ports, closed when dropped.
pub(crate) struct Instance {
    pub(crate) metrics: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) live: Arc<Live>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) snapshots: Arc<SnapshotCell>,
    pub(crate) group: TaskGroup,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.group.drain(Duration::from_secs(5));
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// The made-up history in a store at `path`, and an instance that shows it.
pub(crate) fn instance(path: &Path, token: Option<&str>) -> Instance {
    instance_with(path, token, ListenOptions::default())
}

/// The same, its page and API answering as `options` say.
pub(crate) fn instance_with(path: &Path, token: Option<&str>, options: ListenOptions) -> Instance {
    instance_of(path, token, options, N_STREAMS)
}

/// The same with so many streams a segment.
pub(crate) fn instance_of(path: &Path, token: Option<&str>, options: ListenOptions, n_streams: u32) -> Instance {
    let mut store = Store::open(path).unwrap();
    let hours = recsae::drift::window::WindowSpec { length_ms: HOUR_MS, origin_ms: 0, lateness_ms: 0 };
    store.begin_lineage("counting-hash", "presence, 1 h", &hours, START_MS).unwrap();
    let mut history = RateHistory::default();
    let mut last = None;
    for window in 0..N_WINDOWS {
        let report = report(window, n_streams);
        history.push(&report);
        let judgement = judgement(&report);
        assert_eq!(store.commit_judgement(&judgement).unwrap(), recsae::store::judgement::JudgementOutcome::Stored);
        last = Some(report);
    }
    // The alert that fires is explained, the one that is over is not.
    store.put_explanation(2, &explanation(START_MS + 24 * HOUR_MS), NOW_MS).unwrap();
    let snapshot = snapshot(&store, last.unwrap(), history);
    let snapshots = Arc::new(SnapshotCell::new(snapshot));
    let live = Arc::new(Live::new(&["group", "model", "store"]));
    for gate in ["group", "model", "store"] {
        live.set_ready(gate);
    }
    for partition in 0..3 {
        let end = 1_204_311 + 77 * i64::from(partition);
        let facts = PartitionFacts { position: end - i64::from(partition) * 9, end: Some(end), lag_seconds: Some(0.4), stalled: false };
        live.set_partition(&TopicPartition { topic: "recommendations".into(), partition }, facts);
    }
    serve(path, store, snapshots, live, token, options)
}

fn serve(
    path: &Path,
    store: Store,
    snapshots: Arc<SnapshotCell>,
    live: Arc<Live>,
    token: Option<&str>,
    options: ListenOptions,
) -> Instance {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let group = TaskGroup::new(Shutdown::new());
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let process = Arc::new(ProcessMetrics::new("0.1.0", "test").unwrap());
    let refused = process.http_rejected.clone();
    let limits = Limits { max_series: 50_000, top_concepts: 50, pinned: [StreamId::ResidualOutlier].into() };
    let state = Arc::new(HttpState {
        exposition: Arc::new(Exposition::new(Arc::clone(&snapshots), Arc::clone(&live), process, limits)),
        snapshots: Arc::clone(&snapshots),
        live: Arc::clone(&live),
        clock: clock.clone(),
        actions: judge(store, Arc::clone(&snapshots)),
        references: Arc::new(|_| Err(ActionError::Busy)),
        reload: Some(Arc::new(|| Err("models: 0 are configured".to_owned()))),
        token: token.and_then(Token::of),
        bundles: Vec::new(),
        history: History::of(path.to_owned()),
    });
    let open = |name, router, options| {
        let listener = server::bind("127.0.0.1:0", "[test] listen").unwrap();
        server::serve(&group, runtime.handle(), name, listener, router, options, refused.clone()).unwrap()
    };
    let metrics = open("http-metrics", metrics_router(Arc::clone(&state)), ListenOptions::default());
    let api = open("http-api", api_router(state), options);
    Instance { metrics, api, live, clock, snapshots, group, runtime: Some(runtime) }
}

/// Does what the judge thread does with an action.
fn judge(store: Store, snapshots: Arc<SnapshotCell>) -> ActionSender {
    let store = Mutex::new(store);
    Arc::new(move |request| -> Result<Option<Alert>, ActionError> {
        let mut store = store.lock().unwrap();
        let done = match request {
            ActionRequest::Alert { id, action } => Some(store.act(id, &action)?),
            ActionRequest::Test { who, why, until_ms, at_ms } => {
                store.record_test_alert(&who, &why, until_ms, at_ms)?;
                None
            }
        };
        let alerts = store.read().alerts(200)?;
        snapshots.publish(Snapshot { alerts, history_head: store.read().audit_head()?, ..Snapshot::clone(&snapshots.load()) });
        Ok(done)
    })
}

fn snapshot(store: &Store, report: DriftReport, history: RateHistory) -> Snapshot {
    let names = ["Anime · Space opera", "Noir thrillers", "Family animation?", "90s romance", "Heist films", "Apt Pupil · Amistad · Alien"];
    let names = names.into_iter().zip(0..).map(|(name, latent)| {
        let verification = if name.ends_with('?') { "unverified" } else { "verified" };
        (StreamId::Latent(LatentId(latent)), ConceptName { name: name.into(), verification: verification.into(), family: Some(latent / 3) })
    });
    let reference = ReferenceFacts {
        name: "first:14d".into(),
        fingerprint: "8c1f5e".into(),
        created_ms: START_MS,
        from_ms: START_MS - 336 * HOUR_MS,
        to_ms: START_MS,
        windows: 336,
        self_measured_wander: Some(0.012),
        self_checked: true,
    };
    let instance =
        InstanceFacts { version: "0.1.0".into(), config_hash: "c0ffee".into(), engine: "onnxruntime".into(), started_ms: START_MS };
    let last_window_end_ms = Some(report.end_ms);
    let model = ModelPicture {
        model_version: "v12".into(),
        fingerprint: "8c1f5e20a9b34d7706e1".into(),
        d_sae: 40,
        streams_tested: 160,
        names: Arc::new(names.collect()),
        reference: Some(reference),
        report: Some(Arc::new(report)),
        history,
    };
    Snapshot {
        instance: Arc::new(instance),
        judging: true,
        lineage: 1,
        history_head: store.read().audit_head().unwrap(),
        last_window_end_ms,
        false_alarm_budget_windows: 720.0,
        models: vec![model],
        alerts: store.read().alerts(200).unwrap(),
    }
}

/// Latent 0 doubles on one surface from window 24 and alarms in window 30; latent 1 fell and recovered.
fn report(window: i64, n_streams: u32) -> DriftReport {
    let end_ms = START_MS + (window + 1) * HOUR_MS;
    let mut changes = Vec::new();
    if window == 10 {
        changes.push(AlertChange::Opened(crossing(window, 1, "_all", Direction::Down)));
    }
    if window == 20 {
        let stream = StreamId::Latent(LatentId(1));
        changes.push(AlertChange::Recovered { segment: "_all".into(), stream, window_end_ms: end_ms });
    }
    if window == 30 {
        changes.push(AlertChange::Opened(crossing(window, 0, "surface=home", Direction::Up)));
    }
    if window == 33 {
        changes.push(AlertChange::CrossedAgain(crossing(window, 0, "surface=home", Direction::Up)));
    }
    let segments = SEGMENTS.iter().map(|name| segment(name, window, n_streams)).collect();
    DriftReport { start_ms: end_ms - HOUR_MS, end_ms, model_version: "v12".into(), reference: Some("first:14d".into()), segments, changes }
}

fn segment(name: &str, window: i64, n_streams: u32) -> SegmentReport {
    let streams = (0..n_streams).map(|latent| stream(name, latent, window, n_streams)).collect();
    SegmentReport {
        segment: name.into(),
        verdict: Verdict::Judged,
        why: None,
        records: 5120,
        entities: 1890,
        units: None,
        parts: Vec::new(),
        streams,
        concentration: Some(1.01),
        session_mix: Some(0.2),
        contract: ContractReport {
            fvu: Some(0.083),
            cosine: Some(0.957),
            norm_ratio: Some(0.952),
            l0: 31.6,
            dead_latents: 2,
            broken: None,
        },
        psi: Some((0.021, 0.018)),
        js: Some((0.004, 0.003)),
    }
}

fn stream(segment: &str, latent: u32, window: i64, n_streams: u32) -> StreamReport {
    let day = (f64::from(u32::try_from(window % 24).unwrap()) / 24.0 * std::f64::consts::TAU).sin();
    let expected = (20.0 + f64::from(latent)) * (1.0 + 0.3 * day);
    let wobble = f64::from((latent * 37 + u32::try_from(window).unwrap() * 101) % 17) / 17.0 - 0.5;
    let drifted = segment == "surface=home" && latent == 0 && window >= 24;
    let ratio = if drifted { 2.06 } else { 1.0 + 0.1 * wobble };
    let state = match (drifted && window >= 30, segment, latent) {
        (true, _, _) => StreamState::Alert,
        (_, "_all", 1) => StreamState::Recovered,
        (_, "_all", 0) if window > 32 => StreamState::Warn,
        _ => StreamState::Ok,
    };
    let evidence_log = match state {
        StreamState::Alert => 17.4,
        StreamState::Warn => 9.1,
        _ => f64::from((latent * 7) % 23) / 6.0,
    };
    StreamReport {
        stream: if latent == n_streams - 1 { StreamId::ResidualOutlier } else { StreamId::Latent(LatentId(latent)) },
        state,
        evidence_log,
        threshold_log: 13.9,
        count: expected * ratio,
        expected,
        exposure: 1890.0,
        dispersion: 1.1,
        ratio,
        ratio_low: ratio * 0.86,
        ratio_high: if latent == 7 { f64::INFINITY } else { ratio * 1.17 },
        mde_ratio: 1.35,
    }
}

fn crossing(window: i64, latent: u32, segment: &str, direction: Direction) -> Crossing {
    let window_start_ms = START_MS + window * HOUR_MS;
    let ratio = if direction == Direction::Up { 2.06 } else { 0.48 };
    Crossing {
        window_start_ms,
        window_end_ms: window_start_ms + HOUR_MS,
        model_version: "v12".into(),
        segment: segment.into(),
        stream: StreamId::Latent(LatentId(latent)),
        direction,
        evidence_log: 14.8,
        threshold_log: 13.9,
        ratio,
        ratio_low: ratio * 0.86,
        ratio_high: ratio * 1.17,
        began_ms: window_start_ms - 6 * HOUR_MS,
        began_low_ms: window_start_ms - 8 * HOUR_MS,
        began_high_ms: window_start_ms - 4 * HOUR_MS,
        exposure: 1890.0,
        mde_ratio: 1.35,
        reference: "first:14d".into(),
        rate_ratio: None,
        rate_low: None,
        rate_high: None,
        part_of: None,
        moved_with: Vec::new(),
    }
}

fn judgement(report: &DriftReport) -> Judgement {
    let window = ClosedWindow {
        start_ms: report.start_ms,
        end_ms: report.end_ms,
        model_version: report.model_version.clone(),
        segments: SEGMENTS.iter().map(|name| ((*name).to_owned(), Default::default())).collect(),
        rejected: BTreeMap::new(),
        offsets: vec![OffsetRange { partition: TopicPartition { topic: "recommendations".into(), partition: 0 }, from: 10, to: 5130 }],
        incomplete: None,
    };
    let model = JudgedModel { window, report: report.clone(), state: Vec::new(), concepts: BTreeMap::new() };
    Judgement {
        start_ms: report.start_ms,
        end_ms: report.end_ms,
        n_partials: 0,
        models: vec![model],
        admitted: Vec::new(),
        judged_ms: report.end_ms + 660_000,
    }
}

/// The printed time of a window's start.
pub(crate) fn start_text(window: i64) -> String {
    utc_text(START_MS + window * HOUR_MS)
}
