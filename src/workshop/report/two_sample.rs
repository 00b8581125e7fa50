//! The one-off comparison of two sides: a rate ratio over common windows, its test, and the false
//! discovery rate over many streams. Not a monitor: it is looked at once, so no budget over time.
//!
//! A window in which both sides were counted is a stratum: whatever moves both (the hour, the weekday,
//! a holiday) cancels in it. Given the window's total `n = y_a + y_b`, the first side's count has mean
//! `n p`, `p = e_a/(e_a + e_b)`, where the rates are equal. Entities come again in later windows and
//! wander together, so the variance is measured between windows and not taken from the binomial.
//!
//! Source: Mantel-Haenszel rate ratio with the variance of Greenland and Robins (1985, Biometrics 41);
//! Benjamini and Hochberg (1995).

use crate::drift::special::normal_cdf;

/// 97.5 % point of the normal distribution.
const Z95: f64 = 1.959_963_984_540_054;
/// Windows' worth of the common dispersion that each stream's own is drawn to: with few windows a
/// stream's own is mostly noise, and the luckiest of a thousand would look significant.
const PRIOR_WINDOWS: f64 = 20.0;

/// One window of both sides: counts and exposures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stratum {
    /// Count of the first side.
    pub y_a: f64,
    /// Its exposure, > 0 where it was watched.
    pub e_a: f64,
    /// Count of the second side.
    pub y_b: f64,
    /// Its exposure.
    pub e_b: f64,
}

/// What the windows say of one stream, before the dispersion is shared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateRatio {
    /// Rate of the second side over that of the first.
    pub ratio: f64,
    /// Variance of its logarithm if counts were Poisson.
    pub log_variance: f64,
    /// `sum (y_b - n (1 - p))`, the score at equal rates.
    pub score: f64,
    /// Its variance if counts were Poisson.
    pub information: f64,
    /// Dispersion between windows, about the fitted ratio; NaN with one window.
    pub dispersion: f64,
    /// Windows with a count.
    pub windows: usize,
}

/// A stream's comparison after the dispersion is shared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tested {
    /// Rate of the second side over that of the first; infinite where the first shows none.
    pub ratio: f64,
    /// Lower 95 % limit.
    pub low: f64,
    /// Upper 95 % limit.
    pub high: f64,
    /// Score over its standard deviation.
    pub z: f64,
    /// Two-sided.
    pub p_value: f64,
    /// Smallest false discovery rate at which it would be named.
    pub q_value: f64,
}

/// Rate ratio over strata. `None` where nothing was counted on either side or a side was not watched.
///
/// `ratio = sum(y_b e_a/e) / sum(y_a e_b/e)`, `e = e_a + e_b`; half a count is added to each sum where one is
/// empty, for the interval alone. `dispersion = sum (y_b - n q)^2/(n q (1-q)) / (windows - 1)`, `q` at the fitted ratio.
#[must_use]
pub fn rate_ratio(strata: &[Stratum]) -> Option<RateRatio> {
    let (mut up, mut down, mut score, mut information) = (0.0, 0.0, 0.0, 0.0);
    let mut windows = 0;
    let watched = || strata.iter().filter(|s| s.e_a > 0.0 && s.e_b > 0.0);
    for s in watched() {
        let (e, n) = (s.e_a + s.e_b, s.y_a + s.y_b);
        up += s.y_b * s.e_a / e;
        down += s.y_a * s.e_b / e;
        score += s.y_b - n * s.e_b / e;
        information += n * s.e_a * s.e_b / (e * e);
        windows += usize::from(n > 0.0);
    }
    if windows == 0 {
        return None;
    }
    let (more_up, more_down) = if up == 0.0 || down == 0.0 { (up + 0.5, down + 0.5) } else { (up, down) };
    let fitted = more_up / more_down;
    let mut chi = 0.0;
    for s in watched() {
        let n = s.y_a + s.y_b;
        let q = fitted * s.e_b / (s.e_a + fitted * s.e_b);
        if n > 0.0 {
            chi += (s.y_b - n * q).powi(2) / (n * q * (1.0 - q));
        }
    }
    let dispersion = if windows > 1 { chi / (windows as f64 - 1.0) } else { f64::NAN };
    Some(RateRatio { ratio: up / down, log_variance: information / (more_up * more_down), score, information, dispersion, windows })
}

