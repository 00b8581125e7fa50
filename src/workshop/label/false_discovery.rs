//! Benjamini and Hochberg's bound on the share of false names among all names given.
//!
//! All pairs of a latent and a tag are one family, also those that were not worth computing: they enter
//! with p = 1. The bound holds for independent pairs and for positively dependent ones (Benjamini and
//! Yekutieli 2001, PRDS), which tags of one item table are.

/// q-values of the p-values given as logarithms, in the order given: the least level at which each is
/// still found. `n_tests` counts all tests, those that are not listed have p = 1. `ln q_i = min over
/// p_j >= p_i of ln(p_j n / rank_j)`, at most 0.
#[must_use]
pub fn ln_q_values(ln_p_values: &[f64], n_tests: usize) -> Vec<f64> {
    let n = n_tests.max(ln_p_values.len()) as f64;
    let mut order: Vec<usize> = (0..ln_p_values.len()).collect();
    order.sort_by(|a, b| ln_p_values[*a].total_cmp(&ln_p_values[*b]));
    let mut ln_q = vec![0.0; ln_p_values.len()];
    let mut least = 0.0_f64;
    for (rank, &index) in order.iter().enumerate().rev() {
        least = least.min(ln_p_values[index] + (n / (rank + 1) as f64).ln());
        ln_q[index] = least;
    }
    ln_q
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(p: &[f64], n: usize) -> Vec<f64> {
        let ln: Vec<f64> = p.iter().map(|p: &f64| p.ln()).collect();
        ln_q_values(&ln, n).into_iter().map(f64::exp).collect()
    }

    #[test]
    fn q_values_equal_the_definition_by_hand() {
        // p n / rank = .04, .04, .04, .04 for .01 .02 .03 .04 of four.
        for (ours, expected) in q(&[0.03, 0.01, 0.04, 0.02], 4).into_iter().zip([0.04; 4]) {
            assert!((ours - expected).abs() < 1e-15);
        }
        let ours = q(&[0.001, 0.5, 0.02], 3);
        for (ours, expected) in ours.iter().zip([0.003, 0.5, 0.03]) {
            assert!((ours - expected).abs() < 1e-15, "{ours} {expected}");
        }
    }

    #[test]
    fn tests_that_were_not_computed_still_count() {
        assert!((q(&[0.001], 100)[0] - 0.1).abs() < 1e-15);
        assert_eq!(q(&[0.5], 100), [1.0]);
        assert!(q(&[], 10).is_empty());
    }
}
