//! Rows 13 and 24: flipped bytes, truncation, two processes on one store, an hour-old copy, a newer one,
//! a lost one, a changed way of counting.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recsae::drift::settings::CountingUnit;
use recsae::store::StoreReader;
use recsae::store::audit::Verification;
use recsae::store::reader::WindowQuery;
use recsae::workshop::windows_writer::WindowsWriter;

use crate::disk_faults::committed;
use crate::kills::stored;
use crate::monitor::{Checked, Monitor};
use crate::process_faults::consumed;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::verdict::{Verdict, compare_what_is_known, drain_and_compare, settle};

/// Single-byte flips of a copy of the store.
const FLIPS: usize = 1_000;

/// Every flip is reported by the export or by the check of the chain, or nothing that is shown changes: neither the
/// export's bytes nor the windows by segment, alerts and references.
pub(crate) fn flipped(stage: &Stage) -> Checked<String> {
    let site = Site::new(stage, "flips", plan(stage, 20, 3_000));
    site.produce(0..3_000, Duration::ZERO)?;
    drain_and_compare(stage, &site)?;
    let folder = tempfile::tempdir().unwrap();
    let (copy, out) = (folder.path().join("copy.db"), folder.path().join("windows.parquet"));
    let bytes = fs::read(site.store()).unwrap();
    let expected =
        (export(site.store(), &out).map_err(|error| error.to_string())?, listed(site.store()).map_err(|error| error.to_string())?);
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let (mut reported, mut same, mut by_chain) = (0, 0, 0);
    for flip in 0..FLIPS {
        let mut damaged = bytes.clone();
        let at = rng.random_range(0..damaged.len());
        damaged[at] ^= 1 << rng.random_range(0..8);
        remove_store(&copy);
        fs::write(&copy, &damaged).unwrap();
        let exported = export(&copy, &out).and_then(|bytes| Ok((bytes, listed(&copy)?)));
        let intact = StoreReader::open(&copy).and_then(|reader| reader.verify_audit(|_| {}));
        let intact = matches!(intact, Ok(Verification::Intact { .. }));
        match exported {
            Err(_) => reported += 1,
            Ok(found) if found == expected => same += 1,
            Ok(_) if !intact => by_chain += 1,
            Ok(_) => return Err(format!("flip {flip} of byte {at}: neither reported, nor is what is shown the same")),
        }
    }
    let words = "left all that is shown as it is";
    Ok(format!(
        "{FLIPS} flips over {} bytes: {reported} refused by the export, {by_chain} named by the chain alone, {same} {words}",
        bytes.len()
    ))
}

/// What API, page and report list.
fn listed(store: &Path) -> Result<String, anyhow::Error> {
    let reader = StoreReader::open(store)?;
    let every = WindowQuery { all_lineages: true, ..WindowQuery::default() };
    let alerts = format!("{:?}", reader.alerts(usize::MAX)?);
    // What is no number is printed as none, whichever it is.
    let alerts = alerts.replace("-inf", "NaN").replace("inf", "NaN");
    Ok(format!("{alerts} {:?} {:?}", reader.summaries(&every)?, reader.references()?))
}

/// The bytes that `history export` writes.
fn export(store: &Path, out: &Path) -> Result<Vec<u8>, anyhow::Error> {
    let reader = StoreReader::open(store)?;
    let mut writer = WindowsWriter::create(out, CountingUnit::Presence, None)?;
    reader.for_each_window(&WindowQuery::default(), |window| -> Result<(), anyhow::Error> { Ok(writer.write(&window)?) })?;
    writer.finish()?;
    Ok(fs::read(out)?)
}

