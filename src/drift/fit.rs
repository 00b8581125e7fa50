//! Fitting a reference: from windows to rates, dispersion and wander, for `_all` and for each segment.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Array2;

use crate::drift::closed::ALL;
use crate::drift::counts::N_BUCKETS;
use crate::drift::dispersion::{raw_dispersion, shrink};
use crate::drift::exposure::{PresenceCurve, stream_exposure};
use crate::drift::fired::{FiredSums, fired};
use crate::drift::least_squares::{LeastSquares, count};
use crate::drift::observed::{MIN_WINDOWS, Observed, ObservedWindow, add_dense};
use crate::drift::season::Season;
use crate::drift::settings::{CountingUnit, JudgeSettings, StreamLayout};
use crate::drift::stream_rates::{SegmentLevels, StreamRates};
use crate::drift::wander::wander;
use crate::drift::weekend::WeekendFactor;

/// A stream with fewer counts a column than this has no season of its own.
const MIN_COUNTS_A_COLUMN: f64 = 10.0;
/// Counts' worth of the global rate that a segment's level is drawn to.
const LEVEL_PRIOR: f64 = 10.0;

/// What `_all` says.
pub(super) struct FittedStreams {
    pub(super) rates: StreamRates,
    pub(super) curve: Option<PresenceCurve>,
    pub(super) entities: [f64; N_BUCKETS],
    pub(super) volume: (Vec<f64>, f64),
    pub(super) sigma_w: f64,
    season: Season,
    /// Season's row of each window.
    design: Vec<Vec<f64>>,
}

/// Fits `_all`. `kept` holds more windows than the season has columns, each with records.
pub(super) fn fit_streams(kept: &[&ObservedWindow], season: Season, layout: &StreamLayout, settings: &JudgeSettings) -> FittedStreams {
    let windows: Vec<&Observed> = kept.iter().filter_map(|window| window.segments.get(ALL)).collect();
    let entities = total_entities(windows.iter().copied());
    let curve = (settings.unit == CountingUnit::Presence).then(|| {
        let mut by_bucket = Vec::new();
        windows.iter().for_each(|all| add_dense(&mut by_bucket, &all.by_bucket));
        PresenceCurve::fit(&by_bucket, &entities, layout)
    });
    let design: Vec<Vec<f64>> = kept.iter().map(|window| season.row(window.start_ms, &settings.timezone)).collect();
    let columns: Vec<Vec<f64>> = (0..season.n_columns()).map(|k| design.iter().map(|row| row[k]).collect()).collect();
    let least_squares = LeastSquares::new(&columns);
    let (y, e) = counts_and_exposures(windows.iter().copied(), layout, settings.unit, curve.as_ref());

    let mut rates = fit_rates(&y, &e, &SeasonFit::new(season, &columns), season.n_columns());
    let mu = expectations(&rates, season, &design, e);
    let df = count(windows.len() - season.n_columns());
    rates.mean_expected = mu.columns().into_iter().map(|mu| mu.sum() / count(windows.len())).collect();
    rates.dispersion = dispersions(&y, &mu, &rates.mean_expected, df, layout, settings.dispersion_floor());
    let columns = count(season.n_columns());
    rates.effective_count = rates.count.iter().zip(&rates.dispersion).map(|(count, phi)| count / (phi * columns)).collect();

    (rates.fired_rate, rates.fired_dispersion) = fired(&windows, &rates, season, &design, layout.n_latents, df);
    let volumes: Vec<f64> = windows.iter().map(|all| all.units(settings.unit)).collect();
    let mean_volume = volumes.iter().sum::<f64>() / count(volumes.len());
    // The hat of an added weekend stands for that of a factor: as many columns, and only its mean over a diagonal counts.
    let sigma_w = wander_without_families(&y, &mu, &rates, layout, &least_squares);
    FittedStreams { rates, curve, entities, volume: (least_squares.solve(&volumes), mean_volume), sigma_w, season, design }
}