/// Tests every stream and adjusts for their number.
///
/// `phi_j = max(1, ((w-1) own + 20 common)/(w-1 + 20))`, common = median over the streams;
/// `z = score/sqrt(phi information)`; interval `exp(ln ratio +- 1.96 sqrt(phi variance))`; q-values by the step-up
/// rule over all of them. Order is kept.
#[must_use]
pub fn test(streams: &[RateRatio]) -> Vec<Tested> {
    let mut own: Vec<f64> = streams.iter().map(|s| s.dispersion).filter(|phi| phi.is_finite()).collect();
    own.sort_by(f64::total_cmp);
    let common = if own.is_empty() { 1.0 } else { own[own.len() / 2].max(1.0) };
    let mut tested: Vec<Tested> = streams.iter().map(|stream| test_one(stream, common)).collect();
    let q_values = adjusted(&tested.iter().map(|t| t.p_value).collect::<Vec<_>>());
    tested.iter_mut().zip(q_values).for_each(|(t, q)| t.q_value = q);
    tested
}

fn test_one(stream: &RateRatio, common: f64) -> Tested {
    let degrees = stream.windows as f64 - 1.0;
    let own = if stream.dispersion.is_finite() { degrees * stream.dispersion } else { 0.0 };
    let phi = ((own + PRIOR_WINDOWS * common) / (degrees + PRIOR_WINDOWS)).max(1.0);
    let z = if stream.information > 0.0 { stream.score / (phi * stream.information).sqrt() } else { 0.0 };
    let width = (Z95 * (phi * stream.log_variance).sqrt()).exp();
    // Where a side shows none, the limit on the other side comes from half a count: said to be open there.
    let middle = if stream.ratio > 0.0 && stream.ratio.is_finite() { stream.ratio } else { half_count(stream) };
    Tested {
        ratio: stream.ratio,
        low: if stream.ratio == 0.0 { 0.0 } else { middle / width },
        high: if stream.ratio.is_finite() { middle * width } else { f64::INFINITY },
        z,
        p_value: 2.0 * normal_cdf(-z.abs()),
        q_value: 1.0,
    }
}

/// The ratio with half a count on each side, from the variance that was computed with it.
fn half_count(stream: &RateRatio) -> f64 {
    // log_variance = information / (up down) with one of the two at 1/2.
    let other = 2.0 * stream.information / stream.log_variance;
    if stream.ratio == 0.0 { 0.5 / other } else { 2.0 * other }
}

