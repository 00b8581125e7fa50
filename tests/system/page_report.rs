//! The audit report in Chromium: its numbers against the store, and pictures to be looked at.

use std::path::Path;

use recsae::clock::{Clock, SystemClock};
use recsae::store::StoreReader;
use recsae::store::reader::WindowQuery;
use recsae::workshop::report::{Names, ReportRequest, gather, html};

use crate::page::{attributes, chromium};
use crate::pictured::explanation;
use crate::recorded::{N_WINDOWS, START_MS, VERSION, names, record};
use crate::support;

#[test]
fn the_report_in_a_browser_says_what_the_store_holds() {
    let Some(program) = support::program("chromium") else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("recsae.db");
    let seed = std::env::var("RECSAE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::try_from(SystemClock.now_ms()).unwrap() % 1_000_000);
    println!("seed {seed}");
    let mut recorded = record(&store, seed);
    let alerts = recorded.store.read().alerts(usize::MAX).unwrap();
    for alert in &alerts {
        recorded.store.put_explanation(alert.id, &explanation(alert.opened.began_ms), alert.alerted_at_ms).unwrap();
    }
    drop(recorded);
    let reader = StoreReader::open(&store).unwrap();
    let mut names_of = Names::default();
    names_of.insert(VERSION, names());
    let to_ms = START_MS + i64::try_from(N_WINDOWS).unwrap() * 3_600_000;
    let compare = Some(("surface=home".to_owned(), "surface=search".to_owned()));
    let request = ReportRequest { from_ms: START_MS, to_ms, segment: None, compare, names: names_of, now_ms: to_ms + 3_600_000 };
    let report = gather(&reader, &request).unwrap();
    let file = folder.path().join("report.html");
    std::fs::write(&file, html(&report)).unwrap();
    let url = format!("file://{}", file.display());
    let (dom, log) = chromium(&program, folder.path(), &["--dump-dom"], &url);
    assert!(dom.contains("</html>") && !log.contains("CONSOLE"), "{log}");

    // Against the store, not against the report's own structure.
    let alerts = reader.alerts(usize::MAX).unwrap();
    let text = |of: &dyn Fn(&recsae::drift::alert::Alert) -> String| alerts.iter().map(of).collect::<Vec<String>>();
    assert_eq!(attributes(&dom, "<tr data-alert=", "data-stream"), text(&|alert| alert.opened.stream.to_string()));
    assert_eq!(attributes(&dom, "<tr data-alert=", "data-segment"), text(&|alert| alert.opened.segment.clone()));
    assert_eq!(attributes(&dom, "<tr data-alert=", "data-ratio"), text(&|alert| alert.last.ratio.to_string()));
    let carried: Vec<String> = dom.split("data-carriers=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    assert!(!alerts.is_empty() && carried == ["users", "items"].repeat(alerts.len()), "each alert says who carries it: {carried:?}");
    let offset = reader.explanation(alerts[0].id).unwrap().unwrap().records.unwrap().after.examples[0].offset;
    assert!(dom.contains(&format!("recommendations[0] {offset}")), "and where to look");
    let figure = |key: &str| -> String {
        let rest = dom.split(&format!("data-figure=\"{key}\"><dt>")).nth(1).unwrap();
        rest.split("</dt>").next().unwrap().replace('\u{202f}', "")
    };
    let summaries = reader.summaries(&WindowQuery { segment: Some("_all".into()), ..WindowQuery::default() }).unwrap();
    assert_eq!(figure("windows"), summaries.len().to_string());
    assert_eq!(figure("records"), summaries.iter().map(|summary| summary.records).sum::<i64>().to_string());
    assert_eq!(figure("alerts-opened"), alerts.len().to_string());
    assert_eq!(attributes(&dom, "<svg class=\"figure\"", "data-windows").first(), Some(&summaries.len().to_string()));
    let judged = summaries.iter().filter(|summary| summary.verdict == "judged").count();
    let of_all: Vec<String> = attributes(&dom, "<tr data-model=", "data-judged");
    assert_eq!(of_all[0], judged.to_string());
    assert!(dom.contains(&reader.audit_head().unwrap()));

    let Some(kept) = std::env::var_os("RECSAE_SCREENSHOTS") else { return };
    let kept = Path::new(&kept);
    std::fs::copy(&file, kept.join("report.html")).unwrap();
    let picture = |name: &str, size: &str| format!("--screenshot={} --window-size={size}", kept.join(name).display());
    for (name, size) in [("report.png", "1000,5200"), ("report-narrow.png", "480,3000")] {
        let arguments: Vec<String> = picture(name, size).split(' ').map(str::to_owned).collect();
        chromium(&program, folder.path(), &arguments.iter().map(String::as_str).collect::<Vec<_>>(), &url);
    }
    let print = format!("--print-to-pdf={}", kept.join("report.pdf").display());
    chromium(&program, folder.path(), &[&print, "--no-pdf-header-footer"], &url);
}
