//! The exact selection of the k largest of a row, by a lower bound from group maxima.
//!
//! A heap or `select_nth` over the whole row, and ONNX Runtime's own TopK, cost more than the matrix
//! product. So:
//!
//! 1. The maximum of each of 128 (or 1,024) strided lanes, which the compiler turns into vector code.
//! 2. Bisect a value that at least k of these maxima reach. At least k values of the row reach it
//!    then, so it is a lower bound of the k-th largest.
//! 3. Collect what reaches the bound, a few more than k values, and finish among them exactly.
//!
//! Of equal values the lower index wins; values that are not > 0 and NaN are never selected.
//!
//! This file is the portable path and the rule; `sae::topk_avx2` does the same steps where the CPU has
//! AVX2, and is held to this one value for value. `make bench-topk` prints what both cost.

use crate::sae::activation::SparseActivations;
use crate::sae::latent::LatentId;
#[cfg(target_arch = "x86_64")]
use crate::sae::topk_avx2::Avx2;
use crate::sae::topk_bound::{bisect, n_lanes, n_reaching};
use crate::sae::topk_candidates::Scratch;
use crate::sae::weights::Selection;

/// Values looked at together when candidates are collected: fewer cost more comparisons of whole chunks,
/// more cost more values looked at one by one.
const CHUNK: usize = 16;

/// Selects the active latents of a row; keeps its scratch memory between rows.
#[derive(Debug)]
pub struct Selector {
    selection: Selection,
    scratch: Scratch,
    #[cfg(target_arch = "x86_64")]
    avx2: Option<Avx2>,
}

impl Selector {
    /// A selector for this CPU; its scratch memory grows while the first rows pass and is then kept.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            avx2: Avx2::detect(),
            ..Self::portable(selection)
        }
    }

    /// A selector that uses no CPU feature but those every machine of the target has: the yardstick of the others.
    #[must_use]
    pub fn portable(selection: Selection) -> Self {
        Self {
            selection,
            scratch: Scratch::default(),
            #[cfg(target_arch = "x86_64")]
            avx2: None,
        }
    }

    /// Appends one row to `activations` from its dense values `[d_sae]` (with or without ReLU): latents ascending.
    pub fn select(&mut self, dense: &[f32], activations: &mut SparseActivations) {
        // The smallest value that may be selected, so that both selections collect with ">=".
        let (floor, k) = match self.selection {
            Selection::Threshold(threshold) => (threshold.max(0.0).next_up(), dense.len()),
            Selection::TopK(k) => (0.0f32.next_up(), k.get()),
        };
        self.candidates(dense, k, floor);
        if self.scratch.n > k {
            self.scratch.keep_largest(k);
        }
        let n = self.scratch.n;
        activations.push_row(&self.scratch.latents[..n], &self.scratch.values[..n]);
    }

    #[cfg(target_arch = "x86_64")]
    fn candidates(&mut self, dense: &[f32], k: usize, floor: f32) {
        match self.avx2 {
            Some(avx2) => avx2.candidates(dense, k, floor, &mut self.scratch),
            None => candidates(dense, k, floor, &mut self.scratch),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn candidates(&mut self, dense: &[f32], k: usize, floor: f32) {
        candidates(dense, k, floor, &mut self.scratch);
    }
}

/// Selects among latents whose values were computed one by one; keeps its memory between rows.
#[derive(Debug, Default)]
pub(crate) struct Among(Scratch);

impl Among {
    /// Keeps the `k` largest of the values above `floor`; latents ascend.
    #[inline(always)]
    pub(crate) fn select(&mut self, latents: &[u32], values: &[f32], k: usize, floor: f32) {
        let scratch = &mut self.0;
        scratch.make_room(values.len() + 1);
        let mut n = 0;
        for (latent, value) in latents.iter().zip(values) {
            scratch.latents[n] = LatentId(*latent);
            scratch.values[n] = *value;
            n += usize::from(*value > floor);
        }
        scratch.n = n;
        if scratch.n > k {
            scratch.keep_largest(k);
        }
    }

    /// What was selected: latents, and their values.
    pub(crate) fn parts(&self) -> (&[LatentId], &[f32]) {
        (&self.0.latents[..self.0.n], &self.0.values[..self.0.n])
    }

    /// Appends what was selected as a row.
    pub(crate) fn append_to(&self, activations: &mut SparseActivations) {
        let (latents, values) = self.parts();
        activations.push_row(latents, values);
    }
}

/// Collects all values that reach `floor` and may be among the `k` largest.
fn candidates(dense: &[f32], k: usize, floor: f32, scratch: &mut Scratch) {
    let bound = match n_lanes(dense.len(), k) {
        0 => floor,
        n_lanes => {
            lane_maxima(dense, n_lanes, &mut scratch.maxima);
            bisect(&scratch.maxima, k, n_reaching).max(floor)
        }
    };
    scratch.make_room(dense.len());
    let (chunks, rest) = dense.as_chunks::<CHUNK>();
    let mut starts = (0u32..).step_by(CHUNK);
    for (chunk, start) in chunks.iter().zip(&mut starts) {
        // Chunks without a candidate, which are most, cost one comparison.
        if chunk.iter().fold(false, |any, value| any | (*value >= bound)) {
            scratch.collect(chunk, start, bound);
        }
    }
    if let Some(start) = starts.next() {
        scratch.collect(rest, start, bound);
    }
}

/// `maxima[l]` = the largest of 0 and the values at `l`, `l + n_lanes`, ...; NaN is passed over.
fn lane_maxima(dense: &[f32], n_lanes: usize, maxima: &mut Vec<f32>) {
    maxima.clear();
    maxima.resize(n_lanes, 0.0);
    for chunk in dense.chunks(n_lanes) {
        for (maximum, value) in maxima.iter_mut().zip(chunk) {
            *maximum = if *value > *maximum { *value } else { *maximum };
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

    /// Selected by this CPU's path, which must be what the portable path selects.
    fn selected(dense: &[f32], selection: Selection) -> Vec<(u32, f32)> {
        let mut out = SparseActivations::default();
        Selector::new(selection).select(dense, &mut out);
        Selector::portable(selection).select(dense, &mut out);
        assert_eq!(out.row(0), out.row(1));
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
        fn dense_rows_of_few_levels_equal_sorting(levels in 1i32..40, n in 256usize..2300, k in 1usize..130, seed in any::<u32>()) {
            let dense: Vec<f32> = (0u32..).take(n).map(|i| {
                let mixed = (i ^ seed).wrapping_mul(2_654_435_761) >> 8;
                (mixed % levels.unsigned_abs()) as f32 - 2.0
            }).collect();
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
