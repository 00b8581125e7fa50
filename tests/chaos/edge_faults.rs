//! Row 14: who scrapes too much, who never ends a request, and who sends a header without end, while records are counted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::monitor::{Checked, Monitor};
use crate::ready::{SURFACES, bundle, feed};
use crate::site::{Site, plan};
use crate::stage::Stage;

const SCRAPERS: usize = 50;
/// Each scrapes this often.
const EVERY: Duration = Duration::from_secs(5);
const SLOW: usize = 50;
/// How long each half is watched.
const WATCHED: Duration = Duration::from_secs(60);
/// What must hold.
const P99: Duration = Duration::from_millis(250);
const SERIES: usize = 50_000;
const DEARER: f64 = 1.05;

/// CPU of the workers' threads a record, alone and under fifty scrapers of 50,000 series, slow requests and huge headers; and how
/// long a scrape takes. By name, on the optimised program (`CHAOS_RECSAE`) and a quiet machine: its limits are times.
pub(crate) fn scraped(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "scraped", plan(stage, 61, 0));
    site.settings.model[0].bundle = bundle(stage, &site)?;
    let surfaces = (0..SURFACES).map(|surface| format!("s{surface}")).collect();
    site.settings.segments.values = BTreeMap::from([("surface".to_owned(), surfaces)]);
    site.settings.segments.max = 2 + SURFACES;
    // The limit is of whole streams: a little more, so that so many are shown.
    (site.settings.metrics.max_series, site.settings.metrics.top_concepts) = (SERIES + SERIES / 10, SERIES);
    let is_over = AtomicBool::new(false);
    let (scrapes, refused) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let (over, taken, n_refused) = (&is_over, &scrapes, &refused);
    let played = std::thread::scope(|scope| -> Checked<(f64, f64, usize)> {
        let records = scope.spawn(|| feed(&site, stage.seed, &is_over));
        let played = (|| {
            let mut monitor = site.start(&[], "");
            let n_series = |m: &Monitor| m.scrape().map(|scrape| scrape.n_series()).filter(|n| *n >= SERIES);
            let n = monitor.wait_for(Duration::from_secs(300), "50,000 series are shown", n_series)?;
            let alone = cost(&monitor)?;
            let port = monitor.metrics;
            for scraper in 0..SCRAPERS {
                scope.spawn(move || scrape(port, EVERY.mul_f64(scraper as f64 / SCRAPERS as f64), over, taken));
            }
            (0..SLOW).for_each(|_| drop(scope.spawn(move || slow(port, over))));
            scope.spawn(move || huge(port, over, n_refused));
            let attacked = cost(&monitor)?;
            let (status, _) = monitor.end(Duration::from_secs(20))?;
            if status != 0 { Err(format!("exit {status}\n{}", crate::process::tail(&site.printed()))) } else { Ok((alone, attacked, n)) }
        })();
        is_over.store(true, Ordering::SeqCst);
        records.join().map_err(|_| "the feed panicked".to_owned())??;
        played
    });
    let (alone, attacked, n_series) = played?;
    let mut scrapes = scrapes.into_inner().unwrap();
    scrapes.sort_unstable();
    let p99 = scrapes.get(scrapes.len().saturating_sub(1) * 99 / 100).copied().unwrap_or(Duration::MAX);
    let refused = refused.into_inner();
    let words = format!(
        "{n_series} series: {} scrapes by {SCRAPERS}, p99 {p99:.0?}, beside {SLOW} slow requests and {refused} huge headers refused; a record \
         costs its worker {alone:.1} µs alone and {attacked:.1} µs then",
        scrapes.len()
    );
    if scrapes.len() < SCRAPERS || refused == 0 || p99 > P99 || attacked > alone * DEARER { Err(words) } else { Ok(words) }
}

/// CPU microseconds of the workers a record, over a while.
fn cost(monitor: &Monitor) -> Checked<f64> {
    let look =
        || -> Option<(f64, f64)> { Some((workers_seconds(monitor.process.pid)?, monitor.scrape()?.get("recsae_records_consumed_total"))) };
    let before = look().ok_or("the monitor cannot be looked at")?;
    std::thread::sleep(WATCHED);
    let after = look().ok_or("the monitor cannot be looked at")?;
    Ok(1e6 * (after.0 - before.0) / (after.1 - before.1).max(1.0))
}

/// CPU of the threads that count, by the kernel: nanoseconds on a processor come first in `schedstat`.
fn workers_seconds(pid: u32) -> Option<f64> {
    let mut total = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        if fs::read_to_string(task.path().join("comm")).ok()?.starts_with("worker-") {
            let spent = fs::read_to_string(task.path().join("schedstat")).ok()?;
            total += spent.split_whitespace().next()?.parse::<f64>().ok()? / 1e9;
        }
    }
    Some(total)
}

/// Scrapes as Prometheus does, compressed, and notes how long the whole answer took.
fn scrape(port: u16, first: Duration, is_over: &AtomicBool, scrapes: &Mutex<Vec<Duration>>) {
    std::thread::sleep(first);
    while !is_over.load(Ordering::SeqCst) {
        let began = Instant::now();
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
        let answer = ask(port, request).filter(|answer| answer.starts_with(b"HTTP/1.1 200"));
        // The last ones meet a program that ends.
        if answer.is_some() && !is_over.load(Ordering::SeqCst) {
            scrapes.lock().unwrap().push(began.elapsed());
        }
        std::thread::sleep(EVERY.saturating_sub(began.elapsed()));
    }
}

/// A header line that never ends, a byte at a time, again and again.
fn slow(port: u16, is_over: &AtomicBool) {
    while !is_over.load(Ordering::SeqCst) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { break };
        let mut goes_on = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").is_ok();
        while goes_on && !is_over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(500));
            goes_on = stream.write_all(b"x").is_ok();
        }
    }
}

/// Headers beyond the limit, one after the other; counts those that were refused.
fn huge(port: u16, is_over: &AtomicBool, refused: &AtomicUsize) {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    while !is_over.load(Ordering::SeqCst) {
        if let Some(answer) = ask(port, request.as_bytes())
            && !answer.starts_with(b"HTTP/1.1 200")
        {
            refused.fetch_add(1, Ordering::SeqCst);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What is answered, also when the connection ends before all is sent; `None` where nothing listens.
fn ask(port: u16, request: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut answer = Vec::new();
    drop(stream.write_all(request));
    drop(stream.read_to_end(&mut answer));
    Some(answer)
}
