//! The store's rules: what a step does, that a window is judged once, what is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::alerts::AcceptedState;
use super::audit::Verification;
use super::judgement::{JudgedModel, Judgement, JudgementOutcome};
use super::reader::WindowQuery;
use super::references::{Approval, ReferenceEntry};
use super::step::{Step, StepOutcome};
use super::*;
use crate::drift::alert::{ActionKind, AlertAction};
use crate::drift::closed::{ClosedWindow, OffsetRange, PartialWindow};
use crate::drift::counts::{ContractSums, N_BUCKETS, SegmentCounts};
use crate::drift::partition::{LogMark, PartitionPosition};
use crate::drift::report::{
    AlertChange, AlertState, ContractReport, Crossing, Direction, DriftReport, MovedWith, SegmentReport, StreamReport, StreamState, Verdict,
};
use crate::drift::stream::StreamId;
use crate::drift::window::WindowSpec;
use crate::record::{RejectReason, TopicPartition};
use crate::sae::latent::LatentId;

mod every_row;
mod files;
mod lineages;
mod steps;

const WINDOW: WindowSpec = WindowSpec { length_ms: 1000, origin_ms: 0, lateness_ms: 0 };

fn partition(number: i32) -> TopicPartition {
    TopicPartition { topic: "recommendations".into(), partition: number }
}

fn counts() -> SegmentCounts {
    let mut entities = [0; N_BUCKETS];
    entities[3] = 7;
    SegmentCounts {
        records: 31,
        fired: vec![0, 5, 0, 0, 9],
        magnitude: vec![0.0, 0.1 + 0.2, 0.0, 0.0, 1e-300],
        entities,
        presence: vec![0, 3, 0, 0, 7],
        presence_by_bucket: vec![0; 60],
        family_presence: Vec::new(),
        kish: vec![u64::MAX, 0, 1],
        kish_exposure: 99,
        dead_record: 1,
        residual: vec![0; 128],
        contract: ContractSums { n: 31, squared_error: 0.5, sum: vec![0.0, -1.5], ..ContractSums::default() },
    }
}

fn partial(number: i32, start_ms: i64) -> PartialWindow {
    PartialWindow {
        partition: partition(number),
        start_ms,
        end_ms: start_ms + 1000,
        models: BTreeMap::from([(String::new(), BTreeMap::from([("_all".to_owned(), counts())]))]),
        rejected: BTreeMap::from([(RejectReason::Late, 2)]),
        offsets: 10..41,
        seen: BTreeMap::from([("surface=new".to_owned(), 4)]),
        entity_sketch: vec![3, u64::MAX],
        incomplete: None,
    }
}

fn position(next_offset: i64, replay_offset: i64) -> PartitionPosition {
    let rejected = BTreeMap::from([(RejectReason::Late, 1)]);
    PartitionPosition {
        next_offset,
        replay_offset,
        watermark_ms: i64::MIN,
        n_late: 1,
        rejected,
        gap: None,
        mark: Some(LogMark { offset: next_offset - 1, timestamp_ms: 7 }),
    }
}

fn step(number: i32, starts_at: i64, next_offset: i64, closed: Vec<PartialWindow>) -> Step {
    Step { partition: partition(number), starts_at, position: position(next_offset, starts_at), closed }
}

fn crossing(latent: u32, start_ms: i64) -> Crossing {
    Crossing {
        window_start_ms: start_ms,
        window_end_ms: start_ms + 1000,
        model_version: String::new(),
        segment: "_all".into(),
        stream: StreamId::Latent(LatentId(latent)),
        direction: Direction::Up,
        evidence_log: 12.25,
        threshold_log: 11.5,
        ratio: 2.0,
        ratio_low: 1.5,
        ratio_high: f64::INFINITY,
        began_ms: start_ms - 5000,
        began_low_ms: start_ms - 6000,
        began_high_ms: start_ms - 4000,
        exposure: 7.5,
        mde_ratio: f64::NAN,
        reference: "first".into(),
        rate_ratio: Some(1.1 + 0.2),
        rate_low: Some(1.2),
        rate_high: Some(1.0 / 0.7),
        part_of: Some("family:2".into()),
        moved_with: vec![MovedWith { stream: StreamId::Family(2), ratio: 0.1 + 0.2, nats: 3.1, same_family: true }],
    }
}

