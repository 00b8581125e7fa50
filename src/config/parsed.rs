//! Settings that are a small language of their own, read once into types.

use std::time::Duration;

use crate::config::fault::Fault;
use crate::config::settings::{DriftSettings, KafkaSettings, SegmentSettings, WindowSettings};

/// Where a partition without a committed position is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest record.
    Earliest,
    /// Records that arrive from now on.
    Latest,
    /// Refuse to start.
    Error,
    /// The first record at or after this time, ms since 1970 UTC.
    Time(i64),
}

/// What the live windows are compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferenceChoice {
    /// An approved reference by name.
    Named(String),
    /// The first windows live, as many as fit into the time.
    FirstDuration(Duration),
    /// The first windows live.
    FirstWindows(u64),
    /// The last windows, as many as fit into the time, fitted anew as they go on.
    RollingDuration(Duration),
    /// The last windows.
    RollingWindows(u64),
    /// The reference of another model version, for a canary; that version itself gathers its first 14 days.
    OfModel(String),
}

/// Windows of a model version that others are judged by: two weeks, so that the week's rhythm is in it twice.
const FIRST: Duration = Duration::from_hours(14 * 24);

impl ReferenceChoice {
    /// Windows of `length` that the reference gathers live; `None` for a named one.
    #[must_use]
    pub fn first_windows(&self, length: Duration) -> Option<u64> {
        match self {
            Self::Named(_) => None,
            Self::FirstDuration(span) | Self::RollingDuration(span) => u64::try_from(span.as_millis() / length.as_millis().max(1)).ok(),
            Self::FirstWindows(n) | Self::RollingWindows(n) => Some(*n),
            Self::OfModel(_) => Self::FirstDuration(FIRST).first_windows(length),
        }
    }

    /// Whether the reference goes on with the windows.
    #[must_use]
    pub fn is_rolling(&self) -> bool {
        matches!(self, Self::RollingDuration(_) | Self::RollingWindows(_))
    }
}

impl KafkaSettings {
    /// `start`, read.
    ///
    /// # Errors
    /// It is neither a known word nor an RFC 3339 time.
    pub fn start_at(&self) -> Result<StartAt, Fault> {
        match self.start.as_str() {
            "earliest" => Ok(StartAt::Earliest),
            "latest" => Ok(StartAt::Latest),
            "error" => Ok(StartAt::Error),
            text => timestamp_ms(text)
                .map(StartAt::Time)
                .map_err(|_| Fault::new("kafka.start", format!("expected earliest, latest, error or an RFC 3339 time, found {text:?}"))),
        }
    }
}

impl WindowSettings {
    /// `origin` in ms since 1970 UTC.
    ///
    /// # Errors
    /// It is no RFC 3339 time.
    pub fn origin_ms(&self) -> Result<i64, Fault> {
        timestamp_ms(&self.origin).map_err(|error| {
            Fault::new("window.origin", format!("expected an RFC 3339 time like 1970-01-01T00:00:00Z, found {:?}: {error}", self.origin))
        })
    }

    /// `timezone`, found in the system's database.
    ///
    /// # Errors
    /// There is no such zone.
    pub fn time_zone(&self) -> Result<jiff::tz::TimeZone, Fault> {
        jiff::tz::TimeZone::get(&self.timezone).map_err(|error| {
            Fault::new("window.timezone", format!("expected an IANA time zone like Europe/Vienna, found {:?}: {error}", self.timezone))
        })
    }

    /// `length` in ms, at least 1.
    #[must_use]
    pub fn length_ms(&self) -> i64 {
        i64::try_from(self.length.as_millis()).unwrap_or(i64::MAX).max(1)
    }
}

impl SegmentSettings {
    /// Segments that the configuration itself names: `_all`, `_other` and every listed value.
    #[must_use]
    pub fn n_named(&self) -> usize {
        2 + self.values.values().map(Vec::len).sum::<usize>()
    }
}

impl DriftSettings {
    /// A: wanted mean number of windows of `length` between false alarms. `1 per 30d` with hourly
    /// windows = 720; `2 per 1000 windows` = 500.
    ///
    /// # Errors
    /// The text is no budget, or asks for one alarm in less than a window.
    pub fn budget_windows(&self, length: Duration) -> Result<f64, Fault> {
        let found = &self.false_alarm_budget;
        let fault = |why: &str| {
            Fault::new("drift.false_alarm_budget", format!("expected \"1 per 30d\" or \"1 per 1000 windows\", found {found:?}{why}"))
        };
        let (alarms, span) = found.split_once(" per ").ok_or_else(|| fault(""))?;
        let alarms: f64 = alarms.trim().parse().map_err(|_| fault(""))?;
        let windows = match span.trim().strip_suffix("windows").or_else(|| span.trim().strip_suffix("window")) {
            Some(n) if n.trim().is_empty() => 1.0,
            Some(n) => n.trim().parse::<f64>().map_err(|_| fault(""))?,
            None => {
                let span = humantime::parse_duration(span.trim()).map_err(|_| fault(""))?;
                span.as_secs_f64() / length.as_secs_f64().max(f64::MIN_POSITIVE)
            }
        };
        let budget = windows / alarms;
        if !(alarms > 0.0 && budget.is_finite()) {
            return Err(fault(""));
        }
        if budget <= 1.0 {
            return Err(fault(": that allows a false alarm in every window"));
        }
        Ok(budget)
    }

