//! Row 6: three to eight instances of a cluster, one of which joins, leaves or dies every two seconds, under each way in which
//! a group shares its partitions. What is counted equals the oracle's, and no partition with records waits for long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::load_faults::send_at;
use crate::monitor::{Checked, Monitor};
use crate::site::{Sender, Site, plan};
use crate::stage::Stage;
use crate::together::{Member, join_together, let_pass, settle_together};
use crate::world::Plan;

/// How often a member joins, leaves or dies.
const EVERY: Duration = Duration::from_secs(2);
/// Longest that a partition with records waiting may stand still.
const MOVES_WITHIN: Duration = Duration::from_secs(10);
/// Members at any time, when nothing is on its way.
const FEWEST: usize = 3;
const MOST: usize = 8;
const PARTITIONS: i32 = 8;
/// Records a second.
const LOAD: u64 = 200;
/// Of those that go, one in so many is killed.
const KILLED: f64 = 0.25;
/// Moves from one kill to the next, at least: the group waits for a member that is dead until its session has ended, 6 s
/// after it was last heard of, and would wait for two one after the other.
const BETWEEN_KILLS: u32 = 5;

/// How the group shares its partitions.
const PROTOCOLS: [&str; 3] = ["cooperative-sticky", "range", "consumer"];

/// Ten moves under one protocol.
pub(crate) fn short(stage: &Stage) -> Checked<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let protocol = PROTOCOLS.choose(&mut rng).unwrap();
    play(stage, protocol, &mut rng, 6, 5)
}

/// Forty moves under each.
pub(crate) fn long(stage: &Stage) -> Checked<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let words = PROTOCOLS.iter().map(|protocol| play(stage, protocol, &mut rng, 40, MOST)).collect::<Checked<Vec<_>>>()?;
    Ok(words.join("\n     "))
}

/// What went on.
#[derive(Debug, Default)]
struct Moves {
    joins: usize,
    leaves: usize,
    kills: usize,
    most: usize,
    rebalances: f64,
}

/// The storm of so many moves, of at most that many members.
fn play(stage: &Stage, protocol: &str, rng: &mut ChaCha8Rng, n_moves: u32, most: usize) -> Checked<String> {
    let seconds = u64::from(n_moves + 2) * EVERY.as_secs();
    let mut plan = Plan { n_partitions: PARTITIONS, ..plan(stage, 60 + u64::from(n_moves), 2 * LOAD * seconds) };
    plan.n_windows = 24;
    let mut site = Site::new(stage, "storm-together", plan);
    match protocol {
        "consumer" => site.settings.kafka.protocol = "consumer".into(),
        strategy => drop(site.settings.kafka.librdkafka.insert("partition.assignment.strategy".into(), strategy.into())),
    }
    join_together(stage, &mut site);
    let members: Vec<Member> = (0..most).map(|number| Member::new(&site, &format!("member-{number}"))).collect();
    let (running, moves, watched) = {
        let (site, is_over, no_more) = (&site, &AtomicBool::new(false), &AtomicBool::new(false));
        std::thread::scope(|scope| -> Checked<_> {
            let mut running = Vec::new();
            for member in &members[..FEWEST] {
                let mut monitor = member.start(site, "");
                monitor.wait_ready(Duration::from_secs(60))?;
                running.push((member, monitor));
            }
            let sender = Sender::new(&site.settings.kafka, &site.topic)?;
            let feed = scope.spawn(move || send_at(site, &sender, 0..site.world.plan.n_records, |i| site.world.record(i), LOAD, no_more));
            let watched = scope.spawn(|| watch(site, is_over));
            let stormed = storm(site, &members, running, (n_moves, most), rng);
            no_more.store(true, Ordering::SeqCst);
            let sent = feed.join().map_err(|_| "the feed panicked".to_owned())?;
            is_over.store(true, Ordering::SeqCst);
            let watched = watched.join().map_err(|_| "who watched panicked".to_owned())?;
            sent?;
            let (running, moves) = stormed?;
            Ok((running, moves, watched?))
        })?
    };
    let verdict = settle_together(stage, &mut site, running)?;
    let Moves { joins, leaves, kills, most, rebalances } = moves;
    let words = format!(
        "{protocol}: {joins} joined, {leaves} left, {kills} killed, {most} at most, {rebalances} rebalances; no partition stood still for more than \
         {:.1?} while records waited, in {} looks no committed offset went back; {}",
        watched.longest,
        watched.looks,
        verdict.words()
    );
    if watched.longest > MOVES_WITHIN || watched.looks < 10 || joins + leaves + kills < n_moves as usize { Err(words) } else { Ok(words) }
}

