//! After a scenario: a fault-free drain, then the program's books against the oracle's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use recsae::kafka::scan::scan;
use recsae::store::StoreError;
use recsae::store::reader::{StoreReader, WindowQuery};
use serde_json::Value;

use crate::monitor::{Checked, Monitor};
use crate::site::{NUMBER, Site};
use crate::stage::{Stage, oracle};
use crate::world::{LATENESS_MS, Made, N_CONFIGURED, SURFACES, WINDOW_MS};

/// Longest a drain may take.
const DRAIN: Duration = Duration::from_secs(120);

/// What the oracle said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) records: u64,
    pub(crate) windows: u64,
    pub(crate) cells: u64,
    pub(crate) rejected: BTreeMap<String, u64>,
}

impl Verdict {
    /// In a few words.
    pub(crate) fn words(&self) -> String {
        let rejected: u64 = self.rejected.values().sum();
        format!("{} records, {rejected} rejected, {} windows, {} cells equal", self.records, self.windows, self.cells)
    }
}

/// A liveness record for every partition must pass a running monitor; then the drain and the comparison.
pub(crate) fn settle(stage: &Stage, site: &Site, mut monitor: Monitor) -> Checked<Verdict> {
    monitor.wait_ready(Duration::from_secs(60))?;
    site.produce_liveness()?;
    let ends = ends(site)?;
    let passed = |monitor: &Monitor| {
        let positions = monitor.positions()?;
        ends.iter().all(|(partition, end)| positions.get(&i64::from(*partition)).is_some_and(|at| at >= end)).then_some(())
    };
    monitor.wait_for(Duration::from_secs(60), "the liveness records pass", passed)?;
    let (status, took) = monitor.end(Duration::from_secs(20))?;
    if status != 0 || took > Duration::from_secs(10) {
        return Err(format!("SIGTERM: exit {status} after {took:?}\n{}", crate::process::tail(&site.printed())));
    }
    drain_and_compare(stage, site)
}

/// Reads to the end with nothing wrong, then compares everything.
pub(crate) fn drain_and_compare(stage: &Stage, site: &Site) -> Checked<Verdict> {
    let status = site.start(&["--until-end"], "").wait(DRAIN)?;
    if status != 0 {
        return Err(format!("the drain ended with {status}\n{}", crate::process::tail(&site.printed())));
    }
    compare(stage, site)
}

/// Exported counts, judged windows, rejects, dead letters and the chain against the ledger.
pub(crate) fn compare(stage: &Stage, site: &Site) -> Checked<Verdict> {
    compare_with(stage, site, None)
}

