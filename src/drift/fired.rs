//! How often a latent fires a record, in a reference: of `_all` with its overdispersion, of a segment by sums alone.

use std::collections::BTreeMap;

use crate::drift::closed::ALL;
use crate::drift::observed::{Observed, ObservedWindow, add_dense};
use crate::drift::season::Season;
use crate::drift::stream_rates::StreamRates;

/// Activations a record of each latent and their overdispersion about the season of its presence; empty where
/// a window does not count them.
pub(super) fn fired(
    windows: &[&Observed],
    rates: &StreamRates,
    season: Season,
    design: &[Vec<f64>],
    n_latents: usize,
    df: f64,
) -> (Vec<f64>, Vec<f64>) {
    if windows.is_empty() || windows.iter().any(|window| window.fired.len() != n_latents) {
        return (Vec::new(), Vec::new());
    }
    let records: f64 = windows.iter().map(|window| window.records).sum();
    let rate: Vec<f64> =
        (0..n_latents).map(|j| windows.iter().map(|window| window.fired[j]).sum::<f64>().max(0.5) / records.max(1.0)).collect();
    let (mut at, mut spread) = (Vec::new(), vec![0.0; n_latents]);
    for (window, x) in windows.iter().zip(design) {
        rates.rates(season, x, &mut at);
        for (j, spread) in spread.iter_mut().enumerate() {
            let expected = window.records * rate[j] * at[j] / rates.mean_rate[j];
            *spread += if expected > 0.0 { (window.fired[j] - expected).powi(2) / expected } else { 0.0 };
        }
    }
    (rate, spread.into_iter().map(|spread| (spread / df).max(1.0)).collect())
}

/// Activations and records of each segment, summed over windows: all that a fit takes of them, and as much memory for
/// two weeks as for an hour. Sums of whole numbers are exact, so they are the same in any order.
#[derive(Debug, Default)]
pub(super) struct FiredSums(BTreeMap<String, Fired>);

#[derive(Debug, Default)]
struct Fired {
    records: f64,
    latents: Vec<f64>,
}

impl FiredSums {
    /// Of the segments that these windows hold, but `_all`.
    pub(super) fn of(windows: &[&ObservedWindow]) -> Self {
        let mut sums = Self::default();
        for (name, segment) in windows.iter().flat_map(|window| &window.segments).filter(|(name, _)| *name != ALL) {
            sums.add(name, segment.records, &segment.fired);
        }
        sums
    }

    /// Adds a segment of a window; one that does not count activations leaves the sums as they are.
    pub(super) fn add(&mut self, segment: &str, records: f64, fired: &[f64]) {
        if fired.is_empty() {
            return;
        }
        if !self.0.contains_key(segment) {
            self.0.insert(segment.to_owned(), Fired::default());
        }
        if let Some(sum) = self.0.get_mut(segment) {
            sum.records += records;
            add_dense(&mut sum.latents, fired);
        }
    }

    /// Adds the sums of further windows.
    pub(super) fn add_all(&mut self, more: &Self) {
        more.0.iter().for_each(|(name, fired)| self.add(name, fired.records, &fired.latents));
    }

    /// Activations a record of each latent in a segment, `[m]`, drawn to the `global` ones by `prior` counts' worth of them.
    pub(super) fn rate(&self, segment: &str, global: &[f64], prior: f64) -> Vec<f64> {
        let nothing = Fired::default();
        let sum = self.0.get(segment).unwrap_or(&nothing);
        let level = |(j, rate): (usize, &f64)| {
            let fired = sum.latents.get(j).copied().unwrap_or(0.0);
            rate * (fired + prior) / (sum.records * rate + prior)
        };
        global.iter().enumerate().map(level).collect()
    }
}