/// Members that are there in the end, and what went on.
fn storm<'a>(
    site: &Site,
    members: &'a [Member],
    running: Vec<(&'a Member, Monitor)>,
    (n_moves, most): (u32, usize),
    rng: &mut ChaCha8Rng,
) -> Checked<(Vec<(&'a Member, Monitor)>, Moves)> {
    let (mut running, mut moves) = (running, Moves { most: FEWEST, ..Moves::default() });
    let mut away: Vec<&Member> = members.iter().skip(running.len()).collect();
    std::thread::scope(|scope| {
        // Who was asked to leave, until it has.
        let (mut leaving, mut killed_at) = (Vec::new(), None);
        for number in 0..n_moves {
            let began = Instant::now();
            let joins = running.len() <= FEWEST || (running.len() < most && rng.random_bool(0.6));
            away.shuffle(rng);
            if let Some(member) = joins.then(|| away.pop()).flatten() {
                moves.joins += 1;
                running.push((member, member.start(site, "")));
            } else {
                let (member, monitor) = running.remove(rng.random_range(0..running.len()));
                moves.rebalances += rebalances(&monitor);
                let may_die = killed_at.is_none_or(|at: u32| number - at >= BETWEEN_KILLS);
                if may_die && rng.random_bool(KILLED) {
                    (moves.kills, killed_at) = (moves.kills + 1, Some(number));
                    monitor.kill()?;
                    away.push(member);
                } else {
                    moves.leaves += 1;
                    leaving.push((member, scope.spawn(move || monitor.end(Duration::from_secs(30)))));
                }
            }
            moves.most = moves.most.max(running.len());
            let_pass(EVERY, began);
            for (member, ended) in std::mem::take(&mut leaving) {
                if ended.is_finished() {
                    has_left(member, ended.join())?;
                    away.push(member);
                } else {
                    leaving.push((member, ended));
                }
            }
        }
        for (member, ended) in leaving {
            has_left(member, ended.join())?;
        }
        moves.rebalances += running.iter().map(|(_, monitor)| rebalances(monitor)).sum::<f64>();
        Ok((running, moves))
    })
}

fn has_left(member: &Member, ended: std::thread::Result<Checked<(i32, Duration)>>) -> Checked<()> {
    match ended.map_err(|_| "who waited for an end panicked".to_owned())?? {
        (0, _) => Ok(()),
        (status, took) => Err(format!("{}: exit {status} {took:.1?} after SIGTERM", member.name)),
    }
}

fn rebalances(monitor: &Monitor) -> f64 {
    monitor.scrape().map_or(0.0, |scrape| scrape.sum("recsae_rebalances_total"))
}

/// What the broker's books showed.
struct Watched {
    looks: usize,
    longest: Duration,
}

/// Looks at the group's committed offsets and the log's ends until it is over.
fn watch(site: &Site, is_over: &AtomicBool) -> Checked<Watched> {
    let kafka = &site.settings.kafka;
    let client = || ClientConfig::new().set("bootstrap.servers", &kafka.brokers).set("group.id", &kafka.group).create::<BaseConsumer>();
    let consumer = client().map_err(|error| error.to_string())?;
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&site.topic, 0, PARTITIONS - 1);
    let mut watched = Watched { looks: 0, longest: Duration::ZERO };
    // Where each partition stood when it last moved, or had nothing to read.
    let mut stood: BTreeMap<i32, (i64, Instant)> = BTreeMap::new();
    let mut asked = BTreeSet::new();
    while !is_over.load(Ordering::SeqCst) {
        let Ok(found) = consumer.committed_offsets(list.clone(), Duration::from_secs(5)) else { continue };
        let now = Instant::now();
        for entry in found.elements() {
            let (partition, Offset::Offset(at)) = (entry.partition(), entry.offset()) else { continue };
            let Ok((_, end)) = consumer.fetch_watermarks(&site.topic, partition, Duration::from_secs(5)) else { continue };
            let (last, since) = stood.entry(partition).or_insert((at, now));
            if at < *last {
                return Err(format!("partition {partition}: {last} was committed, {at} is"));
            }
            // Seen after the end was: whatever waited then waits since the last look at least.
            if at > *last || at >= end {
                (*last, *since) = (at, now);
            }
            watched.longest = watched.longest.max(now - *since);
            asked.insert(partition);
        }
        watched.looks += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    let n_partitions = usize::try_from(PARTITIONS).unwrap();
    if asked.len() == n_partitions { Ok(watched) } else { Err(format!("only {asked:?} were ever committed")) }
}
