//! The rules of the exported series: no merged labels, capped, never without what warns.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use super::*;
use crate::drift::report::DriftReport;
use crate::drift::stream::StreamId;
use crate::record::TopicPartition;
use crate::sae::latent::LatentId;
use crate::snapshot::{ConceptName, PartitionFacts};

fn stream(latent: u32, state: StreamState, evidence_log: f64) -> StreamReport {
    let (count, expected, exposure) = (3.0, 2.0, 100.0);
    let stream = StreamId::Latent(LatentId(latent));
    let (ratio_high, mde_ratio) = (f64::INFINITY, f64::NAN);
    StreamReport {
        stream,
        state,
        evidence_log,
        threshold_log: 9.5,
        count,
        expected,
        exposure,
        dispersion: 1.0,
        ratio: 1.5,
        ratio_low: 0.5,
        ratio_high,
        mde_ratio,
    }
}

fn model(version: &str, segments: Vec<(&str, Vec<StreamReport>)>) -> ModelPicture {
    let segments = segments.into_iter().map(|(segment, streams)| SegmentReport {
        segment: segment.into(),
        verdict: Verdict::Judged,
        why: None,
        records: 10,
        entities: 5,
        units: None,
        parts: Vec::new(),
        streams,
        concentration: Some(1.0),
        session_mix: None,
        contract: ContractReport { fvu: Some(0.25), l0: 8.0, ..ContractReport::default() },
        psi: Some((0.2, 0.1)),
        js: None,
    });
    let report = DriftReport {
        start_ms: 0,
        end_ms: 1,
        model_version: version.into(),
        reference: None,
        segments: segments.collect(),
        changes: Vec::new(),
    };
    ModelPicture {
        model_version: version.into(),
        fingerprint: "f".into(),
        d_sae: 4,
        report: Some(Arc::new(report)),
        ..ModelPicture::default()
    }
}

fn snapshot(models: Vec<ModelPicture>) -> Arc<Snapshot> {
    Arc::new(Snapshot { judging: true, models, history_head: "ab12".into(), ..Snapshot::default() })
}

fn limits(max_series: usize, top_concepts: usize, pinned: &[u32]) -> Limits {
    Limits { max_series, top_concepts, pinned: pinned.iter().map(|&latent| StreamId::Latent(LatentId(latent))).collect() }
}

fn lines(text: &DriftText, start: &str) -> Vec<String> {
    String::from_utf8(text.text.clone()).unwrap().lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
}

fn exported(text: &DriftText) -> BTreeSet<u32> {
    let latent = |line: &String| line.split("latent:").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    lines(text, "recsae_concept_state{").iter().map(latent).collect()
}

#[test]
fn label_sets_with_equal_concatenations_stay_apart() {
    let one = |version| model(version, vec![]);
    let mut models = vec![one("v1"), one("v11")];
    models[0] = model("v1", vec![("1home", vec![stream(1, StreamState::Ok, 1.0)])]);
    models[1] = model("v11", vec![("home", vec![stream(1, StreamState::Ok, 2.0)])]);
    let text = DriftSeries::new(limits(1000, 5, &[])).render(&snapshot(models), false);
    let found = lines(&text, "recsae_concept_evidence_log{");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found.contains(&"recsae_concept_evidence_log{model_version=\"v1\",segment=\"1home\",stream=\"latent:1\"} 1.0".into()),
        "{found:?}"
    );
    assert!(
        found.contains(&"recsae_concept_evidence_log{model_version=\"v11\",segment=\"home\",stream=\"latent:1\"} 2.0".into()),
        "{found:?}"
    );

    let live = Live::new(&[]);
    for (topic, partition) in [("t", 11), ("t1", 1)] {
        let facts = PartitionFacts { position: 1, end: Some(3), lag_seconds: Some(0.5), stalled: false };
        live.set_partition(&TopicPartition { topic: topic.into(), partition }, facts);
    }
    assert_eq!(String::from_utf8(live_text(&live.load())).unwrap().matches("recsae_consumer_lag_records{").count(), 2);
}

#[test]
fn the_cap_holds_and_never_drops_what_warns_or_is_pinned() {
    let mut streams: Vec<_> = (0..100).map(|latent| stream(latent, StreamState::Ok, f64::from(latent))).collect();
    streams[3].state = StreamState::Warn;
    streams[4].state = StreamState::Alert;
    let series = DriftSeries::new(limits(60, 50, &[5]));
    let text = series.render(&snapshot(vec![model("", vec![("_all", streams)])]), false);
    assert_eq!(exported(&text), BTreeSet::from([3, 4, 5, 97, 98, 99]));
    assert_eq!(lines(&text, "recsae_series_dropped_total"), ["recsae_series_dropped_total 470.0"]);
    assert!(text.n_series < 60 + 30);

    let all_warn: Vec<_> = (0..100).map(|latent| stream(latent, StreamState::Warn, 0.0)).collect();
    let text = series.render(&snapshot(vec![model("", vec![("_all", all_warn)])]), false);
    assert_eq!(exported(&text).len(), 100, "a warning is worth more than the cap");
}

