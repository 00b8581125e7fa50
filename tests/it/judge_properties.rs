//! What must hold of the judge whatever comes: order of partitions, files written and read back,
//! malformed files, series that straddle the gate.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray, TimestampMillisecondArray};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recsae::drift::closed::{ALL, ClosedWindow};
use recsae::drift::counts::{N_BUCKETS, N_RESIDUAL_BINS, SegmentCounts, WEIGHT_ONE};
use recsae::drift::judge::ModelJudge;
use recsae::drift::observed::{Observed, ObservedWindow};
use recsae::drift::reference::{Reference, ReferenceError};
use recsae::drift::report::{AlertChange, DriftReport, Verdict};
use recsae::drift::settings::{CountingUnit, JudgeSettings};
use recsae::drift::unjudged::warmup_report;
use recsae::workshop::windows_file::read_windows;
use recsae::workshop::windows_writer::WindowsWriter;

const M: usize = 12;
const HOUR: i64 = 3_600_000;

fn settings() -> JudgeSettings {
    JudgeSettings { harmonics: Some(0), weekend: Some(false), budget_windows: 50.0, ..JudgeSettings::hourly(M) }
}

fn counts(rng: &mut StdRng, scale: u32) -> SegmentCounts {
    let mut counts = SegmentCounts { presence_by_bucket: vec![0; N_BUCKETS * M], presence: vec![0; M], ..SegmentCounts::default() };
    for bucket in 0..N_BUCKETS {
        counts.entities[bucket] = rng.random_range(5..30);
        for latent in 0..M {
            let shown = if latent == 0 { scale * rng.random_range(0..4) } else { rng.random_range(0..4) };
            counts.presence_by_bucket[bucket * M + latent] = shown;
            counts.presence[latent] += shown;
        }
    }
    counts.records = 4 * counts.n_entities();
    counts.kish_exposure = rng.random_range(1..WEIGHT_ONE) * 300;
    counts.residual = (0..N_RESIDUAL_BINS).map(|_| rng.random_range(0..WEIGHT_ONE)).collect();
    counts.dead_record = rng.random_range(0..WEIGHT_ONE);
    counts
}

