//! The judge beside the numpy yardstick, on scenes drawn anew at each run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use recsae::drift::judge::ModelJudge;
use recsae::drift::observed::ObservedWindow;
use recsae::drift::reference::Reference;
use recsae::drift::report::{AlertChange, Crossing, DriftReport, SegmentReport, StreamState, Verdict};
use recsae::drift::rolling::Rolling;
use recsae::drift::settings::{CountingUnit, JudgeSettings, WeekendAs};
use recsae::drift::special::{gamma_p_inverse, normal_cdf};
use recsae::sae::latent::LatentId;
use recsae::workshop::windows_file::read_windows;
use serde::Deserialize;

use crate::support;

#[derive(Deserialize)]
struct Expected {
    reference: usize,
    budget: f64,
    harmonics: usize,
    weekend: bool,
    weekend_as: WeekendAs,
    latents: usize,
    families: Vec<Vec<LatentId>>,
    segments: BTreeMap<String, ExpectedSegment>,
}

#[derive(Deserialize)]
struct ExpectedSegment {
    streams: Vec<String>,
    threshold: Vec<f64>,
    evidence: Vec<Option<Vec<f64>>>,
    alarms: Vec<ExpectedAlarm>,
    skipped: Vec<usize>,
}

#[derive(Debug, Deserialize)]
struct ExpectedAlarm {
    window: usize,
    stream: String,
    direction: String,
    evidence_log: f64,
    ratio: f64,
}

struct Scene {
    expected: Expected,
    windows: Vec<ObservedWindow>,
    settings: JudgeSettings,
}

#[expect(clippy::disallowed_methods, reason = "a fresh seed is the point")]
fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn yardstick() -> Option<(PathBuf, PathBuf, PathBuf)> {
    let python = support::python()?;
    let tools = support::data()?.parent()?.join("tools");
    if !tools.join("drift_reference.py").is_file() {
        support::skip("no yardstick (drift_reference.py beside the data)");
        return None;
    }
    Some((python, tools, support::repo().join("tests/scripts/drift_yardstick.py")))
}

