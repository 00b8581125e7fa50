//! Rows 19 and 20: a hundred times the load, and a long run in which members come and go.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::monitor::{Checked, Monitor};
use crate::process_faults::consumed;
use crate::site::{Sender, Site, plan};
use crate::stage::Stage;
use crate::verdict::settle;
use crate::world::Made;

/// How much more comes in a burst.
const BURST: u64 = 100;
/// Most memory in use at any time of a burst, KiB.
const PEAK_KIB: u64 = 192 << 10;

/// Five seconds of a burst.
pub(crate) fn burst(stage: &Stage) -> Checked<String> {
    surge(stage, 20, 5)
}

/// A minute of a burst.
pub(crate) fn burst_for_long(stage: &Stage) -> Checked<String> {
    surge(stage, 100, 60)
}

/// So many records a second for a while, then a hundred times as many for so long, then as before.
fn surge(stage: &Stage, steady: u64, seconds: u64) -> Checked<String> {
    let (before, in_burst) = (3 * steady, BURST * steady * seconds);
    let mut plan = plan(stage, 16, before + in_burst + 120 * steady);
    plan.n_windows = (plan.n_records / 4_000).max(12);
    plan.base_ms -= 60_000 * i64::try_from(plan.n_windows).unwrap();
    let site = Site::new(stage, "burst", plan);
    // Made beforehand: making one costs this program more than sending it.
    let made: Vec<Made> = (0..before + in_burst).map(|i| site.world.record(i)).collect();
    let mut monitor = site.start(&[], "");
    monitor.wait_ready(Duration::from_secs(60))?;
    let never = AtomicBool::new(false);
    let made = |i: u64| made[usize::try_from(i).unwrap()].clone();
    let sender = Sender::new(&site.settings.kafka, &site.topic)?;
    send_at(&site, &sender, 0..before, made, steady, &never)?;
    monitor.wait_for(Duration::from_secs(60), "the steady records", consumed(before as f64))?;
    let peak_before = monitor.process.peak_kib().unwrap_or(0);
    let began = Instant::now();
    let sent = send_at(&site, &sender, before..before + in_burst, made, BURST * steady, &never)?;
    let sending = began.elapsed();
    let behind = sent as f64 - monitor.scrape().map_or(0.0, |scrape| scrape.get("recsae_records_consumed_total"));
    let is_over = AtomicBool::new(false);
    let caught_up = std::thread::scope(|scope| {
        let feed = scope.spawn(|| send_at(&site, &sender, sent..site.world.plan.n_records, |i| site.world.record(i), steady, &is_over));
        let caught_up = monitor.wait_for(Duration::from_secs(120), "the burst is read", consumed(sent as f64)).map(|()| began.elapsed());
        is_over.store(true, Ordering::SeqCst);
        feed.join().map_err(|_| "the feed panicked".to_owned())??;
        caught_up
    })?;
    let peak = monitor.process.peak_kib().unwrap_or(0);
    let (burst_rate, read_rate) = (in_burst as f64 / sending.as_secs_f64(), in_burst as f64 / caught_up.as_secs_f64());
    let verdict = settle(stage, &site, monitor)?;
    let words = format!(
        "{steady} records a second, then {burst_rate:.0} for {sending:.1?}: {behind} behind at the end of it, read at {read_rate:.0} a second; VmHWM {} MiB, \
         {} MiB before; {}",
        peak >> 10,
        peak_before >> 10,
        verdict.words()
    );
    let is_burst = burst_rate >= 0.9 * (BURST * steady) as f64;
    if !is_burst || read_rate < 3.0 * steady as f64 || peak == 0 || peak > PEAK_KIB { Err(words) } else { Ok(words) }
}

/// Sends these records at so many a second, until it is over; the number of the next one.
pub(crate) fn send_at(
    site: &Site,
    sender: &Sender,
    numbers: Range<u64>,
    made: impl Fn(u64) -> Made,
    a_second: u64,
    is_over: &AtomicBool,
) -> Checked<u64> {
    let began = Instant::now();
    let mut next = numbers.start;
    while next < numbers.end && !is_over.load(Ordering::SeqCst) {
        // A hundred looks at the clock a second.
        let n = (a_second / 100).clamp(1, numbers.end - next);
        for number in next..next + n {
            sender.send(number, &made(number))?;
        }
        next += n;
        let due = Duration::from_secs_f64((next - numbers.start) as f64 / a_second as f64);
        // Acknowledgements are served one by one meanwhile.
        while began.elapsed() < due {
            sender.producer.poll(due.saturating_sub(began.elapsed()));
        }
    }
    sender.settle()?;
    site.sent.fetch_max(next, Ordering::SeqCst);
    Ok(next)
}

/// What must not grow.
#[derive(Clone, Debug)]
struct Sample {
    at: Duration,
    rss_kib: u64,
    threads: u64,
    files: u64,
    series: u64,
    of_each: BTreeMap<String, usize>,
}