fn window(t: i64, parts: &[SegmentCounts]) -> ClosedWindow {
    let mut all = SegmentCounts::default();
    parts.iter().for_each(|part| all.merge(part));
    ClosedWindow {
        start_ms: t * HOUR,
        end_ms: (t + 1) * HOUR,
        model_version: "v1".into(),
        segments: [(ALL.to_owned(), all.clone()), ("surface=home".to_owned(), all)].into(),
        rejected: BTreeMap::new(),
        offsets: Vec::new(),
        incomplete: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_order_of_partitions_does_not_change_a_byte(seed in any::<u64>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        for t in 0..40 {
            let parts: Vec<_> = (0..3).map(|_| counts(&mut rng, if t < 20 { 1 } else { 3 })).collect();
            let reversed: Vec<_> = parts.iter().rev().cloned().collect();
            forward.push(window(t, &parts));
            backward.push(window(t, &reversed));
        }
        let judge = |windows: &[ClosedWindow]| {
            let reference = Reference::fit("r", "f", &windows[..16], &settings()).unwrap();
            let bytes = serde_json::to_string(&reference).unwrap();
            let mut judge = ModelJudge::new(Arc::new(reference), settings()).unwrap();
            let reports: Vec<_> = windows[16..].iter().map(|window| judge.judge(window)).collect();
            assert!(reports.iter().any(|report| !report.changes.is_empty()), "latent 0 triples");
            (bytes, serde_json::to_string(&reports).unwrap(), serde_json::to_string(&judge.state()).unwrap())
        };
        prop_assert_eq!(judge(&forward), judge(&backward));
    }

    #[test]
    fn written_windows_are_read_back_as_they_were_counted(seed in any::<u64>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let windows: Vec<ClosedWindow> = (0..10).map(|t| window(t, &[counts(&mut rng, 1)])).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("windows.parquet");
        let mut writer = WindowsWriter::create(&path, CountingUnit::Presence, Some(100)).unwrap();
        windows.iter().for_each(|window| writer.write(window).unwrap());
        writer.finish().unwrap();
        let file = read_windows(&path, CountingUnit::Presence, |_| 4).unwrap();
        for (t, (found, window)) in file.models["v1"].iter().zip(&windows).enumerate() {
            let expected = ObservedWindow::of(window, CountingUnit::Presence, Some(100), t < 4);
            prop_assert_eq!(found, &expected);
        }
    }
}

#[test]
fn a_series_that_straddles_the_gate_notifies_at_most_twice_in_200_windows() {
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut most, mut alarmed) = (0, 0);
    for _ in 0..12 {
        let observed = |t: i64, ratio: f64, rng: &mut StdRng| {
            let mut all = Observed { latents: vec![100.0; M], records: 4000.0, kish_exposure: 3000.0, ..Observed::default() };
            all.entities[3] = 1000.0;
            all.latents.iter_mut().for_each(|y| *y += (rng.random::<f64>() - 0.5) * 34.6);
            all.latents[0] *= ratio;
            all.by_bucket = vec![0.0; N_BUCKETS * M];
            all.by_bucket[3 * M..4 * M].copy_from_slice(&all.latents);
            ObservedWindow {
                start_ms: t * HOUR,
                end_ms: (t + 1) * HOUR,
                model_version: String::new(),
                incomplete: None,
                segments: [(ALL.to_owned(), all)].into(),
            }
        };
        let windows: Vec<_> = (0..100).map(|t| observed(t, 1.0, &mut rng)).collect();
        let reference = Reference::fit_observed("r", "f", &windows, &settings()).unwrap();
        let defaults = JudgeSettings { budget_windows: 720.0, ..settings() };
        let mut judge = ModelJudge::new(Arc::new(reference), defaults).unwrap();
        let (swing, block) = (rng.random_range(0.0..0.5), rng.random_range(1..=20));
        let mut notifications = 0;
        for t in 0..200 {
            // The gate of such a stream lies at 1 %: up and down around it, by anything for up to 20 windows.
            let ratio = if (t / block) % 2 == 0 { 1.01 * (1.0 + swing) } else { 1.01 / (1.0 + swing) };
            let report = judge.judge_observed(&observed(100 + t, ratio, &mut rng));
            notifications += report
                .changes
                .iter()
                .filter(|change| match change {
                    AlertChange::Opened(crossing) => crossing.stream.to_string() == "latent:0",
                    AlertChange::Recovered { stream, .. } => stream.to_string() == "latent:0",
                    AlertChange::CrossedAgain(_) | AlertChange::Relapsing(_) => false,
                })
                .count();
        }
        println!("swing {swing:.3}, {block} windows out and {block} in: {notifications} notifications");
        most = most.max(notifications);
        alarmed += usize::from(notifications > 0);
    }
    // One series in 4,000 that alarm may bring three: a false alarm of the test itself once in 500 runs.
    assert!(most <= 2, "{most} notifications");
    assert!(alarmed > 0, "nothing was tested");
}

