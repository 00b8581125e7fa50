//! The candidates of one row's selection, and the exact end of it: step 3 of `sae::topk`, for both of its paths.

use crate::sae::latent::LatentId;
use crate::sae::topk_bound::n_reaching;

/// Bisections among the candidates before ties are taken for granted and sorted out.
const FINAL_BISECTIONS: usize = 20;

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
    #[inline(always)]
    pub(super) fn keep_largest(&mut self, k: usize) {
        let (kth, mut n_ties_left) = self.kth_largest(k);
        let mut n_kept = 0;
        let (latents, values) = (&mut self.latents[..self.n], &mut self.values[..self.n]);
        for at in 0..latents.len() {
            let value = values[at];
            let is_tie = value == kth;
            let kept = value > kth || (is_tie && n_ties_left > 0);
            n_ties_left -= usize::from(is_tie && kept);
            // Written always and counted when kept: which of few candidates falls out is a coin toss to the CPU.
            latents[n_kept] = latents[at];
            values[n_kept] = value;
            n_kept += usize::from(kept);
        }
        self.n = n_kept;
    }

    /// A value such that those above it, and the returned number of those equal to it, are the `k` largest.
    #[inline(always)]
    fn kth_largest(&mut self, k: usize) -> (f32, usize) {
        let values = &self.values[..self.n];
        let (mut low, mut high) = (f32::INFINITY, 0.0f32);
        for value in values {
            low = if *value < low { *value } else { low };
            high = if *value > high { *value } else { high };
        }
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
