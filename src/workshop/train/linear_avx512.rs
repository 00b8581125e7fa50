//! Dot products of `workshop::train::linear` in AVX-512: the same operations in the same order, bit for bit.
//!
//! What adds rows to rows the compiler writes as well as a hand does. What ends in one number it does not: it
//! takes the tree at the end of a dot product for the shape of all of it and computes with two lanes. Here the
//! trees of four latents are one, and a row's gradient is loaded once for all four.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; stores arrays of four values")]

use std::arch::x86_64::{
    __m128, __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps, _mm_storeu_ps, _mm256_add_ps, _mm256_castpd_ps,
    _mm256_castps256_ps128, _mm256_extractf128_ps, _mm512_add_ps, _mm512_castps_pd, _mm512_castps512_ps128, _mm512_castps512_ps256,
    _mm512_extractf64x4_pd, _mm512_fmadd_ps, _mm512_maskz_compress_ps, _mm512_permute_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
};

use crate::encode::native::Avx512;
use crate::sae::latent::LatentId;
use crate::workshop::train::linear::{LANES, REGISTERS};
use crate::workshop::train::registers_avx512::load;

/// Latents computed together.
const TOGETHER: usize = 4;

/// `a . b` of one length, a multiple of [`LANES`].
#[inline(always)]
pub(super) fn dot(_: Avx512, a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: a value of `Avx512` exists only where the features were detected.
    unsafe { dot_avx512(a, b) }
}

/// `row . matrix[latent]` of each latent, whose rows are as long as `row`, a multiple of [`LANES`].
#[inline(always)]
pub(super) fn dots(_: Avx512, row: &[f32], latents: &[LatentId], matrix: &[f32], into: &mut [f32]) {
    // SAFETY: as above.
    unsafe { dots_avx512(row, latents, matrix, into) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn dot_avx512(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = _mm512_setzero_ps();
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        sums = _mm512_fmadd_ps(load(a), load(b), sums);
    }
    total(sums)
}

/// The sixteen sums of one dot product added up as the definition says.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn total(sums: __m512) -> f32 {
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(sums)));
    let eight = _mm256_add_ps(_mm512_castps512_ps256(sums), high);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    // The rest of the definition, which is none here: it makes of -0 a 0.
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two))) + 0.0
}

// No closure, which is compiled on its own and called.
#[target_feature(enable = "avx512f")]
#[inline]
fn dots_avx512(row: &[f32], latents: &[LatentId], matrix: &[f32], into: &mut [f32]) {
    let d = row.len();
    if let Ok(row) = <&[[f32; LANES]; REGISTERS]>::try_from(row.as_chunks::<LANES>().0) {
        return dots_in_registers(row, latents, matrix, into);
    }
    for (latent, into) in latents.iter().zip(into) {
        *into = dot_avx512(row, &matrix[latent.index() * d..][..d]);
    }
}

/// The same for rows of `N` registers, which stay there; four latents at once.
#[target_feature(enable = "avx512f")]
#[inline]
fn dots_in_registers<const N: usize>(row: &[[f32; LANES]; N], latents: &[LatentId], matrix: &[f32], into: &mut [f32]) {
    let matrix = matrix.as_chunks::<LANES>().0.as_chunks::<N>().0;
    let mut x = [_mm512_setzero_ps(); N];
    for at in 0..N {
        x[at] = load(&row[at]);
    }
    let (fours, rest) = latents.as_chunks::<TOGETHER>();
    let (into, into_rest) = into.as_chunks_mut::<TOGETHER>();
    for ([a, b, c, d], into) in fours.iter().zip(into) {
        let w = [&matrix[a.index()], &matrix[b.index()], &matrix[c.index()], &matrix[d.index()]];
        let mut sums = [_mm512_setzero_ps(); TOGETHER];
        for at in 0..N {
            for latent in 0..TOGETHER {
                sums[latent] = _mm512_fmadd_ps(x[at], load(&w[latent][at]), sums[latent]);
            }
        }
        store(into, tree(sums));
    }
    for (latent, into) in rest.iter().zip(into_rest) {
        let w = &matrix[latent.index()];
        let mut sums = _mm512_setzero_ps();
        for at in 0..N {
            sums = _mm512_fmadd_ps(x[at], load(&w[at]), sums);
        }
        *into = total(sums);
    }
}

/// The sixteen sums of four latents added up as the definition says.
#[target_feature(enable = "avx512f")]
#[inline]
fn tree([a, b, c, d]: [__m512; TOGETHER]) -> __m128 {
    // Eights of two latents, low and high half in turn; then fours of all.
    let halves = |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
    let (ab, cd) = (halves(a, b), halves(c, d));
    let four = _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd), _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd));
    let two = _mm512_add_ps(four, _mm512_permute_ps::<0b01_00_11_10>(four));
    let one = _mm512_add_ps(_mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two)), _mm512_setzero_ps());
    _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, one))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(into: &mut [f32; TOGETHER], values: __m128) {
    // SAFETY: four values are 16 bytes; the store needs no alignment.
    unsafe { _mm_storeu_ps(into.as_mut_ptr(), values) }
}
