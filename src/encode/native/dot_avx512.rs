//! The dot product of `native::dot` in AVX-512: the same operations in the same order, for two rows a register.
//!
//! The sums of the definition are eight wide. A register of sixteen holds those of two rows, so a latent's
//! weights are loaded once into both halves; two latents in one register would give the same bits, but
//! their rows of the matrix lie apart. A tile is 6 pairs of rows x 4 latents: 24 sums of 32 registers.
//! Some latents of one row are left to AVX2: loading their weights is all there is to it.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; loads and stores arrays of eight and four values")]

use std::arch::x86_64::{
    __m128, __m512, _mm_add_ps, _mm_loadu_ps, _mm_storeu_ps, _mm256_loadu_ps, _mm512_add_ps, _mm512_broadcast_f32x8,
    _mm512_castps256_ps512, _mm512_extractf32x4_ps, _mm512_fmadd_ps, _mm512_insertf32x8, _mm512_setzero_ps, _mm512_shuffle_ps,
};
use std::ops::Range;

use crate::encode::native::cpu::Avx512;
use crate::encode::native::dot::LANES;
use crate::encode::native::dot_avx2;
use crate::encode::native::model::NativeModel;

/// Pairs of rows of a tile.
const PAIRS: usize = 6;
/// Rows of a tile.
const ROWS: usize = 2 * PAIRS;
/// Latents of a tile; the padded dictionary is a multiple of it.
const LATENTS: usize = 4;

/// Values of the latents in `panel` (a multiple of 4 of them) for all rows.
pub(super) fn panel(proof: Avx512, model: &NativeModel, panel: Range<usize>, rows: &[f32], dense: &mut [f32]) {
    let (d_in, d_sae) = (model.padded_in(), model.padded_sae());
    let n_whole = rows.len() / (d_in * ROWS) * ROWS;
    let (whole, rest) = rows.split_at(n_whole * d_in);
    let (whole_out, rest_out) = dense.split_at_mut(n_whole * d_sae);
    // SAFETY: a value of `Avx512` exists only where the features were detected.
    unsafe { panel_avx512(model, panel.clone(), whole, whole_out) }
    dot_avx2::panel(proof.avx2(), model, panel, rest, rest_out);
}

#[target_feature(enable = "avx512f,avx512dq,fma")]
fn panel_avx512(model: &NativeModel, panel: Range<usize>, rows: &[f32], dense: &mut [f32]) {
    let (d_in, d_sae) = (model.padded_in(), model.padded_sae());
    for (x, out) in rows.chunks_exact(d_in * ROWS).zip(dense.chunks_exact_mut(d_sae * ROWS)) {
        for latent in panel.clone().step_by(LATENTS) {
            tile(model, latent, x, out);
        }
    }
}

/// Four latents from `latent` on for twelve rows.
#[target_feature(enable = "avx512f,avx512dq,fma")]
#[inline]
fn tile(model: &NativeModel, latent: usize, rows: &[f32], dense: &mut [f32]) {
    let (d_in, d_sae) = (model.padded_in(), model.padded_sae());
    let n = d_in / LANES;
    let mut w: [&[[f32; LANES]]; LATENTS] = [&[]; LATENTS];
    for (at, w) in w.iter_mut().enumerate() {
        *w = &model.row(latent + at).as_chunks().0[..n];
    }
    let mut x: [&[[f32; LANES]]; ROWS] = [&[]; ROWS];
    for (at, x) in x.iter_mut().enumerate() {
        *x = &rows[at * d_in..(at + 1) * d_in].as_chunks().0[..n];
    }
    let mut sums = [[_mm512_setzero_ps(); LATENTS]; PAIRS];
    for chunk in 0..n {
        let w = [twice(&w[0][chunk]), twice(&w[1][chunk]), twice(&w[2][chunk]), twice(&w[3][chunk])];
        for pair in 0..PAIRS {
            let x = both(&x[2 * pair][chunk], &x[2 * pair + 1][chunk]);
            for at in 0..LATENTS {
                sums[pair][at] = _mm512_fmadd_ps(w[at], x, sums[pair][at]);
            }
        }
    }
    let Some(bias) = model.bias()[latent..].first_chunk::<LATENTS>() else { return };
    let bias = load4(bias);
    for (pair, sums) in sums.into_iter().enumerate() {
        for (half, values) in tree(sums).into_iter().enumerate() {
            if let Some(out) = dense[(2 * pair + half) * d_sae + latent..].first_chunk_mut::<LATENTS>() {
                store(out, _mm_add_ps(values, bias));
            }
        }
    }
}

/// The eight sums of four latents added up as the definition says, for both rows.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn tree([a, b, c, d]: [__m512; LATENTS]) -> [__m128; 2] {
    let pairs = neighbours(neighbours(a, b), neighbours(c, d));
    let (low, high) = (_mm512_extractf32x4_ps::<0>(pairs), _mm512_extractf32x4_ps::<1>(pairs));
    let (low2, high2) = (_mm512_extractf32x4_ps::<2>(pairs), _mm512_extractf32x4_ps::<3>(pairs));
    [_mm_add_ps(low, high), _mm_add_ps(low2, high2)]
}

/// Sums of neighbours in every four lanes, of `a` and then of `b`: what AVX2 calls a horizontal addition.
#[target_feature(enable = "avx512f")]
#[inline]
fn neighbours(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b))
}

/// Eight values in both halves.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn twice(values: &[f32; LANES]) -> __m512 {
    // SAFETY: eight values are 32 bytes; the load needs no alignment.
    _mm512_broadcast_f32x8(unsafe { _mm256_loadu_ps(values.as_ptr()) })
}

/// Eight values in each half.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn both(low: &[f32; LANES], high: &[f32; LANES]) -> __m512 {
    // SAFETY: eight values are 32 bytes each; the loads need no alignment.
    let (low, high) = unsafe { (_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())) };
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load4(values: &[f32; LATENTS]) -> __m128 {
    // SAFETY: four values are 16 bytes; the load needs no alignment.
    unsafe { _mm_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(into: &mut [f32; LATENTS], values: __m128) {
    // SAFETY: four values are 16 bytes; the store needs no alignment.
    unsafe { _mm_storeu_ps(into.as_mut_ptr(), values) }
}
