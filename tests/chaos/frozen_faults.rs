//! Row 3: frozen past its session, while another member takes its partitions.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::time::{Duration, Instant};

use crate::disk_faults::committed;
use crate::monitor::{Checked, Monitor};
use crate::process_faults::consumed;
use crate::relay::{Relay, Way};
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::verdict::settle;

/// Frozen until its session has ended.
pub(crate) fn frozen(stage: &Stage) -> Checked<String> {
    freeze(stage, Duration::ZERO)
}

/// Frozen for a minute.
pub(crate) fn frozen_for_long(stage: &Stage) -> Checked<String> {
    freeze(stage, Duration::from_secs(60))
}

/// Frozen for so long, and longer than its session, with a step on its way into the store, while another member takes its
/// partitions; thawed, it must neither commit that step nor count anything twice, and once the other has gone it goes on where
/// its own store is.
fn freeze(stage: &Stage, length: Duration) -> Checked<String> {
    let mut site = Site::new(stage, "frozen", plan(stage, 11, 8_000));
    site.settings.kafka.instance_id = String::new();
    site.produce(0..4_000, Duration::ZERO)?;
    // A slow store: what was read last is not stored yet when it freezes, and would be committed when it wakes.
    let slow = [("FAILPOINTS", OsStr::new("step-written=sleep(1000)")), ("RUST_LOG", OsStr::new("info,recsae=debug"))];
    let mut first = site.start_as(&site.recsae, "recsae", &site.settings, &[], &slow);
    // Stored, so that it goes by its own store afterwards, not by what the other one commits.
    let stored = |_: &Monitor| (crate::kills::stored(&site)? >= 4_000).then_some(());
    first.wait_for(Duration::from_secs(60), "half of the records are stored", stored)?;
    site.produce(4_000..4_400, Duration::ZERO)?;
    first.wait_for(Duration::from_secs(60), "it has read some more", consumed(4_400.0))?;
    first.signal("STOP");
    let frozen = Instant::now();
    let kept = crate::kills::stored(&site).unwrap_or(0);
    if kept >= 4_400 {
        return Err("all was stored when it froze: nothing was left to commit late".into());
    }
    let mut second = other_member(&site)?;
    site.produce(4_400..8_000, Duration::ZERO)?;
    let has_committed = |_: &Monitor| committed(stage, &site).ok().filter(|n| *n >= 8_000);
    let before = second.wait_for(Duration::from_secs(40), "the other member commits what it reads", has_committed)?;
    std::thread::sleep(length.saturating_sub(frozen.elapsed()));
    first.signal("CONT");
    let length = frozen.elapsed();
    first.wait_for(Duration::from_secs(40), "it noticed that its partitions are lost", |m| {
        m.process.printed().contains("partitions lost").then_some(())
    })?;
    // What was on its way is in its own store by then, and with it would come its commit.
    let stored = |_: &Monitor| (crate::kills::stored(&site)? >= 4_400).then_some(());
    first.wait_for(Duration::from_secs(40), "its step is stored", stored)?;
    let after = committed(stage, &site)?;
    if after < before {
        return Err(format!("{before} were committed, and {after} since it woke"));
    }
    let refused = first.process.printed().matches("commit refused").count();
    second.end(Duration::from_secs(20))?;
    let verdict = settle(stage, &site, first)?;
    Ok(format!(
        "frozen for {length:.0?} with {kept} of 4400 records stored, its partitions were lost to another member and came back; {refused} late \
         commits refused, {before} committed before it woke and {after} after; {}",
        verdict.words()
    ))
}