#[test]
fn a_window_without_a_verdict_says_why_and_keeps_the_evidence() {
    let mut rng = StdRng::seed_from_u64(rand::rng().random());
    let windows: Vec<_> = (0..20).map(|t| window(t, &[counts(&mut rng, 1)])).collect();
    let reference = Arc::new(Reference::fit("r", "f", &windows[..16], &settings()).unwrap());
    let mut judge = ModelJudge::new(Arc::clone(&reference), settings()).unwrap();
    let before = judge.state();
    let verdict = |judge: &mut ModelJudge, window: &ClosedWindow| judge.judge(window).segments[0].verdict;

    let incomplete = ClosedWindow { incomplete: Some("too many entities".into()), ..windows[16].clone() };
    assert_eq!(verdict(&mut judge.clone(), &incomplete), Verdict::Incomplete);
    let mut tiny = windows[16].clone();
    tiny.segments.values_mut().for_each(|counts| counts.entities = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(verdict(&mut judge.clone(), &tiny), Verdict::Volume);
    let mut long = windows[16].clone();
    long.segments.values_mut().for_each(|counts| counts.entities = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200]);
    assert_eq!(verdict(&mut judge.clone(), &long), Verdict::SessionMix);
    let mut stranger = windows[16].clone();
    stranger.segments.insert("surface=tv".into(), counts(&mut rng, 1));
    let report = judge.clone().judge(&stranger);
    assert_eq!(report.segments.iter().find(|segment| segment.segment == "surface=tv").unwrap().verdict, Verdict::InsufficientReference);

    judge.judge(&ClosedWindow { incomplete: Some("lost".into()), ..windows[16].clone() });
    let mut same = ModelJudge::new(reference, settings()).unwrap();
    same.restore(before).unwrap();
    assert_eq!(judge.judge(&windows[17]), same.judge(&windows[17]));
    assert_eq!(warmup_report(&windows[0], Verdict::Warmup).segments[0].verdict, Verdict::Warmup);
}

#[test]
fn too_few_windows_make_no_reference() {
    let mut rng = StdRng::seed_from_u64(1);
    let windows: Vec<_> = (0..7).map(|t| window(t, &[counts(&mut rng, 1)])).collect();
    assert!(matches!(Reference::fit("r", "f", &windows, &settings()), Err(ReferenceError::TooShort { n_windows: 7, .. })));
    assert!(matches!(Reference::fit("r", "f", &[], &settings()), Err(ReferenceError::TooShort { n_windows: 0, .. })));
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Two rows of which the second is given.
fn file_with(path: &Path, end: i64, stream: &str, bucket: Option<i32>, value: f64) {
    write(
        path,
        vec![
            ("window_start", Arc::new(TimestampMillisecondArray::from(vec![0, 0])) as ArrayRef),
            ("window_end", Arc::new(TimestampMillisecondArray::from(vec![HOUR, end]))),
            ("model_version", Arc::new(StringArray::from(vec!["", ""]))),
            ("segment", Arc::new(StringArray::from(vec![ALL, ALL]))),
            ("stream", Arc::new(StringArray::from(vec!["records", stream]))),
            ("bucket", Arc::new(Int32Array::from(vec![None, bucket]))),
            ("value", Arc::new(Float64Array::from(vec![1.0, value]))),
        ],
    );
}

#[test]
fn malformed_windows_files_are_refused_with_row_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.parquet");
    let refusal = |path: &Path| read_windows(path, CountingUnit::Presence, |_| 0).unwrap_err().to_string();
    for (end, stream, bucket, value, expected) in [
        (HOUR, "latent:1", Some(6), 1.0, "row 1, column `bucket`"),
        (HOUR, "latent:x", None, 1.0, "row 1, column `stream`"),
        (HOUR, "latent:4294967295", None, 1.0, "row 1, column `stream`"),
        (HOUR, "latent:1", None, -1.0, "row 1, column `value`"),
        (HOUR, "latent:1", None, f64::NAN, "row 1, column `value`"),
        (HOUR, "entities", None, 1.0, "row 1, column `bucket`"),
        (0, "latent:1", None, 1.0, "row 1, column `window_end`"),
        (2 * HOUR, "latent:1", None, 1.0, "row 1, column `window_end`"),
    ] {
        file_with(&path, end, stream, bucket, value);
        assert!(refusal(&path).contains(expected), "{}", refusal(&path));
    }
    write(&path, vec![("window_start", Arc::new(Int32Array::from(vec![1])))]);
    assert!(refusal(&path).contains("column `window_start`: expected a timestamp, found Int32"), "{}", refusal(&path));
    std::fs::write(&path, b"not parquet").unwrap();
    assert!(refusal(&path).contains("as Parquet"));
    assert!(refusal(&folder.path().join("absent")).contains("cannot open"));
}

