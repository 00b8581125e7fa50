//! What an operator decides about judging, as values the mathematics uses.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::drift::stream::StreamId;
use crate::sae::latent::LatentId;

/// Unit of counting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CountingUnit {
    /// Entities that show the concept at least once in the window.
    #[default]
    Presence,
    /// Records.
    Records,
    /// Records, each weighted 1 / (1 + 0.1 (n - 1)) for an entity with n of them.
    Kish,
}

/// What a weekend does to a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeekendAs {
    /// Multiplies the daily rhythm ([`crate::drift::weekend`]).
    #[default]
    Factor,
    /// Adds the same at every hour: one more column of the least squares.
    Level,
}

/// Everything the judge is told; the same for live judging and for a backtest.
#[derive(Clone, Debug)]
pub struct JudgeSettings {
    /// Unit of counting.
    pub unit: CountingUnit,
    /// Window length, > 0.
    pub window_ms: i64,
    /// Instant at which a window starts.
    pub origin_ms: i64,
    /// Zone of season, weekend and calendar.
    pub timezone: TimeZone,
    /// A: wanted mean number of windows between false alarms, >= 1.
    pub budget_windows: f64,
    /// Relative shifts below this do not matter.
    pub min_effect: f64,
    /// Fewer entities in a window: merged with the next.
    pub min_entities: u64,
    /// The same when counting records.
    pub min_records: u64,
    /// Daily harmonics; `None`: as many as the window length carries, at most 3.
    pub harmonics: Option<usize>,
    /// Whether weekends are told from weekdays; `None`: from references of 7 days on.
    pub weekend: Option<bool>,
    /// What a weekend does to a rate.
    pub weekend_as: WeekendAs,
    /// Local dates without verdicts.
    pub calendar: Vec<Date>,
    /// FVU above this breaks the input contract; `None`: 2 x the reference's + 0.05.
    pub max_fvu: Option<f64>,
    /// Latents of the SAE: all of them are tested, also those never seen, so that a concept can be born.
    pub n_latents: usize,
    /// Groups of latents, `family:0`, `family:1`, ...
    pub families: Vec<Vec<LatentId>>,
    /// Whether `residual_outlier` and `dead_record` are tested too, where they are counted.
    pub pseudo_streams: bool,
}

impl JudgeSettings {
    /// Settings with every default for `n_latents` and hourly windows: A = 720 (1 per 30 days), presence, UTC.
    #[must_use]
    pub fn hourly(n_latents: usize) -> Self {
        Self {
            unit: CountingUnit::Presence,
            window_ms: 3_600_000,
            origin_ms: 0,
            timezone: TimeZone::UTC,
            budget_windows: 720.0,
            min_effect: 0.01,
            min_entities: 20,
            min_records: 200,
            harmonics: None,
            weekend: None,
            weekend_as: WeekendAs::default(),
            calendar: Vec::new(),
            max_fvu: None,
            n_latents,
            families: Vec::new(),
            pseudo_streams: true,
        }
    }

    /// Fewest units (entities, or records when counting records) a window is judged with.
    #[must_use]
    pub fn min_units(&self) -> f64 {
        match self.unit {
            CountingUnit::Records => self.min_records as f64,
            CountingUnit::Presence | CountingUnit::Kish => self.min_entities as f64,
        }
    }

    /// Smallest phi a stream may have: 1, or 0.2 for Kish weights (a weighted record varies less than a Poisson count).
    #[must_use]
    pub fn dispersion_floor(&self) -> f64 {
        if self.unit == CountingUnit::Kish { 0.2 } else { 1.0 }
    }

    /// Whether a window that starts then lies on a day the calendar lists.
    #[must_use]
    pub fn is_calendar_day(&self, start_ms: i64) -> bool {
        !self.calendar.is_empty()
            && jiff::Timestamp::from_millisecond(start_ms)
                .is_ok_and(|instant| self.calendar.contains(&self.timezone.to_datetime(instant).date()))
    }
}

/// Which streams are tested, in the order of every per-stream vector: latents, families, pseudo-streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamLayout {
    /// Latents tested: positions 0..n of the SAE.
    pub n_latents: usize,
    /// Members of each family.
    pub families: Vec<Vec<LatentId>>,
    /// Whether `residual_outlier` is tested.
    pub residual_outlier: bool,
    /// Whether `dead_record` is tested.
    pub dead_record: bool,
}

impl StreamLayout {
    /// Streams tested.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n_concepts() + usize::from(self.residual_outlier) + usize::from(self.dead_record)
    }

    /// Whether nothing is tested.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Streams counted in the unit of counting: latents and families.
    #[must_use]
    pub fn n_concepts(&self) -> usize {
        self.n_latents + self.families.len()
    }

    /// The same without families: what a segment tests.
    #[must_use]
    pub fn without_families(&self) -> Self {
        Self { families: Vec::new(), ..self.clone() }
    }

    /// The streams by name, in order.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamId> {
        let latents = (0..).take(self.n_latents).map(|j| StreamId::Latent(LatentId(j)));
        let families = (0..).take(self.families.len()).map(StreamId::Family);
        let pseudo = [(self.residual_outlier, StreamId::ResidualOutlier), (self.dead_record, StreamId::DeadRecord)];
        latents.chain(families).chain(pseudo.into_iter().filter(|(tested, _)| *tested).map(|(_, stream)| stream)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calendar_day_is_a_local_day() {
        let mut settings = JudgeSettings::hourly(1);
        settings.timezone = TimeZone::get("Asia/Tokyo").unwrap();
        settings.calendar = vec![jiff::civil::date(2026, 1, 6)];
        let monday_16_utc = TimeZone::UTC.to_timestamp(jiff::civil::date(2026, 1, 5).at(16, 0, 0, 0)).unwrap().as_millisecond();
        assert!(settings.is_calendar_day(monday_16_utc), "01:00 on Tuesday in Tokyo");
        assert!(!settings.is_calendar_day(monday_16_utc - 2 * 3_600_000));
    }

    #[test]
    fn streams_come_latents_first_then_families_then_pseudo_streams() {
        let layout = StreamLayout { n_latents: 2, families: vec![vec![LatentId(0)]], residual_outlier: true, dead_record: false };
        let names: Vec<String> = layout.streams().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["latent:0", "latent:1", "family:0", "residual_outlier"]);
        assert_eq!(layout.without_families().len(), 3);
    }
}