/// Frozen with a commit under way: it has left the program, and comes to the broker when another member has the partitions
/// and has committed more. The broker refuses it, and nothing is counted twice.
pub(crate) fn late_commit(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "late-commit", plan(stage, 16, 8_000));
    site.settings.kafka.instance_id = String::new();
    site.produce(0..4_000, Duration::ZERO)?;
    let wire = Relay::of(stage);
    let mut settings = site.settings.clone();
    settings.kafka.brokers.clone_from(&stage.kafka.relay);
    // One consumer, so that nothing moves between two of its own while the way is cut.
    settings.kafka.workers = 1;
    settings.store.checkpoint_every = Duration::from_millis(20);
    // A slow store: what it read before the cut is stored, and its commit sent, after it.
    let slow = [("FAILPOINTS", OsStr::new("step-written=sleep(1000)")), ("RUST_LOG", OsStr::new("info,recsae::monitor::worker=trace"))];
    let mut first = site.start_as(&site.recsae, "recsae", &settings, &[], &slow);
    let has_committed = |_: &Monitor| committed(stage, &site).ok().filter(|n| *n >= 4_000);
    first.wait_for(Duration::from_secs(60), "half of the records are committed", has_committed)?;
    // Some at a time: the first of them are being stored, and the others wait for that, when the way is cut.
    for from in (4_000..4_400).step_by(40) {
        site.produce(from..from + 40, Duration::ZERO)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    wire.cut(Way::Out);
    let before = committed(stage, &site)?;
    let under_way = |m: &Monitor| Some(sent(&m.process.printed())).filter(|n| *n > before);
    let kept = first.wait_for(Duration::from_secs(10), "it sends a commit that does not arrive", under_way)?;
    first.signal("STOP");
    let mut second = other_member(&site)?;
    site.produce(4_400..8_000, Duration::ZERO)?;
    let has_committed = |_: &Monitor| committed(stage, &site).ok().filter(|n| *n >= 8_000);
    let before = second.wait_for(Duration::from_secs(40), "the other member commits what it reads", has_committed)?;
    let (held, _) = wire.mend();
    first.signal("CONT");
    let refused = |m: &Monitor| m.process.printed().lines().find(|line| line.contains("commit refused")).map(str::to_owned);
    let refused = first.wait_for(Duration::from_secs(40), "its late commit is refused", refused)?;
    let after = committed(stage, &site)?;
    if after < before {
        return Err(format!("{before} were committed, and {after} since the late commit"));
    }
    second.end(Duration::from_secs(20))?;
    let verdict = settle(stage, &site, first)?;
    let why = refused.split_once("\"error\":\"").map_or(refused.as_str(), |(_, rest)| rest.split('"').next().unwrap_or(rest));
    Ok(format!(
        "{held} bytes held on the way, among them a commit of {kept} records; it came when {before} were committed, and was refused \
         ({why}): {after} are committed; {}",
        verdict.words()
    ))
}

/// Sum of the positions that were sent to be committed, by what the program told.
fn sent(printed: &str) -> i64 {
    let positions = printed.lines().filter(|line| line.contains("commit sent")).flat_map(|line| line.split("partition: "));
    let position = |words: &str| {
        let (partition, rest) = words.split_once(" }, offset: ")?;
        Some((partition.parse::<i32>().ok()?, rest.split(',').next()?.parse::<i64>().ok()?))
    };
    positions.filter_map(position).collect::<BTreeMap<_, _>>().values().sum()
}

/// Another member, with a store of its own, that has all partitions: the group gives away those of a frozen one once its
/// session has ended.
fn other_member(site: &Site) -> Checked<Monitor> {
    let mut settings = site.settings.clone();
    settings.store.path = site.folder.path().join("other.db");
    let mut other = site.start_as(&site.recsae, "other", &settings, &[], &[]);
    let all = |m: &Monitor| m.scrape().filter(|scrape| scrape.get("recsae_assigned_partitions") >= 4.0);
    other.wait_for(Duration::from_secs(40), "the other member takes over", all)?;
    Ok(other)
}

/// Frozen, with nobody beside it, for longer than a partition without records is waited for, and shorter than its session:
/// what came meanwhile is not late.
pub(crate) fn asleep(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "asleep", plan(stage, 15, 6_000));
    // Longer than any pause of this scenario but one.
    site.settings.window.idle_after = Duration::from_secs(15);
    site.produce(0..3_000, Duration::ZERO)?;
    let mut monitor = site.start(&[], "");
    monitor.wait_for(Duration::from_secs(60), "half of the records", consumed(3_000.0))?;
    monitor.signal("STOP");
    std::thread::sleep(Duration::from_secs(20));
    site.produce(3_000..6_000, Duration::ZERO)?;
    monitor.signal("CONT");
    monitor.wait_for(Duration::from_secs(60), "all records", consumed(6_000.0))?;
    let verdict = settle(stage, &site, monitor)?;
    Ok(format!("slept through 3,000 records and the end of the time after which a partition is idle; {}", verdict.words()))
}
