//! The audit report against the store it was made from, and its comparison against a numpy twin.

use std::io::Write;
use std::process::{Command, Stdio};

use recsae::clock::{Clock, SystemClock};
use recsae::drift::closed::ALL;
use recsae::store::StoreReader;
use recsae::store::reader::{WindowQuery, WindowSummary};
use recsae::workshop::report::content::Gap;
use recsae::workshop::report::two_sample::{RateRatio, Stratum, rate_ratio, test};
use recsae::workshop::report::{Names, Report, ReportRequest, gather, html};
use serde_json::{Value, json};

use crate::recorded::{BUDGET, N_WINDOWS, START_MS, VERSION, names, record, record_two_versions};
use crate::support;

const HOUR_MS: i64 = 3_600_000;

fn request(compare: Option<(&str, &str)>) -> ReportRequest {
    let mut names_of = Names::default();
    names_of.insert(VERSION, names());
    ReportRequest {
        from_ms: START_MS,
        to_ms: START_MS + i64::try_from(N_WINDOWS).unwrap() * HOUR_MS,
        segment: None,
        compare: compare.map(|(a, b)| (a.to_owned(), b.to_owned())),
        names: names_of,
        now_ms: START_MS + 200 * HOUR_MS,
    }
}

fn seed() -> u64 {
    let seed = u64::try_from(SystemClock.now_ms()).unwrap() % 1_000_000;
    println!("seed {seed}");
    seed
}

