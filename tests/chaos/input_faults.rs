//! Rows 8, 9, 11 and 15: what producers do to the monitor.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::store::reader::{StoreReader, WindowQuery};
use serde_json::Value;

use crate::monitor::{Checked, Monitor};
use crate::process_faults::consumed;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::support;
use crate::verdict;
use crate::world::WINDOW_MS;

/// Sends payloads of a scenario's own to partition 0, and waits for the broker.
fn send_raw(site: &Site, payloads: &mut dyn Iterator<Item = Option<Vec<u8>>>) -> Checked<u64> {
    let producer = ReliableProducer::new(&site.settings.kafka).map_err(|error| error.to_string())?;
    let receipts = std::sync::Arc::new(Receipts::default());
    let mut n = 0;
    for payload in payloads {
        let record = Outgoing { topic: &site.topic, key: Some(b"u1"), payload: payload.as_deref(), partition: Some(0), timestamp_ms: None };
        producer.send(&record, &[], &receipts, Duration::from_secs(60)).map_err(|error| error.to_string())?;
        n += 1;
    }
    producer.settle(&receipts, Instant::now() + Duration::from_secs(60)).map_err(|error| error.to_string())?;
    Ok(n)
}

fn json(vector: &str, rest: &str) -> Vec<u8> {
    format!("{{\"embedding\":[{vector}],\"entity\":\"u1\"{rest}}}").into_bytes()
}

/// Poison first, last, a hundred in a row and of every kind: each in the dead letters once with its place
/// and reason, no neighbour harmed, no memory kept.
pub(crate) fn poison(stage: &Stage) -> Checked<String> {
    let site = Site::new(stage, "poison", plan(stage, 40, 2_000));
    let ok = "0.1,".repeat(15) + "0.1";
    let with = |value: &str| json(&("0.1,".repeat(15) + value), "");
    let kinds: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("tombstone", None),
        ("empty_payload", Some(Vec::new())),
        ("malformed_json", Some(json(&ok, "")[..40].to_vec())),
        ("malformed_json", Some(vec![0xff; 300])),
        ("malformed_json", Some(b"[1,2,3]".to_vec())),
        ("malformed_json", Some("[".repeat(100_000).into_bytes())),
        ("missing_embedding", Some(b"{\"entity\":\"u1\"}".to_vec())),
        ("bad_embedding", Some(b"{\"embedding\":\"!!!\"}".to_vec())),
        ("wrong_width", Some(json("0.1", ""))),
        ("wrong_width", Some(json(&(ok.clone() + ",0.1"), ""))),
        ("not_finite", Some(with("NaN"))),
        ("not_finite", Some(with("Infinity"))),
        ("not_finite", Some(with("1e39"))),
        ("bad_timestamp", Some(json(&ok, ",\"timestamp\":\"yesterday\""))),
        ("future", Some(json(&ok, ",\"timestamp\":9000000000000"))),
        ("too_large", Some(json(&ok, &format!(",\"pad\":\"{}\"", "x".repeat(1_100_000))))),
    ];
    let mut site = site;
    site.settings.record.max_bytes = 512 << 10;
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    let mut n = 0;
    let mut in_a_row = |expected: &mut BTreeMap<&'static str, u64>| -> Checked<()> {
        let rows: Vec<_> = kinds.iter().filter(|(kind, _)| *kind != "too_large").cycle().take(105).collect();
        for (kind, _) in &rows {
            // The names are literals of this function.
            *expected.entry(KINDS.iter().find(|known| *known == kind).unwrap()).or_insert(0) += 1;
        }
        n += send_raw(&site, &mut rows.iter().map(|(_, payload)| payload.clone()))?;
        Ok(())
    };
    in_a_row(&mut expected)?;
    site.produce(0..2_000, Duration::ZERO)?;
    in_a_row(&mut expected)?;
    let mut monitor = site.start(&[], "");
    monitor.wait_for(Duration::from_secs(60), "all records", consumed(2_210.0))?;
    let before = monitor.process.peak_kib().unwrap_or(0);
    let large = kinds.iter().find(|(kind, _)| *kind == "too_large").map(|(_, payload)| payload.clone()).unwrap();
    n += send_raw(&site, &mut (0..20).map(|_| Some(large.clone().unwrap()[..1_000_000].to_vec())))?;
    expected.insert("too_large", 20);
    monitor.wait_for(Duration::from_secs(60), "the large ones", consumed(2_230.0))?;
    let grown = monitor.process.peak_kib().unwrap_or(0).saturating_sub(before);
    let scrape = monitor.scrape().unwrap_or_default();
    let (status, _) = monitor.end(Duration::from_secs(20))?;
    for (kind, n) in &expected {
        let found = scrape.get(&format!("recsae_records_rejected_total{{reason=\"{kind}\"}}"));
        if found < *n as f64 {
            return Err(format!("{kind}: {found} rejected, {n} sent\n{}", crate::process::tail(&site.printed())));
        }
    }
    let out = site.command(&["dead-letters", "list", "--json"]);
    let letters: Value = serde_json::from_slice(&out.stdout).map_err(|error| error.to_string())?;
    let places: std::collections::BTreeSet<_> =
        letters.as_array().into_iter().flatten().map(|letter| (letter["partition"].as_i64(), letter["offset"].as_i64())).collect();
    let rejected = scrape.sum("recsae_records_rejected_total");
    if places.len() as f64 != rejected || status != 0 {
        return Err(format!("{} dead letters for {rejected} rejects, exit {status}", places.len()));
    }
    if grown > 64 << 10 {
        return Err(format!("memory grew by {grown} KiB"));
    }
    Ok(format!("{n} poisonous records of {} reasons, each once in the dead letters; memory grew by {grown} KiB", expected.len()))
}

