//! The exact selection of the k largest of a row, by a lower bound from group maxima.
//!
//! A heap or `select_nth` over the whole row, and ONNX Runtime's own TopK, cost more than the matrix
//! product. This costs 0.77 us for 1,024 real values and k = 8, and 2.2 us for 2,048 and k = 32 (one core of
//! an AVX2 EPYC, compiled for any x86-64); mispredicted branches while collecting are most of it. So:
//!
//! 1. The maximum of each of 128 (or 1,024) strided lanes, which the compiler turns into vector code.
//! 2. Bisect a value that at least k of these maxima reach. At least k values of the row reach it
//!    then, so it is a lower bound of the k-th largest.
//! 3. Collect what reaches the bound, a few more than k values, and finish among them exactly.
//!
//! Of equal values the lower index wins; values that are not > 0 and NaN are never selected.

use crate::sae::activation::SparseActivations;
use crate::sae::latent::LatentId;
use crate::sae::weights::Selection;

/// Lanes for small k. Fewer lanes give a looser bound, more cost more in the bisection.
const LANES: usize = 128;
/// Lanes for k above 64: a bound needs at least k maxima, and stays tight from about 2k on.
const WIDE_LANES: usize = 1024;
/// Bisections of the bound. Each halves its distance to the k-th maximum; past ten the candidates
/// saved cost less than the step.
const BISECTIONS: usize = 10;
/// Bisections among the candidates before ties are taken for granted and sorted out.
const FINAL_BISECTIONS: usize = 20;
/// Values looked at together when candidates are collected: fewer cost more comparisons of whole chunks,
/// more cost more values looked at one by one.
const CHUNK: usize = 16;

/// Selects the active latents of a row; keeps its scratch memory between rows.
#[derive(Debug)]
pub struct Selector {
    selection: Selection,
    maxima: Vec<f32>,
    latents: Vec<u32>,
    values: Vec<f32>,
    order: Vec<f32>,
}

impl Selector {
    /// A selector; its scratch memory grows while the first rows pass and is then kept.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self { selection, maxima: Vec::new(), latents: Vec::new(), values: Vec::new(), order: Vec::new() }
    }

    /// Appends one row to `activations` from its dense values `[d_sae]` (with or without ReLU): latents ascending.
    pub fn select(&mut self, dense: &[f32], activations: &mut SparseActivations) {
        let mut kept = f32::NEG_INFINITY;
        let mut n_ties_left = usize::MAX;
        let n_candidates = match self.selection {
            // The smallest value above the threshold, so that both selections collect with ">=".
            Selection::Threshold(threshold) => self.collect(dense, threshold.max(0.0).next_up()),
            Selection::TopK(k) => {
                let n_candidates = self.candidates(dense, k.get());
                if n_candidates > k.get() {
                    (kept, n_ties_left) = self.kth_largest(n_candidates, k.get());
                }
                n_candidates
            }
        };
        for (latent, value) in self.latents[..n_candidates].iter().zip(&self.values[..n_candidates]) {
            if *value > kept {
                activations.push(LatentId(*latent), *value);
            } else if *value == kept && n_ties_left > 0 {
                n_ties_left -= 1;
                activations.push(LatentId(*latent), *value);
            }
        }
        activations.end_row();
    }

    /// Collects all values that may be among the `k` largest, and returns how many there are.
    fn candidates(&mut self, dense: &[f32], k: usize) -> usize {
        let bound = self.lower_bound(dense, k);
        self.collect(dense, bound.max(0.0f32.next_up()))
    }

    /// A value that at least `k` values of `dense` reach, as large as is cheap to find; 0 where none is found.
    fn lower_bound(&mut self, dense: &[f32], k: usize) -> f32 {
        if k <= LANES / 2 && dense.len() >= 2 * LANES {
            bound_by_lanes::<LANES>(dense, k, &mut self.maxima)
        } else if k <= WIDE_LANES / 2 && dense.len() >= 2 * WIDE_LANES {
            bound_by_lanes::<WIDE_LANES>(dense, k, &mut self.maxima)
        } else {
            0.0
        }
    }

    /// Collects the latents that reach `bound`, ascending. Chunks without one cost a comparison each.
    fn collect(&mut self, dense: &[f32], bound: f32) -> usize {
        self.latents.clear();
        self.values.clear();
        let (chunks, rest) = dense.as_chunks::<CHUNK>();
        let mut starts = (0u32..).step_by(CHUNK);
        for (chunk, start) in chunks.iter().zip(&mut starts) {
            let reached = chunk.iter().fold(false, |any, value| any | (*value >= bound));
            if reached {
                self.collect_chunk(chunk, start, bound);
            }
        }
        if let Some(start) = starts.next() {
            self.collect_chunk(rest, start, bound);
        }
        self.values.len()
    }

    fn collect_chunk(&mut self, chunk: &[f32], start: u32, bound: f32) {
        for (latent, value) in (start..).zip(chunk) {
            if *value >= bound {
                self.latents.push(latent);
                self.values.push(*value);
            }
        }
    }

    /// A value such that those above it, and the returned number of those equal to it, are the `k` largest
    /// candidates. There are more than `k`.
    fn kth_largest(&mut self, n_candidates: usize, k: usize) -> (f32, usize) {
        let values = &self.values[..n_candidates];
        let (mut low, mut high) = values.iter().fold((f32::INFINITY, 0.0f32), |(low, high), v| (low.min(*v), high.max(*v)));
        for _ in 0..FINAL_BISECTIONS {
            let middle = low + (high - low) * 0.5;
            match n_reaching(values, middle) {
                n if n == k => return (middle, k),
                n if n < k => high = middle,
                _ => low = middle,
            }
        }
        self.order.clear();
        self.order.extend_from_slice(values);
        let (_, kth, _) = self.order.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let n_above = values.iter().filter(|value| **value > *kth).count();
        (*kth, k - n_above)
    }
}

