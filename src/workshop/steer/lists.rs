//! Recommendations of many rows from their (steered) vectors, and what the lists are like.

use ndarray::{Array2, ArrayView2};
use serde::Serialize;

use crate::workshop::evaluate::ranking::{Case, ndcg, overlap, rank, top_k};

/// What is recommended from the vectors of some rows.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// First places of each row.
    pub items: Vec<Vec<usize>>,
    /// NDCG of each row.
    pub ndcg: Vec<f64>,
}

/// Numbers of lists beside those of the unsteered vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ListReport {
    /// Mean NDCG.
    pub ndcg: f64,
    /// Share of places that hold the same items as unsteered.
    pub overlap: f64,
    /// Share of all items that anybody is recommended.
    pub coverage: f64,
    /// Gini coefficient of how often items are recommended: 0 all alike, 1 one item only.
    pub gini: f64,
}

/// Ranks all items for each vector `[n, d]`; what the user met earlier and the padding are masked.
#[must_use]
pub fn recommend(vectors: ArrayView2<'_, f32>, items: &Array2<f32>, padding: Option<usize>, cases: &[Case], top: usize) -> Lists {
    let mut scores = vectors.dot(&items.t());
    let mut lists = Lists::default();
    for (mut row, case) in scores.rows_mut().into_iter().zip(cases) {
        case.earlier.iter().copied().chain(padding).for_each(|item| row[item] = f32::NEG_INFINITY);
        let row = row.as_slice().unwrap_or(&[]);
        lists.ndcg.push(ndcg(rank(row, case.target), top));
        lists.items.push(top_k(row, top));
    }
    lists
}

/// The numbers of `lists`, beside `before` of the same rows, among `n_items`.
#[must_use]
pub fn report(lists: &Lists, before: &Lists, n_items: usize, padding: Option<usize>) -> ListReport {
    let mut shown = vec![0u64; n_items];
    lists.items.iter().flatten().for_each(|item| shown[*item] += 1);
    if let Some(padding) = padding.filter(|padding| *padding < n_items) {
        shown.remove(padding);
    }
    let n = lists.items.len().max(1) as f64;
    ListReport {
        ndcg: lists.ndcg.iter().sum::<f64>() / n,
        overlap: lists.items.iter().zip(&before.items).map(|(a, b)| overlap(b, a)).sum::<f64>() / n,
        coverage: shown.iter().filter(|count| **count > 0).count() as f64 / shown.len().max(1) as f64,
        gini: gini(&shown),
    }
}

/// `sum_i (2 i - n - 1) x_i / (n sum x)` over ascending x, i from 1; 0 for nothing.
#[must_use]
pub fn gini(counts: &[u64]) -> f64 {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    let (n, sum) = (sorted.len() as f64, sorted.iter().sum::<u64>() as f64);
    if sum == 0.0 {
        return 0.0;
    }
    sorted.iter().enumerate().map(|(i, x)| (2.0 * (i as f64 + 1.0) - n - 1.0) * *x as f64).sum::<f64>() / (n * sum)
}

/// Share of each row's list whose items have the tag.
#[must_use]
pub fn tag_shares(lists: &Lists, has_tag: &[bool]) -> Vec<f64> {
    let share = |items: &Vec<usize>| items.iter().filter(|item| has_tag[**item]).count() as f64 / items.len().max(1) as f64;
    lists.items.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gini_coefficient_equals_the_mean_difference_by_hand() {
        for counts in [vec![3, 3, 3], vec![0, 0, 9], vec![1, 2, 3, 4, 5, 0], vec![0, 0]] {
            let (n, mean) = (counts.len() as f64, counts.iter().sum::<u64>() as f64 / counts.len() as f64);
            let differences: f64 = counts.iter().flat_map(|a| counts.iter().map(move |b| a.abs_diff(*b) as f64)).sum();
            let expected = if mean > 0.0 { differences / (2.0 * n * n * mean) } else { 0.0 };
            assert!((gini(&counts) - expected).abs() < 1e-12);
        }
    }
}
