//! Every thread and task of the program starts here, has a name, and is waited for.
//!
//! A group owns one [`Shutdown`]. A member that fails or panics triggers it, so that the program
//! never goes on with a part of itself missing; [`TaskGroup::drain`] triggers it too, waits up to a
//! deadline, and reports both outcomes: who ended, who was left behind.
//!
//! Rejected: `tokio::task::JoinSet` alone, because the hot path runs on plain threads.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

/// Why a member ended badly.
pub type TaskError = Box<dyn Error + Send + Sync>;

/// A flag that goes up once: stop taking work, finish what you hold, return.
#[derive(Clone, Debug)]
pub struct Shutdown {
    sender: Arc<watch::Sender<bool>>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A flag that is down.
    #[must_use]
    pub fn new() -> Self {
        Self { sender: Arc::new(watch::Sender::new(false)), gate: Arc::default() }
    }

    /// Raises the flag; a second call changes nothing.
    pub fn trigger(&self) {
        self.sender.send_replace(true);
        let (raised, condition) = &*self.gate;
        *locked(raised) = true;
        condition.notify_all();
    }

    /// Whether the flag is up. Cheap enough for every batch.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.sender.borrow()
    }

    /// For tasks: returns when the flag goes up.
    pub async fn triggered(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives as long as `self`, so this can only end with the flag up.
        while !*receiver.borrow_and_update() {
            if receiver.changed().await.is_err() {
                return;
            }
        }
    }

    /// For threads: waits until the flag goes up, at most `timeout`; whether it is up. This is how a
    /// thread pauses: a plain sleep would make the drain wait for it.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let (raised, condition) = &*self.gate;
        let guard = locked(raised);
        let (guard, _) = condition.wait_timeout_while(guard, timeout, |raised| !*raised).unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}

/// A member that ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    /// Its name.
    pub name: String,
    /// Its error, or what it panicked with.
    pub message: String,
}

/// What a drain found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Members that failed or panicked, in the order it happened, since the group began.
    pub failures: Vec<TaskFailure>,
    /// Members that had not ended at the deadline. Tasks among them were aborted, threads cannot be.
    pub left: Vec<String>,
}

impl DrainReport {
    /// Whether everybody ended well and in time.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.left.is_empty()
    }
}

#[derive(Debug, Default)]
struct Members {
    next_id: u64,
    running: BTreeMap<u64, String>,
    threads: BTreeMap<u64, std::thread::JoinHandle<()>>,
    tasks: BTreeMap<u64, tokio::task::AbortHandle>,
    failures: Vec<TaskFailure>,
}

#[derive(Debug, Default)]
struct Shared {
    members: Mutex<Members>,
    ended: Condvar,
}

/// Starts threads and tasks, knows them by name, and waits for them. Clones are the same group.
#[derive(Clone, Debug, Default)]
pub struct TaskGroup {
    shutdown: Shutdown,
    shared: Arc<Shared>,
}

impl TaskGroup {
    /// An empty group that listens to `shutdown`.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, shared: Arc::default() }
    }

    /// The group's flag.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a thread. When `work` fails or panics, that is logged and the flag goes up.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn thread<E, F>(&self, name: &str, work: F) -> std::io::Result<()>
    where
        E: Into<TaskError>,
        F: FnOnce() -> Result<(), E> + Send + 'static,
    {
        let id = self.enter(name);
        let guard = Ending { group: self.clone(), id, name: name.to_owned(), outcome: None };
        let body = move || {
            let mut guard = guard;
            guard.end(outcome_of(catch_unwind(AssertUnwindSafe(work))));
        };
        // Linux keeps 15 bytes of a thread's name; the group keeps all of it. When spawning fails, the
        // closure and with it the guard are dropped, which takes the member out again.
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        locked(&self.shared.members).threads.insert(id, handle);
        Ok(())
    }

    /// Starts a task on `runtime`. When `work` fails or panics, that is logged and the flag goes up.
    pub fn task<E, F>(&self, runtime: &Handle, name: &str, work: F)
    where
        E: Into<TaskError>,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let id = self.enter(name);
        let guard = Ending { group: self.clone(), id, name: name.to_owned(), outcome: None };
        let handle = runtime.spawn(async move {
            let mut guard = guard;
            let outcome = work.await.map_err(|error| error.into().to_string());
            guard.end(outcome);
        });
        locked(&self.shared.members).tasks.insert(id, handle.abort_handle());
    }

    /// Names of the members that have not ended.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        locked(&self.shared.members).running.values().cloned().collect()
    }

    /// Raises the flag and waits for everybody, at most `deadline`. Logs both outcomes. Blocks: call it
    /// from a plain thread, not from a task.
    pub fn drain(&self, deadline: Duration) -> DrainReport {
        let started = Instant::now();
        self.shutdown.trigger();
        let members = locked(&self.shared.members);
        let (mut members, _) = self
            .shared
            .ended
            .wait_timeout_while(members, deadline, |members| !members.running.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let left: Vec<String> = members.running.values().cloned().collect();
        for (_, task) in std::mem::take(&mut members.tasks) {
            task.abort();
        }
        let running: Vec<u64> = members.running.keys().copied().collect();
        let mut threads = std::mem::take(&mut members.threads);
        threads.retain(|id, _| !running.contains(id));
        let failures = members.failures.clone();
        drop(members);
        for (_, thread) in threads {
            // A panic was caught and reported inside the thread.
            drop(thread.join());
        }
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if left.is_empty() {
            tracing::info!(elapsed_ms, failures = failures.len(), "drained, nothing left running");
        } else {
            tracing::error!(elapsed_ms, left = left.join(", "), "drain deadline passed, parts were left running");
        }
        DrainReport { failures, left }
    }

    fn enter(&self, name: &str) -> u64 {
        let mut members = locked(&self.shared.members);
        let id = members.next_id;
        members.next_id += 1;
        members.running.insert(id, name.to_owned());
        id
    }
}

