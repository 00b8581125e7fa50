//! Logs: text for a person at a terminal, JSON for a collector; and a limit for what payloads can cause.
//!
//! Logs go to standard error, results to standard output. `RUST_LOG` filters (`info` without it),
//! `RECSAE_LOG=text|json` overrides the choice of format, `NO_COLOR` is honoured.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// What `RECSAE_LOG` asks for, else text on a terminal and JSON elsewhere.
    #[must_use]
    pub fn choose(asked: Option<&str>, is_terminal: bool) -> Self {
        match asked.map(str::to_ascii_lowercase).as_deref() {
            Some("text") => Self::Text,
            Some("json") => Self::Json,
            _ if is_terminal => Self::Text,
            _ => Self::Json,
        }
    }
}

/// Starts logging for the whole process; `default_filter` counts where `RUST_LOG` is absent or cannot be
/// read. A second call changes nothing, so that tests and embedded runs may call it too.
pub fn start(default_filter: &str) {
    let asked = std::env::var("RECSAE_LOG").ok();
    let format = LogFormat::choose(asked.as_deref(), std::io::stderr().is_terminal());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}

/// Lets one line through per period and counts what it held back: a million bad payloads are a counter,
/// not a million lines.
#[derive(Debug)]
pub struct RateLimit {
    period_ms: i64,
    next_ms: AtomicI64,
    held_back: AtomicU64,
}

impl RateLimit {
    /// One line per `period`.
    #[must_use]
    pub fn every(period: Duration) -> Self {
        Self {
            period_ms: i64::try_from(period.as_millis()).unwrap_or(i64::MAX),
            next_ms: AtomicI64::new(i64::MIN),
            held_back: AtomicU64::new(0),
        }
    }

    /// `Some(held back since the last line)` when a line may be written at `now_ms`, else `None`.
    pub fn allow(&self, now_ms: i64) -> Option<u64> {
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        // A clock that was set back an hour must not silence the log for that hour.
        let set_back = next_ms != i64::MIN && now_ms < next_ms.saturating_sub(self.period_ms);
        if (now_ms >= next_ms || set_back)
            && self.next_ms.compare_exchange(next_ms, now_ms.saturating_add(self.period_ms), Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lets_one_line_through_a_period_and_counts_the_rest() {
        let limit = RateLimit::every(Duration::from_secs(10));
        assert_eq!(limit.allow(0), Some(0));
        assert_eq!((1..=9_999).filter_map(|now_ms| limit.allow(now_ms)).count(), 0);
        assert_eq!(limit.allow(10_000), Some(9_999));
        assert_eq!(limit.allow(10_001), None);
    }

    #[test]
    fn a_clock_set_back_does_not_silence_the_log() {
        let limit = RateLimit::every(Duration::from_secs(10));
        assert_eq!(limit.allow(3_600_000), Some(0));
        assert_eq!(limit.allow(0), Some(0));
    }

    #[test]
    fn the_environment_overrides_the_choice_of_format() {
        assert_eq!(LogFormat::choose(None, true), LogFormat::Text);
        assert_eq!(LogFormat::choose(None, false), LogFormat::Json);
        assert_eq!(LogFormat::choose(Some("TEXT"), false), LogFormat::Text);
        assert_eq!(LogFormat::choose(Some("json"), true), LogFormat::Json);
        assert_eq!(LogFormat::choose(Some("?"), true), LogFormat::Text);
    }
}
