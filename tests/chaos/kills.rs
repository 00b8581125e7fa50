//! Row 1: kill -9, from outside and at every named point; and the mutants that show that this harness can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recsae::drift::partition::PartitionPosition;
use recsae::fault::POINTS;
use recsae::record::TopicPartition;
use recsae::store::StoreReader;

use crate::commit_order;
use crate::monitor::Checked;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::store_faults;
use crate::verdict::{self, Verdict, settle};
use crate::world::{Kind, LATENESS_MS, WINDOW_MS};

/// Exit status of a program that ended by SIGABRT, as the points do.
pub(crate) const ABORTED: i32 = 134;
/// Longest until an optimised program is ready again after a kill.
pub(crate) const READY: Duration = Duration::from_secs(2);

/// kill -9 from outside at random times, while records come in.
pub(crate) fn from_outside(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "kill-outside", plan(stage, 1, 12_000));
    site.recsae.clone_from(&stage.plain);
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let (mut kills, mut slowest, mut stood) = (0, Duration::ZERO, Vec::new());
    std::thread::scope(|scope| -> Checked<()> {
        let feed = scope.spawn(|| site.produce(0..12_000, Duration::from_millis(40)));
        while !feed.is_finished() || kills < 5 {
            let mut monitor = site.start(&[], "");
            slowest = slowest.max(monitor.wait_ready(Duration::from_secs(60))?);
            std::thread::sleep(Duration::from_millis(rng.random_range(0..900)));
            monitor.kill()?;
            verify(&site)?;
            stood.extend(positions(&site));
            kills += 1;
        }
        feed.join().map_err(|_| "the feed panicked".to_owned())?
    })?;
    let again: i64 = stood.last().into_iter().flat_map(BTreeMap::values).map(|at| at.next_offset - at.replay_offset).sum();
    let mut monitor = site.start(&[], "");
    let read_again = |m: &crate::monitor::Monitor| m.scrape().map(|scrape| scrape.get("recsae_records_replayed_total"));
    monitor.wait_for(Duration::from_secs(60), "open windows are read again", |m| read_again(m).filter(|n| *n >= again as f64))?;
    let verdict = settle(stage, &site, monitor)?;
    let (share, _) = no_more_than_open(&site, &stood)?;
    let words = verdict.words();
    if stage.plain_is_optimised && slowest > READY {
        return Err(format!("ready again only after {slowest:.1?}"));
    }
    Ok(format!("{kills} kills, ready again after {slowest:.1?} at most, {share:.0} % read again a kill, of open windows alone; {words}"))
}

/// Where a store stands, by partition.
pub(crate) type Positions = BTreeMap<TopicPartition, PartitionPosition>;

/// Stored positions.
pub(crate) fn positions(site: &Site) -> Option<Positions> {
    StoreReader::open(site.store()).ok()?.positions().ok()
}

/// Whatever the store stood at when it was killed, reading goes on no earlier than at the first record of a window that was
/// open there, by the records as they were sent. Gives the share of records that were read again, on average, and how many
/// windows were open where the fewest were: of one partition, that had most of them, with records that are counted already.
pub(crate) fn no_more_than_open(site: &Site, stood: &[Positions]) -> Checked<(f64, usize)> {
    let mut log: BTreeMap<i32, Vec<(i64, i64)>> = BTreeMap::new();
    for (partition, offset, made) in verdict::log(site)? {
        let of = log.entry(partition).or_default();
        of.extend((made.kind == Kind::Good).then_some((offset, made.event_ms.div_euclid(WINDOW_MS) * WINDOW_MS)));
    }
    let (mut n, mut again, mut fewest) = (0, 0, usize::MAX);
    for positions in stood {
        let mut most = 0;
        for (partition, at) in positions {
            let edge = (at.watermark_ms.saturating_sub(LATENESS_MS)).div_euclid(WINDOW_MS).saturating_mul(WINDOW_MS);
            let records = log.get(&partition.partition).into_iter().flatten();
            let open: Vec<_> = records.filter(|(offset, start)| *offset < at.next_offset && *start >= edge).collect();
            let first = open.iter().map(|(offset, _)| *offset).min();
            if at.replay_offset < first.unwrap_or(at.next_offset) {
                return Err(format!("{partition}: reads again from {}, its first open record is {first:?}", at.replay_offset));
            }
            n += at.next_offset;
            again += at.next_offset - at.replay_offset;
            let read_again = open.iter().filter(|(offset, _)| *offset >= at.replay_offset);
            most = most.max(read_again.map(|(_, start)| start).collect::<BTreeSet<_>>().len());
        }
        fewest = fewest.min(most);
    }
    Ok((100.0 * again as f64 / (n as f64).max(1.0), fewest))
}