#[test]
fn a_stream_once_exported_stays_until_restart() {
    let rising = |top: u32| {
        let streams = (0..20).map(|latent| stream(latent, StreamState::Ok, if latent == top { 5.0 } else { 0.0 })).collect();
        snapshot(vec![model("", vec![("_all", streams)])])
    };
    let series = DriftSeries::new(limits(1000, 1, &[]));
    assert_eq!(exported(&series.render(&rising(7), false)), BTreeSet::from([7]));
    assert_eq!(exported(&series.render(&rising(2), false)), BTreeSet::from([2, 7]));
    let gone = series.render(&snapshot(vec![model("", vec![("_all", vec![])])]), false);
    assert_eq!(exported(&gone), BTreeSet::from([2, 7]));
    assert!(lines(&gone, "recsae_concept_state{").iter().all(|line| line.ends_with(" -1.0")));
}

#[test]
fn an_unchanged_snapshot_is_written_once() {
    let series = DriftSeries::new(limits(1000, 5, &[]));
    let picture = snapshot(vec![model("", vec![("_all", vec![stream(1, StreamState::Ok, 1.0)])])]);
    assert!(Arc::ptr_eq(&series.render(&picture, false), &series.render(&picture, false)));
    let test = series.render(&picture, true);
    assert_eq!(
        lines(&test, "recsae_concept_state{model_version=\"test\""),
        ["recsae_concept_state{model_version=\"test\",segment=\"test\",stream=\"test\"} 2.0"]
    );
    assert!(lines(&series.render(&picture, false), "recsae_concept_state{model_version=\"test\"").is_empty());
}

#[test]
fn drift_series_come_from_the_judge_alone() {
    let mut picture = Snapshot {
        judging: true,
        models: vec![model("", vec![("_all", vec![stream(1, StreamState::Alert, 1.0)])])],
        ..Snapshot::default()
    };
    picture.judging = false;
    let text = DriftSeries::new(limits(1000, 5, &[])).render(&Arc::new(picture), false);
    assert!(lines(&text, "recsae_concept").is_empty());
    assert_eq!(lines(&text, "recsae_judging"), ["recsae_judging 0.0"]);
}

#[test]
fn hostile_values_are_escaped_and_names_made_readable() {
    let mut hostile = model("v\"1\\", vec![("a=\"}\nb", vec![stream(1, StreamState::Ok, 1.0)])]);
    let name = ConceptName { name: "x\n\u{1}\"y".into(), verification: "proposed".into(), family: None };
    hostile.names = Arc::new(BTreeMap::from([(StreamId::Latent(LatentId(1)), name)]));
    let text = DriftSeries::new(limits(1000, 5, &[])).render(&snapshot(vec![hostile]), false);
    assert_eq!(
        lines(&text, "recsae_concept_ratio{"),
        [r#"recsae_concept_ratio{model_version="v\"1\\",segment="a=\"}\nb",stream="latent:1"} 1.5"#]
    );
    assert_eq!(
        lines(&text, "recsae_concept_ratio_high{"),
        [r#"recsae_concept_ratio_high{model_version="v\"1\\",segment="a=\"}\nb",stream="latent:1"} +Inf"#]
    );
    assert_eq!(
        lines(&text, "recsae_concept_info{"),
        [r#"recsae_concept_info{model_version="v\"1\\",stream="latent:1",concept="x  \"y",verification="proposed"} 1.0"#]
    );
}

#[test]
fn gzip_and_plain_answers_hold_the_same() {
    let cell = Arc::new(SnapshotCell::new(Snapshot {
        judging: true,
        models: vec![model("", vec![("_all", vec![stream(1, StreamState::Ok, 1.0)])])],
        ..Snapshot::default()
    }));
    let exposition =
        Exposition::new(cell, Arc::new(Live::new(&[])), Arc::new(ProcessMetrics::new("0", "0").unwrap()), limits(1000, 5, &[]));
    let mut unzipped = Vec::new();
    flate2::read::GzDecoder::new(exposition.render(0, true).as_slice()).read_to_end(&mut unzipped).unwrap();
    // What this process used of the CPU goes on between two answers.
    let but_cpu = |text: &str| text.lines().filter(|line| !line.starts_with("recsae_stage_seconds_total{")).collect::<Vec<_>>().join("\n");
    let text = String::from_utf8(unzipped).unwrap();
    assert_eq!(but_cpu(&text), but_cpu(std::str::from_utf8(&exposition.render(0, false)).unwrap()));
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "each metric is described once");
}