/// Raises `shutdown` at SIGTERM or SIGINT. A second signal kills the program the system's way.
///
/// # Errors
/// The signals cannot be listened to.
pub async fn trigger_on_signal(shutdown: Shutdown) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = shutdown.triggered() => return Ok(()),
    };
    tracing::info!(signal = name, "asked to stop, draining");
    shutdown.trigger();
    Ok(())
}

/// Takes a member out of the group, however it ended: also when its task was aborted or unwound.
struct Ending {
    group: TaskGroup,
    id: u64,
    name: String,
    outcome: Option<Result<(), String>>,
}

impl Ending {
    fn end(&mut self, outcome: Result<(), String>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let outcome = match self.outcome.take() {
            Some(outcome) => outcome,
            None if std::thread::panicking() => Err("panicked".to_owned()),
            // An aborted task: the drain that aborted it has named it already.
            None => Ok(()),
        };
        let mut members = locked(&self.group.shared.members);
        members.running.remove(&self.id);
        members.tasks.remove(&self.id);
        if let Err(message) = outcome {
            tracing::error!(task = self.name, error = message, "a part of the program failed, shutting down");
            members.failures.push(TaskFailure { name: self.name.clone(), message });
            drop(members);
            self.group.shutdown.trigger();
        }
        self.group.shared.ended.notify_all();
    }
}

fn outcome_of<E: Into<TaskError>>(caught: std::thread::Result<Result<(), E>>) -> Result<(), String> {
    match caught {
        Ok(result) => result.map_err(|error| error.into().to_string()),
        Err(panic) => {
            let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Err(format!("panicked: {}", words.unwrap_or("no message")))
        }
    }
}

/// A lock whose holder panicked is taken all the same: the values behind it are whole after each statement.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn drain_waits_for_threads_and_tasks_and_leaves_none() {
        let runtime = runtime();
        let group = TaskGroup::default();
        let (thread_flag, task_flag) = (group.shutdown().clone(), group.shutdown().clone());
        group
            .thread("worker-0", move || -> Result<(), TaskError> { thread_flag.wait_timeout(SOON).then_some(()).ok_or("timeout".into()) })
            .unwrap();
        group.task(runtime.handle(), "http", async move {
            task_flag.triggered().await;
            Ok::<(), TaskError>(())
        });
        assert_eq!(group.running(), ["worker-0", "http"]);
        let report = group.drain(SOON);
        assert!(report.is_clean(), "{report:?}");
        assert!(group.running().is_empty());
    }

    #[test]
    fn a_panicking_thread_is_reported_and_triggers_shutdown() {
        let group = TaskGroup::default();
        group.thread("judge", || -> Result<(), TaskError> { panic!("broken invariant {}", 7) }).unwrap();
        assert!(group.shutdown().wait_timeout(SOON));
        let report = group.drain(SOON);
        assert_eq!(report.failures, [TaskFailure { name: "judge".into(), message: "panicked: broken invariant 7".into() }]);
    }

    #[test]
    fn a_panicking_or_failing_task_is_reported_and_triggers_shutdown() {
        for panics in [true, false] {
            let runtime = runtime();
            let group = TaskGroup::default();
            group.task(runtime.handle(), "http", async move {
                assert!(!panics, "on purpose");
                Err::<(), TaskError>("port taken".into())
            });
            assert!(group.shutdown().wait_timeout(SOON));
            let report = group.drain(SOON);
            assert_eq!(report.failures.len(), 1);
            assert_eq!(report.failures[0].name, "http");
            assert!(report.left.is_empty());
        }
    }

    #[test]
    fn past_the_deadline_the_left_are_named_and_tasks_aborted() {
        let runtime = runtime();
        let group = TaskGroup::default();
        group.task(runtime.handle(), "deaf", std::future::pending::<Result<(), TaskError>>());
        let report = group.drain(Duration::from_millis(1));
        assert_eq!(report.left, ["deaf"]);
        assert!(!report.is_clean());
        // Dropping the runtime drops the aborted task, and with it its membership.
        drop(runtime);
        assert!(group.running().is_empty());
    }

    #[test]
    fn a_raised_flag_stays_up_for_late_listeners() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_triggered());
        assert!(!shutdown.wait_timeout(Duration::ZERO));
        shutdown.trigger();
        shutdown.trigger();
        assert!(shutdown.is_triggered() && shutdown.wait_timeout(Duration::ZERO));
        runtime().block_on(shutdown.triggered());
    }
}
