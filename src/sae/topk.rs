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
    scratch: Scratch,
    #[cfg(target_arch = "x86_64")]
    avx2: Option<Avx2>,
}

/// Memory of one row's selection, kept for the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) maxima: Vec<f32>,
    /// How many candidates there are, and at the end how many are selected.
    pub(super) n: usize,
    /// The first `n` are the candidates, ascending. The rest is room: filling it again for each row
    /// would cost more than the selection.
    pub(super) latents: Vec<LatentId>,
    /// Their values.
    pub(super) values: Vec<f32>,
    order: Vec<f32>,
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

/// Lanes whose maxima bound the k-th largest of a row of `d_sae`; 0 where no bound is worth its cost.
pub(super) fn n_lanes(d_sae: usize, k: usize) -> usize {
    let pays = |lanes: usize| k <= lanes / 2 && d_sae >= 2 * lanes;
    [LANES, WIDE_LANES].into_iter().find(|lanes| pays(*lanes)).unwrap_or(0)
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

impl Scratch {
    /// Forgets the candidates; afterwards there is room for `n`.
    pub(super) fn make_room(&mut self, n: usize) {
        self.n = 0;
        if self.latents.len() < n {
            self.latents.resize(n, LatentId(0));
            self.values.resize(n, 0.0);
        }
    }

    /// Appends what reaches `bound` of values whose first latent is `start`.
    pub(super) fn collect(&mut self, values: &[f32], start: u32, bound: f32) {
        for (latent, value) in (start..).zip(values) {
            if *value >= bound {
                self.latents[self.n] = LatentId(latent);
                self.values[self.n] = *value;
                self.n += 1;
            }
        }
    }

    /// Keeps the `k` largest candidates; of equal ones the first. There are more than `k`.
    fn keep_largest(&mut self, k: usize) {
        let (kth, mut n_ties_left) = self.kth_largest(k);
        let mut n_kept = 0;
        for at in 0..self.n {
            let value = self.values[at];
            let is_tie = value == kth;
            let kept = value > kth || (is_tie && n_ties_left > 0);
            n_ties_left -= usize::from(is_tie && kept);
            // Written always and counted when kept: which of few candidates falls out is a coin toss to the CPU.
            self.latents[n_kept] = self.latents[at];
            self.values[n_kept] = value;
            n_kept += usize::from(kept);
        }
        self.n = n_kept;
    }

    /// A value such that those above it, and the returned number of those equal to it, are the `k` largest.
    fn kth_largest(&mut self, k: usize) -> (f32, usize) {
        let values = &self.values[..self.n];
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

/// A value that at least `k` of the `maxima` reach, as large as is cheap to find; 0 where none is found.
#[inline(always)]
pub(super) fn bisect(maxima: &[f32], k: usize, n_reaching: impl Fn(&[f32], f32) -> usize) -> f32 {
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
pub(super) fn n_reaching(values: &[f32], bound: f32) -> usize {
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
