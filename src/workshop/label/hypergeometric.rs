//! The upper tail of the hypergeometric distribution, to the last digits and far below the smallest f64.
//!
//! `P[X >= x]` for `X ~ Hyper(N, K, M)`: N cases, K of them with the tag, M with the latent active, x with
//! both. The first term is taken by Loader's saddle-point expansion (C. Loader, "Fast and accurate
//! computation of binomial probabilities", 2000), because differences of log-factorials of N = 50,000
//! lose ten digits; the others follow by their ratio. Everything is kept as a logarithm, so that 1e-400
//! still ranks before 1e-390. A test compares with rows from scipy.

use std::f64::consts::PI;

/// Terms of the tail smaller than this share of the sum cannot change its last digit.
const NEGLIGIBLE: f64 = 1e-18;

/// A two-by-two table of cases: what enrichment is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// All cases, N.
    pub n_cases: u64,
    /// Cases with the tag, K.
    pub n_tagged: u64,
    /// Cases with the latent active, M.
    pub n_active: u64,
    /// Cases with both, x.
    pub n_both: u64,
}

impl Overlap {
    /// `ln P[Hyper(N, K, M) >= x]`. Edge values: 0 (certain) for `x = 0` or below the least possible
    /// overlap, `-inf` above the greatest possible one.
    #[must_use]
    pub fn ln_p_value(&self) -> f64 {
        let (n, k, m, x) = (self.n_cases, self.n_tagged.min(self.n_cases), self.n_active.min(self.n_cases), self.n_both);
        let least = (k + m).saturating_sub(n);
        if x <= least {
            return 0.0;
        }
        if x > k.min(m) {
            return f64::NEG_INFINITY;
        }
        let mean = m as f64 * (k as f64 / n as f64);
        if (x as f64) > mean { upper(n, k, m, x) } else { (-lower(n, k, m, x - 1).exp()).ln_1p().min(0.0) }
    }

    /// [`Self::ln_p_value`] as a probability; 0 where it is smaller than any f64.
    #[must_use]
    pub fn p_value(&self) -> f64 {
        self.ln_p_value().exp()
    }

    /// `(x / M) / (K / N)`: how much more often the tag is seen when the latent is active. 0 where a side is empty.
    #[must_use]
    pub fn lift(&self) -> f64 {
        ratio(self.precision(), ratio(self.n_tagged as f64, self.n_cases as f64))
    }

    /// `x / M`, P(tag | active). 0 where nothing is active.
    #[must_use]
    pub fn precision(&self) -> f64 {
        ratio(self.n_both as f64, self.n_active as f64)
    }

    /// `x / K`, P(active | tag). 0 where nothing has the tag.
    #[must_use]
    pub fn recall(&self) -> f64 {
        ratio(self.n_both as f64, self.n_tagged as f64)
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// `ln` of the sum of the terms from `x` up; `x` is above the mean, so that they fall.
fn upper(n: u64, k: u64, m: u64, x: u64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for i in x..k.min(m) {
        term *= ((k - i) as f64 / (i + 1) as f64) * ((m - i) as f64 / (n + i + 1 - k - m) as f64);
        sum += term;
        if term < NEGLIGIBLE * sum {
            break;
        }
    }
    ln_term(n, k, m, x) + sum.ln()
}

/// `ln` of the sum of the terms from `x` down; `x` is at or below the mean.
fn lower(n: u64, k: u64, m: u64, x: u64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for i in ((k + m).saturating_sub(n) + 1..=x).rev() {
        term *= (i as f64 / (k - i + 1) as f64) * ((n + i - k - m) as f64 / (m - i + 1) as f64);
        sum += term;
        if term < NEGLIGIBLE * sum {
            break;
        }
    }
    ln_term(n, k, m, x) + sum.ln()
}

/// `ln P[X = x]`, as binomials of probability M / N: `B(x; K) B(M - x; N - K) / B(M; N)`.
fn ln_term(n: u64, k: u64, m: u64, x: u64) -> f64 {
    let p = m as f64 / n as f64;
    let q = (n - m) as f64 / n as f64;
    ln_binomial(x, k, p, q) + ln_binomial(m - x, n - k, p, q) - ln_binomial(m, n, p, q)
}

/// `ln` of the binomial probability of `x` in `n` with `q = 1 - p`.
fn ln_binomial(x: u64, n: u64, p: f64, q: f64) -> f64 {
    let (xf, nf, rest) = (x as f64, n as f64, (n - x) as f64);
    if n == 0 || (p <= 0.0 && x == 0) || (q <= 0.0 && x == n) {
        return 0.0;
    }
    if p <= 0.0 || q <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == 0 {
        return if p < 0.1 { -deviance(nf, nf * q) - nf * p } else { nf * q.ln() };
    }
    if x == n {
        return if q < 0.1 { -deviance(nf, nf * p) - nf * q } else { nf * p.ln() };
    }
    let correction = stirling_error(n) - stirling_error(x) - stirling_error(n - x);
    correction - deviance(xf, nf * p) - deviance(rest, nf * q) - 0.5 * ((2.0 * PI).ln() + xf.ln() + (-xf / nf).ln_1p())
}

/// `ln n! - ln(sqrt(2 pi n) (n / e)^n)`.
fn stirling_error(n: u64) -> f64 {
    let nf = n as f64;
    if n == 0 {
        return 0.0;
    }
    if n < 16 {
        let factorial: f64 = (1..=n).map(|i| i as f64).product();
        return (factorial / ((2.0 * PI * nf).sqrt() * (nf / std::f64::consts::E).powi(i32::try_from(n).unwrap_or(0)))).ln();
    }
    let square = nf * nf;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - (1.0 / 1680.0 - 1.0 / (1188.0 * square)) / square) / square) / square) / nf
}

