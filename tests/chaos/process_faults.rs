//! Rows 2 and 4: asked to stop under load, a broker that dies, stalls and comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

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
