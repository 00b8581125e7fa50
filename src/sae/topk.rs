//! The exact selection of the k largest of a row, by a lower bound from group maxima.
//!
//! Sorting or a heap costs 3 to 40 times the time (measured: heap 5.7 us, `select_nth` 3.0, this
//! 0.15 for 1,024 values and k = 8), and ONNX Runtime's TopK costs more than the matrix product. So:
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
/// Lanes for k above 64: a bound needs at least k maxima, and stays tight from about 4k on.
const WIDE_LANES: usize = 1024;
/// Bisections of the bound. Each halves its distance to the k-th maximum; past ten the candidates
/// saved cost less than the step.
const BISECTIONS: usize = 10;
/// Values looked at together when candidates are collected.
const CHUNK: usize = 32;

/// Selects the active latents of a row; keeps its scratch memory between rows.
#[derive(Debug)]
pub struct Selector {
    selection: Selection,
    maxima: Vec<f32>,
    candidates: Vec<(u32, f32)>,
    order: Vec<f32>,
}

impl Selector {
    /// A selector; allocates once here and, at most a few times, while its first rows pass.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self { selection, maxima: Vec::new(), candidates: Vec::new(), order: Vec::new() }
    }

    /// Appends one row to `activations` from its dense values `[d_sae]` (with or without ReLU): latents ascending.
    pub fn select(&mut self, dense: &[f32], activations: &mut SparseActivations) {
        match self.selection {
            Selection::Threshold(threshold) => {
                let floor = threshold.max(0.0);
                collect(dense, |value| value > floor, &mut self.candidates);
            }
            Selection::TopK(k) => {
                let bound = self.lower_bound(dense, k.get());
                if bound > 0.0 {
                    collect(dense, |value| value >= bound, &mut self.candidates);
                } else {
                    collect(dense, |value| value > 0.0, &mut self.candidates);
                }
                if self.candidates.len() > k.get() {
                    self.keep_largest(k.get());
                }
            }
        }
        for (latent, value) in &self.candidates {
            activations.push(LatentId(*latent), *value);
        }
        activations.end_row();
    }

    /// A value that at least `k` values of `dense` reach, as large as is cheap to find; 0 where none is found.
    fn lower_bound(&mut self, dense: &[f32], k: usize) -> f32 {
        let n_lanes = if k <= LANES / 2 { LANES } else { WIDE_LANES };
        if dense.len() < 2 * n_lanes || k > n_lanes / 2 {
            return 0.0;
        }
        lane_maxima(dense, n_lanes, &mut self.maxima);
        let n_reaching = |value: f32| self.maxima.iter().map(|maximum| u32::from(*maximum >= value)).sum::<u32>() as usize;
        let mut high = self.maxima.iter().fold(0.0f32, |a, b| if *b > a { *b } else { a });
        let mut low = 0.0;
        for _ in 0..BISECTIONS {
            let middle = low + (high - low) * 0.5;
            match n_reaching(middle) {
                n if n < k => high = middle,
                n => {
                    low = middle;
                    if n <= k + k / 8 {
                        break;
                    }
                }
            }
        }
        low
    }

    /// Cuts `candidates` (ascending by latent) down to the `k` largest and keeps their order.
    fn keep_largest(&mut self, k: usize) {
        self.order.clear();
        self.order.extend(self.candidates.iter().map(|(_, value)| *value));
        let (_, kth, _) = self.order.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let kth = *kth;
        let n_above = self.candidates.iter().filter(|(_, value)| *value > kth).count();
        let mut n_ties_left = k - n_above;
        self.candidates.retain(|(_, value)| {
            let tie = *value == kth && n_ties_left > 0;
            n_ties_left -= usize::from(tie);
            *value > kth || tie
        });
    }
}

/// Maximum of each lane: lane `l` holds the values at `l`, `l + n_lanes`, ...; NaN is passed over.
fn lane_maxima(dense: &[f32], n_lanes: usize, maxima: &mut Vec<f32>) {
    maxima.clear();
    maxima.resize(n_lanes, 0.0);
    for chunk in dense.chunks(n_lanes) {
        for (maximum, value) in maxima.iter_mut().zip(chunk) {
            *maximum = if *value > *maximum { *value } else { *maximum };
        }
    }
}

/// Positions and values that satisfy `wanted`, ascending. Whole chunks without one are passed over.
fn collect(dense: &[f32], wanted: impl Fn(f32) -> bool, found: &mut Vec<(u32, f32)>) {
    found.clear();
    for (start, chunk) in (0u32..).step_by(CHUNK).zip(dense.chunks(CHUNK)) {
        if chunk.iter().fold(false, |any, value| any | wanted(*value)) {
            found.extend((start..).zip(chunk).filter(|(_, value)| wanted(**value)).map(|(latent, value)| (latent, *value)));
        }
    }
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