#[test]
fn every_number_of_a_report_is_the_stores() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recsae.db");
    let recorded = record(&path, seed());
    let reader = StoreReader::open(&path).unwrap();
    let report: Report = gather(&reader, &request(Some(("surface=home", "surface=search")))).unwrap();

    let summaries = reader.summaries(&WindowQuery { segment: Some(ALL.into()), ..WindowQuery::default() }).unwrap();
    let judged = summaries.iter().filter(|summary| summary.verdict == "judged").count() as u64;
    assert_eq!((report.summary.windows, report.summary.judged), (summaries.len() as u64, judged));
    assert_eq!(report.summary.records, summaries.iter().map(|summary| u64::try_from(summary.records).unwrap()).sum::<u64>());
    assert_eq!(report.summary.rejected, summaries.iter().map(|summary| u64::try_from(summary.rejected).unwrap()).sum::<u64>());
    assert!((report.summary.budget_windows.unwrap() - BUDGET).abs() < 1e-6 * BUDGET, "A is read back from the thresholds");

    // The planted drift is found under its name, dated and drawn, with what people did about it.
    let alerts = reader.alerts(usize::MAX).unwrap();
    assert_eq!(report.found.len(), alerts.len());
    // By its name: in some worlds another stream of the segment alarms as well.
    let planted = format!("latent:{}", recorded.concept);
    let found = report.found.iter().find(|f| f.alert.segment == recorded.segment && f.alert.stream.to_string() == planted).unwrap();
    let timeline = found.timeline.as_ref().unwrap();
    let mut points = Vec::new();
    reader
        .for_each_report(&WindowQuery::default(), |report| -> Result<(), recsae::store::StoreError> {
            for segment in
                report.segments.iter().filter(|segment| segment.segment == recorded.segment && segment.verdict.kind() == "judged")
            {
                let stream = segment.streams.iter().find(|stream| stream.stream == found.alert.stream).unwrap();
                points.push((report.start_ms, stream.count / segment.units.unwrap(), stream.expected / segment.units.unwrap()));
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(timeline.points.iter().map(|p| (p.start, p.rate, p.expected)).collect::<Vec<_>>(), points);
    assert!(timeline.points.iter().all(|p| p.low <= p.expected && p.expected <= p.high));
    // Without a change about one window in twenty lies outside its band: the band is honest.
    let before: Vec<_> = timeline.points.iter().filter(|p| p.end <= found.alert.began).collect();
    let outside = before.iter().filter(|p| p.rate < p.low || p.rate > p.high).count();
    assert!(outside <= 1 + before.len() / 4, "{outside} of {} windows before the change lie outside", before.len());

    // What was planted, and windows whose sessions were unlike the reference's: the world draws such now and then.
    let (mixed, planted): (Vec<_>, Vec<_>) = report.not_watched.iter().partition(|gap| gap.verdict == "session_mix");
    let verdicts: Vec<(&str, u64)> = planted.iter().map(|gap| (gap.verdict.as_str(), gap.windows)).collect();
    assert_eq!(verdicts, [("warmup", 72), ("no_window", 0), ("contract_broken", 3)], "{planted:?}");
    assert_eq!(planted[1].to - planted[1].from, 4 * HOUR_MS);
    // Each is in the store, and each of the store is told, for its segment or for all.
    let everywhere = reader.summaries(&WindowQuery::default()).unwrap();
    let stored: Vec<_> = everywhere.iter().filter(|summary| summary.verdict == "session_mix").collect();
    let holds = |gap: &Gap, summary: &WindowSummary| gap.from <= summary.window_start && summary.window_end <= gap.to;
    assert!(mixed.iter().all(|gap| stored.iter().any(|summary| gap.segment == summary.segment && holds(gap, summary))), "{mixed:?}");
    let told =
        |summary: &WindowSummary| mixed.iter().any(|gap| (gap.segment == summary.segment || gap.segment == ALL) && holds(gap, summary));
    assert!(stored.iter().all(|summary| told(summary)), "{mixed:?} of {stored:?}");
    let people: Vec<&str> = report.done.iter().filter(|deed| !deed.who.is_empty()).map(|deed| deed.who.as_str()).collect();
    assert_eq!(people.len() as u64, report.summary.actions);
    assert!(["ana", "bo"].iter().all(|who| people.contains(who)), "{people:?}");
    assert!(report.record.intact && report.record.head == reader.audit_head().unwrap());
    let all = report.watched.iter().find(|watched| watched.segment == ALL).unwrap();
    assert!(all.power.unwrap().share_triple > 0.5 && all.streams >= 128);

    let page = html(&report);
    assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://") && !page.contains("NaN"), "{page}");
    assert!(page.contains(&found.alert.concept));
    assert_eq!(html(&gather(&reader, &request(Some(("surface=home", "surface=search")))).unwrap()), page, "same record, same bytes");
}

#[test]
fn a_report_says_what_it_cannot_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recsae.db");
    let _recorded = record(&path, seed());
    let reader = StoreReader::open(&path).unwrap();
    let empty = ReportRequest { from_ms: START_MS - 99 * HOUR_MS, to_ms: START_MS - 9 * HOUR_MS, ..request(None) };
    let report = gather(&reader, &empty).unwrap();
    assert_eq!((report.summary.windows, report.found.len(), report.not_watched.len()), (0, 0, 1));
    assert!(html(&report).contains("no window was judged"));
    // Over a span without windows that is right of a segment that was watched at another time, and of no other.
    let quiet = |segment: &str| gather(&reader, &ReportRequest { segment: Some(segment.into()), ..empty.clone() });
    assert_eq!(quiet("surface=mail").unwrap().summary.windows, 0);
    let unknown = quiet("surface=nowhere").unwrap_err().to_string();
    assert!(unknown.contains("no segment \"surface=nowhere\" in the store; there are _all, surface=home"), "{unknown}");
    // A window that began before the span is told by the report before, and is not a time without one.
    let odd = ReportRequest { from_ms: START_MS + HOUR_MS / 2, to_ms: START_MS + 5 * HOUR_MS / 2, ..request(None) };
    let told: Vec<_> = gather(&reader, &odd).unwrap().not_watched.iter().map(|gap| (gap.verdict.clone(), gap.to - odd.from_ms)).collect();
    assert_eq!(told, [("begun_before".to_owned(), HOUR_MS / 2), ("warmup".to_owned(), 5 * HOUR_MS / 2)]);
    for (a, b, words) in [
        ("surface=home", "surface=home", "expected two different"),
        ("surface=home", ALL, "that share no record"),
        ("surface=home", "surface=nowhere", "surface=search"),
    ] {
        let refused = gather(&reader, &request(Some((a, b)))).unwrap_err().to_string();
        assert!(refused.contains(words), "{a} and {b}: {refused}");
    }
    let nothing = gather(&reader, &ReportRequest { compare: Some(("a".into(), "b".into())), ..empty.clone() }).unwrap_err().to_string();
    assert!(nothing.contains("no window was judged in the span"), "{nothing}");
    // The JSON would be written over the page.
    let config = folder.path().join("recsae.toml");
    std::fs::write(&config, "[[model]]\nbundle = \"none\"\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    let output =
        command.args(["report", "--from", "2026-03-02", "--to", "2026-03-03", "--out", "x.json", "-c"]).arg(&config).output().unwrap();
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("expected --out to name the HTML file"));
    let only = ReportRequest { segment: Some("surface=mail".into()), ..request(None) };
    let report = gather(&reader, &only).unwrap();
    assert!(report.watched.iter().all(|watched| watched.segment == "surface=mail"));
    assert!((report.summary.budget_windows.unwrap() - BUDGET).abs() < 1e-6 * BUDGET);
}

/// The same formulas in numpy and scipy, written apart.
#[test]
fn the_comparison_equals_a_numpy_twin() {
    let Some(python) = support::python() else { return };
    let seed = seed();
    let mut state = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    let mut draw = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % n) as f64
    };
    let streams: Vec<Vec<Stratum>> = (0..50)
        .map(|j| {
            let size = 1 + (j % 7) * 9;
            (0..1 + j % 13).map(|_| Stratum { y_a: draw(size), e_a: 1.0 + draw(400), y_b: draw(size * 2), e_b: draw(3) * 150.0 }).collect()
        })
        .collect();
    let found: Vec<Option<RateRatio>> = streams.iter().map(|strata| rate_ratio(strata)).collect();
    let tested = test(&found.iter().flatten().copied().collect::<Vec<_>>());
    let rows: Vec<Vec<[f64; 4]>> = streams.iter().map(|strata| strata.iter().map(|s| [s.y_a, s.e_a, s.y_b, s.e_b]).collect()).collect();
    let twin: Vec<Value> = ask(&python, &json!(rows));
    assert_eq!(twin.len(), tested.len());
    for (ours, theirs) in tested.iter().zip(&twin) {
        for (name, value) in [("low", ours.low), ("z", ours.z), ("p", ours.p_value), ("q", ours.q_value)] {
            let other = theirs[name].as_f64().unwrap();
            assert!((value - other).abs() <= 1e-9 * (1.0 + other.abs()), "{name}: {value} and {other}");
        }
        for (name, value) in [("ratio", ours.ratio), ("high", ours.high)] {
            let same = theirs[name].as_f64().map_or(value.is_infinite(), |other| (value - other).abs() <= 1e-9 * (1.0 + other.abs()));
            assert!(same, "{name}: {value} and {}", theirs[name]);
        }
    }
}

