//! A judged history in a store, made by the real judge from the demo's world: three weeks' worth of
//! things that an audit has to tell, in some days. For the tests of report, record and page.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use recsae::drift::alert::{ActionKind, AlertAction};
use recsae::drift::closed::{ALL, ClosedWindow, OffsetRange};
use recsae::drift::counts::{ContractSums, N_BUCKETS, SegmentCounts, bucket_of};
use recsae::drift::judge::ModelJudge;
use recsae::drift::reference::Reference;
use recsae::drift::report::{AlertState, DriftReport, Verdict};
use recsae::drift::settings::JudgeSettings;
use recsae::drift::stream::StreamId;
use recsae::drift::unjudged::warmup_report;
use recsae::record::{RejectReason, TopicPartition};
use recsae::sae::latent::LatentId;
use recsae::simulate::dictionary::{D_IN, N_CONCEPTS};
use recsae::simulate::served::Served;
use recsae::simulate::setup::REFERENCE_WINDOWS;
use recsae::simulate::words::concept_name;
use recsae::simulate::world::{WINDOW_MS, World};
use recsae::store::Store;
use recsae::store::judgement::{JudgedModel, Judgement, JudgementOutcome};
use recsae::store::references::Approval;

/// Hours.
const WINDOWS: recsae::drift::window::WindowSpec = recsae::drift::window::WindowSpec { length_ms: 3_600_000, origin_ms: 0, lateness_ms: 0 };

/// First window: 2026-03-02T00:00:00Z, a Monday.
pub(crate) const START_MS: i64 = 1_772_409_600_000;
/// Windows of the history, the reference's included.
pub(crate) const N_WINDOWS: u64 = 168;
/// Windows in which the monitor did not run.
const STOPPED: std::ops::Range<u64> = 100..104;
/// Windows fed with vectors the SAE does not fit.
const BROKEN: std::ops::Range<u64> = 126..129;
/// Windows per allowed false alarm.
pub(crate) const BUDGET: f64 = 2000.0;
/// Version of the model.
pub(crate) const VERSION: &str = "v12";

/// What the history holds beside its numbers.
pub(crate) struct Recorded {
    pub(crate) store: Store,
    pub(crate) concept: usize,
    pub(crate) segment: String,
    pub(crate) settings: JudgeSettings,
}

/// Names of the world's concepts, as a bundle would give them.
pub(crate) fn names() -> BTreeMap<StreamId, (String, String)> {
    let latent = |idx: usize| StreamId::Latent(LatentId(u32::try_from(idx).unwrap()));
    let verification = |idx: usize| if idx % 5 == 4 { ("?", "proposed") } else { ("", "accepted") };
    (0..N_CONCEPTS).map(|idx| (latent(idx), (concept_name(idx) + verification(idx).0, verification(idx).1.to_owned()))).collect()
}

/// Writes the history into a new store at `path`.
pub(crate) fn record(path: &Path, seed: u64) -> Recorded {
    let mut world = World::new(seed, START_MS).unwrap();
    let shift = world.plant_shift(REFERENCE_WINDOWS + 12..REFERENCE_WINDOWS + 20).clone();
    let settings = JudgeSettings { harmonics: Some(1), budget_windows: BUDGET, ..JudgeSettings::hourly(N_CONCEPTS) };
    let mut store = Store::open(path).unwrap();
    store.begin_lineage("counting-hash", "presence by entity, 1 h windows, SAE 8c1f5e20", &WINDOWS, START_MS).unwrap();
    let windows: Vec<ClosedWindow> = (0..REFERENCE_WINDOWS).map(|window| closed(&world, window)).collect();
    for window in &windows {
        commit(&mut store, window.clone(), warmup_report(window, Verdict::Warmup), Vec::new());
    }
    let reference = Reference::fit("first-v12", "8c1f5e20", &windows, &settings).unwrap();
    let now = START_MS + i64::try_from(REFERENCE_WINDOWS).unwrap() * WINDOW_MS;
    store.put_fitted(&reference, now).unwrap();
    store.approve_reference("first-v12", &Approval { who: "ana".into(), why: "three quiet days".into(), at_ms: now + 7_200_000 }).unwrap();
    let mut judge = ModelJudge::new(Arc::new(reference), settings.clone()).unwrap();
    for window in (REFERENCE_WINDOWS..N_WINDOWS).filter(|window| !STOPPED.contains(window)) {
        let closed = closed(&world, window);
        let report = judge.judge(&closed);
        let at_ms = report.end_ms + 1_500_000;
        commit(&mut store, closed, report, rmp_serde_bytes(&judge));
        act(&mut store, window, at_ms);
    }
    let segment = format!("surface={}", shift.surface_name());
    Recorded { store, concept: shift.concept, segment, settings }
}

fn rmp_serde_bytes(judge: &ModelJudge) -> Vec<u8> {
    serde_json::to_vec(&judge.state()).unwrap()
}

