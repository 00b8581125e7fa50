//! The concentration factor: users who became more or less concentrated show fewer or more different
//! concepts, all at once. It is one number a window, exported, and not two hundred alarms.

use crate::drift::dispersion::quantile;

/// Mean expected count from which a concept is frequent (or the top 20 %, where few reach it).
const FREQUENT: f64 = 20.0;

/// Which concepts the factor is measured on: `mean mu >= min(20, 80th percentile)` in the reference.
#[must_use]
pub fn frequent(mean_expected: &[f64]) -> Vec<usize> {
    let least = FREQUENT.min(quantile(mean_expected, 0.8));
    (0..mean_expected.len()).filter(|&j| mean_expected[j] >= least).collect()
}

/// `c = sum_j clip(Y_j, mu_j/2, 2 mu_j) / sum_j mu_j` over the frequent concepts: each enters with at
/// most a factor 2, so that a drifting one cannot move it. 1 where nothing is expected.
#[must_use]
pub fn factor(y: &[f64], mu: &[f64], frequent: &[usize]) -> f64 {
    let (mut shown, mut expected) = (0.0, 0.0);
    for &j in frequent {
        shown += y[j].max(0.5 * mu[j]).min(2.0 * mu[j]);
        expected += mu[j];
    }
    if expected > 0.0 { shown / expected } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_concept_that_explodes_moves_the_factor_by_one_of_its_expectation() {
        let mu = vec![50.0; 10];
        let mut y = mu.clone();
        y[0] = 1e6;
        let all = frequent(&mu);
        assert_eq!(all.len(), 10);
        assert!((factor(&y, &mu, &all) - 1.1).abs() < 1e-12);
        assert_eq!(factor(&y, &[0.0; 10], &all), 1.0);
    }
}
