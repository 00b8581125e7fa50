//! Row 5: the network between the program and the broker is cut, both ways and one way, for longer than a session.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use crate::monitor::{Checked, Monitor};
use crate::namespace::Namespace;
use crate::process::Process;
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

/// What lies between the program and the broker.
enum Wire {
    /// A packet filter; the program is in a namespace of its own.
    Packets(Namespace),
    /// Where that is not to be had.
    Relay(Relay),
}

impl Wire {
    /// The best that this machine grants, and why it is no better.
    fn lay(stage: &Stage) -> Checked<(Self, String)> {
        if let Some(why) = Namespace::not_to_be_had() {
            return Ok((Self::relayed(stage), format!("bytes held by a relay, as there is no namespace: {why}")));
        }
        let namespace = Namespace::open(&stage.kafka.relay, &stage.kafka.relayed)?;
        Ok((Self::Packets(namespace), "packets dropped".into()))
    }

    fn relayed(stage: &Stage) -> Self {
        Self::Relay(Relay::of(stage))
    }

    fn cut(&self, way: Way) -> Checked<()> {
        match self {
            Self::Packets(namespace) => namespace.cut(way),
            Self::Relay(relay) => {
                relay.cut(way);
                Ok(())
            }
        }
    }

    /// How much did not come through on the way out and on the way back.
    fn mend(&self) -> Checked<(u64, u64)> {
        match self {
            Self::Packets(namespace) => namespace.mend(),
            Self::Relay(relay) => Ok(relay.mend()),
        }
    }

    /// Starts the program at its end.
    fn start(&mut self, site: &Site, brokers: &str) -> Monitor {
        let mut settings = site.settings.clone();
        brokers.clone_into(&mut settings.kafka.brokers);
        let Self::Packets(namespace) = self else { return site.start_as(&site.recsae, "recsae", &settings, &[], &[]) };
        let (config, metrics, http) = site.write_config("recsae", &settings);
        [metrics, http].into_iter().for_each(|port| namespace.show(port));
        let (program, before) = namespace.entering();
        let own = [site.recsae.as_os_str(), "run".as_ref(), "-c".as_ref(), config.as_os_str()];
        let arguments: Vec<&OsStr> = before.iter().map(OsStr::new).chain(own).collect();
        let environment = [("ORT_DYLIB_PATH", site.library.as_os_str())];
        let process = Process::start(&program, &arguments, &environment, site.folder.path().join("recsae.log"));
        Monitor::over(process, metrics, http)
    }
}

/// Both ways, and one way, whichever the seed says.
pub(crate) fn cut(stage: &Stage) -> Checked<String> {
    cuts(stage, &short(stage), SESSION + Duration::from_millis(1_500), Wire::lay(stage)?)
}

/// The same by the relay, also where packets can be dropped: what was sent meanwhile arrives when the cut is mended.
pub(crate) fn cut_by_relay(stage: &Stage) -> Checked<String> {
    let wire = (Wire::relayed(stage), "bytes held by a relay".to_owned());
    cuts(stage, &short(stage), SESSION + Duration::from_millis(1_500), wire)
}

/// Each way for longer than any request of librdkafka waits.
pub(crate) fn cut_for_long(stage: &Stage) -> Checked<String> {
    cuts(stage, &[Way::Out, Way::In, Way::Both], Duration::from_secs(75), Wire::lay(stage)?)
}

fn short(stage: &Stage) -> [Way; 2] {
    [if stage.seed.is_multiple_of(2) { Way::Out } else { Way::In }, Way::Both]
}

/// The program goes by a wire, everybody else to the broker itself; records come before, in and after each cut.
fn cuts(stage: &Stage, ways: &[Way], length: Duration, (mut wire, what): (Wire, String)) -> Checked<String> {
    let n_records = SHARE * (ways.len() as u64 + 1);
    let mut site = Site::new(stage, "cut", plan(stage, 14, n_records));
    site.settings.kafka.instance_id = String::new();
    let session_ms = SESSION.as_millis().to_string();
    site.settings.kafka.librdkafka.insert("session.timeout.ms".into(), session_ms);
    let mut monitor = wire.start(&site, &stage.kafka.relay);
    site.produce(0..SHARE, Duration::ZERO)?;
    let (mut sent, mut slowest, mut seen) = (SHARE, Duration::ZERO, Vec::new());
    for way in ways {
        monitor.wait_for(Duration::from_secs(60), "all that was sent is stored", stored(&site, sent))?;
        let rebalances = n_rebalances(&monitor)?;
        wire.cut(*way)?;
        let began = Instant::now();
        site.produce(sent..sent + SHARE / 2, Duration::from_millis(20))?;
        std::thread::sleep(length.saturating_sub(began.elapsed()));
        let (out, back) = wire.mend()?;
        let mended = Instant::now();
        site.produce(sent + SHARE / 2..sent + SHARE, Duration::from_millis(20))?;
        sent += SHARE;
        monitor.wait_for(RECOVERED, &format!("all is stored after a cut of {way:?}"), stored(&site, sent))?;
        slowest = slowest.max(mended.elapsed());
        // It lost its partitions, and has them again: the cut was longer than its session.
        let lost = n_rebalances(&monitor)? - rebalances;
        if (out > 0, back > 0) != (*way != Way::In, *way != Way::Out) || lost < 1.0 {
            return Err(format!("{way:?}: {out} stopped on the way out, {back} on the way back, {lost} rebalances: it was not cut"));
        }
        seen.push(format!("{way:?} {out}/{back}"));
    }
    let verdict = settle(stage, &site, monitor)?;
    let words = seen.join(", ");
    Ok(format!("cut for {length:.1?} each, {what}, out/back: {words}; all stored {slowest:.1?} after at most; {}", verdict.words()))
}

fn stored(site: &Site, sent: u64) -> impl Fn(&Monitor) -> Option<()> {
    move |_| (crate::kills::stored(site)? >= i64::try_from(sent).unwrap()).then_some(())
}

fn n_rebalances(monitor: &Monitor) -> Checked<f64> {
    Ok(monitor.scrape().ok_or("no scrape")?.sum("recsae_rebalances_total"))
}
