//! A running monitor: its counters, its readiness, its end. The books are read all the while.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::Process;

/// What a scenario finds wrong.
pub(crate) type Checked<T> = Result<T, String>;

/// A running `recsae run`.
pub(crate) struct Monitor {
    pub(crate) process: Process,
    pub(crate) metrics: u16,
    pub(crate) http: u16,
    pub(crate) started: Instant,
    books: Arc<Books>,
    reader: Option<JoinHandle<()>>,
}

/// What every scrape is held to: consumed = encoded + rejected.
#[derive(Default)]
struct Books {
    over: AtomicBool,
    n_read: AtomicUsize,
    fault: Mutex<Option<String>>,
}

/// The counters of one scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrape {
    values: BTreeMap<String, f64>,
}

impl Scrape {
    /// A value by its name, labels and all; 0 where it is absent.
    pub(crate) fn get(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or(0.0)
    }

    /// Sum over all labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let labelled = format!("{name}{{");
        self.values.iter().filter(|(key, _)| *key == name || key.starts_with(&labelled)).map(|(_, value)| value).sum()
    }

    /// Series whose names begin so.
    pub(crate) fn n_named(&self, beginning: &str) -> usize {
        self.values.keys().filter(|name| name.starts_with(beginning)).count()
    }

    /// Series in all.
    pub(crate) fn n_series(&self) -> usize {
        self.values.len()
    }

    /// Series of each metric.
    pub(crate) fn n_of_each(&self) -> BTreeMap<String, usize> {
        let mut n_of_each = BTreeMap::new();
        for name in self.values.keys().filter_map(|name| name.split('{').next()) {
            *n_of_each.entry(name.to_owned()).or_default() += 1;
        }
        n_of_each
    }
}

impl Monitor {
    /// Watches over a process that listens on these ports.
    pub(crate) fn over(process: Process, metrics: u16, http: u16) -> Self {
        let books = Arc::new(Books::default());
        let reader = std::thread::spawn({
            let books = Arc::clone(&books);
            move || books.read(metrics)
        });
        Self { process, metrics, http, started: Instant::now(), books, reader: Some(reader) }
    }

    /// One scrape; `None` while nothing listens.
    pub(crate) fn scrape(&self) -> Option<Scrape> {
        scrape(self.metrics)
    }

    /// `/api/v1/status`.
    pub(crate) fn status(&self) -> Option<Value> {
        ureq::get(format!("http://127.0.0.1:{}/api/v1/status", self.http)).call().ok()?.body_mut().read_json().ok()
    }

    /// Whether `/readyz` says yes.
    pub(crate) fn is_ready(&self) -> bool {
        ureq::get(format!("http://127.0.0.1:{}/readyz", self.metrics)).call().is_ok_and(|reply| reply.status() == 200)
    }

    /// Waits until it is ready; how long after its start.
    pub(crate) fn wait_ready(&mut self, limit: Duration) -> Checked<Duration> {
        self.wait_for(limit, "ready", |monitor| monitor.is_ready().then(|| monitor.started.elapsed()))
    }

    /// Looks every 5 ms until `look` finds something; an end of the program is an answer too.
    pub(crate) fn wait_for<T>(&mut self, limit: Duration, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> Checked<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if let Some(status) = self.process.status() {
                return Err(format!("ended with {status} while waiting for: {what}\n{}", self.process.printed_tail()));
            }
            if Instant::now() > deadline {
                return Err(format!("not within {limit:?}: {what}\n{}", self.process.printed_tail()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Next offset of each partition, as the API shows it.
    pub(crate) fn positions(&self) -> Option<BTreeMap<i64, i64>> {
        let status = self.status()?;
        status["partitions"].as_array()?.iter().map(|p| Some((p["partition"].as_i64()?, p["position"].as_i64()?))).collect()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Checked<()> {
        self.signal("KILL");
        self.process.wait(Duration::from_secs(20))?;
        self.close_books()
    }

    /// SIGTERM; its exit status and how long it took.
    pub(crate) fn end(mut self, limit: Duration) -> Checked<(i32, Duration)> {
        // Books that nobody looked into prove nothing.
        self.wait_for(Duration::from_secs(20), "its books are looked into", |m| (m.books.n_read.load(Ordering::SeqCst) > 0).then_some(()))?;
        let asked = Instant::now();
        self.signal("TERM");
        let status = self.process.wait(limit)?;
        let took = asked.elapsed();
        self.close_books()?;
        Ok((status, took))
    }

    /// Waits for an end of its own.
    pub(crate) fn wait(mut self, limit: Duration) -> Checked<i32> {
        let status = self.process.wait(limit)?;
        self.close_books()?;
        Ok(status)
    }

    fn close_books(&mut self) -> Checked<()> {
        self.books.over.store(true, Ordering::SeqCst);
        drop(self.reader.take().map(JoinHandle::join));
        self.books.fault.lock().unwrap().take().map_or(Ok(()), Err)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.books.over.store(true, Ordering::SeqCst);
        drop(self.reader.take().map(JoinHandle::join));
    }
}

impl Books {
    fn read(&self, port: u16) {
        while !self.over.load(Ordering::SeqCst) {
            if let Some(scrape) = scrape(port) {
                self.n_read.fetch_add(1, Ordering::SeqCst);
                let consumed = scrape.get("recsae_records_consumed_total");
                let rest = scrape.get("recsae_records_encoded_total") + scrape.sum("recsae_records_rejected_total");
                if consumed != rest {
                    *self.fault.lock().unwrap() = Some(format!("a scrape in which consumed {consumed} is not encoded + rejected {rest}"));
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn scrape(port: u16) -> Option<Scrape> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
    let text = agent
        .get(format!("http://127.0.0.1:{port}/metrics"))
        .call()
        .ok()?
        .body_mut()
        .with_config()
        .limit(64 << 20)
        .read_to_string()
        .ok()?;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let values = samples.filter_map(|line| line.rsplit_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?))));
    Some(Scrape { values: values.collect() })
}
