//! A latent rounded for the screen in AVX-512: the twin of `screen_latent`'s quads, bit for bit.
//!
//! Training rounds every latent that moved in every step. Compilers keep the sums of three reductions in memory; here they
//! are one tree.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; loads arrays of sixteen values")]

use std::arch::x86_64::{
    __m512, _mm_cvtss_f32, _mm_extract_epi32, _mm_set1_epi8, _mm_storeu_ps, _mm_xor_si128, _mm512_abs_ps, _mm512_add_ps,
    _mm512_castps_si512, _mm512_castps512_ps128, _mm512_cvtepi32_epi8, _mm512_loadu_ps, _mm512_maskz_compress_ps, _mm512_max_ps,
    _mm512_mul_ps, _mm512_permute_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_sub_ps,
};

use crate::encode::native::cpu::Avx512;
use crate::encode::native::screen_form::PANEL;
use crate::encode::native::screen_latent::{LANES, LatentFacts, Places, ROUNDER, step_of};

/// Bytes of a quad.
const QUAD: usize = 4;

/// Rounds the weights of `latent`, counted from the first of these panels, which are quads.
#[inline(always)]
pub(super) fn set(_: Avx512, places: &mut Places<'_>, latent: usize, row: &[f32]) -> LatentFacts {
    // SAFETY: a value of `Avx512` exists only where the features were detected.
    unsafe { set_avx512(places, latent, row) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
fn set_avx512(places: &mut Places<'_>, latent: usize, row: &[f32]) -> LatentFacts {
    let row = row.as_chunks::<LANES>().0;
    let mut most = _mm512_setzero_ps();
    for values in row {
        most = _mm512_max_ps(_mm512_abs_ps(load(values)), most);
    }
    let (step, inverse) = step_of(largest(most));
    let (inverses, rounder) = (_mm512_set1_ps(inverse), _mm512_set1_ps(ROUNDER));
    let (panel, column) = (latent / PANEL, places.form.column(latent % PANEL));
    let first = panel * places.n_groups * PANEL * QUAD + column * QUAD;
    let (quads, _) = places.weights[first..].as_chunks_mut::<QUAD>();
    let (mut values, mut errors, mut rounded) = (_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps());
    for (at, weights) in row.iter().enumerate() {
        let v = _mm512_mul_ps(load(weights), inverses);
        let bits = _mm512_add_ps(v, rounder);
        let q = _mm512_sub_ps(bits, rounder);
        let error = _mm512_sub_ps(v, q);
        values = _mm512_add_ps(values, _mm512_mul_ps(v, v));
        errors = _mm512_add_ps(errors, _mm512_mul_ps(error, error));
        rounded = _mm512_add_ps(rounded, _mm512_mul_ps(q, q));
        // Quads keep q + 128: in eight bits the sign turned round.
        let bytes = _mm_xor_si128(_mm512_cvtepi32_epi8(_mm512_castps_si512(bits)), _mm_set1_epi8(i8::MIN));
        let words =
            [_mm_extract_epi32::<0>(bytes), _mm_extract_epi32::<1>(bytes), _mm_extract_epi32::<2>(bytes), _mm_extract_epi32::<3>(bytes)];
        for (group, word) in words.into_iter().enumerate() {
            quads[(at * QUAD + group) * PANEL] = word.to_le_bytes().map(u8::cast_signed);
        }
    }
    LatentFacts { step, squares: sums(values, errors, rounded), block_square: 0.0 }
}

/// The sums of three registers, by halves as the plain one.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn sums(a: __m512, b: __m512, c: __m512) -> [f32; 3] {
    let halves = |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
    let (ab, cc) = (halves(a, b), halves(c, c));
    let four = _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cc), _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cc));
    let two = _mm512_add_ps(four, _mm512_permute_ps::<0b01_00_11_10>(four));
    let one = _mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two));
    let mut found = [0.0; QUAD];
    // SAFETY: four values are 16 bytes; the store needs no alignment.
    unsafe { _mm_storeu_ps(found.as_mut_ptr(), _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, one))) };
    let [a, b, c, _] = found;
    [a, b, c]
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn largest(lanes: __m512) -> f32 {
    let two = _mm512_max_ps(lanes, _mm512_shuffle_f32x4::<0b01_00_11_10>(lanes, lanes));
    let one = _mm512_max_ps(two, _mm512_shuffle_f32x4::<0b10_11_00_01>(two, two));
    let pair = _mm512_max_ps(one, _mm512_permute_ps::<0b01_00_11_10>(one));
    _mm_cvtss_f32(_mm512_castps512_ps128(_mm512_max_ps(pair, _mm512_permute_ps::<0b10_11_00_01>(pair))))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(values: &[f32; LANES]) -> __m512 {
    // SAFETY: sixteen values are 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}
