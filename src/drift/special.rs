//! The normal distribution function and the inverse of the regularised incomplete gamma function.
//!
//! Own code for the gamma function: the crates that have an inverse stop at 1e-8 or bisect, and the
//! gate must equal scipy's to 1e-12. The prefactor `x^a e^-x / Gamma(a+1)` is taken about `x = a`
//! (Temme's form), because the plain logarithms cancel and lose nine digits at `a = 1e6`.
//! A test compares with rows from scipy. Source: DLMF 8.7.1 (series), 8.9.2 (continued fraction).

use std::f64::consts::{PI, SQRT_2};

/// Steps of series, continued fraction and inversion; the longest need about `10 sqrt(a)` of them.
const MAX_STEPS: usize = 1_000_000;

/// `Phi(z)`, the standard normal distribution function. NaN in, NaN out.
#[must_use]
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z / SQRT_2)
}

/// `P(a, x)` and `Q(a, x) = 1 - P(a, x)`, the regularised incomplete gamma functions, `a > 0`.
/// Edge values: `(0, 1)` for `x <= 0`.
#[must_use]
pub fn gamma_p_q(a: f64, x: f64) -> (f64, f64) {
    if x <= 0.0 {
        return (0.0, 1.0);
    }
    if x < a + 1.0 {
        let p = prefactor(a, x) * series(a, x);
        (p, 1.0 - p)
    } else {
        let q = prefactor(a, x) * a * continued_fraction(a, x);
        (1.0 - q, q)
    }
}

/// `x` with `P(a, x) = p`, for `a > 0` and `0 <= p < 1`.
/// Edge values: 0 for `p <= 0` or where `x` underflows, infinity for `p >= 1`.
/// Halley's iteration from the Wilson-Hilferty start.
#[must_use]
pub fn gamma_p_inverse(a: f64, p: f64) -> f64 {
    if p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return f64::INFINITY;
    }
    let mut x = start(a, p);
    for _ in 0..60 {
        if x <= 0.0 {
            return 0.0;
        }
        let (lower, upper) = gamma_p_q(a, x);
        let error = if p <= 0.5 { lower - p } else { (1.0 - p) - upper };
        let density = prefactor(a, x) * a / x;
        if density <= 0.0 {
            return x;
        }
        let newton = error / density;
        let step = newton / (1.0 - 0.5 * (newton * ((a - 1.0) / x - 1.0)).min(1.0));
        let next = x - step;
        let next = if next <= 0.0 { 0.5 * x } else { next };
        let settled = (next - x).abs() <= 2e-16 * x;
        x = next;
        if settled {
            break;
        }
    }
    x
}

fn start(a: f64, p: f64) -> f64 {
    if a >= 1.0 {
        let tail = p.min(1.0 - p);
        let t = (-2.0 * tail.ln()).sqrt();
        let z = t - (2.30753 + t * 0.27061) / (1.0 + t * (0.99229 + t * 0.04481));
        let z = if p < 0.5 { -z } else { z };
        let cube = 1.0 - 1.0 / (9.0 * a) + z / (3.0 * a.sqrt());
        (a * cube.powi(3)).max(1e-3)
    } else {
        let t = 1.0 - a * (0.253 + a * 0.12);
        if p < t { (p / t).powf(1.0 / a) } else { 1.0 - (-(p - t) / (1.0 - t)).ln_1p() }
    }
}

/// `x^a e^-x / Gamma(a + 1)`.
fn prefactor(a: f64, x: f64) -> f64 {
    if a < 10.0 {
        return (a * x.ln() - x - libm::lgamma(a + 1.0)).exp();
    }
    let relative = (x - a) / a;
    (-a * excess(relative) - stirling(a)).exp() / (2.0 * PI * a).sqrt()
}

/// `u - ln(1 + u)`, without cancellation about 0.
fn excess(u: f64) -> f64 {
    if u.abs() > 0.2 {
        return u - u.ln_1p();
    }
    let (mut sum, mut power) = (0.0, u * u);
    for k in 2..40 {
        sum += power / f64::from(k);
        power *= -u;
    }
    sum
}

/// `ln Gamma(a+1) - [ln sqrt(2 pi a) + a ln a - a]`, `a >= 10`.
fn stirling(a: f64) -> f64 {
    const TERMS: [f64; 7] = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0, 1.0 / 156.0];
    let (inverse, square) = (1.0 / a, 1.0 / (a * a));
    TERMS.iter().rev().fold(0.0, |sum, term| sum * square + term) * inverse
}

fn series(a: f64, x: f64) -> f64 {
    let (mut sum, mut term, mut denominator) = (1.0, 1.0, a);
    for _ in 0..MAX_STEPS {
        denominator += 1.0;
        term *= x / denominator;
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}

/// Lentz's evaluation of `Gamma(a, x) e^x x^-a`.
fn continued_fraction(a: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / if b.abs() < TINY { TINY } else { b };
    let mut h = d;
    let mut i = 0.0;
    for _ in 0..MAX_STEPS {
        i += 1.0;
        let numerator = -i * (i - a);
        b += 2.0;
        d = numerator * d + b;
        d = 1.0 / if d.abs() < TINY { TINY } else { d };
        c = b + numerator / c;
        c = if c.abs() < TINY { TINY } else { c };
        let factor = d * c;
        h *= factor;
        if (factor - 1.0).abs() < 2e-16 {
            break;
        }
    }
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_values_are_the_limits() {
        assert_eq!(gamma_p_q(3.0, 0.0), (0.0, 1.0));
        assert_eq!(gamma_p_inverse(3.0, 0.0), 0.0);
        assert_eq!(gamma_p_inverse(3.0, 1.0), f64::INFINITY);
        assert_eq!(normal_cdf(0.0), 0.5);
    }

    #[test]
    fn the_inverse_undoes_the_function() {
        for a in [0.05, 0.7, 1.0, 3.3, 9.9, 10.1, 250.0, 1e4, 1e6] {
            for p in [0.001, 0.01, 0.3, 0.5, 0.9, 0.99, 0.9999] {
                let x = gamma_p_inverse(a, p);
                assert!((gamma_p_q(a, x).0 - p).abs() < 2e-15 * a.sqrt().max(10.0), "a {a} p {p} x {x}");
            }
        }
    }
}
