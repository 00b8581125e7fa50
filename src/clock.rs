//! The only place that reads the wall clock, so that every rule about time can be tested with a
//! time of the test's choosing.
//!
//! The mathematics takes `now` as an argument and needs no clock; threads and edges are handed one.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Something that knows the time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970 UTC; negative before.
    fn now_ms(&self) -> i64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        #[expect(clippy::disallowed_methods, reason = "this is the Clock that everybody else takes the time from")]
        let now = SystemTime::now();
        match now.duration_since(UNIX_EPOCH) {
            Ok(after) => whole_ms(after),
            Err(before) => -whole_ms(before.duration()),
        }
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now_ms`.
    #[must_use]
    pub fn at(now_ms: i64) -> Self {
        Self(AtomicI64::new(now_ms))
    }

    /// Sets the time, also backwards.
    pub fn set(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }

    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(whole_ms(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Whole milliseconds; a length beyond 292 million years is held at the largest number.
fn whole_ms(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_shows_what_it_was_set_to() {
        let clock = ManualClock::at(5);
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now_ms(), 2005);
        clock.set(-7);
        assert_eq!(clock.now_ms(), -7);
    }

    #[test]
    fn the_system_clock_shows_this_century() {
        let now_ms = SystemClock.now_ms();
        assert!((1_600_000_000_000..4_100_000_000_000).contains(&now_ms), "{now_ms}");
    }
}
