//! Quads without VNNI: the sums of `screen_avx512` in AVX2, integer for integer.
//!
//! A screen that proves something prefers pairs here, which take half as many instructions. A model that is only estimated, as in
//! training, has to be estimated alike on every machine. The product of a pair saturates for `q + 128`, so it is `|q|` that is
//! multiplied, by `p` with the sign of `q`: at most `2 x 127 x 127 < 2^15`.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; loads and stores arrays of one register's size")]

use std::arch::x86_64::{
    __m256i, _mm_cvtsi32_si128, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_mulhrs_epi16, _mm256_packs_epi32, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_sign_epi8, _mm256_sra_epi32, _mm256_storeu_si256, _mm256_xor_si256,
};

use crate::encode::native::cpu::Avx2;
use crate::encode::native::screen::{PANEL, QUAD_ROWS, Screen};
use crate::encode::native::screen_row::Tile;

/// Bytes of a register.
pub(super) const BYTES: usize = 32;
/// Registers of a panel's quads.
pub(super) const PARTS: usize = PANEL * 4 / BYTES;
/// Rows that are multiplied while a panel's weights are at hand: eight sums, and what a product takes besides.
const ROWS: usize = 2;

/// `mid_j` of all latents for the rows of a tile.
pub(super) fn estimates(_: Avx2, screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    // SAFETY: a value of `Avx2` exists only where the features were detected.
    unsafe { estimates_avx2(screen, tile, mid) }
}

#[target_feature(enable = "avx2")]
fn estimates_avx2(screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    let (flip, ones) = (_mm256_set1_epi8(i8::MIN), _mm256_set1_epi16(1));
    // What makes up for `q + 128` in a row's start is not wanted here.
    let mut starts = tile.rows.map(|row| row.start);
    for quads in tile.quads.as_chunks::<QUAD_ROWS>().0 {
        for (start, quad) in starts.iter_mut().zip(quads) {
            *start += 128 * quad.to_le_bytes().iter().map(|p| i32::from(p.cast_signed())).sum::<i32>();
        }
    }
    for (panel, weights) in screen.weights.chunks_exact(screen.n_groups * PANEL * 4).enumerate() {
        for first in (0..QUAD_ROWS).step_by(ROWS) {
            let mut sums = [[_mm256_setzero_si256(); PARTS]; ROWS];
            for (sums, start) in sums.iter_mut().zip(&starts[first..]) {
                *sums = [_mm256_set1_epi32(*start); PARTS];
            }
            for (weights, quads) in weights.as_chunks::<{ PARTS * BYTES }>().0.iter().zip(tile.quads.as_chunks::<QUAD_ROWS>().0) {
                for (part, weights) in weights.as_chunks::<BYTES>().0.iter().enumerate() {
                    let q = _mm256_xor_si256(load_i8(weights), flip);
                    let size = _mm256_abs_epi8(q);
                    for (sums, quad) in sums.iter_mut().zip(&quads[first..]) {
                        let p = _mm256_sign_epi8(_mm256_set1_epi32(*quad), q);
                        let products = _mm256_madd_epi16(_mm256_maddubs_epi16(size, p), ones);
                        sums[part] = _mm256_add_epi32(sums[part], products);
                    }
                }
            }
            for (at, sums) in sums.into_iter().enumerate() {
                finish(screen, tile, (panel, first + at), sums, mid);
            }
        }
    }
}

/// Sums of a panel and a row, shifted, packed, scaled and with the latents' biases.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn finish(screen: &Screen, tile: &Tile, (panel, row): (usize, usize), sums: [__m256i; PARTS], mid: &mut [i16]) {
    let scales = screen.scales[panel * PANEL..].as_chunks::<{ PANEL / 2 }>().0;
    let biases = screen.biases[panel * PANEL..].as_chunks::<{ PANEL / 2 }>().0;
    let shift = _mm_cvtsi32_si128(tile.rows[row].shift.cast_signed());
    let [a, b, c, d] = sums.map(|sum| _mm256_sra_epi32(sum, shift));
    let factor = _mm256_set1_epi16(tile.rows[row].bias_factor);
    let place = &mut mid[row * screen.d_sae + panel * PANEL..][..PANEL];
    // `Form::column` has put latents 0-3 and 8-11 in the first register and 4-7 and 12-15 in the third.
    let halves = [_mm256_packs_epi32(a, c), _mm256_packs_epi32(b, d)];
    for (half, total) in halves.into_iter().enumerate() {
        let bias = _mm256_mulhrs_epi16(load(&biases[half]), factor);
        let scaled = _mm256_mulhrs_epi16(total, load(&scales[half]));
        store(&mut place[half * (PANEL / 2)..][..PANEL / 2], _mm256_add_epi16(scaled, bias));
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(values: &[i16; PANEL / 2]) -> __m256i {
    // SAFETY: sixteen numbers are 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn load_i8(values: &[i8; BYTES]) -> __m256i {
    // SAFETY: 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(into: &mut [i16], values: __m256i) {
    debug_assert_eq!(into.len() * 2, BYTES);
    // SAFETY: the caller hands over room for sixteen numbers, which are 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(into.as_mut_ptr().cast(), values) }
}
