//! The selection among computed latents in AVX-512: the twin of `sae::topk::Among`, latent for latent.
//!
//! Sixteen values are compared at once, and what is selected of them moves to the front in one instruction.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; loads and stores arrays of sixteen values")]

use std::arch::x86_64::{
    __m512, _CMP_EQ_OQ, _CMP_GE_OQ, _CMP_GT_OQ, _mm512_cmp_ps_mask, _mm512_cmplt_epi32_mask, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_add_epi32, _mm512_mask_cmp_ps_mask, _mm512_maskz_compress_epi32, _mm512_maskz_compress_ps, _mm512_max_ps,
    _mm512_permutexvar_ps, _mm512_reduce_max_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_storeu_ps, _mm512_storeu_si512,
};

use crate::encode::native::cpu::Avx512;
use crate::sae::latent::LatentId;

/// Values of a register.
pub(super) const WIDTH: usize = 16;
/// Bisections before a tie at the k-th place is taken for granted.
const BISECTIONS: usize = 24;

/// What was selected of a row; its memory is kept for the next.
#[derive(Debug, Default)]
pub(super) struct Selected {
    latents: Vec<LatentId>,
    values: Vec<f32>,
    n: usize,
}

impl Selected {
    /// Latents, ascending, and their values.
    pub(super) fn parts(&self) -> (&[LatentId], &[f32]) {
        (&self.latents[..self.n], &self.values[..self.n])
    }

    /// Selects the `k` largest of the values above `floor`, both lists a multiple of [`WIDTH`] long and filled up with
    /// values of minus infinity. `false` where ties, or nearly, at the k-th place want a finer look.
    pub(super) fn select(&mut self, _: Avx512, latents: &[u32], values: &[f32], k: usize, floor: f32) -> bool {
        let room = values.len() + WIDTH;
        if self.values.len() < room {
            self.values.resize(room, 0.0);
            self.latents.resize(room, LatentId(0));
        }
        // SAFETY: a value of `Avx512` exists only where the features were detected.
        unsafe { self.select_avx512(latents, values, k, floor) }
    }

    #[target_feature(enable = "avx512f,popcnt")]
    fn select_avx512(&mut self, latents: &[u32], values: &[f32], k: usize, floor: f32) -> bool {
        let (values, latents) = (values.as_chunks::<WIDTH>().0, latents.as_chunks::<WIDTH>().0);
        // The values above the floor are those that reach the next number.
        let mut bound = floor.next_up();
        let mut few = u16::MAX;
        if let [values] = values {
            few = ranked_below(load(values), k);
        } else if n_reaching(values, bound) > k {
            let Some(kth) = kth_bound(values, k, floor) else { return false };
            bound = kth;
        }
        let bounds = _mm512_set1_ps(bound);
        let mut n = 0;
        for (values, latents) in values.iter().zip(latents) {
            let values = load(values);
            let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(values, bounds) & few;
            let (Some(value_places), Some(latent_places)) =
                (self.values[n..].first_chunk_mut::<WIDTH>(), self.latents[n..].first_chunk_mut::<WIDTH>())
            else {
                return false;
            };
            let mut moved = [0u32; WIDTH];
            // SAFETY: all three are sixteen values of four bytes; loads and stores need no alignment.
            unsafe {
                _mm512_storeu_ps(value_places.as_mut_ptr(), _mm512_maskz_compress_ps(mask, values));
                let latents = _mm512_loadu_si512(latents.as_ptr().cast());
                _mm512_storeu_si512(moved.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(mask, latents));
            }
            for (place, latent) in latent_places.iter_mut().zip(moved) {
                *place = LatentId(latent);
            }
            n += mask.count_ones() as usize;
        }
        self.n = n;
        true
    }
}

/// The values before which fewer than `k` stand: larger ones, and equal ones in a lower place. Counted by comparing
/// the values with themselves turned round place by place, without a branch.
#[target_feature(enable = "avx512f")]
#[inline]
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "at most sixteen")]
fn ranked_below(values: __m512, k: usize) -> u16 {
    let (one, next) = (_mm512_set1_epi32(1), _mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0));
    let (mut ranks, mut turned) = (_mm512_setzero_si512(), values);
    for turn in 1..WIDTH {
        turned = _mm512_permutexvar_ps(next, turned);
        // In the last `turn` places stand values from lower ones, which are before their equals.
        let lower = !(u16::MAX >> turn);
        let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(turned, values) | _mm512_mask_cmp_ps_mask::<_CMP_EQ_OQ>(lower, turned, values);
        ranks = _mm512_mask_add_epi32(ranks, above, ranks, one);
    }
    _mm512_cmplt_epi32_mask(ranks, _mm512_set1_epi32(k.min(WIDTH) as i32))
}

/// A number that exactly `k` of the values reach; more than `k` are above `floor`.
#[target_feature(enable = "avx512f,popcnt")]
#[inline]
fn kth_bound(values: &[[f32; WIDTH]], k: usize, floor: f32) -> Option<f32> {
    let mut most = _mm512_setzero_ps();
    for values in values {
        most = _mm512_max_ps(most, load(values));
    }
    let (mut low, mut high) = (floor, _mm512_reduce_max_ps(most));
    for _ in 0..BISECTIONS {
        let middle = low + (high - low) * 0.5;
        match n_reaching(values, middle) {
            n if n == k => return Some(middle).filter(|middle| *middle > floor),
            n if n < k => high = middle,
            _ => low = middle,
        }
    }
    None
}

#[target_feature(enable = "avx512f,popcnt")]
#[inline]
fn n_reaching(values: &[[f32; WIDTH]], bound: f32) -> usize {
    let bounds = _mm512_set1_ps(bound);
    let mut n = 0;
    for values in values {
        n += _mm512_cmp_ps_mask::<_CMP_GE_OQ>(load(values), bounds).count_ones();
    }
    n as usize
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(values: &[f32; WIDTH]) -> __m512 {
    // SAFETY: sixteen values are 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}
