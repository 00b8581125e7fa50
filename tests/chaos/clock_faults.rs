//! Row 10: the machine's clock is set while the program runs. Windows go by event time, so they are exact.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use recsae::store::StoreReader;

use crate::monitor::{Checked, Monitor};
use crate::process_faults::consumed;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::support;
use crate::verdict::settle;

/// Seconds off, and records until the next step: an hour on, two hours back, and right again.
const STEPS: [(i64, u64); 3] = [(3_600, 4_500), (-3_600, 7_000), (0, 8_000)];
/// What is preloaded into the program.
const CLOCK: &str = include_str!("clock.c");

/// Steps of an hour in both directions, each while nothing comes: who takes time by the clock for time without records
/// closes windows then, and what follows is late.
///
/// Not under `faketime`: it fakes the time (`timespec_get`) at which librdkafka wants to wake, and not the wait
/// (`cnd_timedwait`), so after a step on every wait of some milliseconds takes an hour. What is preloaded here steps the
/// clock that the program reads; waits of librdkafka, which go by the kernel's wall clock, take as long as they should.
pub(crate) fn stepped(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "clock", plan(stage, 13, 8_000));
    // Longer than any pause of this scenario, shorter than a step.
    site.settings.window.idle_after = Duration::from_secs(600);
    let Some(cc) = support::program("cc") else { return Ok("skipped: no C compiler".into()) };
    let at = |name: &str| site.folder.path().join(name);
    let (source, preload, offset) = (at("clock.c"), at("clock.so"), at("offset"));
    fs::write(&source, CLOCK).unwrap();
    let compiled = Command::new(cc).args(["-O1", "-shared", "-fPIC", "-o"]).args([&preload, &source]).output().unwrap();
    if !compiled.status.success() {
        return Err(format!("clock.c: {}", String::from_utf8_lossy(&compiled.stderr)));
    }
    fs::write(&offset, 0_i64.to_ne_bytes()).unwrap();
    let environment = [("LD_PRELOAD", preload.as_os_str()), ("CHAOS_CLOCK", offset.as_os_str())];
    let mut monitor = site.start_as(&site.recsae, "recsae", &site.settings, &[], &environment);
    monitor.wait_ready(Duration::from_secs(60))?;
    let began_ms = jiff::Timestamp::now().as_millisecond();
    let mut sent = 2_000;
    site.produce(0..sent, Duration::from_millis(20))?;
    for (clock, until) in STEPS {
        monitor.wait_for(Duration::from_secs(60), "all that was sent", consumed(sent as f64))?;
        // Everything is read to its end and looked at once more, before the clock is set and after.
        std::thread::sleep(Duration::from_millis(500));
        // Eight bytes in place: the file is mapped.
        fs::File::options().write(true).open(&offset).and_then(|mut file| file.write_all(&clock.to_ne_bytes())).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        site.produce(sent..until, Duration::from_millis(20))?;
        sent = until;
        judged(&mut monitor, sent)?;
    }
    let verdict = settle(stage, &site, monitor)?;
    let (mut earliest, mut latest) = (0, 0);
    let reader = StoreReader::open(site.store()).map_err(|error| error.to_string())?;
    let written = reader.verify_audit(|entry| {
        let minutes = (entry.at_ms - began_ms) / 60_000;
        (earliest, latest) = (minutes.min(earliest), minutes.max(latest));
    });
    written.map_err(|error| error.to_string())?;
    if earliest > -55 || latest < 55 {
        return Err(format!("the record was written from minute {earliest} to minute {latest} by the program's clock: it was not stepped"));
    }
    Ok(format!("judged from minute {earliest} to minute {latest} by the program's clock; {}", verdict.words()))
}

/// Waits until a window is judged that only the records up to `sent` close.
fn judged(monitor: &mut Monitor, sent: u64) -> Checked<()> {
    // Two windows and more are open behind the newest record.
    let least = (sent * 12 / 8_000) as f64 - 4.0;
    let judged = |m: &Monitor| m.scrape().filter(|scrape| scrape.get("recsae_windows_judged_total") >= least).map(drop);
    monitor.wait_for(Duration::from_secs(60), "its windows are judged", judged)
}