/// How often a level is accepted in one test.
const N_LEVELS: usize = 20;
/// Enough latents that one of them does not move the concentration factor, which is a ratio over all.
const MANY: usize = 300;

/// Windows of 100 expected counts a latent; latent 0 times `ratio`, with Poisson-like noise.
fn level(t: i64, ratio: f64, rng: &mut StdRng) -> ObservedWindow {
    let mut all = Observed { latents: vec![100.0; MANY], records: 4000.0, kish_exposure: 3000.0, ..Observed::default() };
    all.entities[3] = 1000.0;
    all.latents[0] *= ratio;
    all.latents.iter_mut().for_each(|y| *y = (*y + (rng.random::<f64>() - 0.5) * 34.6 * (*y / 100.0).sqrt()).max(0.0));
    all.by_bucket = vec![0.0; N_BUCKETS * MANY];
    all.by_bucket[3 * MANY..4 * MANY].copy_from_slice(&all.latents);
    let segments = [(ALL.to_owned(), all)].into();
    ObservedWindow { start_ms: t * HOUR, end_ms: (t + 1) * HOUR, model_version: String::new(), incomplete: None, segments }
}

#[test]
fn an_accepted_level_is_what_is_expected_from_then_on() {
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let alarms: usize = (0..N_LEVELS).map(|_| alarms_on_an_accepted_level(&mut rng)).sum();
    println!("{alarms} alarms in {N_LEVELS} times 200 windows");
    // The budget of these settings, one in 50 windows over all streams, leaves .3 to this one in all these windows.
    assert!(alarms <= 3, "the accepted level is not drift: {alarms} alarms in {N_LEVELS} times 200 windows");
}

/// A doubling is found and accepted; alarms on it in the 200 windows that follow. Going back is drift again.
fn alarms_on_an_accepted_level(rng: &mut StdRng) -> usize {
    let settings = || JudgeSettings { n_latents: MANY, ..settings() };
    let windows: Vec<_> = (0..100).map(|t| level(t, 1.0, rng)).collect();
    let reference = Arc::new(Reference::fit_observed("r", "f", &windows, &settings()).unwrap());
    let mut judge = ModelJudge::new(Arc::clone(&reference), settings()).unwrap();
    let stream = "latent:0".parse().unwrap();
    assert_eq!(judge.accept(ALL, stream).unwrap_err().kind(), "not_in_alert");
    assert_eq!(judge.accept("surface=tv", stream).unwrap_err().kind(), "not_tested");
    let touches = |report: &DriftReport| {
        report.changes.iter().any(|change| matches!(change, AlertChange::Opened(c) | AlertChange::CrossedAgain(c) if c.stream == stream))
    };
    let found = (100..130).filter(|t| touches(&judge.judge_observed(&level(*t, 2.0, rng)))).count();
    assert!(found > 0, "the doubling is found");
    let accepted = judge.accept(ALL, stream).unwrap();
    assert!((1.8..2.2).contains(&accepted.factor), "{accepted:?}");

    // The same from a stored state, as after a restart.
    let stored = serde_json::to_string(&judge.state()).unwrap();
    let mut restored = ModelJudge::new(reference, settings()).unwrap();
    restored.restore(serde_json::from_str(&stored).unwrap()).unwrap();
    let mut alarms = 0;
    for t in 130..330 {
        let window = level(t, 2.0, rng);
        let report = judge.judge_observed(&window);
        assert_eq!(report, restored.judge_observed(&window));
        alarms += usize::from(touches(&report));
        let stream = report.segments[0].streams.iter().find(|found| found.stream == stream).unwrap();
        assert!((180.0..220.0).contains(&stream.expected), "{}", stream.expected);
    }
    let found = (330..360).filter(|t| touches(&judge.judge_observed(&level(*t, 1.0, rng)))).count();
    assert!(found > 0, "going back to the old level is drift now");
    alarms
}
