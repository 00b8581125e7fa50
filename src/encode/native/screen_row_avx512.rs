//! The passes over a row in AVX-512: the twin of `screen_passes`' plain ones, bit for bit.
//!
//! Written out for the sums across a register and the bytes' places: what compilers make of those takes longer than all the
//! rest of a row.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; loads arrays of sixteen values")]

use std::arch::x86_64::{
    __m128, __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_extract_epi32, _mm_max_ps, _mm_max_ss, _mm_movehdup_ps, _mm_movehl_ps,
    _mm256_add_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_max_ps, _mm512_abs_ps, _mm512_add_ps, _mm512_castps_si512,
    _mm512_castps512_ps256, _mm512_cvtepi32_epi8, _mm512_extractf32x8_ps, _mm512_loadu_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_sub_ps,
};

use crate::encode::native::cpu::Avx512;
use crate::encode::native::screen_form::QUAD_ROWS;
use crate::encode::native::screen_passes::{EXACT, ROUNDER, RowPasses, Size, Sums, UP};

/// Values of a register.
const WIDTH: usize = 16;

impl RowPasses for Avx512 {
    #[inline(always)]
    fn size(self, y: &[f32]) -> Size {
        // SAFETY: a value of `Avx512` exists only where the features were detected.
        unsafe { size(y) }
    }

    #[inline(always)]
    fn quads(self, y: &[f32], step: f32, inverse: f32, row: usize, quads: &mut [i32]) -> Sums {
        // SAFETY: as above.
        unsafe { round(y, step, inverse, row, quads) }
    }
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn size(y: &[f32]) -> Size {
    let (mut most, mut square, mut block_square) = (_mm512_setzero_ps(), 0f64, 0f64);
    for block in y.chunks(EXACT) {
        let mut squares = _mm512_setzero_ps();
        for values in block.as_chunks::<WIDTH>().0 {
            let values = load(values);
            most = _mm512_max_ps(_mm512_abs_ps(values), most);
            squares = _mm512_add_ps(squares, _mm512_mul_ps(values, values));
        }
        let in_block = f64::from(sum(squares)) * UP;
        square += in_block;
        block_square = block_square.max(in_block);
    }
    Size { most: largest(most), square, block_square }
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn round(y: &[f32], step: f32, inverse: f32, row: usize, quads: &mut [i32]) -> Sums {
    let (steps, inverses, rounder) = (_mm512_set1_ps(step), _mm512_set1_ps(inverse), _mm512_set1_ps(ROUNDER));
    let (mut error_square, mut p_square, mut total) = (0f64, 0f64, 0f32);
    let words = quads.as_chunks_mut::<{ WIDTH / 4 * QUAD_ROWS }>().0;
    for (values, words) in y.chunks(EXACT).zip(words.chunks_mut(EXACT / WIDTH)) {
        let (mut errors, mut squares, mut sums) = (_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps());
        for (values, words) in values.as_chunks::<WIDTH>().0.iter().zip(words) {
            let values = load(values);
            let rounded = _mm512_add_ps(_mm512_mul_ps(values, inverses), rounder);
            let p = _mm512_sub_ps(rounded, rounder);
            let error = _mm512_sub_ps(values, _mm512_mul_ps(steps, p));
            errors = _mm512_add_ps(errors, _mm512_mul_ps(error, error));
            squares = _mm512_add_ps(squares, _mm512_mul_ps(p, p));
            sums = _mm512_add_ps(sums, p);
            let bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(rounded));
            words[row] = _mm_extract_epi32::<0>(bytes);
            words[QUAD_ROWS + row] = _mm_extract_epi32::<1>(bytes);
            words[2 * QUAD_ROWS + row] = _mm_extract_epi32::<2>(bytes);
            words[3 * QUAD_ROWS + row] = _mm_extract_epi32::<3>(bytes);
        }
        error_square += f64::from(sum(errors)) * UP;
        p_square += f64::from(sum(squares)) * UP;
        total += sum(sums);
    }
    Sums { error_square, p_square, total }
}

/// The sum by halves, as the plain one.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn sum(lanes: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps::<1>(lanes));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two: __m128 = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn largest(lanes: __m512) -> f32 {
    let eight = _mm256_max_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps::<1>(lanes));
    let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(values: &[f32; WIDTH]) -> __m512 {
    // SAFETY: sixteen values are 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}
