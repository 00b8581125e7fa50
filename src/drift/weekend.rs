//! A weekend that multiplies the daily rhythm: `rate_t = (x_t' beta) f_t`, f a factor at weekends, 1 on weekdays.
//!
//! Adding a level instead (one height for all hours) leaves the rhythm's amplitude on weekends as it is on
//! weekdays: where a concept is shown 1.4 times as often, its peak is then expected too low by .4 of the
//! amplitude, which alarms, and reads as a wander that is not there, so that gates are wider than they need be. Measured by
//! `make bench-drift SEEDS=11,12 ARGS="--kinds weekend --peer-runs 0"` (weekend factors of .6 to 1.4, daily amplitudes of .1 to .5;
//! with `RECSAE__DRIFT__WEEKEND_AS=level` before it for the added level), false alarms in 1,000 windows at a budget of 1:
//! 2.12 with the level (and three worlds whose reference was refused), .38 with the factor.
//! Columns of rhythm times weekend reach the same, for two to six columns more (wider gates).

use crate::drift::least_squares::{LeastSquares, dot};

/// No factor is believed beyond this, either way: a concept of weekends alone would have a rhythm of 0 on weekdays.
const MAX_FACTOR: f64 = 50.0;
/// Bisections of `[1/50, 50]` on the log scale: more than f64 can tell apart.
const BISECTIONS: usize = 64;

/// Fits `beta` and `f` by least squares of rates: `min sum_t (z_t - f_t x_t' beta)^2`.
///
/// With `X = Q U`, `G = sum_weekend q_t q_t'`, `c0`, `c1` = sums of `q_t z_t` over weekdays and weekends, the best
/// `b = U beta` for a given f solves `(I + (f^2 - 1) G) b = c0 + f c1`, and the slope of the error in f changes sign
/// where `c1'b = f b'G b`: bisected. Fixed arithmetic, so that the same rates give the same bits.
#[derive(Debug)]
pub struct WeekendFactor {
    rhythm: LeastSquares,
    is_weekend: Vec<bool>,
    /// G, `[K * K]`.
    gram: Vec<f64>,
}

impl WeekendFactor {
    /// `columns` of the rhythm (without the weekend's), each `[R]`; `is_weekend` `[R]`.
    #[must_use]
    pub fn new(columns: &[Vec<f64>], is_weekend: Vec<bool>) -> Self {
        let rhythm = LeastSquares::new(columns);
        let basis = rhythm.basis();
        let mut gram = Vec::with_capacity(basis.len() * basis.len());
        for a in basis {
            for b in basis {
                gram.push(a.iter().zip(b).zip(&is_weekend).filter(|(_, weekend)| **weekend).map(|((a, b), _)| a * b).sum());
            }
        }
        Self { rhythm, is_weekend, gram }
    }

    /// Coefficients `[K]` of the rhythm and the factor, of rates `z` `[R]`.
    /// Edge values: f = 1 where all windows are weekdays, or none is; otherwise within `[1/50, 50]`.
    #[must_use]
    pub fn solve(&self, z: &[f64]) -> (Vec<f64>, f64) {
        let on = |weekend: bool| -> Vec<f64> {
            let rates: Vec<f64> = z.iter().zip(&self.is_weekend).map(|(z, is)| if *is == weekend { *z } else { 0.0 }).collect();
            self.rhythm.basis().iter().map(|q| dot(q, &rates)).collect()
        };
        let (weekday, weekend) = (on(false), on(true));
        let n_weekend = self.is_weekend.iter().filter(|is| **is).count();
        if n_weekend == 0 || n_weekend == self.is_weekend.len() {
            return (self.rhythm.coefficients(sum(&weekday, 1.0, &weekend)), 1.0);
        }
        let (mut low, mut high) = (1.0 / MAX_FACTOR, MAX_FACTOR);
        for _ in 0..BISECTIONS {
            let f = (low * high).sqrt();
            let b = self.rhythm_given(f, &weekday, &weekend);
            if dot(&weekend, &b) > f * self.energy(&b) { low = f } else { high = f }
        }
        let f = (low * high).sqrt();
        (self.rhythm.coefficients(self.rhythm_given(f, &weekday, &weekend)), f)
    }

