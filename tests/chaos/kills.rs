//! Row 1: kill -9, from outside and at every named point; and the mutants that show that this harness can fail.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recsae::fault::POINTS;
use recsae::store::StoreReader;

use crate::monitor::Checked;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::verdict::{self, Verdict, settle};

/// Exit status of a program that ended by SIGABRT, as the points do.
const ABORTED: i32 = 134;

/// kill -9 from outside at random times, while records come in.
pub(crate) fn from_outside(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "kill-outside", plan(stage, 1, 12_000));
    site.recsae.clone_from(&stage.plain);
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let (mut kills, mut slowest) = (0, Duration::ZERO);
    std::thread::scope(|scope| -> Checked<()> {
        let feed = scope.spawn(|| site.produce(0..12_000, Duration::from_millis(40)));
        while !feed.is_finished() || kills < 5 {
            let mut monitor = site.start(&[], "");
            slowest = slowest.max(monitor.wait_ready(Duration::from_secs(60))?);
            std::thread::sleep(Duration::from_millis(rng.random_range(0..900)));
            monitor.kill()?;
            verify(&site)?;
            kills += 1;
        }
        feed.join().map_err(|_| "the feed panicked".to_owned())?
    })?;
    let verdict = settle(stage, &site, site.start(&[], ""))?;
    Ok(format!("{kills} kills, ready again after {slowest:.1?} at most; {}", verdict.words()))
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
/// commit that does not say what was closed.
pub(crate) fn mutants(stage: &Stage) -> Checked<String> {
    let mut caught = BTreeMap::new();
    let twice = Site::new(stage, "mutant-twice", plan(stage, 3, 4_000));
    twice.produce(0..4_000, Duration::ZERO)?;
    twice.start(&["--until-end"], "mutant-counted-twice=1*return").wait(Duration::from_secs(60))?;
    caught.insert("mutant-counted-twice", verdict::compare(stage, &twice));

    let lost = Site::new(stage, "mutant-lost", plan(stage, 4, 4_000));
    lost.produce(0..2_000, Duration::ZERO)?;
    let mut monitor = lost.start(&[], "");
    monitor.wait_for(Duration::from_secs(60), "half of the records are stored", |_| (stored(&lost)? >= 2_000).then_some(()))?;
    monitor.kill()?;
    lost.produce(2_000..4_000, Duration::ZERO)?;
    lost.start(&["--until-end"], "mutant-not-read-again=return").wait(Duration::from_secs(60))?;
    caught.insert("mutant-not-read-again", verdict::compare(stage, &lost));

    for (mutant, outcome) in &caught {
        if let Ok(Verdict { cells, .. }) = outcome {
            return Err(format!("{mutant} was not caught: {cells} cells are equal"));
        }
    }
    Ok(format!("{} planted faults, each caught", caught.len()))
}
