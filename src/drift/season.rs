//! The season: daily harmonics and weekends, in local time.
//!
//! Least squares of rates on few columns. Weekly harmonics were rejected (14 days hold two weeks);
//! a weekend that is not modelled made 100-200 alarms in 984 windows, with its level none.

use std::f64::consts::TAU;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::drift::settings::{JudgeSettings, WeekendAs};

const DAY_MS: i64 = 86_400_000;
/// More than three harmonics fit noise of single hours.
const MAX_HARMONICS: usize = 3;
const WEEKEND_COLUMN: usize = 1;

/// Which columns the design has: 1, the weekend's, cosine and sine of each daily harmonic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Season {
    /// Daily harmonics.
    pub harmonics: usize,
    /// Whether weekends are told from weekdays.
    pub weekend: bool,
    /// How.
    #[serde(default = "unsaid", skip_serializing_if = "is_unsaid")]
    pub weekend_as: WeekendAs,
}

impl Season {
    /// The configured season, or what a reference that spans `span_ms` carries:
    /// `H = min(3, floor((windows a day - 1)/2))`, weekends from 7 days on where a window is at most a day.
    #[must_use]
    pub fn choose(settings: &JudgeSettings, span_ms: i64) -> Self {
        let windows_a_day = usize::try_from(DAY_MS / settings.window_ms.max(1)).unwrap_or(0);
        let carried = (windows_a_day.saturating_sub(1) / 2).min(MAX_HARMONICS);
        Self {
            harmonics: settings.harmonics.unwrap_or(carried),
            weekend: settings.weekend.unwrap_or(windows_a_day >= 1 && span_ms >= 7 * DAY_MS),
            weekend_as: settings.weekend_as,
        }
    }

    /// Whether anything but a level is fitted.
    #[must_use]
    pub fn is_fitted(self) -> bool {
        self.harmonics > 0 || self.weekend
    }

    /// K, columns of the design.
    #[must_use]
    pub fn n_columns(self) -> usize {
        1 + usize::from(self.weekend) + 2 * self.harmonics
    }

    /// Column whose coefficient multiplies what the others give; `None` where all are summed.
    #[must_use]
    pub fn factor_column(self) -> Option<usize> {
        (self.weekend && self.weekend_as == WeekendAs::Factor).then_some(WEEKEND_COLUMN)
    }

    /// Row `x_t` of the design for a window that starts at `start_ms`, `[K]`.
    /// An instant outside the calendar's range counts as midnight of a weekday.
    #[must_use]
    pub fn row(self, start_ms: i64, timezone: &TimeZone) -> Vec<f64> {
        let local = jiff::Timestamp::from_millisecond(start_ms).map(|instant| timezone.to_datetime(instant));
        let (phase, is_weekend) = local.map_or((0.0, false), |local| {
            let seconds = i32::from(local.hour()) * 3600 + i32::from(local.minute()) * 60 + i32::from(local.second());
            (f64::from(seconds) / 86_400.0, matches!(local.weekday(), Weekday::Saturday | Weekday::Sunday))
        });
        let mut row = Vec::with_capacity(self.n_columns());
        row.push(1.0);
        if self.weekend {
            row.push(f64::from(u8::from(is_weekend)));
        }
        for h in (1_u32..).take(self.harmonics) {
            let angle = TAU * f64::from(h) * phase;
            row.extend([angle.cos(), angle.sin()]);
        }
        row
    }
}

/// What weekends do in a reference that does not say it: those fitted before there was a choice.
fn unsaid() -> WeekendAs {
    WeekendAs::Level
}

fn is_unsaid(weekend_as: &WeekendAs) -> bool {
    *weekend_as == unsaid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_windows_carry_three_harmonics_and_weekly_ones_none() {
        let mut settings = JudgeSettings::hourly(1);
        assert_eq!(Season::choose(&settings, 14 * DAY_MS), Season { harmonics: 3, weekend: true, weekend_as: WeekendAs::Factor });
        assert_eq!(Season::choose(&settings, 6 * DAY_MS), Season { harmonics: 3, weekend: false, weekend_as: WeekendAs::Factor });
        settings.window_ms = 6 * 3_600_000;
        assert_eq!(Season::choose(&settings, 14 * DAY_MS).harmonics, 1);
        settings.window_ms = 7 * DAY_MS;
        assert_eq!(Season::choose(&settings, 56 * DAY_MS), Season { harmonics: 0, weekend: false, weekend_as: WeekendAs::Factor });
    }

    #[test]
    fn the_season_follows_local_time_through_a_change_of_clocks() {
        let season = Season { harmonics: 1, weekend: true, weekend_as: WeekendAs::Factor };
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let at = |month, day, hour| berlin.to_timestamp(jiff::civil::date(2026, month, day).at(hour, 0, 0, 0)).unwrap().as_millisecond();
        assert_eq!(season.row(at(3, 27, 8), &berlin), season.row(at(3, 30, 8), &berlin), "Friday before, Monday after");
        assert_eq!(season.row(at(3, 28, 8), &berlin)[1], 1.0);
    }

    #[test]
    fn a_reference_that_does_not_say_what_its_weekends_do_had_a_level_and_is_written_as_it_was() {
        let old = r#"{"harmonics":3,"weekend":true}"#;
        let season: Season = serde_json::from_str(old).unwrap();
        assert_eq!((season.weekend_as, season.factor_column()), (WeekendAs::Level, None));
        assert_eq!(serde_json::to_string(&season).unwrap(), old);
        let new = Season { weekend_as: WeekendAs::Factor, ..season };
        assert_eq!(serde_json::from_str::<Season>(&serde_json::to_string(&new).unwrap()).unwrap().factor_column(), Some(1));
    }
}