/// The same, but for windows that are left out, as the script reads it.
pub(crate) fn compare_with(stage: &Stage, site: &Site, left_out: Option<&str>) -> Checked<Verdict> {
    let ledger = site.folder.path().join("ledger");
    let rejected_places = write_ledger(site, &ledger)?;
    let export = site.folder.path().join("windows.parquet");
    let out = site.command(&["history", "export", "--out", export.to_str().unwrap()]);
    if !out.status.success() {
        return Err(format!("history export: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let verify = site.command(&["history", "verify"]);
    if !verify.status.success() {
        return Err(format!("history verify: {}{}", String::from_utf8_lossy(&verify.stdout), String::from_utf8_lossy(&verify.stderr)));
    }
    let verdict = ask(stage, &stage.model(), &ledger, &export, site.store(), left_out)?;
    let found = rejected(site.store()).map_err(|error| error.to_string())?;
    if found != verdict.rejected {
        return Err(format!("rejects by reason: the oracle has {:?}, the store {found:?}", verdict.rejected));
    }
    dead_letters(site, &verdict, rejected_places)?;
    Ok(verdict)
}

/// What a store that began anew says, where it says anything: windows before its first are in the store that was lost,
/// and those that it marks as incomplete are held to nothing. Rejects of what is lost are lost with it.
pub(crate) fn compare_what_is_known(stage: &Stage, site: &Site) -> Checked<(Verdict, usize)> {
    let ledger = site.folder.path().join("ledger");
    write_ledger(site, &ledger)?;
    let export = site.folder.path().join("windows.parquet");
    let out = site.command(&["history", "export", "--out", export.to_str().unwrap()]);
    if !out.status.success() {
        return Err(format!("history export: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let query = WindowQuery { segment: Some("_all".into()), limit: Some(10_000), ..WindowQuery::default() };
    let windows = StoreReader::open(site.store()).and_then(|reader| reader.summaries(&query)).map_err(|error| error.to_string())?;
    let incomplete: Vec<i64> = windows.iter().filter(|window| window.verdict == "incomplete").map(|window| window.window_start).collect();
    let before = windows.iter().map(|window| window.window_start).min().ok_or("no window was judged")?;
    let left_out = serde_json::json!({"before": before, "incomplete": incomplete}).to_string();
    let verdict = ask(stage, &stage.model(), &ledger, &export, site.store(), Some(&left_out))?;
    Ok((verdict, incomplete.len()))
}

/// Runs the numpy script over the ledger, with the SAE of that folder.
pub(crate) fn ask(stage: &Stage, model: &Path, ledger: &Path, export: &Path, store: &Path, left_out: Option<&str>) -> Checked<Verdict> {
    let mut command = Command::new(&stage.python);
    let out = command.arg(oracle()).arg("count").arg(model).args([ledger, export, store]).args(left_out).output().unwrap();
    let answer: Value = serde_json::from_slice(&out.stdout)
        .map_err(|error| format!("the oracle failed: {error}\n{}", String::from_utf8_lossy(&out.stderr)))?;
    if !out.status.success() {
        return Err(format!("{answer:#}"));
    }
    let number = |name: &str| answer[name].as_u64().unwrap_or(0);
    let rejected = answer["rejected"].as_object().into_iter().flatten().map(|(reason, n)| (reason.clone(), n.as_u64().unwrap_or(0)));
    Ok(Verdict { records: number("records"), windows: number("windows"), cells: number("cells"), rejected: rejected.collect() })
}

/// End of each partition, by the broker.
pub(crate) fn ends(site: &Site) -> Checked<BTreeMap<i32, i64>> {
    let mut ends = BTreeMap::new();
    let patience = Duration::from_secs(20);
    scan(&site.settings.kafka, &site.topic, patience, |message| {
        ends.insert(message.partition.partition, message.offset + 1);
    })
    .map_err(|error| error.to_string())?;
    Ok(ends)
}

/// The topic as the broker holds it, in the order of partition and offset; nothing that was acknowledged may be missing.
pub(crate) fn log(site: &Site) -> Checked<Vec<(i32, i64, Made)>> {
    let mut log: Vec<(i32, i64, u64)> = Vec::new();
    scan(&site.settings.kafka, &site.topic, Duration::from_secs(20), |message| {
        let number = message.headers.iter().find(|(name, _)| *name == NUMBER).and_then(|(_, value)| (*value)?.try_into().ok());
        log.push((message.partition.partition, message.offset, u64::from_le_bytes(number.unwrap_or_default())));
    })
    .map_err(|error| error.to_string())?;
    log.sort_unstable();
    let mut missing = site.numbers();
    for (_, _, number) in &log {
        missing.remove(number);
    }
    if !missing.is_empty() {
        return Err(format!("the broker lost {} acknowledged records: the harness cannot judge", missing.len()));
    }
    Ok(log.iter().map(|(partition, offset, number)| (*partition, *offset, site.made(*number))).collect())
}

/// Writes the log for the script. Gives the places of records that no rule about time can make countable.
pub(crate) fn write_ledger(site: &Site, ledger: &Path) -> Checked<BTreeMap<(i64, i64), u8>> {
    let made = log(site)?;
    fs::create_dir_all(ledger).unwrap();
    let column = |name: &str, of: &dyn Fn(&(i32, i64, Made)) -> i64| {
        let bytes: Vec<u8> = made.iter().flat_map(|row| of(row).to_le_bytes()).collect();
        fs::write(ledger.join(name), bytes).unwrap();
    };
    column("partition.i64", &|row| i64::from(row.0));
    column("event.i64", &|row| row.2.event_ms);
    column("entity.i64", &|row| i64::from(row.2.entity));
    column("surface.i64", &|row| i64::try_from(row.2.surface).unwrap());
    column("kind.i64", &|row| row.2.kind as i64);
    let vectors: Vec<u8> = made.iter().flat_map(|row| row.2.vector.iter().flat_map(|x| x.to_le_bytes())).collect();
    fs::write(ledger.join("vectors.f32"), vectors).unwrap();
    let surfaces: Vec<String> = SURFACES.iter().map(ToString::to_string).collect();
    let spec = serde_json::json!({"window_ms": WINDOW_MS, "lateness_ms": LATENESS_MS, "surfaces": surfaces, "n_configured": N_CONFIGURED});
    fs::write(ledger.join("spec.json"), spec.to_string()).unwrap();
    let always = made.iter().filter(|row| !matches!(row.2.kind as u8, 0 | 5));
    Ok(always.map(|row| ((i64::from(row.0), row.1), row.2.kind as u8)).collect())
}

/// Rejects by reason: those of judged windows, and those since.
fn rejected(store: &Path) -> Result<BTreeMap<String, u64>, StoreError> {
    let reader = StoreReader::open(store)?;
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    reader.for_each_window(&WindowQuery::default(), |window| {
        for (reason, n) in &window.rejected {
            *found.entry(reason.kind().to_owned()).or_insert(0) += n;
        }
        Ok::<_, StoreError>(())
    })?;
    for (reason, n) in reader.positions()?.values().flat_map(|position| &position.rejected) {
        *found.entry(reason.kind().to_owned()).or_insert(0) += n;
    }
    Ok(found)
}

/// Each reject once in the list, with its place and reason.
fn dead_letters(site: &Site, verdict: &Verdict, mut places: BTreeMap<(i64, i64), u8>) -> Checked<()> {
    let out = site.command(&["dead-letters", "list", "--json"]);
    let letters: Value = serde_json::from_slice(&out.stdout).map_err(|_| String::from_utf8_lossy(&out.stderr).into_owned())?;
    let mut by_reason: BTreeMap<String, u64> = BTreeMap::new();
    for letter in letters.as_array().into_iter().flatten() {
        *by_reason.entry(letter["reason"].as_str().unwrap_or_default().to_owned()).or_insert(0) += 1;
        places.remove(&(letter["partition"].as_i64().unwrap_or(-1), letter["offset"].as_i64().unwrap_or(-1)));
    }
    if by_reason != verdict.rejected || !places.is_empty() {
        return Err(format!("dead letters {by_reason:?}, expected {:?}; {} places are missing", verdict.rejected, places.len()));
    }
    Ok(())
}