fn scene(name: &str) -> Option<Scene> {
    let (python, tools, script) = yardstick()?;
    let seed = fresh_seed();
    println!("scene {name}, seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new(python)
        .arg(script)
        .args(["scene", "--scene", name, "--seed", &seed.to_string(), "--tools"])
        .arg(tools)
        .arg("--out")
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(status.success());
    let expected: Expected = serde_json::from_slice(&std::fs::read(folder.path().join("expected.json")).unwrap()).unwrap();
    let n_reference = expected.reference;
    let mut file = read_windows(&folder.path().join("windows.parquet"), CountingUnit::Presence, |starts| {
        if name == "rolling" { starts.len() } else { n_reference }
    })
    .unwrap();
    let windows = file.models.remove("v1").unwrap();
    let settings = JudgeSettings {
        budget_windows: expected.budget,
        harmonics: Some(expected.harmonics),
        weekend: Some(expected.weekend),
        weekend_as: expected.weekend_as,
        families: expected.families.clone(),
        ..JudgeSettings::hourly(expected.latents)
    };
    Some(Scene { expected, windows, settings })
}

fn judge_of(scene: &Scene) -> ModelJudge {
    let reference = Reference::fit_observed("scene", "", &scene.windows[..scene.expected.reference], &scene.settings).unwrap();
    ModelJudge::new(Arc::new(reference), scene.settings.clone()).unwrap()
}

fn crossings(report: &DriftReport) -> impl Iterator<Item = &Crossing> {
    report.changes.iter().filter_map(|change| match change {
        AlertChange::Opened(crossing) | AlertChange::CrossedAgain(crossing) | AlertChange::Relapsing(crossing) => Some(crossing),
        AlertChange::Recovered { .. } => None,
    })
}

fn near(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-9 * expected.abs().max(1.0)
}

/// Compares one segment of one window; returns how many evidences were compared.
fn compare(report: &SegmentReport, expected: &ExpectedSegment, t: usize, n_reference: usize) -> usize {
    let Some(evidence) = &expected.evidence[t - n_reference] else {
        let verdict = if expected.skipped.contains(&t) { Verdict::SessionMix } else { Verdict::Merging };
        assert_eq!(report.verdict, verdict, "window {t}");
        return 0;
    };
    assert_eq!(report.verdict, Verdict::Judged, "window {t} {:?}", report.why);
    let names: Vec<String> = report.streams.iter().map(|stream| stream.stream.to_string()).collect();
    assert_eq!(names, expected.streams);
    let mut compared = 0;
    for ((stream, evidence), threshold) in report.streams.iter().zip(evidence).zip(&expected.threshold) {
        assert!(near(stream.threshold_log, *threshold), "{}: {} is not {threshold}", stream.stream, stream.threshold_log);
        if stream.state != StreamState::Alert {
            let found = stream.evidence_log;
            assert!(near(found, evidence.max(0.0)), "window {t} {}: {found} is not {evidence}", stream.stream);
            compared += 1;
        }
    }
    compared
}

fn assert_equals_yardstick(name: &str) {
    let Some(scene) = scene(name) else { return };
    assert_scene_equals_yardstick(name, &scene);
}

fn assert_scene_equals_yardstick(name: &str, scene: &Scene) {
    let mut judge = judge_of(scene);
    let n_reference = scene.expected.reference;
    let mut rolling = (name == "rolling").then(|| Rolling::new(n_reference, scene.windows[..n_reference].iter().cloned()));
    let (mut compared, mut n_alarms, mut renewals) = (0, 0, 0);
    let mut found: BTreeMap<&str, Vec<Crossing>> = scene.expected.segments.keys().map(|name| (name.as_str(), Vec::new())).collect();
    for (t, window) in scene.windows.iter().enumerate().skip(n_reference) {
        let report = judge.judge_observed(window);
        for segment in &report.segments {
            compared += compare(segment, &scene.expected.segments[&segment.segment], t, n_reference);
        }
        if let Some(rolling) = &mut rolling {
            rolling.push(window.clone(), &report);
            if let Some(windows) = rolling.due() {
                let reference = Reference::fit_observed("renewed", "", windows, &scene.settings).unwrap();
                judge = judge.renewed(Arc::new(reference)).unwrap();
                renewals += 1;
            }
        }
        crossings(&report).for_each(|crossing| found.get_mut(crossing.segment.as_str()).unwrap().push(crossing.clone()));
    }
    let origin = scene.windows[0].start_ms;
    for (segment, expected) in &scene.expected.segments {
        let found = &found[segment.as_str()];
        n_alarms += found.len();
        assert_eq!(found.len(), expected.alarms.len(), "{segment}");
        // Two streams at the cap in one window have the same evidence but for rounding: compare by name.
        let mut found: Vec<&Crossing> = found.iter().collect();
        let mut alarms: Vec<&ExpectedAlarm> = expected.alarms.iter().collect();
        found.sort_by_key(|crossing| (crossing.window_start_ms, crossing.stream.to_string()));
        alarms.sort_by_key(|alarm| (alarm.window, alarm.stream.clone()));
        for (found, expected) in found.into_iter().zip(alarms) {
            let window = usize::try_from((found.window_start_ms - origin) / 3_600_000).unwrap();
            assert_eq!(
                (window, found.stream.to_string(), found.direction.kind()),
                (expected.window, expected.stream.clone(), expected.direction.as_str())
            );
            assert!(near(found.evidence_log, expected.evidence_log) && near(found.ratio, expected.ratio), "{found:?} is not {expected:?}");
        }
    }
    let n_skipped: usize = scene.expected.segments.values().map(|segment| segment.skipped.len()).sum();
    println!("scene {name}: {compared} evidences within 1e-9, {n_alarms} equal crossings, {n_skipped} windows skipped alike");
    assert!(compared > 1000 && n_alarms > 0);
    assert!(name != "session_mix" || n_skipped > 10);
    assert!(name != "rolling" || renewals > 3, "{renewals}");
}

#[test]
fn plain_windows_equal_the_yardstick() {
    assert_equals_yardstick("plain");
}

#[test]
fn a_weekend_level_equals_the_yardstick() {
    assert_equals_yardstick("weekend");
}

#[test]
fn a_weekend_that_multiplies_equals_its_numpy_twin() {
    assert_equals_yardstick("weekend_factor");
}

#[test]
fn windows_of_another_session_mix_are_skipped_as_the_yardstick_skips_them() {
    assert_equals_yardstick("session_mix");
}

#[test]
fn the_concentration_factor_equals_the_yardstick() {
    assert_equals_yardstick("concentration");
}

#[test]
fn a_segment_equals_the_yardstick() {
    assert_equals_yardstick("segment");
}

#[test]
fn latents_never_seen_equal_the_yardstick() {
    assert_equals_yardstick("never_seen");
}

#[test]
fn a_reference_of_eight_windows_equals_the_yardstick() {
    assert_equals_yardstick("short");
}

#[test]
fn families_equal_their_numpy_twin() {
    assert_equals_yardstick("families");
}

#[test]
fn merged_thin_windows_equal_their_numpy_twin() {
    assert_equals_yardstick("thin");
}

#[test]
fn a_rolling_reference_equals_its_numpy_twin() {
    assert_equals_yardstick("rolling");
}

#[test]
fn another_model_version_is_judged_by_the_reference_of_the_first_as_its_own_would_be() {
    let Some(mut scene) = scene("plain") else { return };
    let n_reference = scene.expected.reference;
    scene.windows[n_reference..].iter_mut().for_each(|window| window.model_version = "canary".to_owned());
    assert_scene_equals_yardstick("plain", &scene);
}

#[test]
fn a_restored_judge_continues_bit_for_bit() {
    let Some(scene) = scene("segment") else { return };
    let mut judge = judge_of(&scene);
    let mut restored = judge.clone();
    for window in &scene.windows[scene.expected.reference..] {
        let stored = serde_json::to_string(&judge.state()).unwrap();
        restored.restore(serde_json::from_str(&stored).unwrap()).unwrap();
        assert_eq!(judge.judge_observed(window), restored.judge_observed(window));
        assert_eq!(judge.state(), restored.state());
    }
    assert!(judge.has_judged(scene.windows[scene.expected.reference].start_ms));
}

#[test]
fn a_missing_window_leaves_the_evidence_as_it_is() {
    let Some(scene) = scene("plain") else { return };
    let (mut judge, mut with_gap) = (judge_of(&scene), judge_of(&scene));
    for (i, window) in scene.windows[scene.expected.reference..].iter().take(60).enumerate() {
        if i == 30 {
            let empty = ObservedWindow { segments: BTreeMap::new(), start_ms: window.start_ms - 1, ..window.clone() };
            assert_eq!(with_gap.judge_observed(&empty).segments[0].verdict, Verdict::NoData);
        }
        assert_eq!(judge.judge_observed(window), with_gap.judge_observed(window));
    }
}

#[test]
fn special_functions_equal_scipy_to_1e_12() {
    #[derive(Deserialize)]
    struct Rows {
        a: Vec<f64>,
        p: Vec<f64>,
        x: Vec<f64>,
        z: Vec<f64>,
        cdf: Vec<f64>,
    }
    let Some((python, _, script)) = yardstick() else { return };
    let seed = fresh_seed();
    println!("seed {seed}");
    let output = Command::new(python).arg(script).args(["special", "--seed", &seed.to_string()]).output().unwrap();
    assert!(output.status.success());
    let rows: Rows = serde_json::from_slice(&output.stdout).unwrap();
    let mut worst = (0.0_f64, 0.0, 0.0);
    for ((&a, &p), &x) in rows.a.iter().zip(&rows.p).zip(&rows.x) {
        let difference = (gamma_p_inverse(a, p) - x).abs() / x.max(f64::MIN_POSITIVE);
        if difference > worst.0 {
            worst = (difference, a, p);
        }
    }
    println!("largest relative difference of the inverse gamma function: {:e} at a = {}, p = {}", worst.0, worst.1, worst.2);
    assert!(worst.0 < 1e-12);
    for (&z, &cdf) in rows.z.iter().zip(&rows.cdf) {
        assert!((normal_cdf(z) - cdf).abs() <= 1e-12 * cdf, "z {z}");
    }
}
