//! Row 1 in a cluster: one of two instances is killed at the points that it passes, and comes back under its static name; then
//! both hold what the oracle counts.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recsae::fault::{CLUSTER_POINTS, POINTS};

use crate::kafka_server::unique;
use crate::kills;
use crate::monitor::{Checked, Monitor};
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::together::{Member, join_together, settle_together};

/// Points of a store that takes steps itself: here the topic does.
const NOT_PASSED: [&str; 3] = ["step-begun", "step-written", "step-stored"];
/// Passed by who judges, or claims to.
const OF_THE_JUDGE: &str = "order-sent";
/// Always among the chosen: what was published and is not acknowledged.
const ALWAYS: [&str; 2] = ["part-published", "entry-written"];
/// Others of a short run.
const MORE: usize = 3;
/// Records between two kills: a window closes and one is judged in each.
const CHUNK: u64 = 600;

/// Some of the points, once.
pub(crate) fn at_some_points(stage: &Stage) -> Checked<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let mut points = passed();
    points.retain(|point| !ALWAYS.contains(point) && *point != OF_THE_JUDGE);
    points.shuffle(&mut rng);
    points.truncate(MORE);
    points.extend(ALWAYS);
    points.shuffle(&mut rng);
    kill_at(stage, &points, &mut rng)
}

/// Every point, three times.
pub(crate) fn at_all_points(stage: &Stage) -> Checked<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let mut points = Vec::new();
    for _ in 0..3 {
        let mut round = passed();
        round.retain(|point| *point != OF_THE_JUDGE);
        round.shuffle(&mut rng);
        points.extend(round);
    }
    points.insert(0, OF_THE_JUDGE);
    kill_at(stage, &points, &mut rng)
}

fn passed() -> Vec<&'static str> {
    POINTS.iter().chain(&CLUSTER_POINTS).copied().filter(|point| !NOT_PASSED.contains(point)).collect()
}

fn kill_at(stage: &Stage, points: &[&'static str], rng: &mut ChaCha8Rng) -> Checked<String> {
    // Three chunks fill the windows that have to be open before one can close.
    let n_chunks = points.len() as u64 + 3;
    let mut plan = plan(stage, 61, CHUNK * n_chunks);
    plan.n_windows = 3 * n_chunks / 2;
    plan.base_ms -= 60_000 * i64::try_from(plan.n_windows).unwrap();
    let mut site = Site::new(stage, "kill-together", plan);
    join_together(stage, &mut site);
    let [stays, killed] = ["stays", "killed"].map(|name| {
        let mut member = Member::new(&site, name);
        member.settings.kafka.instance_id = unique(name);
        // Two members of the group each: a rebalance is on its way at some kills.
        member.settings.kafka.workers = 2;
        member
    });
    let mut sent = 3 * CHUNK;
    site.produce(0..sent, Duration::ZERO)?;
    let mut points = points;
    if let Some((first, others)) = points.split_first()
        && *first == OF_THE_JUDGE
    {
        // It is alone: it claims to judge, and then judges.
        let passes = rng.random_range(0..2);
        kills::died(killed.start(&site, &format!("{first}={passes}*off->return")), first)?;
        points = others;
    }
    let mut other = stays.start(&site, "");
    other.wait_for(Duration::from_secs(60), "it judges", |m: &Monitor| {
        m.scrape().filter(|scrape| scrape.get("recsae_judging") == 1.0).map(drop)
    })?;
    for point in points {
        let mut monitor = killed.start(&site, &armed(point, rng));
        // What is sent before it has partitions again is closed by the other. Some points are passed before.
        let has_partitions = |m: &Monitor| m.scrape().filter(|scrape| scrape.get("recsae_assigned_partitions") > 0.0).map(drop);
        let _killed_already = monitor.wait_for(Duration::from_secs(60), "it has partitions", has_partitions);
        site.produce(sent..sent + CHUNK, Duration::ZERO)?;
        sent += CHUNK;
        if *point == "drain" {
            monitor.wait_ready(Duration::from_secs(60))?;
            monitor.signal("TERM");
        }
        kills::died(monitor, point)?;
        let out = site.command_of(&killed.settings, &["history", "verify"]);
        if killed.settings.store.path.exists() && !out.status.success() {
            return Err(format!("after a kill at {point}: {}", String::from_utf8_lossy(&out.stderr)));
        }
    }
    site.produce(sent..CHUNK * n_chunks, Duration::ZERO)?;
    let mut back = killed.start(&site, "");
    back.wait_ready(Duration::from_secs(60))?;
    let verdict = settle_together(stage, &mut site, vec![(&killed, back), (&stays, other)])?;
    Ok(format!("killed at {}; {}", points.join(", "), verdict.words()))
}

/// As for one alone, and for points that are passed at every turn of a thread.
fn armed(point: &str, rng: &mut ChaCha8Rng) -> String {
    let passes = match point {
        "part-published" => rng.random_range(0..2),
        "step-published" | "news-kept" => rng.random_range(0..6),
        _ => return kills::armed(point, rng),
    };
    format!("{point}={passes}*off->return")
}