/// Fits every segment but `_all` that any window holds; `fired` is what they fired in these windows.
pub(super) fn fit_segments(
    kept: &[&ObservedWindow],
    fired: &FiredSums,
    streams: &FittedStreams,
    layout: &StreamLayout,
    settings: &JudgeSettings,
) -> BTreeMap<String, SegmentLevels> {
    let names: BTreeSet<&str> =
        kept.iter().flat_map(|window| window.segments.keys()).map(String::as_str).filter(|name| *name != ALL).collect();
    let nothing = Observed::default();
    let volume = |windows: &[&ObservedWindow], name: &str| {
        windows.iter().filter_map(|w| w.segments.get(name)).map(|s| s.units(settings.unit)).sum::<f64>()
    };
    let fit = |name: &str| {
        // A segment that is followed only since the middle of the reference had no volume before that we know of.
        let since = kept.iter().position(|window| window.segments.contains_key(name))?;
        let followed = &kept[since..];
        if followed.len() < MIN_WINDOWS {
            return None;
        }
        let windows: Vec<&Observed> = kept.iter().map(|window| window.segments.get(name).unwrap_or(&nothing)).collect();
        let mut levels = fit_levels(&windows, streams, layout, settings);
        levels.volume_share = volume(followed, name) / volume(followed, ALL);
        levels.fired_rate = fired.rate(name, &streams.rates.fired_rate, LEVEL_PRIOR);
        Some((name.to_owned(), levels))
    };
    names.into_iter().filter_map(fit).collect()
}

fn fit_levels(windows: &[&Observed], streams: &FittedStreams, layout: &StreamLayout, settings: &JudgeSettings) -> SegmentLevels {
    let own = layout.without_families();
    let (y, mut mu) = counts_and_exposures(windows.iter().copied(), &own, settings.unit, streams.curve.as_ref());
    let global = segment_columns(layout);
    let mut rates = Vec::new();
    for (mut mu, x) in mu.rows_mut().into_iter().zip(&streams.design) {
        streams.rates.rates(streams.season, x, &mut rates);
        mu.iter_mut().zip(&global).for_each(|(mu, &of)| *mu *= rates[of]);
    }
    let counts: Vec<f64> = y.columns().into_iter().map(|y| y.sum()).collect();
    let level: Vec<f64> = counts.iter().zip(mu.columns()).map(|(count, mu)| (count + LEVEL_PRIOR) / (mu.sum() + LEVEL_PRIOR)).collect();
    for (mut mu, level) in mu.columns_mut().into_iter().zip(&level) {
        mu.mapv_inplace(|mu| mu * level);
    }
    let mean_expected: Vec<f64> = mu.columns().into_iter().map(|mu| mu.sum() / count(windows.len())).collect();
    let df = count(windows.len() - 1);
    let dispersion = dispersions(&y, &mu, &mean_expected, df, &own, settings.dispersion_floor());
    let effective_count = (0..own.len())
        .map(|j| 1.0 / (dispersion[j] / (counts[j] + LEVEL_PRIOR) + 1.0 / streams.rates.effective_count[global[j]].max(0.5)))
        .collect();
    let entities = total_entities(windows.iter().copied());
    SegmentLevels { level, dispersion, effective_count, mean_expected, count: counts, fired_rate: Vec::new(), entities, volume_share: 0.0 }
}

/// Position in `layout` of each stream of the same layout without families.
pub(super) fn segment_columns(layout: &StreamLayout) -> Vec<usize> {
    (0..layout.n_latents).chain(layout.n_concepts()..layout.len()).collect()
}

fn counts_and_exposures<'a>(
    windows: impl ExactSizeIterator<Item = &'a Observed>,
    layout: &StreamLayout,
    unit: CountingUnit,
    curve: Option<&PresenceCurve>,
) -> (Array2<f64>, Array2<f64>) {
    let shape = (windows.len(), layout.len());
    let (mut y, mut e) = (Array2::zeros(shape), Array2::zeros(shape));
    let (mut counts, mut exposures) = (Vec::new(), Vec::new());
    for (t, observed) in windows.enumerate() {
        observed.stream_counts(layout, &mut counts);
        stream_exposure(unit, curve, layout, observed, &mut exposures);
        y.row_mut(t).iter_mut().zip(&counts).for_each(|(to, from)| *to = *from);
        e.row_mut(t).iter_mut().zip(&exposures).for_each(|(to, from)| *to = *from);
    }
    (y, e)
}

/// Fits one stream's season.
enum SeasonFit {
    Summed(LeastSquares),
    /// The weekend's column is taken out of the rhythm and put back as f - 1.
    Multiplied(WeekendFactor, usize),
}