/// Reasons of the poison.
const KINDS: [&str; 11] = [
    "tombstone",
    "empty_payload",
    "malformed_json",
    "missing_embedding",
    "bad_embedding",
    "wrong_width",
    "not_finite",
    "bad_timestamp",
    "future",
    "too_large",
    "late",
];

/// A partition without records does not hold the windows of the others open.
pub(crate) fn idle_partition(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "idle", plan(stage, 42, 4_000));
    site.settings.window.idle_after = Duration::from_secs(1);
    // Everybody on partition 0: the other three are idle.
    site.world.plan.n_partitions = 1;
    site.produce(0..4_000, Duration::ZERO)?;
    let mut monitor = site.start(&[], "");
    let judged = |m: &Monitor| m.scrape().filter(|scrape| scrape.get("recsae_windows_judged_total") >= 9.0).map(drop);
    monitor.wait_for(Duration::from_secs(60), "windows are judged although three partitions are idle", judged)?;
    monitor.end(Duration::from_secs(20))?;
    let verdict = verdict::drain_and_compare(stage, &site)?;
    Ok(format!("three of four partitions idle; {}", verdict.words()))
}

/// Distinct segment values without end, quotes and line breaks in them: bounded series, one overflow
/// segment, exact totals, an exposition that `promtool` takes.
pub(crate) fn hostile_segments(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "segments", plan(stage, 43, 0));
    site.settings.segments.max = 12;
    site.settings.segments.values.clear();
    site.settings.window.idle_after = Duration::from_secs(2);
    site.settings.segments.fields = vec!["surface".into(), "model".into()];
    let n: u64 = std::env::var("CHAOS_VALUES").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000);
    let vector = "0.1,".repeat(15) + "0.1";
    let base = site.world.plan.base_ms;
    let payload = |i: u64| {
        // Thirty windows: names are followed from some fifteen windows after the first that showed them.
        let at = base + i64::try_from(i * 30 * WINDOW_MS.unsigned_abs() / n).unwrap();
        let ending = if i % 10 == 9 { "\n" } else { "" };
        let surface = format!("v{i}\"}} \\{}{ending}", "\u{1F600}".repeat(usize::try_from(i % 3).unwrap()));
        let surface = serde_json::to_string(&surface).unwrap();
        Some(json(&vector, &format!(",\"timestamp\":{at},\"surface\":{surface},\"model\":\"m{}\"", i % 40)))
    };
    send_raw(&site, &mut (0..n).map(payload))?;
    let mut monitor = site.start(&[], "");
    monitor.wait_for(Duration::from_secs(300), "all values", consumed(n as f64))?;
    let scrape = monitor.scrape().unwrap_or_default();
    let text = ureq::get(format!("http://127.0.0.1:{}/metrics", monitor.metrics)).call().and_then(|mut r| r.body_mut().read_to_string());
    let text = text.map_err(|error| error.to_string())?;
    let peak = monitor.process.peak_kib().unwrap_or(0);
    monitor.end(Duration::from_secs(20))?;
    let status = site.start(&["--until-end"], "").wait(Duration::from_secs(120))?;
    let (mut total, mut most) = (0, 0);
    let reader = StoreReader::open(site.store()).map_err(|error| error.to_string())?;
    let each = |window: recsae::drift::closed::ClosedWindow| {
        total += window.segments.get("_all").map_or(0, |counts| counts.records);
        most = most.max(window.segments.len());
        Ok::<_, recsae::store::StoreError>(())
    };
    reader.for_each_window(&WindowQuery::default(), each).map_err(|error| error.to_string())?;
    // A line break would break a label: such a record is a reject, the others are counted.
    let countable = n - n / 10;
    let refused = scrape.get("recsae_records_rejected_total{reason=\"bad_field\"}");
    if (total, status) != (countable, 0) || most != 12 || refused != (n / 10) as f64 {
        return Err(format!("{total} of {countable} records counted, {most} segments at most where 12 are expected, exit {status}"));
    }
    promtool(&text)?;
    Ok(format!(
        "{n} values: {total} counted, {refused} with a line break rejected, at most {most} segments, {} series, promtool clean, peak {peak} KiB",
        scrape.n_series()
    ))
}

/// `promtool check metrics` over an exposition: syntax errors only, naming advice is for people.
fn promtool(text: &str) -> Checked<()> {
    use std::io::Write;
    let Some(promtool) = support::program("promtool") else { return Ok(()) };
    let mut child = std::process::Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    if out.status.success() { Ok(()) } else { Err(format!("promtool: {}", String::from_utf8_lossy(&out.stderr))) }
}