fn ask(python: &std::path::Path, rows: &Value) -> Vec<Value> {
    let script = support::repo().join("tests/scripts/two_sample.py");
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rows.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn of_two_versions_the_one_concept_that_differs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recsae.db");
    let (seed, n_windows) = (seed(), 48);
    let concept = usize::try_from(seed % 128).unwrap();
    record_two_versions(&path, seed, concept, n_windows);
    let reader = StoreReader::open(&path).unwrap();
    let comparison = gather(&reader, &request(Some(("v12", "v13")))).unwrap().comparison.unwrap();
    assert_eq!((comparison.of.as_str(), comparison.windows, comparison.tested + comparison.too_rare), ("model_version", n_windows, 128));
    let first = &comparison.differences[0];
    assert!(first.stream.to_string() == format!("latent:{concept}") && first.q_value < 1e-6 && first.low > 1.0, "{first:?}");
    // Nothing else differs. At a false discovery rate of 5 % one more in twenty looks may be named, four hardly ever.
    assert!(comparison.named <= 4, "{} concepts named", comparison.named);
    let lowest = comparison.differences.iter().skip(1).filter(|d| d.low > 1.0 || d.high.is_some_and(|high| high < 1.0)).count();
    assert!(lowest <= 20, "{lowest} of 127 intervals of 95 % leave out 1");
}
