//! Which way vectors must move for their lists to hold more of something.
//!
//! Lists jump where vectors glide, so they are softened: an item weighs `p_i = softmax(score_i / T)` in a
//! row's list, at the temperature where lists are as wide as those that are shown (their mean log
//! perplexity is that of the places). What the rows' mean of `sum_i p_i v_i` gains as every vector moves is its
//! derivative, `g = mean_rows sum_i p_i (v_i - m) item_i / T` with the row's own mean `m`; a latent's pull is
//! `g . W_dec[latent]`, the gain for each unit of its activation.
//!
//! Rejected: lift alone. A latent can be active where a tag is recommended, and yet its decoder row moves
//! other items past the tag's: of 19 genres 6 did not move by such latents.

use ndarray::{Array1, Array2, ArrayView2};

use crate::workshop::evaluate::ranking::Case;

/// Halvings of the range of temperatures: 2^-24 of 17 octaves.
const HALVINGS: usize = 24;
/// The range, as shares of the scores' standard deviation: lists of one item to lists of all.
const TEMPERATURES: (f32, f32) = (1e-3, 1e2);

/// The softened lists of some rows.
#[derive(Clone, Debug)]
pub struct SoftLists {
    /// `[n, n_items]`; rows sum to 1.
    weights: Array2<f32>,
    temperature: f32,
}

impl SoftLists {
    /// Of vectors `[n, d]` over `items [n_items, d]`; what is masked in the lists weighs nothing.
    #[must_use]
    pub fn new(vectors: ArrayView2<'_, f32>, items: &Array2<f32>, padding: Option<usize>, cases: &[Case], top: usize) -> Self {
        let mut scores = vectors.dot(&items.t());
        let spread = scores.std(0.0);
        for (mut row, case) in scores.rows_mut().into_iter().zip(cases) {
            case.earlier.iter().copied().chain(padding).for_each(|item| row[item] = f32::NEG_INFINITY);
            let best = row.fold(f32::NEG_INFINITY, |best, score| best.max(*score));
            row.mapv_inplace(|score| score - best);
        }
        let unit = if spread > 0.0 { spread } else { 1.0 };
        let (mut low, mut high) = (unit * TEMPERATURES.0, unit * TEMPERATURES.1);
        let wanted = (top as f64).ln();
        for _ in 0..HALVINGS {
            let middle = (low * high).sqrt();
            if mean_entropy(&scores, middle) < wanted { low = middle } else { high = middle }
        }
        let temperature = (low * high).sqrt();
        for mut row in scores.rows_mut() {
            row.mapv_inplace(|score| (score / temperature).exp());
            let sum = row.sum();
            row.mapv_inplace(|weight| weight / sum);
        }
        Self { weights: scores, temperature }
    }

    /// The direction `[d]` in which the lists' mean of `values`, one an item, grows fastest.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a direction among f32 vectors")]
    pub fn direction(&self, values: &[f64], items: &Array2<f32>) -> Array1<f32> {
        let mut of_items = vec![0f64; values.len()];
        for row in self.weights.rows() {
            let mean: f64 = row.iter().zip(values).map(|(weight, value)| f64::from(*weight) * value).sum();
            of_items.iter_mut().zip(row).zip(values).for_each(|((sum, weight), value)| *sum += f64::from(*weight) * (value - mean));
        }
        let scale = f64::from(self.temperature) * self.weights.nrows().max(1) as f64;
        let of_items: Array1<f32> = of_items.iter().map(|value| (value / scale) as f32).collect();
        of_items.dot(items)
    }

    /// The pull of each latent on `values`, given the decoder `[d_sae, d]`.
    #[must_use]
    pub fn pulls(&self, values: &[f64], items: &Array2<f32>, w_dec: &Array2<f32>) -> Vec<f64> {
        w_dec.dot(&self.direction(values, items)).iter().map(|pull| f64::from(*pull)).collect()
    }
}

/// Mean over rows of the entropy of `softmax(scores / temperature)`; the best score of a row is 0.
fn mean_entropy(scores: &Array2<f32>, temperature: f32) -> f64 {
    let of_row = |row: ndarray::ArrayView1<'_, f32>| {
        let (mut sum, mut sum_of_logs) = (0f32, 0f32);
        for score in row.iter().filter(|score| score.is_finite()) {
            let (log, weight) = (score / temperature, (score / temperature).exp());
            (sum, sum_of_logs) = (sum + weight, sum_of_logs + weight * log);
        }
        if sum > 0.0 { f64::from(sum.ln() - sum_of_logs / sum) } else { 0.0 }
    };
    scores.rows().into_iter().map(of_row).sum::<f64>() / scores.nrows().max(1) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matrix(numbers: &[f32], rows: usize, columns: usize) -> Array2<f32> {
        Array2::from_shape_fn((rows, columns), |(row, column)| numbers[(row * columns + column) % numbers.len()])
    }

    proptest! {
        #[test]
        fn the_direction_is_the_derivative_and_the_lists_are_as_wide_as_shown(
            numbers in prop::collection::vec(-1.0f32..1.0, 131), values in prop::collection::vec(-1.0f64..1.0, 20),
        ) {
            let (vectors, items) = (matrix(&numbers, 6, 4), matrix(&numbers[24..], 20, 4));
            let cases: Vec<Case> = (0..6).map(|row| Case { target: 1, earlier: vec![2 + row] }).collect();
            let soft = SoftLists::new(vectors.view(), &items, Some(0), &cases, 5);
            prop_assert!(soft.weights.column(0).iter().all(|weight| *weight == 0.0) && soft.weights[[3, 5]] == 0.0);
            let entropy = |row: ndarray::ArrayView1<'_, f32>| row.iter().filter(|p| **p > 0.0).map(|p| f64::from(-p * p.ln())).sum::<f64>();
            let mean = soft.weights.rows().into_iter().map(entropy).sum::<f64>() / 6.0;
            prop_assert!((mean - 5f64.ln()).abs() < 1e-2, "mean log perplexity {mean}");
            // The mean of the values, all vectors a step further, at the same temperature, in f64.
            let mean_after = |step: [f64; 4]| {
                let of_row = |row: usize| {
                    let score = |item: usize| (0..4).map(|i| (f64::from(vectors[[row, i]]) + step[i]) * f64::from(items[[item, i]])).sum::<f64>();
                    let weights: Vec<f64> = (0..20)
                        .map(|item| if item == 0 || item == 2 + row { 0.0 } else { (score(item) / f64::from(soft.temperature)).exp() })
                        .collect();
                    weights.iter().zip(&values).map(|(weight, value)| weight * value).sum::<f64>() / weights.iter().sum::<f64>()
                };
                (0..6).map(of_row).sum::<f64>() / 6.0
            };
            let direction = soft.direction(&values, &items);
            for i in 0..4 {
                let step = 1e-4 * f64::from(soft.temperature);
                let (mut up, mut down) = ([0.0; 4], [0.0; 4]);
                (up[i], down[i]) = (step, -step);
                let slope = (mean_after(up) - mean_after(down)) / (2.0 * step);
                prop_assert!((f64::from(direction[i]) - slope).abs() < 1e-3 * (1.0 + slope.abs()), "{} beside {slope}", direction[i]);
            }
        }
    }
}