/// Records a second of the long run, and its windows: a third of them makes the reference and more.
const SOAKED: u64 = 200;
const WINDOWS: u64 = 60;
/// More than the SAE has.
const ALL_CONCEPTS: usize = 10_000;

/// Half an hour (`SECONDS=..`: shorter) in which records come, and members join, are killed and leave: from the tenth minute on
/// memory, threads, files and series stay as they are.
pub(crate) fn soak(stage: &Stage) -> Checked<String> {
    let seconds: u64 = std::env::var("SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_800);
    let mut plan = plan(stage, 17, SOAKED * seconds);
    plan.n_windows = WINDOWS;
    plan.base_ms -= 60_000 * i64::try_from(WINDOWS).unwrap();
    let mut site = Site::new(stage, "soak", plan);
    site.settings.kafka.instance_id = String::new();
    // All concepts are exported from the first verdict on: those that come to the top later would be more series, and no leak.
    site.settings.metrics.top_concepts = ALL_CONCEPTS;
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    // As deploy/recsae.service starts it.
    let mut first = site.start_as(&site.recsae, "recsae", &site.settings, &[], &[("MALLOC_ARENA_MAX", OsStr::new("2"))]);
    first.wait_ready(Duration::from_secs(60))?;
    let (mut samples, mut n_others) = (Vec::new(), 0);
    let began = Instant::now();
    let (site, never) = (&site, &AtomicBool::new(false));
    let sender = Sender::new(&site.settings.kafka, &site.topic)?;
    std::thread::scope(|scope| -> Checked<()> {
        let feed = scope.spawn(|| send_at(site, &sender, 0..site.world.plan.n_records, |i| site.world.record(i), SOAKED, never));
        while !feed.is_finished() {
            watch(&mut first, began, Duration::from_secs(rng.random_range(10..20)), &mut samples)?;
            let mut settings = site.settings.clone();
            settings.kafka.workers = 1;
            settings.store.path = site.folder.path().join(format!("other-{n_others}.db"));
            let other = site.start_as(&site.recsae, "other", &settings, &[], &[]);
            n_others += 1;
            watch(&mut first, began, Duration::from_secs(rng.random_range(3..8)), &mut samples)?;
            if rng.random_bool(0.5) { other.kill()? } else { other.end(Duration::from_secs(30)).map(drop)? }
        }
        feed.join().map_err(|_| "the feed panicked".to_owned())?.map(drop)
    })?;
    let verdict = settle(stage, site, first)?;
    let (grown, words) = growth(&samples, Duration::from_secs(seconds));
    let words = format!("{seconds} s, {n_others} members came and went: {words}; {}", verdict.words());
    if grown { Err(words) } else { Ok(words) }
}

/// A sample a second for so long.
fn watch(monitor: &mut Monitor, began: Instant, length: Duration, samples: &mut Vec<Sample>) -> Checked<()> {
    let until = Instant::now() + length;
    while Instant::now() < until {
        if let Some(status) = monitor.process.status() {
            return Err(format!("ended with {status}\n{}", monitor.process.printed_tail()));
        }
        if let (Some(of), Some(scrape)) = (monitor.process.in_use(), monitor.scrape()) {
            let [rss_kib, threads, files] = of;
            samples.push(Sample {
                at: began.elapsed(),
                rss_kib,
                threads,
                files,
                series: scrape.n_series() as u64,
                of_each: scrape.n_of_each(),
            });
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// From the first third to the end: medians of a tenth of the whole at both, so that a member which is just there decides nothing.
fn growth(samples: &[Sample], whole: Duration) -> (bool, String) {
    let median = |from: f64, of: fn(&Sample) -> u64| {
        let part = whole.mul_f64(from)..whole.mul_f64(from + 0.1);
        let mut values: Vec<u64> = samples.iter().filter(|sample| part.contains(&sample.at)).map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    };
    let third = samples.iter().find(|sample| sample.at >= whole.mul_f64(1.0 / 3.0));
    let more: Vec<String> = third
        .zip(samples.last())
        .map(|(third, last)| {
            let grown = last.of_each.iter().filter(|(name, n)| third.of_each.get(*name) < Some(*n));
            grown.map(|(name, n)| format!("{name} {} to {n}", third.of_each.get(name).unwrap_or(&0))).collect()
        })
        .unwrap_or_default();
    let both = |of: fn(&Sample) -> u64| (median(1.0 / 3.0, of), median(0.9, of));
    let (rss, threads, files, series) = (both(|s| s.rss_kib), both(|s| s.threads), both(|s| s.files), both(|s| s.series));
    let grown = rss.0 == 0 || rss.1 > rss.0 + (2 << 10) || threads.1 > threads.0 || files.1 > files.0 || series.1 > series.0;
    let words = format!(
        "RSS {} KiB after a third, {} at the end; threads {} and {}, files {} and {}, series {} and {}{}{}",
        rss.0,
        rss.1,
        threads.0,
        threads.1,
        files.0,
        files.1,
        series.0,
        series.1,
        if more.is_empty() { "" } else { ", more of " },
        more.join(", ")
    );
    (grown, words)
}
