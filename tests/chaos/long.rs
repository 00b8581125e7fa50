//! The long run: `make chaos-long`. Hundreds of kills, half at named points, half from outside at random
//! times on the plain program, over hundreds of thousands of records; its summary is written as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recsae::fault::POINTS;

use crate::kills::{ABORTED, Positions, READY, armed, no_more_than_open, positions, stored, verify};
use crate::monitor::Checked;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::verdict::{Verdict, settle};
use crate::world::WINDOW_MS;

/// Records of the run, unless `RECORDS` says otherwise.
const RECORDS: u64 = 300_000;
/// Kills of the run, unless `KILLS` says otherwise.
const KILLS: u32 = 200;
/// Windows that must be open at each kill.
const OPEN: usize = 3;
/// Longest wait for a point to be passed; some are passed once a window alone.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happened.
#[derive(Default)]
struct Seen {
    outside: u32,
    /// Of those, kills in place of a point that was not passed in time.
    not_passed: u32,
    by_point: BTreeMap<&'static str, u32>,
    ready: Vec<Duration>,
    /// Where the store stood after each kill.
    stood: Vec<Positions>,
    /// Windows that were open at the kill with the fewest, by the log.
    fewest_open: usize,
    /// Percent of the records below the positions that a kill had read again.
    read_again: f64,
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
    let mut sent = first_windows(stage, &site)?;
    let share = (n_records - sent) / u64::from(n_kills);
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
        seen.stood.push(positions(&site).ok_or("after a kill the store has no positions")?);
        if kill % 20 == 19 {
            println!("     {} kills, {sent} records, {:.0} s", kill + 1, began.elapsed().as_secs_f32());
        }
    }
    let verdict = settle(stage, &site, site.start(&[], ""))?;
    (seen.read_again, seen.fewest_open) = no_more_than_open(&site, &seen.stood)?;
    let text = summary(stage, n_kills, &seen, &verdict, began.elapsed());
    if let Some(file) = std::env::var_os("SUMMARY") {
        std::fs::write(file, &text).map_err(|error| error.to_string())?;
    }
    let slowest = seen.ready.iter().max().copied().unwrap_or_default();
    let n_seen = seen.outside + seen.by_point.values().sum::<u32>();
    if seen.fewest_open < OPEN || n_seen != n_kills || (stage.plain_is_optimised && slowest > READY) {
        return Err(format!(
            "expected {n_kills} kills, at least {OPEN} windows open at each and ready again within {READY:?} (an optimised program); \
             found {n_seen}, {} and {slowest:.2?}\n{text}",
            seen.fewest_open
        ));
    }
    Ok(text)
}

/// The windows that have to be open before the first kill; how many records that took.
fn first_windows(stage: &Stage, site: &Site) -> Checked<u64> {
    let plan = &site.world.plan;
    let sent = (OPEN as u64 * plan.n_records).div_ceil(plan.n_windows);
    site.produce(0..sent, Duration::ZERO)?;
    let mut monitor = site.start_as(&stage.plain, "recsae", &site.settings, &[], &[]);
    let all = |_: &_| (stored(site)?.unsigned_abs() >= sent).then_some(());
    monitor.wait_for(Duration::from_secs(120), "the first windows are stored", all)?;
    monitor.end(Duration::from_secs(20))?;
    Ok(sent)
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
    match monitor.process.wait(PATIENCE) {
        Ok(ABORTED) => *seen.by_point.entry(point).or_insert(0) += 1,
        // An end of another kind is no kill at that point: it is a fault.
        Ok(status) => return Err(format!("armed to be killed at {point}, it ended with {status}\n{}", monitor.process.printed_tail())),
        Err(_) => {
            monitor.kill()?;
            seen.outside += 1;
            seen.not_passed += 1;
        }
    }
    Ok(())
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
        "{n_kills} kills, each seen: {} by SIGKILL from outside at random times ({} of them because a point was not passed within \
         {PATIENCE:?}; the others on the program without points), {} by SIGABRT at named points",
        seen.outside,
        seen.not_passed,
        seen.by_point.values().sum::<u32>()
    ));
    let points: Vec<String> = seen.by_point.iter().map(|(point, n)| format!("{point} {n}")).collect();
    line(format!("kills a point: {}", points.join(", ")));
    line(format!("{}; 0 cells differ, each window judged once, every reject once in the dead letters", verdict.words()));
    line(format!(
        "8 partitions; at each kill at least {} windows were open in one of them, by the log, with records counted and stored; \
         after each kill the store opened and verified, and reading went on at the first record of an open window ({:.1} % read \
         again, on average)",
        seen.fewest_open, seen.read_again
    ));
    line(format!("ready again after {:.2?} (median), {:.2?} (slowest) from the start of the process", at(50), at(100)));
    text
}
