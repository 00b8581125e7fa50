//! What one segment of one window comes to: counts, and what the reference expects of them.

use crate::drift::fit::segment_columns;
use crate::drift::observed::Observed;
use crate::drift::reference::Reference;
use crate::drift::settings::JudgeSettings;
use crate::drift::thin::Merged;

/// Counts, expectations and exposures of one segment in one window.
pub(super) fn summed(
    reference: &Reference,
    settings: &JudgeSettings,
    name: &str,
    start_ms: i64,
    observed: &Observed,
    x: &[f64],
    rates: &[f64],
) -> Merged {
    let mut sums =
        Merged { n_windows: 1, start_ms, entities: observed.entities, units: observed.units(settings.unit), ..Merged::default() };
    let volume = reference.expected_volume(x);
    match reference.segments.get(name) {
        None => {
            observed.stream_counts(&reference.layout, &mut sums.y);
            reference.exposure(&reference.layout, observed, &mut sums.exposure);
            sums.mu = sums.exposure.iter().zip(rates).map(|(e, rate)| e * rate).collect();
            sums.expected_units = volume;
        }
        Some(levels) => {
            let own = reference.layout.without_families();
            observed.stream_counts(&own, &mut sums.y);
            reference.exposure(&own, observed, &mut sums.exposure);
            let own_rates = segment_columns(&reference.layout).into_iter().map(|j| rates[j]).zip(&levels.level);
            sums.mu = sums.exposure.iter().zip(own_rates).map(|(e, (rate, level))| e * rate * level).collect();
            sums.expected_units = volume * levels.volume_share;
        }
    }
    let fired_rate = reference.segments.get(name).map_or(&reference.rates.fired_rate, |levels| &levels.fired_rate);
    if !fired_rate.is_empty() && observed.fired.len() == fired_rate.len() {
        sums.fired.clone_from(&observed.fired);
        let season = rates.iter().zip(&reference.rates.mean_rate).map(|(rate, mean)| rate / mean);
        sums.fired_expected = fired_rate.iter().zip(season).map(|(fired, season)| observed.records * fired * season).collect();
    }
    sums
}

/// kappa of what was merged against the reference's session lengths.
pub(super) fn mix_distance(reference: &Reference, name: &str, window: &Merged) -> Option<f64> {
    let then = reference.segments.get(name).map_or(&reference.entities, |levels| &levels.entities);
    reference.curve.as_ref().map(|curve| curve.mix_distance(&window.entities, then))
}
