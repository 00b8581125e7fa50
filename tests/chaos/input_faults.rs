//! Rows 8, 9 and 11: what producers do to the monitor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::kafka::scan::scan;
use serde_json::Value;

use crate::monitor::{Checked, Monitor};
use crate::process_faults::consumed;
use crate::site::{NUMBER, Site, plan};
use crate::stage::Stage;
use crate::verdict;
use crate::world::{LATENESS_MS, WINDOW_MS};

/// Most that hostile input may add to the peak of the program's memory.
pub(crate) const MOST_GROWN_KIB: u64 = 64 << 10;

/// Sends payloads of a scenario's own to partition 0, and waits for the broker.
pub(crate) fn send_raw(site: &Site, payloads: &mut dyn Iterator<Item = Option<Vec<u8>>>) -> Checked<u64> {
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

pub(crate) fn json(vector: &str, rest: &str) -> Vec<u8> {
    format!("{{\"embedding\":[{vector}],\"entity\":\"u1\"{rest}}}").into_bytes()
}

/// What is sent besides: the reason for which it is rejected, or the event time at which it counts.
struct Raw {
    fate: Result<i64, &'static str>,
    payload: Option<Vec<u8>>,
}

/// Every kind of poison that fits into a record, and what is only strange: those count, at `at_ms`. (No format here has a
/// length in its header that could claim 100 MB: JSON and raw numbers are as long as they are.)
fn kinds(at_ms: i64) -> Vec<Raw> {
    let ok = "0.1,".repeat(15) + "0.1";
    let with = |value: &str| Some(json(&("0.1,".repeat(15) + value), ""));
    let poison = |reason, payload| Raw { fate: Err(reason), payload };
    let counts = |vector: &str| Raw { fate: Ok(at_ms), payload: Some(json(vector, &format!(",\"timestamp\":{at_ms}"))) };
    vec![
        poison("tombstone", None),
        poison("empty_payload", Some(Vec::new())),
        poison("malformed_json", Some(json(&ok, "")[..40].to_vec())),
        poison("malformed_json", Some(vec![0xff; 300])),
        poison("malformed_json", Some(b"[1,2,3]".to_vec())),
        poison("malformed_json", Some("[".repeat(100_000).into_bytes())),
        poison("missing_embedding", Some(b"{\"entity\":\"u1\"}".to_vec())),
        poison("bad_embedding", Some(b"{\"embedding\":\"!!!\"}".to_vec())),
        poison("wrong_width", Some(json("0.1", ""))),
        poison("wrong_width", Some(json(&(ok.clone() + ",0.1"), ""))),
        poison("not_finite", with("NaN")),
        poison("not_finite", with("Infinity")),
        poison("not_finite", with("1e39")),
        poison("out_of_range", with("1e38")),
        poison("bad_timestamp", Some(json(&ok, ",\"timestamp\":\"yesterday\""))),
        poison("future", Some(json(&ok, ",\"timestamp\":9000000000000"))),
        counts(&("0,".repeat(15) + "0")),
        counts(&("1e-40,".repeat(15) + "-1e-45")),
    ]
}

/// Poison first, last, a hundred in a row and of every kind: each in the dead letters once with its place
/// and reason, no neighbour harmed, no memory kept.
pub(crate) fn poison(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "poison", plan(stage, 40, 2_000));
    site.settings.record.max_bytes = 512 << 10;
    let plan = &site.world.plan;
    // What counts moves the watermark: before the others it comes from their first window, after them from their last.
    let (first, last) = (kinds(plan.base_ms), kinds(plan.base_ms + i64::try_from(plan.n_windows).unwrap() * WINDOW_MS));
    let large = Raw { fate: Err("too_large"), payload: Some(vec![b'x'; 1_000_000]) };
    let mut monitor = site.start(&[], "");
    monitor.wait_ready(Duration::from_secs(60))?;
    let before = monitor.process.peak_kib().unwrap_or(0);
    let of = |raws: &[Raw], n: usize| raws.iter().cycle().take(n).map(|raw| raw.payload.clone()).collect::<Vec<_>>();
    let mut n = send_raw(&site, &mut of(&first, 108).into_iter())?;
    site.produce(0..2_000, Duration::ZERO)?;
    n += send_raw(&site, &mut of(&last, 108).into_iter())?;
    n += send_raw(&site, &mut (0..20).map(|_| large.payload.clone()))?;
    monitor.wait_for(Duration::from_secs(60), "all records", consumed((2_000 + n) as f64))?;
    let grown = monitor.process.peak_kib().unwrap_or(0).saturating_sub(before);
    let scrape = monitor.scrape().unwrap_or_default();
    let (status, _) = monitor.end(Duration::from_secs(20))?;
    let raws: Vec<Raw> = first.into_iter().chain(last).chain([large]).collect();
    let expected = expected_letters(&site, &raws)?;
    let out = site.command(&["dead-letters", "list", "--json"]);
    let letters: Value = serde_json::from_slice(&out.stdout).map_err(|error| error.to_string())?;
    let letters = letters.as_array().cloned().unwrap_or_default();
    let found: BTreeMap<(i64, i64), &str> = letters
        .iter()
        .map(|letter| {
            ((letter["partition"].as_i64().unwrap_or(-1), letter["offset"].as_i64().unwrap_or(-1)), letter["reason"].as_str().unwrap_or(""))
        })
        .collect();
    let differ = |place: &&(i64, i64)| found.get(place) != expected.get(place);
    if found.len() != letters.len() || found != expected {
        let places: BTreeSet<_> = found.keys().chain(expected.keys()).filter(differ).collect();
        let words =
            places.iter().take(8).map(|place| format!("{place:?}: expected {:?}, found {:?}", expected.get(place), found.get(place)));
        return Err(format!("{} dead letters at {} places: {}", letters.len(), found.len(), words.collect::<Vec<_>>().join("; ")));
    }
    let (rejected, encoded) = (scrape.sum("recsae_records_rejected_total"), scrape.get("recsae_records_encoded_total"));
    if (rejected, encoded) != (expected.len() as f64, (2_000 + n - expected.len() as u64) as f64) || status != 0 {
        return Err(format!("{rejected} rejected and {encoded} encoded, {} expected, exit {status}", expected.len()));
    }
    if grown > MOST_GROWN_KIB {
        return Err(format!("memory grew by {grown} KiB since it was ready"));
    }
    let by_reason = expected.values().collect::<BTreeSet<_>>().len();
    Ok(format!(
        "{n} strange records among 2,000: {rejected} rejects of {by_reason} reasons, each once in the dead letters with its place and \
         reason, {encoded} others encoded; memory grew by {grown} KiB"
    ))
}

