//! Row 16 under kills: another SAE is taken up while records flow, and the program is killed on both sides of the edge.
//!
//! The other SAE has the first one's latents in the other order: the same records are as far from its boundaries, and a
//! record that is counted by the wrong one of the two changes the counts.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recsae::store::reader::{StoreReader, WindowQuery};

use crate::monitor::{Checked, Monitor};
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::verdict::{ask, write_ledger};

const N_RECORDS: u64 = 12_000;
/// Records before the swap.
const BEFORE: u64 = 5_000;

/// SIGHUP with another bundle, kill -9 at once and soon after the edge, records read again on both sides of it: no window
/// mixes the two, and the counts of each are those of its own SAE.
pub(crate) fn killed_after_a_swap(stage: &Stage) -> Checked<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed ^ 16);
    let mut plan = plan(stage, 16, N_RECORDS);
    plan.n_windows = 24;
    let mut site = Site::new(stage, "swapped", plan);
    let (model, bundle) = (site.folder.path().join("other"), site.folder.path().join("other-bundle"));
    stage.draw(&model, &bundle, &["reversed"]);
    let mut monitor = site.start(&[], "");
    site.produce(0..BEFORE, Duration::ZERO)?;
    let stored = |_: &Monitor| (crate::kills::stored(&site)? >= i64::try_from(BEFORE).unwrap()).then_some(());
    monitor.wait_for(Duration::from_secs(60), "the records before the swap are stored", stored)?;
    let old = fingerprint(&monitor).ok_or("no fingerprint")?;
    let config = site.folder.path().join("recsae.toml");
    let text = fs::read_to_string(&config).unwrap();
    let (from, to) = (stage.bundle().display().to_string(), bundle.display().to_string());
    fs::write(&config, text.replace(&from, &to)).unwrap();
    site.settings.model[0].bundle.clone_from(&bundle);

    let fed = AtomicBool::new(false);
    let kills = std::thread::scope(|scope| {
        let feed = scope.spawn(|| {
            let sent = site.produce(BEFORE..N_RECORDS, Duration::from_millis(60));
            fed.store(true, Ordering::SeqCst);
            sent
        });
        let kills = swap_and_kill(&site, monitor, &old, &mut rng, &fed);
        feed.join().map_err(|_| "the feed panicked".to_owned())??;
        kills
    })?;
    let mut monitor = site.start(&[], "");
    monitor.wait_ready(Duration::from_secs(60))?;
    let (status, _) = monitor.end(Duration::from_secs(20))?;
    let drained = site.start(&["--until-end"], "").wait(Duration::from_secs(120))?;
    if (status, drained) != (0, 0) {
        return Err(format!("exit {status}, then {drained}\n{}", crate::process::tail(&site.printed())));
    }
    let words = compare_both(stage, &site, &model)?;
    Ok(format!("{kills}; {words}"))
}

/// The swap, and three kills: within a second of it, and of each start after.
fn swap_and_kill(site: &Site, mut monitor: Monitor, old: &str, rng: &mut ChaCha8Rng, fed: &AtomicBool) -> Checked<String> {
    monitor.signal("HUP");
    monitor.wait_for(Duration::from_secs(60), "the other SAE is in use", |m| fingerprint(m).filter(|new| new != old))?;
    let mut n_in_flow = 0;
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(rng.random_range(0..1_000)));
        n_in_flow += usize::from(!fed.load(Ordering::SeqCst));
        monitor.kill()?;
        monitor = site.start(&[], "");
        monitor.wait_ready(Duration::from_secs(60))?;
    }
    monitor.kill()?;
    if n_in_flow == 0 {
        return Err("every record was sent before the first kill".into());
    }
    Ok(format!("another SAE by SIGHUP, 4 kills after it, {n_in_flow} of them while records came"))
}

fn fingerprint(monitor: &Monitor) -> Option<String> {
    Some(monitor.status()?["models"][0]["fingerprint"].as_str()?.to_owned())
}

/// Windows of the first lineage against the first SAE, those of the second against the other.
fn compare_both(stage: &Stage, site: &Site, other: &Path) -> Checked<String> {
    let words = |error: recsae::store::StoreError| error.to_string();
    let reader = StoreReader::open(site.store()).map_err(words)?;
    let query = WindowQuery { segment: Some("_all".into()), limit: Some(10_000), ..WindowQuery::default() };
    let new = reader.summaries(&query).map_err(words)?;
    let all = reader.summaries(&WindowQuery { all_lineages: true, ..query }).map_err(words)?;
    let edge = new.iter().map(|window| window.window_start).min().ok_or("no window was judged by the other SAE")?;
    let twice = all.len() - all.iter().map(|window| window.window_start).collect::<std::collections::BTreeSet<_>>().len();
    let incomplete: Vec<i64> = all.iter().filter(|window| window.verdict == "incomplete").map(|window| window.window_start).collect();
    if twice > 0 || incomplete.is_empty() {
        return Err(format!("{twice} windows were judged under both SAEs, {} have no verdict", incomplete.len()));
    }
    // The first window, that of the edge and what a kill there costs: most have a verdict.
    if incomplete.len() * 4 > all.len() {
        return Err(format!("{} of {} windows have no verdict", incomplete.len(), all.len()));
    }
    let ledger = site.folder.path().join("ledger");
    write_ledger(site, &ledger)?;
    let count = |name: &str, arguments: &[&str], model: &Path, left_out: serde_json::Value| {
        let export = site.folder.path().join(format!("{name}.parquet"));
        let out = site.command(&[&["history", "export", "--out", export.to_str().unwrap()], arguments].concat());
        if !out.status.success() {
            return Err(format!("history export: {}", String::from_utf8_lossy(&out.stderr)));
        }
        ask(stage, model, &ledger, &export, site.store(), Some(&left_out.to_string())).map_err(|why| format!("{name}: {why}"))
    };
    let before = serde_json::json!({"before": i64::MIN, "until": edge, "incomplete": incomplete, "lineage": 1});
    let first = count("first", &["--all-lineages"], &stage.model(), before)?;
    let second = count("second", &[], other, serde_json::json!({"before": edge, "incomplete": incomplete}))?;
    Ok(format!(
        "{} windows ({} cells) equal by the first SAE, {} ({}) by the other, {} around the edge without a verdict, none under both",
        first.windows,
        first.cells,
        second.windows,
        second.cells,
        incomplete.len()
    ))
}
