//! The live flow: from Kafka to a verdict, on one screen.
//!
//! ```text
//!  worker x cores: poll -> decode -> encode -> top-k -> count -> close     (one thread, nothing handed over)
//!      | steps {next offset, watermark, closed partial windows}            (bounded: full means slower)
//!      v
//!  judge: one transaction a step -> merge partitions -> score -> states -> one transaction a window
//!      |   alerts, to be explained -> explainer: reads their records again (a thread beside the flow)
//!      v
//!  snapshot -> /metrics, /api, page                                        (immutable, swapped)
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::settings::Settings;
use crate::monitor::command::STEPS_WAITING;
use crate::monitor::judge::Judge;
use crate::monitor::setup::Setup;
use crate::monitor::worker::Worker;
use crate::snapshot::SnapshotCell;
use crate::task::{Shutdown, TaskError, TaskGroup};

pub mod admission;
pub mod assemble;
pub mod cluster;
pub mod command;
pub mod counting;
pub mod deed;
pub mod error;
pub mod explained;
pub mod explainer;
pub mod intake;
pub mod judge;
pub mod kept;
pub mod models;
pub mod options;
pub mod pace;
pub mod progress;
pub mod questions;
pub mod recount;
pub mod rejects;
pub mod reread;
pub mod resume;
pub mod retention;
pub mod setup;
pub mod shared;
pub mod topic_watch;
pub mod tracked;
pub mod version;
pub mod worker;

pub use error::MonitorError;
pub use options::{OnOpen, Opened, RunOptions};

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RunSummary {
    /// Records read for the first time.
    pub records: u64,
    /// Of those, rejected.
    pub rejected: u64,
    /// Windows judged.
    pub windows_judged: u64,
    /// Alerts that fire at the end.
    pub alerts_firing: usize,
}

impl RunSummary {
    /// What both did, this one after the other.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        Self {
            records: before.records + self.records,
            rejected: before.rejected + self.rejected,
            windows_judged: before.windows_judged + self.windows_judged,
            ..self
        }
    }
}

/// Runs until the group's shutdown, or to the end of the log where that is asked for; then drains.
///
/// # Errors
/// The set-up is refused, or a part failed; what was counted and stored stays.
pub fn run(settings: &Settings, options: RunOptions, group: &TaskGroup) -> Result<RunSummary, MonitorError> {
    let mut setup = Setup::open(settings, &options)?;
    let (to_judge, commands) = sync_channel(STEPS_WAITING);
    (options.on_open)(setup.opened(to_judge.clone()))?;

    let n_workers = setup.n_workers(settings);
    let running = Arc::new(AtomicUsize::new(n_workers));
    // Alone, steps go to the judge; in a cluster, to what publishes them.
    let joined = setup.joined();
    let (steps, waiting) = if joined.is_some() {
        let (steps, waiting) = sync_channel(STEPS_WAITING);
        (steps, Some(waiting))
    } else {
        (to_judge.clone(), None)
    };
    let workers = (0..n_workers).map(|number| setup.worker(settings, number, steps.clone())).collect::<Result<Vec<_>, _>>()?;
    drop(steps);
    setup.begin()?;
    if let Some((joined, waiting)) = joined.zip(waiting) {
        joined.start(setup.shared(), waiting, &to_judge, group)?;
    }
    let to_mend = ToMend::default();
    for (number, worker) in workers.into_iter().enumerate() {
        start_worker(number, worker, (&running, &to_mend), group)?;
    }
    if let Some(watch) = setup.topic_watch() {
        let (shared, shutdown, to_mend) = (Arc::clone(setup.shared()), group.shutdown().clone(), to_mend.clone());
        let commands = to_judge.clone();
        let watch = move || -> Result<(), TaskError> { watch.run(&shared, &commands, &shutdown).map_err(|error| to_mend.keep(error)) };
        group.thread("topic-watch", watch).map_err(|error| MonitorError::Start(error.to_string()))?;
    }
    let (explainer, questions) = setup.explainer(settings, to_judge, options.until_end);
    let shutdown = group.shutdown().clone();
    let explain = move || -> Result<(), TaskError> {
        explainer.run(&shutdown);
        Ok(())
    };
    group.thread("explainer", explain).map_err(|error| MonitorError::Start(error.to_string()))?;
    let judge: Judge = setup.judge(&running, questions)?;
    let judged = judge.run(&commands, group.shutdown());

    // Without workers nothing more can happen: listeners end too.
    group.shutdown().trigger();
    let report = group.drain(settings.kafka.drain);
    let windows_judged = judged?;
    if let Some(fault) = to_mend.take() {
        return Err(fault);
    }
    if !report.is_clean() {
        let words: Vec<String> = report
            .failures
            .iter()
            .map(|failure| failure.message.clone())
            .chain(report.left.iter().map(|name| format!("{name} did not end in time")))
            .collect();
        return Err(MonitorError::Failed(words.join("; ")));
    }
    let (records, rejected) = setup.records();
    Ok(RunSummary { records, rejected, windows_judged, alerts_firing: firing(&setup.snapshot) })
}

fn start_worker(
    number: usize,
    worker: impl FnOnce(&Shutdown) -> Result<Option<Worker>, MonitorError> + Send + 'static,
    (running, to_mend): (&Arc<AtomicUsize>, &ToMend),
    group: &TaskGroup,
) -> Result<(), MonitorError> {
    let (running, to_mend, shutdown) = (Arc::clone(running), to_mend.clone(), group.shutdown().clone());
    let work = move || -> Result<(), TaskError> {
        let _ended = Ended(running);
        let ran = worker(&shutdown).and_then(|worker| worker.map_or(Ok(()), |worker| worker.run(&shutdown)));
        ran.map_err(|error| to_mend.keep(error))
    };
    group.thread(&format!("worker-{number}"), work).map_err(|error| MonitorError::Start(error.to_string()))
}

/// The first thing that a worker stopped for and a human must mend. It is why the run failed: the others mostly stopped
/// for the same, and would say it again.
#[derive(Clone, Default)]
struct ToMend(Arc<Mutex<Option<MonitorError>>>);

impl ToMend {
    /// Keeps the error if it is one, and gives its words.
    fn keep(&self, error: MonitorError) -> TaskError {
        let words = error.to_string();
        let by_hand = match &error {
            MonitorError::Kafka(error) => error.needs_human(),
            error => error.is_setup(),
        };
        if by_hand {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        words.into()
    }

    fn take(&self) -> Option<MonitorError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Counts a worker out however it ends, so that the judge never waits for one that panicked.
struct Ended(Arc<AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn firing(snapshot: &SnapshotCell) -> usize {
    snapshot.load().alerts.iter().filter(|alert| alert.state == crate::drift::report::AlertState::Firing).count()
}