/// A kill at every named point, in the order of the seed, each in a chunk of records of its own.
pub(crate) fn at_points(stage: &Stage) -> Checked<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let chunk = 1_000;
    // The first three chunks fill the windows that have to be open before one can close.
    let n_chunks = POINTS.len() as u64 + 3;
    let n_records = chunk * n_chunks;
    let mut plan = plan(stage, 2, n_records);
    // A window and a half a chunk: one closes and one is judged in each.
    plan.n_windows = 3 * n_chunks / 2;
    let site = Site::new(stage, "kill-points", plan);
    let mut order = POINTS;
    for last in (1..order.len()).rev() {
        order.swap(last, rng.random_range(0..=last));
    }
    let mut sent = 3 * chunk;
    site.produce(0..sent, Duration::ZERO)?;
    for point in order {
        let monitor = site.start(&[], &armed(point, &mut rng));
        site.produce(sent..sent + chunk, Duration::ZERO)?;
        sent += chunk;
        if point == "drain" {
            let mut monitor = monitor;
            monitor.wait_ready(Duration::from_secs(60))?;
            monitor.signal("TERM");
            died(monitor, point)?;
        } else {
            died(monitor, point)?;
        }
        verify(&site)?;
    }
    let verdict = settle(stage, &site, site.start(&[], ""))?;
    Ok(format!("killed once at each of {} points; {}", POINTS.len(), verdict.words()))
}

/// `FAILPOINTS` for a kill at one of the next passes of a point.
pub(crate) fn armed(point: &str, rng: &mut ChaCha8Rng) -> String {
    let passes = match point {
        "decode" => rng.random_range(0..300),
        "poll" => rng.random_range(0..5),
        "encode" | "count" => rng.random_range(0..2),
        // Once a window, or once a run.
        _ => 0,
    };
    if passes == 0 { format!("{point}=return") } else { format!("{point}={passes}*off->return") }
}

/// Waits until the point has killed it.
pub(crate) fn died(monitor: crate::monitor::Monitor, point: &str) -> Checked<()> {
    match monitor.wait(Duration::from_secs(60)).map_err(|error| format!("{point} was not passed: {error}"))? {
        ABORTED => Ok(()),
        status => Err(format!("at {point} it ended with {status}")),
    }
}

/// The store opens and verifies, whatever happened; before the first step there may be none.
pub(crate) fn verify(site: &Site) -> Checked<()> {
    if !site.store().exists() {
        return Ok(());
    }
    let out = site.command(&["history", "verify"]);
    if out.status.success() { Ok(()) } else { Err(format!("after a kill: {}", String::from_utf8_lossy(&out.stderr))) }
}

/// Records below the stored positions.
pub(crate) fn stored(site: &Site) -> Option<i64> {
    let positions = StoreReader::open(site.store()).ok()?.positions().ok()?;
    Some(positions.values().map(|position| position.next_offset).sum())
}

/// The oracle must see a planted fault: a row counted twice, open windows that are not read again, a
/// commit that does not say what was closed. And who looks at commits must see one that comes before its step is stored.
pub(crate) fn mutants(stage: &Stage) -> Checked<String> {
    let mut caught = BTreeMap::new();
    let twice = Site::new(stage, "mutant-twice", plan(stage, 3, 4_000));
    twice.produce(0..4_000, Duration::ZERO)?;
    to_its_end(&twice, "mutant-counted-twice=1*return")?;
    caught.insert("mutant-counted-twice", verdict::compare(stage, &twice));

    let lost = Site::new(stage, "mutant-lost", plan(stage, 4, 4_000));
    lost.produce(0..2_000, Duration::ZERO)?;
    let mut monitor = lost.start(&[], "");
    monitor.wait_for(Duration::from_secs(60), "half of the records are stored", |_| (stored(&lost)? >= 2_000).then_some(()))?;
    monitor.kill()?;
    lost.produce(2_000..4_000, Duration::ZERO)?;
    to_its_end(&lost, "mutant-not-read-again=return")?;
    caught.insert("mutant-not-read-again", verdict::compare(stage, &lost));

    let (_, unmarked) = store_faults::lose(stage, "mutant-no-watermark", "mutant-no-watermark=return")?;
    caught.insert("mutant-no-watermark", unmarked.map(|(verdict, _)| verdict));

    let mut words = Vec::new();
    for (mutant, outcome) in &caught {
        let said = match outcome {
            Ok(Verdict { cells, .. }) => return Err(format!("{mutant} was not caught: {cells} cells are equal")),
            Err(said) => said,
        };
        // Any other error is no proof of anything.
        let cells = said.lines().find_map(|line| line.trim().strip_prefix("\"cells_differ\": ")?.trim_end_matches(',').parse::<u64>().ok());
        let n = cells.filter(|n| *n > 0).ok_or_else(|| format!("{mutant} ended otherwise than by counts that differ: {said}"))?;
        words.push(format!("{mutant}: {n} cells differ"));
    }
    let seen = commit_order::look(stage, "mutant-commit-first", "mutant-commit-first=return")?;
    let (committed, stored) = seen.ahead.ok_or("mutant-commit-first was not caught: no commit was ahead of the store")?;
    words.push(format!("mutant-commit-first: {committed} committed and {stored} stored"));
    Ok(format!("{} planted faults, each caught ({})", words.len(), words.join("; ")))
}

/// A run with a planted fault that reads all and ends well, as far as it knows.
fn to_its_end(site: &Site, failpoints: &str) -> Checked<()> {
    match site.start(&["--until-end"], failpoints).wait(Duration::from_secs(60))? {
        0 => Ok(()),
        status => Err(format!("{failpoints}: ended with {status}\n{}", crate::process::tail(&site.printed()))),
    }
}