/// A lower bound of the k-th largest value, from the maxima of `N` lanes: lane `l` holds the values at
/// `l`, `l + N`, ... Values that are not > 0 and NaN are passed over.
fn bound_by_lanes<const N: usize>(dense: &[f32], k: usize, maxima: &mut Vec<f32>) -> f32 {
    maxima.clear();
    maxima.resize(N, 0.0);
    let Some(maxima) = maxima.first_chunk_mut::<N>() else { return 0.0 };
    let (chunks, rest) = dense.as_chunks::<N>();
    for chunk in chunks {
        for (maximum, value) in maxima.iter_mut().zip(chunk) {
            *maximum = if *value > *maximum { *value } else { *maximum };
        }
    }
    for (maximum, value) in maxima.iter_mut().zip(rest) {
        *maximum = if *value > *maximum { *value } else { *maximum };
    }
    let (mut low, mut high) = (0.0, maxima.iter().fold(0.0f32, |a, b| if *b > a { *b } else { a }));
    for _ in 0..BISECTIONS {
        let middle = low + (high - low) * 0.5;
        let n = n_reaching(maxima, middle);
        if n < k {
            high = middle;
        } else {
            low = middle;
            if n <= k + k / 8 {
                break;
            }
        }
    }
    low
}

/// How many values reach `bound`.
fn n_reaching(values: &[f32], bound: f32) -> usize {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [0u32; 8];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += u32::from(*value >= bound);
        }
    }
    let rest = rest.iter().filter(|value| **value >= bound).count();
    lanes.iter().sum::<u32>() as usize + rest
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;

    fn by_sorting(dense: &[f32], k: usize) -> Vec<(u32, f32)> {
        let mut all: Vec<(u32, f32)> = (0u32..).zip(dense).filter(|(_, v)| **v > 0.0).map(|(i, v)| (i, *v)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(k);
        all.sort_by_key(|(i, _)| *i);
        all
    }

    fn selected(dense: &[f32], selection: Selection) -> Vec<(u32, f32)> {
        let mut out = SparseActivations::default();
        Selector::new(selection).select(dense, &mut out);
        let (latents, values) = out.row(0);
        latents.iter().zip(values).map(|(latent, value)| (latent.0, *value)).collect()
    }

    fn top_k(dense: &[f32], k: usize) -> Vec<(u32, f32)> {
        selected(dense, Selection::TopK(NonZeroUsize::new(k).unwrap()))
    }

    fn value() -> impl Strategy<Value = f32> {
        // Ties, zeros, heavy tails, infinities and NaN beside ordinary values.
        prop_oneof![
            4 => -3.0f32..3.0,
            3 => (-4i32..5).prop_map(|i| i as f32),
            1 => Just(0.0), 1 => Just(-0.0),
            1 => (-30i32..30).prop_map(|e| 10f32.powi(e)),
            1 => Just(f32::INFINITY), 1 => Just(f32::NAN), 1 => Just(f32::MIN_POSITIVE / 4.0),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        #[test]
        fn the_selection_equals_sorting(dense in prop::collection::vec(value(), 1..3000), k in prop_oneof![1usize..80, 80usize..700]) {
            prop_assert_eq!(top_k(&dense, k), by_sorting(&dense, k));
        }

        #[test]
        fn rows_of_ties_take_the_lower_indices(n in 200usize..2500, k in 1usize..64, level in 0.1f32..9.0) {
            let dense = vec![level; n];
            prop_assert_eq!(top_k(&dense, k).iter().map(|(i, _)| *i as usize).collect::<Vec<_>>(), (0..k).collect::<Vec<_>>());
        }
    }

    #[test]
    fn few_positives_stay_few() {
        let mut dense = vec![-1.0; 2048];
        assert_eq!(top_k(&dense, 32), vec![]);
        dense[2047] = 0.5;
        dense[3] = f32::MIN_POSITIVE;
        assert_eq!(top_k(&dense, 32), vec![(3, f32::MIN_POSITIVE), (2047, 0.5)]);
    }

    #[test]
    fn a_threshold_selects_all_above_it() {
        assert_eq!(selected(&[0.5, 2.0, -1.0, 0.6], Selection::Threshold(0.5)), vec![(1, 2.0), (3, 0.6)]);
    }

    #[test]
    fn one_selector_serves_rows_of_any_kind_in_turn() {
        let mut selector = Selector::new(Selection::TopK(NonZeroUsize::new(3).unwrap()));
        let mut out = SparseActivations::default();
        let rows: Vec<Vec<f32>> = (0..50).map(|r| (0..1024).map(|i| ((i * 7919 + r * 104_729) % 1009) as f32 - 300.0).collect()).collect();
        rows.iter().for_each(|row| selector.select(row, &mut out));
        for (r, row) in rows.iter().enumerate() {
            let (latents, values) = out.row(r);
            assert_eq!(latents.iter().map(|l| l.0).zip(values.iter().copied()).collect::<Vec<_>>(), by_sorting(row, 3));
        }
    }
}
