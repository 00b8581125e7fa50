//! Row 5: the network between the program and the broker is cut, both ways and one way, for longer than a session.

use std::time::{Duration, Instant};

use crate::monitor::{Checked, Monitor};
use crate::relay::{Relay, Way};
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::verdict::settle;

/// The shortest session that a broker grants by default.
const SESSION: Duration = Duration::from_secs(6);
/// How soon all that came meanwhile is stored.
const RECOVERED: Duration = Duration::from_secs(30);
/// Records before the first cut, and in each.
const SHARE: u64 = 2_000;

/// Both ways, and one way, whichever the seed says.
pub(crate) fn cut(stage: &Stage) -> Checked<String> {
    let one_way = if stage.seed.is_multiple_of(2) { Way::Out } else { Way::In };
    cuts(stage, &[one_way, Way::Both], SESSION + Duration::from_millis(1_500))
}

/// Each way for longer than any request of librdkafka waits.
pub(crate) fn cut_for_long(stage: &Stage) -> Checked<String> {
    cuts(stage, &[Way::Out, Way::In, Way::Both], Duration::from_secs(75))
}

/// The program goes through a relay, everybody else to the broker itself; records come before, in and after each cut.
fn cuts(stage: &Stage, ways: &[Way], length: Duration) -> Checked<String> {
    let n_records = SHARE * (ways.len() as u64 + 1);
    let mut site = Site::new(stage, "cut", plan(stage, 14, n_records));
    site.settings.kafka.instance_id = String::new();
    let session_ms = SESSION.as_millis().to_string();
    site.settings.kafka.librdkafka.insert("session.timeout.ms".into(), session_ms);
    let relay = Relay::start(&stage.kafka.relay, &stage.kafka.relayed);
    let mut settings = site.settings.clone();
    settings.kafka.brokers.clone_from(&stage.kafka.relay);
    let mut monitor = site.start_as(&site.recsae, "recsae", &settings, &[], &[]);
    site.produce(0..SHARE, Duration::ZERO)?;
    let (mut sent, mut slowest, mut seen) = (SHARE, Duration::ZERO, Vec::new());
    for way in ways {
        monitor.wait_for(Duration::from_secs(60), "all that was sent is stored", stored(&site, sent))?;
        let rebalances = n_rebalances(&monitor);
        relay.cut(*way);
        let began = Instant::now();
        site.produce(sent..sent + SHARE / 2, Duration::from_millis(20))?;
        std::thread::sleep(length.saturating_sub(began.elapsed()));
        let (out, back) = relay.mend();
        let mended = Instant::now();
        site.produce(sent + SHARE / 2..sent + SHARE, Duration::from_millis(20))?;
        sent += SHARE;
        monitor.wait_for(RECOVERED, &format!("all is stored after a cut of {way:?}"), stored(&site, sent))?;
        slowest = slowest.max(mended.elapsed());
        // It lost its partitions, and has them again: the cut was longer than its session.
        let lost = n_rebalances(&monitor) - rebalances;
        if (out > 0, back > 0) != (*way != Way::In, *way != Way::Out) || lost < 1.0 {
            return Err(format!("{way:?}: {out} bytes held on the way out, {back} on the way back, {lost} rebalances: it was not cut"));
        }
        seen.push(format!("{way:?} {out}/{back} bytes"));
    }
    let verdict = settle(stage, &site, monitor)?;
    let words = seen.join(", ");
    Ok(format!("cut for {length:.1?} each, held out/back: {words}; all stored {slowest:.1?} after at most; {}", verdict.words()))
}

fn stored(site: &Site, sent: u64) -> impl Fn(&Monitor) -> Option<()> {
    move |_| (crate::kills::stored(site)? >= i64::try_from(sent).unwrap()).then_some(())
}

fn n_rebalances(monitor: &Monitor) -> f64 {
    monitor.scrape().map_or(0.0, |scrape| scrape.sum("recsae_rebalances_total"))
}