    /// b for a given f: Cholesky of `I + (f^2 - 1) G`, whose eigenvalues lie between `min(1, f^2)` and `max(1, f^2)`.
    fn rhythm_given(&self, f: f64, weekday: &[f64], weekend: &[f64]) -> Vec<f64> {
        let n = weekday.len();
        let mut b = sum(weekday, f, weekend);
        let mut l = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let before: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
                let at = f64::from(u8::from(i == j)) + (f * f - 1.0) * self.gram[i * n + j] - before;
                l[i * n + j] = if i == j { at.sqrt() } else { at / l[j * n + j] };
            }
            let before: f64 = (0..i).map(|k| l[i * n + k] * b[k]).sum();
            b[i] = (b[i] - before) / l[i * n + i];
        }
        for i in (0..n).rev() {
            let after: f64 = (i + 1..n).map(|k| l[k * n + i] * b[k]).sum();
            b[i] = (b[i] - after) / l[i * n + i];
        }
        b
    }

    /// `b'G b`.
    fn energy(&self, b: &[f64]) -> f64 {
        self.gram.chunks_exact(b.len().max(1)).zip(b).map(|(row, b_i)| b_i * dot(row, b)).sum()
    }
}

fn sum(a: &[f64], by: f64, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + by * b).collect()
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use proptest::prelude::*;

    use super::*;

    fn columns(n: usize) -> Vec<Vec<f64>> {
        let at = |wave: fn(f64) -> f64| (0..n).map(|t| wave(TAU * t as f64 / 24.0)).collect::<Vec<_>>();
        vec![vec![1.0; n], at(f64::cos), at(f64::sin)]
    }

    fn weekends(n: usize) -> Vec<bool> {
        (0..n).map(|t| (t / 24) % 7 >= 5).collect()
    }

    fn error(z: &[f64], is_weekend: &[bool], columns: &[Vec<f64>], beta: &[f64], f: f64) -> f64 {
        let rate = |t: usize| columns.iter().zip(beta).map(|(x, b)| x[t] * b).sum::<f64>() * if is_weekend[t] { f } else { 1.0 };
        (0..z.len()).map(|t| (z[t] - rate(t)).powi(2)).sum()
    }

    proptest! {
        #[test]
        fn what_was_multiplied_is_found(factor in 0.05_f64..20.0, amplitude in 0.0_f64..0.9, phase in 0.0..TAU, n in 168_usize..400) {
            let is_weekend = weekends(n);
            let z: Vec<f64> = (0..n)
                .map(|t| (3.0 + 3.0 * amplitude * (TAU * t as f64 / 24.0 - phase).cos()) * if is_weekend[t] { factor } else { 1.0 })
                .collect();
            let (beta, f) = WeekendFactor::new(&columns(n), is_weekend).solve(&z);
            prop_assert!((f / factor - 1.0).abs() < 1e-10, "{f} is not {factor}");
            prop_assert!((beta[0] - 3.0).abs() < 1e-9, "{beta:?}");
        }

        #[test]
        fn nothing_near_it_fits_better(noise in prop::collection::vec(0.2_f64..2.0, 240), step in prop::collection::vec(-0.01_f64..0.01, 4)) {
            let (is_weekend, columns) = (weekends(240), columns(240));
            let (beta, f) = WeekendFactor::new(&columns, is_weekend.clone()).solve(&noise);
            let moved: Vec<f64> = beta.iter().zip(&step).map(|(b, step)| b + step).collect();
            let best = error(&noise, &is_weekend, &columns, &beta, f);
            prop_assert!(best <= error(&noise, &is_weekend, &columns, &moved, f * (1.0 + step[3])) + 1e-9);
            // And nothing far away: the best rhythm at each factor of a grid is plain least squares of columns times it.
            for i in -20..=20 {
                let other = 50_f64.powf(f64::from(i) / 20.0);
                let times = |x: &Vec<f64>| x.iter().zip(&is_weekend).map(|(x, is)| x * if *is { other } else { 1.0 }).collect();
                let scaled: Vec<Vec<f64>> = columns.iter().map(times).collect();
                let rhythm = LeastSquares::new(&scaled).solve(&noise);
                prop_assert!(best <= error(&noise, &is_weekend, &columns, &rhythm, other) + 1e-9, "{f} is worse than {other}");
            }
        }
    }

    #[test]
    fn without_weekends_or_without_weekdays_it_is_plain_least_squares() {
        let columns = columns(48);
        let z: Vec<f64> = (0..48).map(|t| f64::from(t % 7)).collect();
        let plain = LeastSquares::new(&columns).solve(&z);
        for all in [false, true] {
            let (beta, f) = WeekendFactor::new(&columns, vec![all; 48]).solve(&z);
            assert_eq!(f, 1.0);
            assert!(beta.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-12), "{beta:?} {plain:?}");
        }
    }

    #[test]
    fn a_concept_of_weekends_alone_ends_at_the_bound() {
        let is_weekend = weekends(336);
        let z: Vec<f64> = is_weekend.iter().map(|is| f64::from(u8::from(*is))).collect();
        let (beta, f) = WeekendFactor::new(&columns(336), is_weekend).solve(&z);
        assert!((f - MAX_FACTOR).abs() < 1e-9 && (beta[0] * f - 1.0).abs() < 1e-2, "{f} {beta:?}");
    }
}
