//! How far a command is, where its work takes longer than two seconds: a bar on a terminal, a line now and then
//! elsewhere (a log, a pipe), where a bar draws nothing and the command would look stuck.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};

/// Work that is done before needs no line.
const FIRST: Duration = Duration::from_secs(2);
/// Time between two lines: often enough to see that it goes on, seldom enough for a log.
const EVERY: Duration = Duration::from_secs(5);

/// When a line is due.
#[derive(Debug)]
pub struct Lines {
    next: Mutex<Instant>,
}

impl Lines {
    /// Of work that begins now.
    #[must_use]
    pub fn since(now: Instant) -> Self {
        Self { next: Mutex::new(now + FIRST) }
    }

    /// Whether a line is due; it is then taken for said.
    pub fn is_due(&self, now: Instant) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = now >= *next;
        if is_due {
            *next = now + EVERY;
        }
        is_due
    }
}

/// Progress of work in equal pieces.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    lines: Lines,
    what: &'static str,
}

impl Progress {
    /// Of `n` pieces, named in the plural.
    #[must_use]
    pub fn of(n: usize, what: &'static str) -> Self {
        Self::new(Some(n as u64), what)
    }

    /// Of pieces nobody knows the number of.
    #[must_use]
    pub fn counting(what: &'static str) -> Self {
        Self::new(None, what)
    }

    fn new(n: Option<u64>, what: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(n, ProgressDrawTarget::stderr()).with_message(what);
        Self { bar, lines: Lines::since(Instant::now()), what }
    }

    /// So many are done.
    pub fn at(&self, done: usize) {
        self.bar.set_position(done as u64);
        self.say();
    }

    /// So many more are done.
    pub fn add(&self, n: usize) {
        self.bar.inc(n as u64);
        self.say();
    }

    fn say(&self) {
        if !self.bar.is_hidden() || !self.lines.is_due(Instant::now()) {
            return;
        }
        let of = self.bar.length().map_or_else(String::new, |n| format!(" of {n}"));
        // A log that is gone is no reason to stop.
        drop(writeln!(std::io::stderr(), "recsae: {}{of} {}", self.bar.position(), self.what));
    }

    /// All is done: the bar goes.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_after_two_seconds_and_every_five() {
        let began = Instant::now();
        let lines = Lines::since(began);
        let due: Vec<f64> = [0.0, 1.9, 2.0, 2.1, 6.9, 7.0, 11.9, 40.0, 41.0, 45.0]
            .into_iter()
            .filter(|seconds| lines.is_due(began + Duration::from_secs_f64(*seconds)))
            .collect();
        assert_eq!(due, [2.0, 7.0, 40.0, 45.0], "after a long silence one line, not those that were missed");
    }
}