    /// `reference`, read.
    ///
    /// # Errors
    /// `first:` is followed by neither a duration nor a number of windows, or the name is empty.
    pub fn reference_choice(&self) -> Result<ReferenceChoice, Fault> {
        let text = self.reference.trim();
        let fault = || {
            let expected = "a reference's name, first:14d, \"first:8 windows\", rolling:14d, \"rolling:336 windows\" or model:VERSION";
            Fault::new("drift.reference", format!("expected {expected}, found {text:?}"))
        };
        let windows = |text: &str| text.strip_suffix("windows").or_else(|| text.strip_suffix("window")).map(|n| n.trim().parse::<u64>());
        let span = |text: &str| humantime::parse_duration(text).map_err(|_| fault());
        match text.split_once(':').map(|(mode, rest)| (mode, rest.trim())) {
            Some(("first", rest)) => match windows(rest) {
                Some(n) => n.map(ReferenceChoice::FirstWindows).map_err(|_| fault()),
                None => span(rest).map(ReferenceChoice::FirstDuration),
            },
            Some(("rolling", rest)) => match windows(rest) {
                Some(n) => n.map(ReferenceChoice::RollingWindows).map_err(|_| fault()),
                None => span(rest).map(ReferenceChoice::RollingDuration),
            },
            Some(("model", version)) if !version.is_empty() => Ok(ReferenceChoice::OfModel(version.to_owned())),
            Some(("model", _)) => Err(fault()),
            _ if text.is_empty() => Err(fault()),
            _ => Ok(ReferenceChoice::Named(text.to_owned())),
        }
    }
}

fn timestamp_ms(text: &str) -> Result<i64, jiff::Error> {
    text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn budget(text: &str) -> Result<f64, Fault> {
        DriftSettings { false_alarm_budget: text.into(), ..DriftSettings::default() }.budget_windows(HOUR)
    }

    #[test]
    fn a_budget_is_windows_between_false_alarms() {
        assert_eq!(budget("1 per 30d"), Ok(720.0));
        assert_eq!(budget("2 per 1000 windows"), Ok(500.0));
        assert_eq!(budget("0.5 per 10 windows"), Ok(20.0));
        for bad in ["", "1", "1 per", "x per 30d", "1 per soon", "0 per 30d", "-1 per 30d", "nan per 30d", "1 per 30min", "1 per window"] {
            assert!(budget(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reference_is_a_name_or_windows_or_another_models() {
        let choice = |text: &str| DriftSettings { reference: text.into(), ..DriftSettings::default() }.reference_choice();
        assert_eq!(choice("first:14d"), Ok(ReferenceChoice::FirstDuration(14 * 24 * HOUR)));
        assert_eq!(choice("first:14d").unwrap().first_windows(HOUR), Some(336));
        assert_eq!(choice("first:8 windows"), Ok(ReferenceChoice::FirstWindows(8)));
        assert_eq!(choice("spring"), Ok(ReferenceChoice::Named("spring".into())));
        assert_eq!(choice("rolling:14d"), Ok(ReferenceChoice::RollingDuration(14 * 24 * HOUR)));
        assert_eq!(choice("rolling:28 windows"), Ok(ReferenceChoice::RollingWindows(28)));
        assert_eq!(choice("model:v11"), Ok(ReferenceChoice::OfModel("v11".into())));
        assert_eq!(choice("model:v11").unwrap().first_windows(HOUR), Some(336));
        for bad in ["", "first:", "first:x", "first:-1 windows", "rolling:", "rolling:x windows", "model:"] {
            assert!(choice(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_start_is_a_word_or_a_time() {
        let start = |text: &str| KafkaSettings { start: text.into(), ..KafkaSettings::default() }.start_at();
        assert_eq!(start("latest"), Ok(StartAt::Latest));
        assert_eq!(start("1970-01-01T00:00:01Z"), Ok(StartAt::Time(1000)));
        assert!(start("yesterday").is_err());
    }
}
