//! Values of the dead latents in AVX-512: the sums of `workshop::train::asleep`, bit for bit.
//!
//! Eight rows and two registers of latents are sixteen sums; two loads of weights serve all of them.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; loads and stores arrays of one register's size")]

use std::arch::x86_64::{__m512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps};

use crate::encode::native::Avx512;
use crate::workshop::train::linear::PANEL;

/// Rows computed together.
const ROWS: usize = 8;
/// Values of a register.
const WIDTH: usize = PANEL / 2;

/// Values of a panel's latents, `weights [d_in, PANEL]`, for rows `[n, d_in]`, each to the first of `width` values.
#[inline(always)]
pub(super) fn panel(
    _: Avx512,
    (weights, biases): (&[f32], &[f32; PANEL]),
    (rows, d_in): (&[f32], usize),
    (into, width): (&mut [f32], usize),
) {
    // SAFETY: a value of `Avx512` exists only where the features were detected.
    unsafe { panel_avx512((weights, biases), (rows, d_in), (into, width)) }
}

#[target_feature(enable = "avx512f")]
fn panel_avx512((weights, biases): (&[f32], &[f32; PANEL]), (rows, d_in): (&[f32], usize), (into, width): (&mut [f32], usize)) {
    let whole = rows.len() / (d_in * ROWS) * ROWS;
    let (rows, rest) = rows.split_at(whole * d_in);
    for (rows, into) in rows.chunks_exact(ROWS * d_in).zip(into.chunks_mut(ROWS * width)) {
        tile::<ROWS>((weights, biases), (rows, d_in), (into, width));
    }
    for (row, into) in rest.chunks_exact(d_in).zip(into.chunks_mut(width).skip(whole)) {
        tile::<1>((weights, biases), (row, d_in), (into, width));
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn tile<const R: usize>((weights, biases): (&[f32], &[f32; PANEL]), (rows, d_in): (&[f32], usize), (into, width): (&mut [f32], usize)) {
    let mut x: [&[f32]; R] = [&[]; R];
    for (x, row) in x.iter_mut().zip(rows.chunks_exact(d_in)) {
        *x = row;
    }
    let n = weights.len() / PANEL;
    let x = x.map(|x| &x[..n]);
    let (low, high) = halves(biases);
    let mut sums = [[low, high]; R];
    for (at, weights) in weights.as_chunks::<PANEL>().0.iter().enumerate() {
        let (low, high) = halves(weights);
        for row in 0..R {
            let x = _mm512_set1_ps(x[row][at]);
            sums[row][0] = _mm512_fmadd_ps(low, x, sums[row][0]);
            sums[row][1] = _mm512_fmadd_ps(high, x, sums[row][1]);
        }
    }
    for (sums, into) in sums.iter().zip(into.chunks_mut(width)) {
        for (sum, into) in sums.iter().zip(into.as_chunks_mut::<WIDTH>().0) {
            // SAFETY: sixteen values are 64 bytes; the store needs no alignment.
            unsafe { _mm512_storeu_ps(into.as_mut_ptr(), *sum) }
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn halves(values: &[f32; PANEL]) -> (__m512, __m512) {
    let (low, high) = values.split_at(WIDTH);
    // SAFETY: both are sixteen values, 64 bytes; the loads need no alignment.
    unsafe { (_mm512_loadu_ps(low.as_ptr()), _mm512_loadu_ps(high.as_ptr())) }
}