/// Two processes on one store, or on one port: the second refuses, the first goes on.
pub(crate) fn two_on_one(stage: &Stage) -> Checked<String> {
    let site = Site::new(stage, "two-on-one", plan(stage, 21, 2_000));
    site.produce(0..2_000, Duration::ZERO)?;
    let mut first = site.start(&[], "");
    first.wait_ready(Duration::from_secs(60))?;
    let mut other = site.settings.clone();
    other.kafka.instance_id = String::new();
    let mut second = site.start_as(&site.recsae, "second", &other, &[], &[]);
    let status = second.process.wait(Duration::from_secs(30))?;
    let said = second.process.printed();
    if status != 2 || !said.contains("in use by another recsae process") {
        return Err(format!("the second on one store: {status}, {said}"));
    }
    other.store.path = site.folder.path().join("other.db");
    other.kafka.group = crate::kafka_server::unique("group");
    let (file, ..) = site.write_config("third", &other);
    let text = fs::read_to_string(&file).unwrap();
    let taken = format!("127.0.0.1:{}", first.metrics);
    let mut third: toml::Table = text.parse().unwrap();
    third["metrics"]["listen"] = taken.clone().into();
    fs::write(&file, toml::to_string(&third).unwrap()).unwrap();
    let out = Command::new(&site.recsae).env("ORT_DYLIB_PATH", &site.library).args(["run", "-c"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.code() != Some(2) || !said.contains(&taken) {
        return Err(format!("the third on one port: {:?}, {said}", out.status));
    }
    let verdict = settle(stage, &site, first)?;
    Ok(format!("both refused with exit 2; {}", verdict.words()))
}

/// A store restored from an older copy: what came since is read again from the log, once.
pub(crate) fn restored(stage: &Stage) -> Checked<String> {
    let site = Site::new(stage, "restored", plan(stage, 22, 6_000));
    site.produce(0..3_000, Duration::ZERO)?;
    let mut monitor = site.start(&[], "");
    monitor.wait_for(Duration::from_secs(60), "half of the records", consumed(3_000.0))?;
    monitor.end(Duration::from_secs(20))?;
    let copy = site.folder.path().join("copy.db");
    fs::copy(site.store(), &copy).unwrap();
    let old_head = head(&site)?;
    site.produce(3_000..6_000, Duration::ZERO)?;
    let mut monitor = site.start(&[], "");
    monitor.wait_for(Duration::from_secs(60), "all records", consumed(3_000.0))?;
    monitor.end(Duration::from_secs(20))?;
    let new_head = head(&site)?;
    remove_store(site.store());
    fs::rename(&copy, site.store()).unwrap();
    let found = site.command(&["history", "verify", "--head", &new_head]);
    if found.status.success() || old_head == new_head {
        return Err("the older copy was taken for the newest: its head was not missed".into());
    }
    let n_said = |site: &Site| site.printed().matches("the store is older than what was committed").count();
    let said_before = n_said(&site);
    let verdict = settle(stage, &site, site.start(&[], ""))?;
    if n_said(&site) <= said_before {
        return Err(format!("nothing in the log says that the store is older than the commits\n{}", crate::process::tail(&site.printed())));
    }
    Ok(format!("found by the chain's head, said in the log, and read again; {}", verdict.words()))
}

/// A store that is gone: the windows that are open are counted from the log as the commits say, and no window that lost
/// a part with the store is judged as if it were whole.
pub(crate) fn lost(stage: &Stage) -> Checked<String> {
    let (n_before, outcome) = lose(stage, "lost", "")?;
    let (verdict, n_incomplete) = outcome?;
    if verdict.windows < 4 {
        return Err(format!("only {} windows could be compared", verdict.windows));
    }
    Ok(format!("lost with {n_before} judged windows; {n_incomplete} since are marked incomplete, the others equal: {}", verdict.words()))
}

/// Loses the store half way, with these points armed before that: windows judged by then, and what is known after all
/// is read.
pub(crate) fn lose(stage: &Stage, name: &str, failpoints: &str) -> Checked<(f64, Checked<(Verdict, usize)>)> {
    let site = Site::new(stage, name, plan(stage, 24, 6_000));
    let mut monitor = site.start(&[], failpoints);
    site.produce(0..3_000, Duration::from_millis(20))?;
    monitor.wait_for(Duration::from_secs(60), "half of the records are stored", |_| (stored(&site)? >= 3_000).then_some(()))?;
    let judged = |m: &Monitor| m.scrape().map(|scrape| scrape.get("recsae_windows_judged_total")).filter(|n| *n >= 2.0);
    let n_judged = monitor.wait_for(Duration::from_secs(60), "windows are judged", judged)?;
    let has_committed = |_: &Monitor| committed(stage, &site).is_ok_and(|n| n >= 3_000).then_some(());
    monitor.wait_for(Duration::from_secs(60), "all is committed", has_committed)?;
    monitor.kill()?;
    remove_store(site.store());
    site.produce(3_000..6_000, Duration::ZERO)?;
    let status = site.start(&["--until-end"], "").wait(Duration::from_secs(120))?;
    if status != 0 {
        return Err(format!("the drain ended with {status}\n{}", crate::process::tail(&site.printed())));
    }
    Ok((n_judged, compare_what_is_known(stage, &site)))
}

/// A store of a newer program, and a truncated one, are refused and left as they are.
pub(crate) fn refused(stage: &Stage) -> Checked<String> {
    let site = Site::new(stage, "refused", plan(stage, 23, 2_000));
    site.produce(0..2_000, Duration::ZERO)?;
    drain_and_compare(stage, &site)?;
    let sane = fs::read(site.store()).unwrap();
    let set_version = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA user_version = 99'); c.commit()";
    let newer = Command::new(&stage.python).args(["-c", set_version]).arg(site.store()).status().unwrap();
    assert!(newer.success());
    refuses(&site, "schema version 99")?;
    remove_store(site.store());
    fs::write(site.store(), &sane[..sane.len() / 2]).unwrap();
    refuses(&site, "damaged")?;
    fs::write(site.store(), b"something else altogether, and longer than a header of SQLite would be; something else altogether....")
        .unwrap();
    refuses(&site, "no SQLite database")?;
    fs::write(site.store(), &sane).unwrap();
    let verdict = drain_and_compare(stage, &site)?;
    Ok(format!("newer, truncated and foreign files refused with exit 2; {}", verdict.words()))
}

fn refuses(site: &Site, words: &str) -> Checked<()> {
    let before = fs::read(site.store()).unwrap();
    let mut monitor = site.start_as(&site.recsae, "refused", &site.settings, &[], &[]);
    let status = monitor.process.wait(Duration::from_secs(60))?;
    let said = monitor.process.printed_tail();
    if status != 2 || !said.contains(words) || fs::read(site.store()).unwrap() != before {
        return Err(format!("expected exit 2 and {words:?}, found {status}: {said}"));
    }
    Ok(())
}

/// Head of the audit chain.
fn head(site: &Site) -> Checked<String> {
    let out = site.command(&["history", "verify", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(|error| error.to_string())?;
    answer["head"].as_str().map(str::to_owned).ok_or_else(|| format!("no head in {answer}"))
}

pub(crate) fn remove_store(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        drop(fs::remove_file(format!("{}{suffix}", path.display())));
    }
}
