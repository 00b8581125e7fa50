//! The candidates of a selection in AVX2: the twin of the portable path in `sae::topk`, value for value.
//!
//! A program for any x86-64 may use 4 lanes, and the compiler turns "collect what reaches the bound"
//! into a branch a value, mispredicted at every candidate. Here the comparisons of 64 values are the
//! bits of a word, and a word is taken apart without a branch unless it holds more than [`EAGER`] bits.
//!
//! Rejected: compressing each vector through a table of permutations. It stores once a vector, and
//! there are 128 vectors and ten candidates.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; and stores eight values to an array of eight")]

use std::arch::x86_64::{
    __m256, _CMP_GE_OQ, _mm256_cmp_ps, _mm256_max_ps, _mm256_movemask_ps, _mm256_set1_ps, _mm256_setr_ps, _mm256_setzero_ps,
    _mm256_storeu_ps,
};

use crate::sae::latent::LatentId;
use crate::sae::topk_bound::{bisect, n_lanes};
use crate::sae::topk_candidates::Scratch;

/// Proof that this CPU has the features the functions below are compiled for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

/// Latents of a word that are written before anybody looks how many there are. Fewer: a mispredicted
/// branch more often. More: more writes for nothing.
const EAGER: usize = 4;
/// Values of a word.
const WORD: usize = 64;

impl Avx2 {
    /// The proof, where the CPU has the features.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("popcnt");
        found.then_some(Self(()))
    }

    /// Collects all values that reach `floor` and may be among the `k` largest, as the portable path does.
    pub(super) fn candidates(self, dense: &[f32], k: usize, floor: f32, scratch: &mut Scratch) {
        // SAFETY: a value of this type exists only where the features were detected.
        unsafe { candidates(dense, k, floor, scratch) }
    }
}

#[target_feature(enable = "avx2,bmi1,popcnt")]
fn candidates(dense: &[f32], k: usize, floor: f32, scratch: &mut Scratch) {
    let bound = match n_lanes(dense.len(), k) {
        0 => floor,
        n_lanes => {
            lane_maxima(dense, n_lanes, &mut scratch.maxima);
            bisect(&scratch.maxima, k, |maxima, middle| n_reaching(maxima, middle)).max(floor)
        }
    };
    collect(dense, bound, scratch);
}

/// `maxima[l]` = the largest of 0 and the values at `l`, `l + n_lanes`, ...; NaN is passed over.
///
/// 64 lanes are eight registers, so each pass over the row keeps its maxima out of memory.
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn lane_maxima(dense: &[f32], n_lanes: usize, maxima: &mut Vec<f32>) {
    maxima.clear();
    maxima.resize(n_lanes, 0.0);
    let n_whole = dense.len() / n_lanes * n_lanes;
    let (blocks, _) = maxima.as_chunks_mut::<WORD>();
    for (block, maxima) in blocks.iter_mut().enumerate() {
        let mut registers = [_mm256_setzero_ps(); WORD / 8];
        for stride in dense[..n_whole].chunks_exact(n_lanes) {
            let Some(values) = stride[block * WORD..].first_chunk::<WORD>() else { continue };
            for (register, eight) in registers.iter_mut().zip(values.as_chunks::<8>().0) {
                // Of a NaN and a number, `max` gives its second operand.
                *register = _mm256_max_ps(load(eight), *register);
            }
        }
        for (register, eight) in registers.into_iter().zip(maxima.as_chunks_mut::<8>().0) {
            // SAFETY: eight values are 32 bytes; the store needs no alignment.
            unsafe { _mm256_storeu_ps(eight.as_mut_ptr(), register) };
        }
    }
    for (maximum, value) in maxima.iter_mut().zip(&dense[n_whole..]) {
        *maximum = if *value > *maximum { *value } else { *maximum };
    }
}

/// How many values reach `bound`.
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn n_reaching(values: &[f32], bound: f32) -> usize {
    let bounds = _mm256_set1_ps(bound);
    let (eights, rest) = values.as_chunks::<8>();
    let n: u32 = eights.iter().map(|eight| reaching(eight, bounds).count_ones()).sum();
    n as usize + rest.iter().filter(|value| **value >= bound).count()
}

/// Collects the latents that reach `bound`, ascending, with their values.
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn collect(dense: &[f32], bound: f32, scratch: &mut Scratch) {
    scratch.make_room(dense.len() + EAGER);
    let bounds = _mm256_set1_ps(bound);
    let (words, rest) = dense.as_chunks::<WORD>();
    let mut starts = (0u32..).step_by(WORD);
    let mut n = 0;
    for (word, start) in words.iter().zip(&mut starts) {
        let mut bits = 0u64;
        for (at, eight) in word.as_chunks::<8>().0.iter().enumerate() {
            bits |= u64::from(reaching(eight, bounds)) << (8 * at);
        }
        n = write_positions(bits, start, &mut scratch.latents, n);
    }
    for (latent, value) in scratch.latents[..n].iter().zip(&mut scratch.values) {
        *value = dense[latent.index()];
    }
    scratch.n = n;
    if let Some(start) = starts.next() {
        scratch.collect(rest, start, bound);
    }
}

/// Writes `start` plus the position of each set bit behind the first `n` latents; returns how many there are then.
/// There is room for [`EAGER`] more than are set.
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn write_positions(mut bits: u64, start: u32, latents: &mut [LatentId], n: usize) -> usize {
    let end = n + bits.count_ones() as usize;
    let Some(eager) = latents.get_mut(n..n + EAGER) else { return n };
    for latent in eager {
        // Past the last bit this writes 64, which the next word overwrites.
        *latent = LatentId(start + bits.trailing_zeros());
        bits &= bits.wrapping_sub(1);
    }
    for latent in latents.get_mut(n + EAGER..end).into_iter().flatten() {
        *latent = LatentId(start + bits.trailing_zeros());
        bits &= bits.wrapping_sub(1);
    }
    end
}

/// One bit a value: whether it reaches the bound. NaN reaches none.
#[target_feature(enable = "avx2,bmi1,popcnt")]
#[inline]
fn reaching(eight: &[f32; 8], bounds: __m256) -> u32 {
    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(load(eight), bounds)).cast_unsigned()
}

/// Eight values into a register; one load once compiled.
#[target_feature(enable = "avx2")]
#[inline]
fn load(v: &[f32; 8]) -> __m256 {
    _mm256_setr_ps(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7])
}