fn judgement(start_ms: i64, n_partials: usize, changes: Vec<AlertChange>) -> Judgement {
    let window = ClosedWindow {
        start_ms,
        end_ms: start_ms + 1000,
        model_version: String::new(),
        segments: BTreeMap::from([("_all".to_owned(), counts())]),
        rejected: BTreeMap::from([(RejectReason::Late, 2)]),
        offsets: vec![OffsetRange { partition: partition(0), from: 10, to: 41 }],
        incomplete: None,
    };
    let stream = StreamReport {
        stream: StreamId::Latent(LatentId(1)),
        state: StreamState::Warn,
        evidence_log: 0.1 + 0.2,
        threshold_log: 11.5,
        count: 3.0,
        expected: 2.0,
        exposure: 7.0,
        dispersion: 1.0,
        ratio: 1.5,
        ratio_low: 0.5,
        ratio_high: f64::INFINITY,
        mde_ratio: 2.0,
    };
    let report = DriftReport {
        start_ms,
        end_ms: start_ms + 1000,
        model_version: String::new(),
        reference: Some("first".into()),
        segments: vec![SegmentReport {
            segment: "_all".into(),
            verdict: Verdict::Judged,
            why: None,
            records: 31,
            entities: 7,
            units: None,
            parts: Vec::new(),
            streams: vec![stream],
            concentration: Some(1.01),
            session_mix: None,
            contract: ContractReport { fvu: Some(0.25), l0: 8.0, ..ContractReport::default() },
            psi: Some((0.1, 0.05)),
            js: None,
        }],
        changes,
    };
    let state = start_ms.to_le_bytes().to_vec();
    Judgement {
        start_ms,
        end_ms: start_ms + 1000,
        n_partials,
        models: vec![JudgedModel { window, report, state, concepts: BTreeMap::new() }],
        admitted: vec![("surface=new".into(), start_ms + 5000)],
        judged_ms: start_ms + 1500,
    }
}

fn temp() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recsae.db");
    (folder, path)
}

fn open(path: &Path) -> Store {
    let mut store = Store::open(path).unwrap();
    store.begin_lineage("hash", "presence, 1 h", &WINDOW, 1).unwrap();
    store
}

