//! Rows 6 and 22: members that come and go, topics that change under the group.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recsae::kafka::admin;
use recsae::store::StoreReader;

use crate::monitor::{Checked, Monitor};
use crate::process_faults::consumed;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::verdict::{log, settle};
use crate::world::Plan;

/// Other members of the group, each with a store of its own, join, are killed and leave every second. What
/// moves away and comes back is counted from the log again, once.
pub(crate) fn rebalance_storm(stage: &Stage) -> Checked<String> {
    let n_records = 9_000;
    let mut site = Site::new(stage, "storm", plan(stage, 50, n_records));
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let strategy = if rng.random_bool(0.5) { "cooperative-sticky" } else { "range" };
    site.settings.kafka.librdkafka.insert("partition.assignment.strategy".into(), strategy.into());
    site.settings.kafka.instance_id = String::new();
    let mut first = site.start(&[], "");
    first.wait_ready(Duration::from_secs(60))?;
    let (mut others, mut joined): (Vec<Monitor>, usize) = (Vec::new(), 0);
    std::thread::scope(|scope| -> Checked<()> {
        let feed = scope.spawn(|| site.produce(0..n_records, Duration::from_millis(120)));
        while !feed.is_finished() || joined < 4 {
            let mut settings = site.settings.clone();
            settings.kafka.workers = 1;
            settings.store.path = site.folder.path().join(format!("other-{joined}.db"));
            let name = format!("other-{joined}");
            others.push(site.start_as(&site.recsae, &name, &settings, &[], &[]));
            joined += 1;
            std::thread::sleep(Duration::from_millis(rng.random_range(500..1_500)));
            if others.len() > 2 {
                let leaver = others.remove(rng.random_range(0..others.len()));
                if rng.random_bool(0.5) { leaver.kill()? } else { leaver.end(Duration::from_secs(30)).map(drop)? }
            }
        }
        feed.join().map_err(|_| "the feed panicked".to_owned())?
    })?;
    for other in others {
        other.end(Duration::from_secs(30))?;
    }
    let left = Instant::now();
    first.wait_for(Duration::from_secs(60), "every partition is back", assigned(|n| n >= 4.0))?;
    let back = left.elapsed();
    let rebalances = first.scrape().map_or(0.0, |scrape| scrape.sum("recsae_rebalances_total"));
    let verdict = settle(stage, &site, first)?;
    if rebalances < 3.0 {
        return Err(format!("only {rebalances} rebalances: the storm did not happen"));
    }
    Ok(format!(
        "{strategy}: {joined} members came and went, {rebalances} rebalances, all back {back:.1?} after the last left; {}",
        verdict.words()
    ))
}

/// Another member with a store of its own takes partitions of which the first has not read a record, counts them,
/// closes windows and commits; then it leaves. The first counts them from their beginning.
pub(crate) fn taken_before_the_first_record(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "taken", plan(stage, 53, 4_000));
    site.settings.kafka.instance_id = String::new();
    let mut first = site.start(&[], "");
    first.wait_for(Duration::from_secs(60), "it has all partitions", assigned(|n| n >= 4.0))?;
    let mut settings = site.settings.clone();
    settings.kafka.workers = 2;
    settings.store.path = site.folder.path().join("other.db");
    let mut other = site.start_as(&site.recsae, "other", &settings, &[], &[]);
    other.wait_for(Duration::from_secs(60), "it has taken partitions", assigned(|n| n >= 2.0))?;
    site.produce(0..4_000, Duration::from_millis(20))?;
    let closed = |m: &Monitor| m.scrape().filter(|scrape| scrape.get("recsae_windows_closed_total") >= 4.0).map(drop);
    other.wait_for(Duration::from_secs(60), "windows closed at the other member", closed)?;
    let taken = other.scrape().map_or(0.0, |scrape| scrape.get("recsae_records_consumed_total"));
    other.end(Duration::from_secs(30))?;
    first.wait_for(Duration::from_secs(60), "every partition is back", assigned(|n| n >= 4.0))?;
    let verdict = settle(stage, &site, first)?;
    Ok(format!("{taken} records counted elsewhere first; {}", verdict.words()))
}