/// Benjamini and Hochberg's adjusted p-values, in the order given.
#[must_use]
pub fn adjusted(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[b].total_cmp(&p_values[a]));
    let mut q_values = vec![1.0; p_values.len()];
    let mut least = 1.0_f64;
    for (from_top, &idx) in order.iter().enumerate() {
        let rank = p_values.len() - from_top;
        least = least.min(p_values[idx] * p_values.len() as f64 / rank as f64);
        q_values[idx] = least;
    }
    q_values
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, Poisson};

    use super::*;
    use crate::clock::{Clock, SystemClock};

    fn stratum(y_a: f64, e_a: f64, y_b: f64, e_b: f64) -> Stratum {
        Stratum { y_a, e_a, y_b, e_b }
    }

    #[test]
    fn one_window_gives_the_plain_ratio_of_rates() {
        let found = rate_ratio(&[stratum(30.0, 300.0, 40.0, 200.0)]).unwrap();
        assert!((found.ratio - 2.0).abs() < 1e-12);
        assert!((found.log_variance - (70.0 * 300.0 * 200.0 / 250_000.0) / (40.0 * 0.6 * 30.0 * 0.4)).abs() < 1e-12);
        assert!(found.dispersion.is_nan());
    }

    #[test]
    fn what_moves_both_sides_cancels_within_a_window() {
        // The first side is watched by night, the second by day, and the day is five times the night.
        let strata = [stratum(90.0, 900.0, 10.0, 100.0), stratum(50.0, 100.0, 450.0, 900.0)];
        let found = rate_ratio(&strata).unwrap();
        assert!((found.ratio - 1.0).abs() < 1e-12 && found.score.abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn edges_nothing_counted_and_a_side_that_shows_none() {
        assert!(rate_ratio(&[]).is_none());
        assert!(rate_ratio(&[stratum(0.0, 5.0, 0.0, 5.0)]).is_none());
        assert!(rate_ratio(&[stratum(3.0, 5.0, 0.0, 0.0)]).is_none());
        let born = test(&[rate_ratio(&[stratum(0.0, 100.0, 30.0, 100.0), stratum(0.0, 100.0, 28.0, 100.0)]).unwrap()]);
        // The exact conditional bound for 0 against 58 of equal exposure: no interval may be surer than that.
        let share = 1.0 - 0.025f64.powf(1.0 / 58.0);
        let surest = (1.0 - share) / share;
        assert!(born[0].ratio.is_infinite() && born[0].high.is_infinite() && born[0].p_value < 1e-9, "{born:?}");
        assert!(born[0].low > surest / 2.0 && born[0].low <= surest, "{born:?}, exact {surest}");
        let gone = test(&[rate_ratio(&[stratum(30.0, 100.0, 0.0, 100.0)]).unwrap()]);
        assert!(gone[0].ratio == 0.0 && gone[0].low == 0.0 && gone[0].high > 0.0 && gone[0].high < 0.5, "{gone:?}");
    }

    #[test]
    fn adjusted_p_values_are_monotone_and_equal_the_definition() {
        let p = [0.01, 0.04, 0.03, 0.5];
        let expected = [0.04, 0.16 / 3.0, 0.16 / 3.0, 0.5];
        assert!(adjusted(&p).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
        assert!(adjusted(&[]).is_empty());
    }

    /// With no difference, naming anything at 5 % is an error in at most 5 % of looks, also where windows
    /// wander by themselves. 120 looks: more than 18 has probability below 1e-4 at 5 %.
    #[test]
    fn without_a_difference_a_look_names_something_in_one_of_twenty() {
        let seed = u64::try_from(SystemClock.now_ms()).unwrap();
        println!("seed {seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut wrong = 0;
        for _ in 0..120 {
            let streams: Vec<RateRatio> = (0..60)
                .filter_map(|j| {
                    let strata: Vec<Stratum> = (0..24)
                        .map(|t| {
                            let level = 0.02 * f64::from(1 + j % 9) * (1.5 + (f64::from(t) / 4.0).sin());
                            let mut draw = |e: f64| {
                                // Gamma-like wander: a Poisson count of clumps of two.
                                2.0 * Poisson::new(level * e / 2.0).unwrap().sample(&mut rng)
                            };
                            stratum(draw(900.0), 900.0, draw(400.0), 400.0)
                        })
                        .collect();
                    rate_ratio(&strata)
                })
                .collect();
            wrong += usize::from(test(&streams).iter().any(|t| t.q_value <= 0.05));
        }
        println!("{wrong} of 120 looks named something");
        assert!(wrong <= 18, "{wrong} of 120");
    }

    /// 600 counts against 1200: ln 2 lies 14 standard errors (.05) from 0, so each look names it. Of 200
    /// intervals at 95 %, more than 24 without the truth has probability below 1e-4.
    #[test]
    fn a_doubled_stream_is_named_and_its_interval_holds_two() {
        let seed = u64::try_from(SystemClock.now_ms()).unwrap();
        println!("seed {seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = |mean: f64| Poisson::new(mean).unwrap().sample(&mut rng);
        let mut without = 0;
        for _ in 0..200 {
            let streams: Vec<RateRatio> = (0..40)
                .filter_map(|j| {
                    let ratio = if j == 7 { 2.0 } else { 1.0 };
                    let mut window = |_| stratum(draw(20.0), 500.0, draw(20.0 * ratio), 500.0);
                    rate_ratio(&(0..30).map(&mut window).collect::<Vec<_>>())
                })
                .collect();
            let doubled = test(&streams)[7];
            assert!(doubled.q_value < 1e-6 && (doubled.high / doubled.low).ln() < 0.3, "{doubled:?}");
            without += usize::from(doubled.low > 2.0 || doubled.high < 2.0);
        }
        println!("{without} of 200 intervals do not hold two");
        assert!(without <= 24, "{without} of 200");
    }
}