#[test]
fn what_is_judged_next_is_found_without_a_look_at_what_was_judged() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    for i in 1..=30 {
        assert_eq!(store.apply_step(&step(0, i, i + 1, vec![partial(0, 1000 * i)])).unwrap(), StepOutcome::Applied);
        assert_eq!(store.read().oldest_unjudged().unwrap().map(|window| window.start_ms), Some(1000 * i.min(3)));
        if i < 3 {
            assert_eq!(store.commit_judgement(&judgement(1000 * i, 1, vec![])).unwrap(), JudgementOutcome::Stored);
        }
    }
    let explain = format!("EXPLAIN QUERY PLAN {}", crate::store::reader::OLDEST_UNJUDGED);
    let reader = store.read();
    let mut statement = reader.connection.prepare(&explain).unwrap();
    let plan: Vec<String> = statement.query_map([], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
    assert!(plan[0].contains("USING INDEX partials_unjudged") && !plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
}

#[test]
fn a_window_is_judged_once_from_all_its_parts() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    for number in 0..2 {
        assert_eq!(store.apply_step(&step(number, 0, 41, vec![partial(number, 1000)])).unwrap(), StepOutcome::Applied);
    }
    assert_eq!(store.read().oldest_unjudged().unwrap().map(|window| window.start_ms), Some(1000));
    assert_eq!(store.commit_judgement(&judgement(1000, 1, vec![])).unwrap_err().kind(), "stale_partials");
    assert!(!store.read().is_judged(1000).unwrap());
    let judged = judgement(1000, 2, vec![]);
    assert_eq!(store.commit_judgement(&judged).unwrap(), JudgementOutcome::Stored);
    assert_eq!(store.commit_judgement(&judged).unwrap(), JudgementOutcome::AlreadyJudged);
    assert_eq!(store.read().oldest_unjudged().unwrap(), None);
    assert_eq!(store.read().admitted_segments().unwrap(), BTreeMap::from([("surface=new".to_owned(), 6000)]));
    drop(store);

    let reader = StoreReader::open(&path).unwrap();
    let (mut windows, mut reports) = (Vec::new(), Vec::new());
    reader
        .for_each_window(&WindowQuery::default(), |window| {
            windows.push(window);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    reader
        .for_each_report(&WindowQuery::default(), |report| {
            reports.push(report);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(windows, vec![judged.models[0].window.clone()]);
    assert_eq!(reports, vec![judged.models[0].report.clone()]);
    assert_eq!(reader.judge_state("").unwrap(), Some((1000, judged.models[0].state.clone())));
    let summaries = reader.summaries(&WindowQuery { segment: Some("_all".into()), ..WindowQuery::default() }).unwrap();
    assert_eq!((summaries[0].records, summaries[0].fvu, summaries[0].rejected), (31, Some(0.25), 2));
    assert_eq!(summaries[0].offsets, judged.models[0].window.offsets);
}

#[test]
fn an_alert_opens_crosses_again_and_recovers_and_keeps_its_evidence() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    let changes = vec![AlertChange::Opened(crossing(1, 1000)), AlertChange::Opened(crossing(2, 1000))];
    assert_eq!(store.commit_judgement(&judgement(1000, 0, changes)).unwrap(), JudgementOutcome::Stored);
    let changes = vec![AlertChange::CrossedAgain(crossing(1, 2000))];
    assert_eq!(store.commit_judgement(&judgement(2000, 0, changes)).unwrap(), JudgementOutcome::Stored);
    let recovered = AlertChange::Recovered { segment: "_all".into(), stream: StreamId::Latent(LatentId(1)), window_end_ms: 4000 };
    assert_eq!(store.commit_judgement(&judgement(3000, 0, vec![recovered])).unwrap(), JudgementOutcome::Stored);

    let alerts = store.read().alerts(10).unwrap();
    assert_eq!(
        alerts.iter().map(|alert| (alert.id, alert.state)).collect::<Vec<_>>(),
        [(2, AlertState::Firing), (1, AlertState::Recovered)]
    );
    assert_eq!((alerts[1].n_crossings, alerts[1].ended_ms, alerts[1].alerted_at_ms), (2, Some(4000), 2500));
    assert_eq!(alerts[1].opened.ratio_high, f64::INFINITY);
    let expected = crossing(1, 1000);
    assert_eq!((&alerts[1].opened.moved_with, &alerts[1].opened.part_of), (&expected.moved_with, &expected.part_of), "bit for bit");
    assert_eq!(alerts[1].opened.rate_high, expected.rate_high);
    assert!(alerts[1].opened.mde_ratio.is_nan());
    assert_eq!(store.read().alerts(0).unwrap().len(), 1, "firing ones are always listed");
}

#[test]
fn an_action_needs_a_name_and_a_reason_and_is_on_the_record() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    let opened = vec![AlertChange::Opened(crossing(1, 1000))];
    assert_eq!(store.commit_judgement(&judgement(1000, 0, opened)).unwrap(), JudgementOutcome::Stored);
    let act = |action, who: &str| AlertAction { action, who: who.into(), why: "known campaign".into(), at_ms: 9000, until_ms: Some(9500) };
    assert_eq!(store.act(1, &act(ActionKind::Mute, " ")).unwrap_err().kind(), "refused");
    assert_eq!(store.act(7, &act(ActionKind::Mute, "ana")).unwrap_err().kind(), "not_found");
    let muted = store.act(1, &act(ActionKind::Mute, "ana")).unwrap();
    assert!(muted.is_muted(9100) && !muted.is_muted(9500));
    let endless = AlertAction { until_ms: None, ..act(ActionKind::Mute, "ana") };
    assert_eq!(store.act(1, &endless).unwrap_err().kind(), "refused", "a mute has an end");
    let for_ever = AlertAction { until_ms: Some(i64::MAX), ..act(ActionKind::Mute, "ana") };
    assert!(store.act(1, &for_ever).unwrap_err().to_string().contains("at most a year"));
    assert_eq!(store.act(1, &act(ActionKind::Accept, "ana")).unwrap_err().kind(), "refused", "the detector's state must come with it");
    let level = AcceptedState { model_version: "v1".into(), window_start_ms: 1000, state: b"after".to_vec(), factor: 1.5 };
    assert_eq!(store.accept(1, &act(ActionKind::Accept, "ana"), &level).unwrap().state, AlertState::Accepted);
    assert_eq!(store.read().judge_state("v1").unwrap(), Some((1000, b"after".to_vec())), "one transaction");
    assert_eq!(store.act(1, &act(ActionKind::Mute, "ana")).unwrap_err().kind(), "refused");
    let mut kinds = Vec::new();
    let intact = store.read().verify_audit(|entry| kinds.push(entry.kind.clone())).unwrap();
    assert_eq!(kinds, ["lineage", "judged", "alert_opened", "action", "action"]);
    assert_eq!(intact, Verification::Intact { entries: 5, head: store.read().audit_head().unwrap() });
}

#[test]
fn verify_names_the_first_entry_that_was_touched() {
    let touch = |sql: &str| {
        let (_folder, path) = temp();
        let mut store = open(&path);
        for start in [1000, 2000, 3000] {
            assert_eq!(store.commit_judgement(&judgement(start, 0, vec![])).unwrap(), JudgementOutcome::Stored);
        }
        store.reader.connection.execute_batch(sql).unwrap();
        match store.read().verify_audit(|_| {}).unwrap() {
            Verification::Broken { entry, .. } => entry,
            Verification::Untold { what, .. } => panic!("{what}"),
            Verification::Intact { .. } => 0,
        }
    };
    assert_eq!(touch(""), 0);
    assert_eq!(touch("UPDATE audit SET body = replace(body, '3000', '3001') WHERE id = 3"), 3);
    assert_eq!(touch("DELETE FROM audit WHERE id = 2"), 2);
    let other_counts =
        "UPDATE judged_models SET counts = (SELECT report FROM judged_models WHERE window_start = 2000) WHERE window_start = 2000";
    assert_eq!(touch(other_counts), 3);
    let a_window = "DELETE FROM judged_segments WHERE window_start = 3000; DELETE FROM judged_models WHERE window_start = 3000";
    assert_eq!(touch(a_window), 4);
    assert_eq!(touch("DELETE FROM judged_segments"), 2, "the first of them");
    // A later break does not hide an earlier one, and what is told behind it does not count.
    let two = "UPDATE judged_segments SET fvu = 0.26 WHERE window_start = 2000; UPDATE audit SET body = replace(body, '3000', '3001') WHERE id = 4";
    assert_eq!(touch(two), 3);
}

#[test]
fn a_changed_way_of_counting_starts_a_lineage_and_keeps_the_old_windows() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    assert_eq!(store.apply_step(&step(0, 0, 41, vec![])).unwrap(), StepOutcome::Applied);
    assert_eq!(store.commit_judgement(&judgement(1000, 0, vec![])).unwrap(), JudgementOutcome::Stored);
    assert!(!store.begin_lineage("other", "", &WINDOW, 3).unwrap().continued);
    assert_eq!(store.read().summaries(&WindowQuery::default()).unwrap().len(), 0);
    assert_eq!(store.read().summaries(&WindowQuery { all_lineages: true, ..WindowQuery::default() }).unwrap().len(), 1);
}

#[test]
fn a_reference_is_immutable_under_its_name() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    let entry = |name: &str| ReferenceEntry {
        name: name.into(),
        fingerprint: "f".into(),
        created_ms: 1,
        from_ms: 0,
        to_ms: 8000,
        windows: 8,
        approval: None,
    };
    store.put_reference(&entry("spring"), b"rates").unwrap();
    store.put_reference(&entry("spring"), b"rates").unwrap();
    assert_eq!(store.put_reference(&entry("spring"), b"others").unwrap_err().kind(), "refused");
    let approval = Approval { who: "ana".into(), why: "self-check passed".into(), at_ms: 5 };
    assert_eq!(store.approve_reference("summer", &approval).unwrap_err().kind(), "not_found");
    store.approve_reference("spring", &approval).unwrap();
    let later = Approval { who: "bob".into(), why: "another reason".into(), at_ms: 9 };
    let refused = store.approve_reference("spring", &later).unwrap_err();
    assert!(refused.kind() == "refused" && refused.to_string().contains("approved by \"ana\""), "{refused}");
    store.put_reference(&entry("autumn"), b"rates").unwrap();
    for (who, why) in [("", "a reason"), ("ana", " ")] {
        let blank = Approval { who: who.into(), why: why.into(), at_ms: 9 };
        assert_eq!(store.approve_reference("autumn", &blank).unwrap_err().kind(), "refused", "{blank:?}");
    }
    assert_eq!(store.put_reference(&entry(" "), b"rates").unwrap_err().kind(), "refused");
    let (found, body) = store.read().reference("spring").unwrap().unwrap();
    assert_eq!((found.approval, body.as_slice()), (Some(approval), b"rates".as_slice()));
}