/// Place and reason of every record that must be in the dead letters: by the log and the rules, record by record.
fn expected_letters(site: &Site, raws: &[Raw]) -> Checked<BTreeMap<(i64, i64), &'static str>> {
    let fate_of = |payload: Option<&[u8]>| raws.iter().find(|raw| raw.payload.as_deref() == payload).map(|raw| raw.fate);
    let mut log: Vec<((i64, i64), i64, Option<&'static str>)> = Vec::new();
    scan(&site.settings.kafka, &site.topic, Duration::from_secs(20), |message| {
        let place = (i64::from(message.partition.partition), message.offset);
        let number = message.headers.iter().find(|(name, _)| *name == NUMBER).and_then(|(_, value)| (*value)?.try_into().ok());
        let (event_ms, reason) = match number {
            Some(number) => {
                let made = site.made(u64::from_le_bytes(number));
                (made.event_ms, made.kind.reason())
            }
            None => match fate_of(message.payload) {
                Some(Ok(at_ms)) => (at_ms, None),
                Some(Err(reason)) => (i64::MAX, Some(reason)),
                None => (i64::MAX, Some("a record that nobody sent")),
            },
        };
        log.push((place, event_ms, reason));
    })
    .map_err(|error| error.to_string())?;
    log.sort_unstable();
    let (mut watermarks, mut expected) = (BTreeMap::new(), BTreeMap::new());
    for (place, event_ms, reason) in log {
        let watermark: &mut i64 = watermarks.entry(place.0).or_insert(i64::MIN);
        let edge = watermark.saturating_sub(LATENESS_MS).div_euclid(WINDOW_MS);
        let is_late = *watermark != i64::MIN && event_ms.div_euclid(WINDOW_MS) < edge;
        // What can be read is first asked for its time.
        match reason {
            None | Some("wrong_width") if is_late => drop(expected.insert(place, "late")),
            Some(reason) => drop(expected.insert(place, reason)),
            None => *watermark = event_ms.max(*watermark),
        }
    }
    Ok(expected)
}

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
