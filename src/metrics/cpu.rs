//! CPU time, so that the stages add up to what the process used: of the calling thread, of the process, and of
//! librdkafka's threads, which fetch and take apart what workers are handed.
//!
//! A look at a thread's CPU clock is a call of the kernel, some .25 us: a worker takes five a batch.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A folder for each thread of this process.
const TASKS: &str = "/proc/self/task";
/// How the names of librdkafka's threads begin.
const CLIENT: &str = "rdk:";

/// Laps of one thread's CPU time, and how long it was off the CPU. It must stay in the thread that it was started in.
#[derive(Debug)]
pub struct Stopwatch {
    last: Duration,
    last_at: Instant,
    off_cpu: Duration,
}

impl Stopwatch {
    /// Starts the first lap.
    #[must_use]
    pub fn start() -> Self {
        Self { last: clock(ClockId::ThreadCPUTime), last_at: Instant::now(), off_cpu: Duration::ZERO }
    }

    /// CPU time of this thread since the lap began; begins the next.
    pub fn lap(&mut self) -> Duration {
        let (now, at) = (clock(ClockId::ThreadCPUTime), Instant::now());
        let used = now.saturating_sub(std::mem::replace(&mut self.last, now));
        self.off_cpu += (at - std::mem::replace(&mut self.last_at, at)).saturating_sub(used);
        used
    }

    /// In the laps since this was last asked, how long the thread waited: for others, or for a core.
    pub fn take_off_cpu(&mut self) -> Duration {
        std::mem::take(&mut self.off_cpu)
    }
}

/// CPU time of the process so far.
#[must_use]
pub fn process() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// CPU time of librdkafka's threads, those that have ended since they were last looked at included: what they used
/// after the last look is missed.
#[derive(Debug, Default)]
pub struct ClientThreads {
    ended: Duration,
    /// By thread id.
    alive: BTreeMap<OsString, Duration>,
}

impl ClientThreads {
    /// Looks at them again; the time of all so far. Nothing where the system has no `/proc`.
    pub fn look(&mut self) -> Duration {
        let mut alive = BTreeMap::new();
        for thread in std::fs::read_dir(TASKS).into_iter().flatten().flatten() {
            if let Some(used) = client_thread(&thread.path()) {
                alive.insert(thread.file_name(), used);
            }
        }
        for (id, used) in std::mem::take(&mut self.alive) {
            match alive.get(&id) {
                Some(now) if *now >= used => {}
                // Its id was taken up by a new thread.
                Some(_) => self.ended += used,
                // There, and not to be read this time (no file handle is left): it must not count twice when it is.
                None if Path::new(TASKS).join(&id).exists() => {
                    alive.insert(id, used);
                }
                None => self.ended += used,
            }
        }
        self.alive = alive;
        self.ended + self.alive.values().sum::<Duration>()
    }
}

/// CPU time of the thread with that folder, if it is librdkafka's and still there.
fn client_thread(folder: &Path) -> Option<Duration> {
    let name = std::fs::read_to_string(folder.join("comm")).ok()?;
    if !name.starts_with(CLIENT) {
        return None;
    }
    let schedule = std::fs::read_to_string(folder.join("schedstat")).ok()?;
    schedule.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn clock(id: ClockId) -> Duration {
    Duration::try_from(clock_gettime(id)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn work(until: impl Fn() -> bool) {
        let mut n = 0u64;
        while !until() {
            n = black_box(n.wrapping_mul(31) + 1);
        }
    }

    #[test]
    fn a_lap_is_what_this_thread_worked_and_not_what_it_waited_or_others_worked() {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| work(|| stop.load(Ordering::Relaxed)));
            let mut watch = Stopwatch::start();
            // Waits for nobody.
            let nobody = std::sync::mpsc::channel::<()>();
            assert!(nobody.1.recv_timeout(Duration::from_millis(30)).is_err());
            let waited = watch.lap();
            let off = watch.take_off_cpu();
            let mut own = Stopwatch::start();
            let mut worked = Duration::ZERO;
            while worked < Duration::from_millis(20) {
                worked += own.lap();
            }
            let lap = watch.lap();
            stop.store(true, Ordering::Relaxed);
            assert!(waited < Duration::from_millis(15), "{waited:?} of 30 ms of sleep");
            assert!(off >= Duration::from_millis(30) - waited && watch.take_off_cpu() < Duration::from_secs(10), "{off:?} off the CPU");
            assert!(lap >= worked, "{lap:?} of {worked:?}");
            assert!(process() >= lap + waited);
        });
    }

    #[test]
    fn the_clients_threads_are_known_by_their_names_and_counted_on_when_they_end() {
        let mut threads = ClientThreads::default();
        let before = threads.look();
        let work_as = |name: &str| {
            let (seen, look) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel::<()>());
            let worker = std::thread::Builder::new().name(name.into()).spawn(move || {
                let mut own = Stopwatch::start();
                let mut worked = Duration::ZERO;
                while worked < Duration::from_millis(10) {
                    worked += own.lap();
                }
                look.0.send(()).unwrap();
                seen.1.recv().unwrap();
            });
            look.1.recv().unwrap();
            (worker.unwrap(), seen.0)
        };
        let (other, go) = work_as("worker-0");
        let quiet = threads.look();
        go.send(()).unwrap();
        other.join().unwrap();
        let (client, go) = work_as("rdk:broker1");
        let busy = threads.look();
        go.send(()).unwrap();
        client.join().unwrap();
        // Other tests of this program may have clients of their own: they only add.
        assert!(quiet >= before && busy >= quiet + Duration::from_millis(9), "{before:?} {quiet:?} {busy:?}");
        assert!(threads.look() >= busy, "what ended is kept");
    }
}
