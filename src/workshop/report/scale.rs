//! Axes: where a value lies on paper, and where the ticks stand.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Steps between time ticks, finest first.
const TIME_STEPS: [i64; 14] = [
    HOUR_MS / 4,
    HOUR_MS / 2,
    HOUR_MS,
    2 * HOUR_MS,
    3 * HOUR_MS,
    6 * HOUR_MS,
    12 * HOUR_MS,
    DAY_MS,
    2 * DAY_MS,
    7 * DAY_MS,
    14 * DAY_MS,
    28 * DAY_MS,
    84 * DAY_MS,
    364 * DAY_MS,
];
/// Most ticks on a time axis: labels must not touch.
const MAX_TIME_TICKS: i64 = 9;

/// A linear scale from values to coordinates.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    from: f64,
    to: f64,
    low: f64,
    high: f64,
}

impl Linear {
    /// `from` lies at `low`, `to` at `high`. A span of nothing is widened.
    #[must_use]
    pub fn new((from, to): (f64, f64), (low, high): (f64, f64)) -> Self {
        let to = if to > from { to } else { from + 1.0 };
        Self { from, to, low, high }
    }

    /// Coordinate of a value, held within the scale; a value that is no number lies at the start.
    #[must_use]
    pub fn at(&self, value: f64) -> f64 {
        let share = ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        self.low + if share.is_nan() { 0.0 } else { share } * (self.high - self.low)
    }

    /// Coordinate of an instant.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years of milliseconds")]
    pub fn time(&self, ms: i64) -> f64 {
        self.at(ms as f64)
    }

    /// About `n` round values within the scale.
    #[must_use]
    pub fn ticks(&self, n: f64) -> Vec<f64> {
        let rough = (self.to - self.from) / n.max(1.0);
        let magnitude = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|step| *step >= rough * 0.999).unwrap_or(rough);
        let first = (self.from / step).ceil();
        (0..50).map(|i| (first + f64::from(i)) * step).take_while(|tick| *tick <= self.to * (1.0 + 1e-9)).collect()
    }
}

/// Instants for ticks of a time axis, with their labels; days start at midnight UTC.
#[must_use]
pub fn time_ticks(from_ms: i64, to_ms: i64) -> Vec<(i64, String)> {
    let span = (to_ms - from_ms).max(1);
    let step = TIME_STEPS.into_iter().find(|step| span / step <= MAX_TIME_TICKS).unwrap_or(TIME_STEPS[TIME_STEPS.len() - 1]);
    let first = from_ms + (-from_ms).rem_euclid(step);
    (0..=MAX_TIME_TICKS).map(|i| first + i * step).take_while(|ms| *ms <= to_ms).map(|ms| (ms, label(ms, step))).collect()
}

fn label(ms: i64, step: i64) -> String {
    let time = TimeZone::UTC.to_datetime(Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH));
    let format = match () {
        () if step >= 84 * DAY_MS => "%b %Y",
        () if step >= DAY_MS || ms.rem_euclid(DAY_MS) == 0 => "%-d %b",
        () => "%H:%M",
    };
    time.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(
            Linear::new((0.0, 0.043), (0.0, 1.0)).ticks(4.0).iter().map(|t| (t * 1e4).round()).collect::<Vec<_>>(),
            [0.0, 200.0, 400.0]
        );
        assert_eq!(Linear::new((0.0, 10.0), (0.0, 1.0)).ticks(5.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(Linear::new((3.0, 3.0), (0.0, 1.0)).at(f64::NAN), 0.0);
    }

    #[test]
    fn a_week_is_marked_by_days_and_a_day_by_hours() {
        let start = 1_772_409_600_000;
        let week = time_ticks(start, start + 7 * DAY_MS);
        assert_eq!((week.len(), week[0].1.as_str(), week[7].1.as_str()), (8, "2 Mar", "9 Mar"));
        let day = time_ticks(start + HOUR_MS, start + DAY_MS);
        assert!(day.iter().any(|(_, label)| label == "12:00") && day.last().is_some_and(|(_, label)| label == "3 Mar"), "{day:?}");
        for days in [1, 3, 30, 90, 400, 4000] {
            assert!(time_ticks(0, days * DAY_MS).len() <= 10);
        }
    }
}
