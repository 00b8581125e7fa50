//! From the configuration to what the judge is told.

use jiff::civil::Date;

use crate::config::fault::Fault;
use crate::config::settings::Settings;
use crate::drift::settings::JudgeSettings;
use crate::sae::latent::LatentId;

impl Settings {
    /// The judge's settings for an SAE of `n_latents` latents and its families.
    ///
    /// # Errors
    /// The budget, the time zone, the origin or a calendar day cannot be read.
    pub fn judge_settings(&self, n_latents: usize, families: Vec<Vec<LatentId>>) -> Result<JudgeSettings, Fault> {
        let drift = &self.drift;
        let day = |text: &String| {
            text.parse::<Date>()
                .map_err(|error| Fault::new("drift.calendar", format!("expected local dates like \"2026-12-25\", found {text:?}: {error}")))
        };
        Ok(JudgeSettings {
            unit: self.counting.unit,
            window_ms: self.window.length_ms(),
            origin_ms: self.window.origin_ms()?,
            timezone: self.window.time_zone()?,
            budget_windows: drift.budget_windows(self.window.length)?,
            min_effect: drift.min_effect,
            min_entities: drift.min_entities,
            min_records: drift.min_records,
            harmonics: drift.harmonics,
            weekend: drift.weekend,
            weekend_as: drift.weekend_as,
            calendar: drift.calendar.iter().map(day).collect::<Result<_, _>>()?,
            max_fvu: drift.max_fvu,
            n_latents,
            families,
            pseudo_streams: drift.pseudo_streams,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_judge_hourly_windows_in_utc() {
        let judged = Settings::default().judge_settings(4, Vec::new()).unwrap();
        let expected = JudgeSettings::hourly(4);
        assert_eq!((judged.window_ms, judged.budget_windows, judged.min_entities), (expected.window_ms, 720.0, expected.min_entities));
        let mut wrong = Settings::default();
        wrong.drift.calendar = vec!["24.12.".into()];
        assert!(wrong.judge_settings(4, Vec::new()).is_err());
    }
}
