//! Row 15: values without end in every field that a producer fills.

use std::time::Duration;

use recsae::config::settings::ModelSettings;
use recsae::store::reader::{StoreReader, WindowQuery};

use crate::input_faults::{MOST_GROWN_KIB, send_raw};
use crate::monitor::{Checked, Scrape};
use crate::process_faults::consumed;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::support;
use crate::world::WINDOW_MS;

/// Distinct segment values without end, quotes and line breaks in them: bounded series, one overflow
/// segment, exact totals, an exposition that `promtool` takes.
pub(crate) fn hostile_segments(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "segments", plan(stage, 43, 61));
    site.settings.segments.max = 12;
    // Less than the segments want to show.
    site.settings.metrics.max_series = 100;
    // Records name a version among ever more; one of them is asked for.
    site.settings.model.push(ModelSettings { version: Some("v2".into()), bundle: stage.bundle() });
    site.settings.segments.values.clear();
    site.settings.window.idle_after = Duration::from_secs(2);
    site.settings.segments.fields = vec!["surface".into(), "model".into()];
    let n: u64 = std::env::var("CHAOS_VALUES").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000);
    let vectors: Vec<String> =
        (0..61).map(|i| site.world.record(i).vector.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")).collect();
    let base = site.world.plan.base_ms;
    let payload = |i: u64| {
        // Thirty windows: names are followed from some fifteen windows after the first that showed them.
        let at = base + i64::try_from(i * 30 * WINDOW_MS.unsigned_abs() / n).unwrap();
        let vector = &vectors[usize::try_from(i * 7 % 61).unwrap()];
        let hostile = |ending: &str| quoted(&format!("v{i}\"}} \\{}{ending}", "\u{1F600}".repeat(usize::try_from(i % 3).unwrap())));
        let [surface, version] = [9, 8].map(|digit| hostile(if i % 10 == digit { "\n" } else { "" }));
        // An entity is bytes that become a hash: nothing in it can break anything.
        let entity = hostile("\n\u{0}");
        let rest = format!("\"timestamp\":{at},\"surface\":{surface},\"model\":\"m{}\",\"model_version\":{version}", i % 40);
        Some(format!("{{\"embedding\":[{vector}],\"entity\":{entity},{rest}}}").into_bytes())
    };
    let huge = quoted(&"x".repeat(900_000));
    let too_long = ["entity", "surface", "model_version"]
        .map(|field| Some(format!("{{\"embedding\":[{}],\"{field}\":{huge}}}", vectors[0]).into_bytes()));
    let mut monitor = site.start(&[], "");
    monitor.wait_ready(Duration::from_secs(60))?;
    let before = monitor.process.peak_kib().unwrap_or(0);
    send_raw(&site, &mut (0..n).map(payload).chain(too_long))?;
    monitor.wait_for(Duration::from_secs(300), "all values", consumed((n + 3) as f64))?;
    let is_shown = |scrape: &Scrape| scrape.get("recsae_windows_judged_total") >= 20.0 && scrape.n_named("recsae_concept_") > 0;
    let scrape = monitor.wait_for(Duration::from_secs(60), "judged windows are shown", |m| m.scrape().filter(is_shown))?;
    let text = ureq::get(format!("http://127.0.0.1:{}/metrics", monitor.metrics)).call().and_then(|mut r| r.body_mut().read_to_string());
    let text = text.map_err(|error| error.to_string())?;
    let grown = monitor.process.peak_kib().unwrap_or(0).saturating_sub(before);
    monitor.end(Duration::from_secs(20))?;
    let status = site.start(&["--until-end"], "").wait(Duration::from_secs(120))?;
    let (mut total, mut other, mut by_name, mut most) = (0, 0, 0, 0);
    let reader = StoreReader::open(site.store()).map_err(|error| error.to_string())?;
    let each = |window: recsae::drift::closed::ClosedWindow| {
        let records = |name: &str| window.segments.get(name).map_or(0, |counts| counts.records);
        (total, other) = (total + records("_all"), other + records("_other"));
        by_name += window.segments.iter().filter(|(name, _)| name.starts_with("surface=")).map(|(_, counts)| counts.records).sum::<u64>();
        most = most.max(window.segments.len());
        Ok::<_, recsae::store::StoreError>(())
    };
    reader.for_each_window(&WindowQuery::default(), each).map_err(|error| error.to_string())?;
    // A line break would break a label, and so would what fills a page: such a record is a reject, the others are counted.
    let n_refused = 2 * (n / 10) + 3;
    let countable = n + 3 - n_refused;
    let refused = scrape.get("recsae_records_rejected_total{reason=\"bad_field\"}");
    if (total, status) != (countable, 0) || most != 12 || refused != n_refused as f64 {
        return Err(format!(
            "{total} of {countable} records counted, {refused} of {n_refused} refused, {most} segments at most where 12 are expected, exit {status}"
        ));
    }
    // Every record has a surface of its own: it is in the segment of that name, or among the others.
    if other + by_name != total {
        return Err(format!("{by_name} records in segments of their surface and {other} in _other are not the {total} records"));
    }
    let (drift, dropped) = (scrape.n_named("recsae_concept_"), scrape.get("recsae_series_dropped_total"));
    if drift == 0 || drift > site.settings.metrics.max_series || dropped == 0.0 {
        return Err(format!("{drift} drift series where {} are allowed, {dropped} dropped", site.settings.metrics.max_series));
    }
    if grown > MOST_GROWN_KIB {
        return Err(format!("memory grew by {grown} KiB since it was ready"));
    }
    promtool(&text)?;
    Ok(format!(
        "{n} values in surface, entity and version: {total} counted, {other} of them in _other, {refused} rejected, at most {most} \
         segments, {drift} drift series of {} allowed ({} in all), promtool clean, memory grew by {grown} KiB",
        site.settings.metrics.max_series,
        scrape.n_series()
    ))
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
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
