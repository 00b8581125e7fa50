//! The long run: `make chaos-long`. Hundreds of kills, half at named points, half from outside at random
//! times on the plain program, over hundreds of thousands of records; its summary is written as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recsae::fault::POINTS;
use recsae::store::StoreReader;

use crate::kills::{armed, verify};
use crate::monitor::Checked;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::verdict::{Verdict, settle};
use crate::world::{LATENESS_MS, WINDOW_MS};

/// Records of the run, unless `RECORDS` says otherwise.
const RECORDS: u64 = 300_000;
/// Kills of the run, unless `KILLS` says otherwise.
const KILLS: u32 = 200;
/// Longest wait for a point to be passed; some are passed once a window alone.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happened.
#[derive(Default)]
struct Seen {
    outside: u32,
    by_point: BTreeMap<&'static str, u32>,
    ready: Vec<Duration>,
    fewest_open: Option<i64>,
}

/// Kills until both numbers are reached.
pub(crate) fn run(stage: &Stage) -> Checked<String> {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (n_records, n_kills) = (number("RECORDS", RECORDS), u32::try_from(number("KILLS", u64::from(KILLS))).unwrap_or(KILLS));
    let mut plan = plan(stage, 99, n_records);
    plan.n_windows = (n_records / 4_000).max(60);
    plan.n_partitions = 8;
    plan.n_entities = 1_000;
    plan.base_ms -= i64::try_from(plan.n_windows).unwrap() * WINDOW_MS;
    let site = Site::new(stage, "long", plan);
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let mut seen = Seen::default();
    let began = Instant::now();
    // Paced by what is killed: a window's share of records for every few kills.
    let share = n_records / u64::from(n_kills);
    let mut sent = 0;
    for kill in 0..n_kills {
        let until = if kill + 1 == n_kills { n_records } else { sent + share };
        std::thread::scope(|scope| -> Checked<()> {
            let feed = scope.spawn(|| site.produce(sent..until, Duration::from_millis(20)));
            if kill % 2 == 0 {
                outside(stage, &site, &mut rng, &mut seen)?
            } else {
                at_point(&site, kill, &mut rng, &mut seen)?
            }
            feed.join().map_err(|_| "the feed panicked".to_owned())?
        })?;
        sent = until;
        verify(&site)?;
        if let Some(open) = open_windows(&site)
            && kill > 20
        {
            seen.fewest_open = Some(seen.fewest_open.map_or(open, |fewest| fewest.min(open)));
        }
        if kill % 20 == 19 {
            println!("     {} kills, {sent} records, {:.0} s", kill + 1, began.elapsed().as_secs_f32());
        }
    }
    let verdict = settle(stage, &site, site.start(&[], ""))?;
    let text = summary(stage, n_kills, &seen, &verdict, began.elapsed());
    if let Some(file) = std::env::var_os("SUMMARY") {
        std::fs::write(file, &text).map_err(|error| error.to_string())?;
    }
    Ok(text)
}

/// SIGKILL at a random time, on the plain program.
fn outside(stage: &Stage, site: &Site, rng: &mut ChaCha8Rng, seen: &mut Seen) -> Checked<()> {
    let mut monitor = site.start_as(&stage.plain, "recsae", &site.settings, &[], &[]);
    seen.ready.push(monitor.wait_ready(Duration::from_secs(60))?);
    std::thread::sleep(Duration::from_millis(rng.random_range(0..1_200)));
    monitor.kill()?;
    seen.outside += 1;
    Ok(())
}

/// The next point of the round; one that is not passed in time is killed from outside instead.
fn at_point(site: &Site, kill: u32, rng: &mut ChaCha8Rng, seen: &mut Seen) -> Checked<()> {
    let point = POINTS[usize::try_from(kill / 2).unwrap() % POINTS.len()];
    let mut monitor = site.start(&[], &armed(point, rng));
    if point == "drain" {
        monitor.wait_ready(Duration::from_secs(60))?;
        std::thread::sleep(Duration::from_millis(rng.random_range(0..500)));
        monitor.signal("TERM");
    }
    if monitor.process.wait(PATIENCE).is_ok() {
        *seen.by_point.entry(point).or_insert(0) += 1;
    } else {
        monitor.kill()?;
        seen.outside += 1;
    }
    Ok(())
}

/// Windows that are open in the partition that is furthest, by the stored watermark.
fn open_windows(site: &Site) -> Option<i64> {
    let positions = StoreReader::open(site.store()).ok()?.positions().ok()?;
    let newest = positions.values().map(|position| position.watermark_ms).max().filter(|ms| *ms != i64::MIN)?;
    let first_open = (newest - LATENESS_MS).div_euclid(WINDOW_MS);
    Some(newest.div_euclid(WINDOW_MS) - first_open + 1)
}

fn summary(stage: &Stage, n_kills: u32, seen: &Seen, verdict: &Verdict, took: Duration) -> String {
    let git = |arguments: &[&str]| Command::new("git").args(arguments).output().ok().filter(|out| out.status.success());
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let mut ready = seen.ready.clone();
    ready.sort_unstable();
    let at = |percent: usize| ready.get(ready.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
    let mut text = String::new();
    let mut line = |words: String| writeln!(text, "{words}").unwrap();
    line(format!("commit {}, seed {}, {:.0} s", commit.unwrap_or_else(|| "unknown".into()), stage.seed, took.as_secs_f32()));
    line(format!(
        "{n_kills} kills: {} from outside at random times on the plain program, {} at named points",
        seen.outside,
        n_kills - seen.outside
    ));
    let points: Vec<String> = seen.by_point.iter().map(|(point, n)| format!("{point} {n}")).collect();
    line(format!("kills a point: {}", points.join(", ")));
    line(format!("{}; 0 cells differ, each window judged once, every reject once in the dead letters", verdict.words()));
    line(format!(
        "8 partitions, at least {} windows open in the leading one at each kill; after each kill the store opened and verified",
        seen.fewest_open.unwrap_or(0)
    ));
    line(format!("ready again after {:.2?} (median), {:.2?} (slowest) from the start of the process", at(50), at(100)));
    text
}