impl SeasonFit {
    fn new(season: Season, columns: &[Vec<f64>]) -> Self {
        let Some(weekend) = season.factor_column() else { return Self::Summed(LeastSquares::new(columns)) };
        let mut rhythm = columns.to_vec();
        let is_weekend = rhythm.remove(weekend).into_iter().map(|x| x > 0.0).collect();
        Self::Multiplied(WeekendFactor::new(&rhythm, is_weekend), weekend)
    }

    fn solve(&self, rates: &[f64]) -> Vec<f64> {
        match self {
            Self::Summed(least_squares) => least_squares.solve(rates),
            Self::Multiplied(factor, weekend) => {
                let (mut beta, f) = factor.solve(rates);
                beta.insert(*weekend, f - 1.0);
                beta
            }
        }
    }
}

fn fit_rates(y: &Array2<f64>, e: &Array2<f64>, season: &SeasonFit, n_columns: usize) -> StreamRates {
    let n = y.ncols();
    let mut rates = StreamRates { beta: vec![0.0; n_columns * n], ..StreamRates::default() };
    let mut observed = vec![0.0; y.nrows()];
    for (j, (y, e)) in y.columns().into_iter().zip(e.columns()).enumerate() {
        let total = y.sum();
        let mean_rate = total.max(0.5) / e.sum();
        if total < MIN_COUNTS_A_COLUMN * count(n_columns) {
            rates.beta[j] = mean_rate;
        } else {
            observed.iter_mut().zip(y.iter().zip(e)).for_each(|(rate, (y, e))| *rate = y / e);
            for (k, beta) in season.solve(&observed).into_iter().enumerate() {
                rates.beta[k * n + j] = beta;
            }
        }
        rates.count.push(total);
        rates.mean_rate.push(mean_rate);
    }
    rates
}

/// mu in the place of the exposures: two weeks of windows with many latents are some MB a matrix.
fn expectations(rates: &StreamRates, season: Season, design: &[Vec<f64>], e: Array2<f64>) -> Array2<f64> {
    let mut mu = e;
    let mut at = Vec::new();
    for (mut mu, x) in mu.rows_mut().into_iter().zip(design) {
        rates.rates(season, x, &mut at);
        mu.iter_mut().zip(&at).for_each(|(mu, rate)| *mu *= rate);
    }
    mu
}

/// phi by stream. Families are shrunk apart: their members rise and fall together, so that they lie on no common line with concepts.
fn dispersions(y: &Array2<f64>, mu: &Array2<f64>, mean: &[f64], df: f64, layout: &StreamLayout, floor: f64) -> Vec<f64> {
    let raw: Vec<f64> =
        y.columns().into_iter().zip(mu.columns()).map(|(y, mu)| raw_dispersion(y.iter().copied().zip(mu.iter().copied()), df)).collect();
    let families = layout.n_latents..layout.n_concepts();
    let single = segment_columns(layout);
    let pick = |values: &[f64]| single.iter().map(|&j| values[j]).collect::<Vec<_>>();
    let mut phi = vec![0.0; raw.len()];
    for (&j, shrunk) in single.iter().zip(shrink(&pick(&raw), &pick(mean), df)) {
        phi[j] = shrunk.max(floor);
    }
    for (j, shrunk) in families.clone().zip(shrink(&raw[families.clone()], &mean[families], df)) {
        phi[j] = shrunk.max(floor);
    }
    phi
}

fn wander_without_families(
    y: &Array2<f64>,
    mu: &Array2<f64>,
    rates: &StreamRates,
    layout: &StreamLayout,
    least_squares: &LeastSquares,
) -> f64 {
    let single = segment_columns(layout);
    let z = Array2::from_shape_fn((y.nrows(), single.len()), |(t, j)| {
        let (y, mu, phi) = (y[[t, single[j]]], mu[[t, single[j]]], rates.dispersion[single[j]]);
        (y - mu) / (phi * mu).sqrt()
    });
    let weight: Vec<f64> = single.iter().map(|&j| rates.mean_expected[j] / rates.dispersion[j]).collect();
    wander(z.view(), &weight, least_squares)
}

fn total_entities<'a>(windows: impl Iterator<Item = &'a Observed>) -> [f64; N_BUCKETS] {
    let mut total = [0.0; N_BUCKETS];
    windows.for_each(|observed| total.iter_mut().zip(observed.entities).for_each(|(sum, n)| *sum += n));
    total
}