/// `x ln(x / mean) + mean - x`, without cancellation where the two are near.
fn deviance(x: f64, mean: f64) -> f64 {
    if (x - mean).abs() >= 0.1 * (x + mean) {
        return x * (x / mean).ln() + mean - x;
    }
    let v = (x - mean) / (x + mean);
    let mut sum = (x - mean) * v;
    let mut power = 2.0 * x * v;
    for j in 1..1000 {
        power *= v * v;
        let next = sum + power / f64::from(2 * j + 1);
        if (next - sum).abs() <= f64::EPSILON * next.abs() {
            return next;
        }
        sum = next;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap(n_cases: u64, n_tagged: u64, n_active: u64, n_both: u64) -> Overlap {
        Overlap { n_cases, n_tagged, n_active, n_both }
    }

    /// The obvious twin: binomial coefficients in exact integers.
    fn by_hand(n: u64, k: u64, m: u64, x: u64) -> f64 {
        let choose = |n: u64, r: u64| (0..r).fold(1u128, |acc, i| acc * u128::from(n - i) / u128::from(i + 1));
        let term = |i: u64| if i > k || i > m || m - i > n - k { 0 } else { choose(k, i) * choose(n - k, m - i) };
        (x..=m).map(term).sum::<u128>() as f64 / choose(n, m) as f64
    }

    #[test]
    fn the_tail_equals_exact_integers_for_every_small_table() {
        for n in 1..=14 {
            for (k, m) in (0..=n).flat_map(|k| (0..=n).map(move |m| (k, m))) {
                for x in 0..=k.min(m) + 1 {
                    let (ours, exact) = (overlap(n, k, m, x).p_value(), by_hand(n, k, m, x));
                    assert!((ours - exact).abs() <= 1e-13 * exact.max(1e-3), "N {n} K {k} M {m} x {x}: {ours} {exact}");
                }
            }
        }
    }

    #[test]
    fn the_tail_stays_a_number_where_a_probability_underflows() {
        let far = overlap(50_000, 500, 500, 500).ln_p_value();
        let farther = overlap(50_000, 600, 600, 600).ln_p_value();
        assert!(far.is_finite() && farther < far && far < -2000.0, "{far} {farther}");
        assert_eq!(overlap(10, 3, 3, 4).ln_p_value(), f64::NEG_INFINITY);
        assert_eq!(overlap(10, 0, 3, 0).p_value(), 1.0);
    }

    #[test]
    fn an_empty_side_has_no_lift() {
        assert_eq!(overlap(0, 0, 0, 0).lift(), 0.0);
        assert_eq!((overlap(10, 0, 5, 0).recall(), overlap(10, 5, 0, 0).precision()), (0.0, 0.0));
        assert_eq!(overlap(100, 10, 20, 10).lift(), 5.0);
    }
}