/// Killed while its second static member is given partitions of the first, and back under the same names: it has every
/// partition again, though the broker may hold a distribution that was left half way.
pub(crate) fn killed_in_a_rebalance(stage: &Stage) -> Checked<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let (mut slowest, mut halves, mut words) = (Duration::ZERO, 0, String::new());
    for trial in 0..3 {
        let site = Site::new(stage, "static", plan(stage, 54 + trial, 1_000));
        site.produce(0..1_000, Duration::ZERO)?;
        let mut alone = site.settings.clone();
        alone.kafka.workers = 1;
        let mut first = site.start_as(&site.recsae, "alone", &alone, &[], &[]);
        first.wait_for(Duration::from_secs(60), "it has all partitions", assigned(|n| n >= 4.0))?;
        first.kill()?;
        let mut killed = site.start(&[], "");
        // On a busy machine all may have moved between two looks: then it is killed right after.
        let moves = assigned(|n| n > 0.0 && n < 4.0);
        let moved = |m: &Monitor| (m.process.printed().matches("partitions assigned").count() >= 2).then_some(());
        killed.wait_for(Duration::from_secs(60), "one gives partitions up", |m| moves(m).or_else(|| moved(m)))?;
        std::thread::sleep(Duration::from_millis(rng.random_range(0..100)));
        killed.kill()?;
        let mut back = site.start(&[], "");
        let began = Instant::now();
        back.wait_for(Duration::from_secs(60), "every partition is back", assigned(|n| n >= 4.0))?;
        slowest = slowest.max(began.elapsed());
        halves += usize::from(back.process.printed().contains("passing member"));
        words = settle(stage, &site, back)?.words();
    }
    Ok(format!("3 kills, all back after {slowest:.1?} at most, {halves} distributions were left half way; {words}"))
}

fn assigned(enough: fn(f64) -> bool) -> impl Fn(&Monitor) -> Option<()> {
    move |m| m.scrape().filter(|scrape| enough(scrape.get("recsae_assigned_partitions"))).map(drop)
}

/// The topic is deleted and made again with other records under the same name: noticed, never a silent jump.
pub(crate) fn topic_recreated(stage: &Stage) -> Checked<String> {
    let site = Site::new(stage, "recreated", plan(stage, 51, 4_000));
    site.produce(0..4_000, Duration::ZERO)?;
    let mut monitor = site.start(&[], "");
    monitor.wait_for(Duration::from_secs(60), "all records", consumed(4_000.0))?;
    monitor.end(Duration::from_secs(20))?;
    // A run of some seconds knows the topic by its id.
    let ids = StoreReader::open(site.store()).and_then(|reader| reader.topic_ids()).map_err(|error| error.to_string())?;
    if !ids.contains_key(&site.topic) {
        return Err(format!("the first run kept the ids of {ids:?} alone"));
    }
    admin_script(stage, &site, "a.delete_topics([topic])[topic].result(30)")?;
    let began = Instant::now();
    // Deletion is done a little after it is acknowledged.
    while !admin::create_topic(&site.settings.kafka, &site.topic, 4, Duration::from_secs(20)).unwrap_or(false) {
        if began.elapsed() > Duration::from_secs(30) {
            return Err("the topic could not be made again".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    site.produce(0..500, Duration::ZERO)?;
    let monitor = site.start(&[], "");
    let status = monitor.wait(Duration::from_secs(60))?;
    let said = crate::process::tail(&site.printed());
    if status == 0 || !said.contains("made anew") || !said.contains("has the id") {
        return Err(format!("expected a refusal that names the cause, found exit {status}: {said}"));
    }
    Ok(format!("refused with exit {status}, naming the cause"))
}

/// A line of Python with the broker's admin client `a` and the topic's name `topic`.
fn admin_script(stage: &Stage, site: &Site, line: &str) -> Checked<()> {
    let script = format!(
        "import sys; from confluent_kafka.admin import AdminClient, NewPartitions
a, topic = AdminClient({{'bootstrap.servers': sys.argv[1]}}), sys.argv[2]
{line}"
    );
    let kafka = &site.settings.kafka;
    let out = std::process::Command::new(&stage.python).args(["-c", &script, &kafka.brokers, &site.topic]).output().unwrap();
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

/// Partitions are added while it runs, and new entities come to them: their records are counted, and no window is judged
/// without them.
pub(crate) fn partitions_added(stage: &Stage) -> Checked<String> {
    let (n_records, n_first) = (6_000, 3_000);
    let mut site = Site::new(stage, "added", Plan { n_partitions: 8, newcomers_from: n_first, ..plan(stage, 52, n_records) });
    site.settings.kafka.librdkafka.insert("topic.metadata.refresh.interval.ms".into(), "1000".into());
    site.produce(0..n_first, Duration::ZERO)?;
    let mut monitor = site.start(&[], "");
    monitor.wait_for(Duration::from_secs(60), "half of the records", consumed(n_first as f64))?;
    admin_script(stage, &site, "a.create_partitions([NewPartitions(topic, 16)])[topic].result(30)")?;
    monitor.wait_for(Duration::from_secs(60), "the new partitions are assigned", assigned(|n| n >= 16.0))?;
    // Newcomers alone: an entity that moved to another partition within a window would rightly count twice.
    site.world.plan.n_partitions = 16;
    site.produce(n_first..n_records, Duration::ZERO)?;
    let verdict = settle(stage, &site, monitor)?;
    let mut by_partition = [0; 16];
    for (partition, ..) in log(&site)? {
        by_partition[usize::try_from(partition).unwrap()] += 1;
    }
    let added = &by_partition[8..];
    if added.iter().any(|n| *n < 2) {
        return Err(format!("records of the added partitions: {added:?}"));
    }
    Ok(format!("8 → 16 partitions, {} records in the added ones; {}", added.iter().sum::<i32>(), verdict.words()))
}
