//! Rows 2 to 4: asked to stop under load, frozen past its session, a broker that dies, stalls and comes back.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::disk_faults::committed;
use crate::kafka_server::Kafka;
use crate::monitor::{Checked, Monitor};
use crate::site::{Sender, Site, plan};
use crate::stage::Stage;
use crate::verdict::settle;

/// SIGTERM at random times under load: drained within ten seconds, exit 0, nothing lost or twice.
pub(crate) fn terminated(stage: &Stage) -> Checked<String> {
    let n_records = 20_000;
    let site = Site::new(stage, "sigterm", plan(stage, 10, n_records));
    let is_over = AtomicBool::new(false);
    // A hundred records every tenth of a second, as long as there is a signal to come.
    let load = || -> Checked<()> {
        let sender = Sender::new(&site.settings.kafka, &site.topic)?;
        for i in 0..n_records {
            sender.send(i, &site.world.record(i))?;
            if i % 100 == 99 && !is_over.load(Ordering::SeqCst) {
                sender.producer.poll(Duration::from_millis(100));
            }
        }
        sender.settle()?;
        site.sent.store(n_records, Ordering::SeqCst);
        Ok(())
    };
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| -> Checked<()> {
        let feed = scope.spawn(load);
        let mut signals = || -> Checked<()> {
            for _ in 0..3 {
                let mut monitor = site.start(&[], "");
                monitor.wait_ready(Duration::from_secs(60))?;
                std::thread::sleep(Duration::from_millis(rng.random_range(0..1_000)));
                let (status, took) = monitor.end(Duration::from_secs(20))?;
                if status != 0 || took > Duration::from_secs(10) {
                    return Err(format!("exit {status} after {took:?}\n{}", crate::process::tail(&site.printed())));
                }
                if feed.is_finished() {
                    return Err("the load was over before the signal: no SIGTERM under load".into());
                }
                slowest = slowest.max(took);
            }
            Ok(())
        };
        let outcome = signals();
        is_over.store(true, Ordering::SeqCst);
        feed.join().map_err(|_| "the feed panicked".to_owned())??;
        outcome
    })?;
    let verdict = settle(stage, &site, site.start(&[], ""))?;
    Ok(format!("3 drains with records on their way, {slowest:.1?} at most; {}", verdict.words()))
}

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
    let mut other = site.settings.clone();
    other.store.path = site.folder.path().join("other.db");
    let mut second = site.start_as(&site.recsae, "other", &other, &[], &[]);
    // The group gives the frozen member's partitions away once its session has ended.
    let all = |m: &Monitor| m.scrape().filter(|scrape| scrape.get("recsae_assigned_partitions") >= 4.0);
    second.wait_for(Duration::from_secs(40), "the other member takes over", all)?;
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

/// The broker is killed, comes back, stalls and thaws; the monitor goes on by itself.
pub(crate) fn broker_restarted(stage: &Stage) -> Checked<String> {
    let mut kafka = Kafka::start().ok_or("no Apache Kafka")?;
    let mut site = Site::on(stage, &kafka, "broker", plan(stage, 12, 8_000));
    site.settings.kafka.instance_id = String::new();
    let mut monitor = site.start(&[], "");
    monitor.wait_ready(Duration::from_secs(60))?;
    site.produce(0..3_000, Duration::from_millis(5))?;
    kafka.order("KILL");
    std::thread::sleep(Duration::from_secs(2));
    kafka.order("START");
    kafka.wait_until_up();
    let back = Instant::now();
    site.produce(3_000..6_000, Duration::from_millis(5))?;
    monitor.wait_for(Duration::from_secs(60), "it reads again", consumed(6_000.0))?;
    let recovered = back.elapsed();
    kafka.order("STOP");
    std::thread::sleep(Duration::from_secs(3));
    kafka.order("CONT");
    site.produce(6_000..8_000, Duration::from_millis(5))?;
    let verdict = settle(stage, &site, monitor)?;
    if recovered > Duration::from_secs(30) {
        return Err(format!("read again only {recovered:?} after the broker was back"));
    }
    Ok(format!("killed and stalled once; all read {recovered:.1?} after it was back; {}", verdict.words()))
}

/// Whether so many records were consumed since this process began.
pub(crate) fn consumed(n: f64) -> impl Fn(&Monitor) -> Option<()> {
    move |monitor| monitor.scrape().filter(|scrape| scrape.get("recsae_records_consumed_total") >= n).map(drop)
}