/// Two versions side by side: users by parity, the same world, but that the second version shows `concept`
/// in one more record of seven.
pub(crate) fn record_two_versions(path: &Path, seed: u64, concept: usize, n_windows: u64) {
    let world = World::new(seed, START_MS).unwrap();
    let mut store = Store::open(path).unwrap();
    store.begin_lineage("counting-hash", "two versions", &WINDOWS, START_MS).unwrap();
    for window in 0..n_windows {
        let mut records = world.window(window).records;
        // Who is served which version changes with the window: two fixed halves of the users differ in taste, and the
        // comparison would rightly say so.
        let version_of = |user: u64| (user + window) % 2;
        for (idx, record) in records.iter_mut().enumerate() {
            if version_of(record.user as u64) == 1 && idx % 7 == 0 && !record.concepts.contains(&concept) {
                record.concepts.push(concept);
            }
        }
        let start_ms = world.window_start_ms(window);
        let models = [("v12", 0), ("v13", 1)].map(|(version, parity)| {
            let counts = count(records.iter().filter(|record| version_of(record.user as u64) == parity), window, false);
            let window = ClosedWindow {
                start_ms,
                end_ms: start_ms + WINDOW_MS,
                model_version: version.into(),
                segments: BTreeMap::from([(ALL.to_owned(), counts)]),
                rejected: BTreeMap::new(),
                offsets: Vec::new(),
                incomplete: None,
            };
            let report = warmup_report(&window, Verdict::Warmup);
            JudgedModel { window, report, state: Vec::new(), concepts: BTreeMap::new() }
        });
        commit_all(&mut store, (start_ms, start_ms + WINDOW_MS), models.into());
    }
}

/// People do something about the first alert, once each.
fn act(store: &mut Store, window: u64, at_ms: i64) {
    let firing: Vec<_> = store.read().alerts(0).unwrap().into_iter().filter(|alert| alert.state == AlertState::Firing).collect();
    let Some(alert) = firing.last() else { return };
    let action = |action, who: &str, why: &str, until_ms| AlertAction { action, who: who.into(), why: why.into(), at_ms, until_ms };
    match alert.actions.len() {
        0 => drop(store.act(alert.id, &action(ActionKind::Acknowledge, "ana", "looking at the campaign calendar", None)).unwrap()),
        1 if window.is_multiple_of(6) => {
            let mute = action(ActionKind::Mute, "bo", "known: spring campaign, ends on Monday", Some(at_ms + 48 * 3_600_000));
            drop(store.act(alert.id, &mute).unwrap());
        }
        _ => {}
    }
}

fn commit(store: &mut Store, window: ClosedWindow, report: DriftReport, state: Vec<u8>) {
    let (start_ms, end_ms) = (window.start_ms, window.end_ms);
    commit_all(store, (start_ms, end_ms), vec![JudgedModel { window, report, state, concepts: BTreeMap::new() }]);
}

fn commit_all(store: &mut Store, (start_ms, end_ms): (i64, i64), models: Vec<JudgedModel>) {
    let judgement = Judgement { start_ms, end_ms, n_partials: 0, models, admitted: Vec::new(), judged_ms: end_ms + 660_000 };
    assert_eq!(store.commit_judgement(&judgement).unwrap(), JudgementOutcome::Stored);
}

/// One window, counted the slow way.
pub(crate) fn closed(world: &World, window: u64) -> ClosedWindow {
    let records = world.window(window).records;
    let broken = BROKEN.contains(&window);
    let mut segments = BTreeMap::from([(ALL.to_owned(), count(records.iter(), window, broken))]);
    for surface in ["home", "search", "mail"] {
        segments.insert(format!("surface={surface}"), count(records.iter().filter(|record| record.surface == surface), window, broken));
    }
    let start_ms = world.window_start_ms(window);
    let first = i64::try_from(window).unwrap() * 2000;
    let offsets = |partition: i32| OffsetRange {
        partition: TopicPartition { topic: "recommendations".into(), partition },
        from: first,
        to: first + i64::try_from(records.len()).unwrap() / 2,
    };
    ClosedWindow {
        start_ms,
        end_ms: start_ms + WINDOW_MS,
        model_version: VERSION.into(),
        segments,
        rejected: if window % 11 == 3 { BTreeMap::from([(RejectReason::MalformedJson, 3 + window % 40)]) } else { BTreeMap::new() },
        offsets: vec![offsets(0), offsets(1)],
        incomplete: None,
    }
}

/// Sums of the records of one segment.
pub(crate) fn count<'a>(records: impl Iterator<Item = &'a Served>, window: u64, broken: bool) -> SegmentCounts {
    let mut counts = SegmentCounts { fired: vec![0; N_CONCEPTS], presence: vec![0; N_CONCEPTS], ..SegmentCounts::default() };
    counts.presence_by_bucket = vec![0; N_BUCKETS * N_CONCEPTS];
    let mut users: BTreeMap<u32, (u32, BTreeSet<usize>)> = BTreeMap::new();
    for record in records {
        counts.records += 1;
        let user = users.entry(record.user).or_default();
        user.0 += 1;
        for &concept in &record.concepts {
            counts.fired[concept] += 1;
            user.1.insert(concept);
        }
    }
    for (n_records, concepts) in users.into_values() {
        let bucket = bucket_of(n_records);
        counts.entities[bucket] += 1;
        for concept in concepts {
            counts.presence[concept] += 1;
            counts.presence_by_bucket[bucket * N_CONCEPTS + concept] += 1;
        }
    }
    counts.contract = contract(counts.records, window, broken);
    counts
}

/// Sums that read as an FVU about 0.08, or 0.9 where the vectors are not the SAE's.
fn contract(n: u64, window: u64, broken: bool) -> ContractSums {
    let records = n as f64;
    let wobble = 1.0 + 0.06 * ((window * 7919 % 13) as f64 / 13.0 - 0.5);
    let fvu = if broken { 0.9 } else { 0.08 * wobble };
    ContractSums {
        n,
        squared_error: fvu * records,
        cosine: if broken { 0.4 } else { 0.96 } * records,
        norm_ratio: if broken { 0.5 } else { 0.95 } * records,
        n_active: 3 * n,
        squared_norm: records,
        sum: vec![0.0; D_IN],
    }
}
