//! The dot product of `native::dot` in AVX2 and FMA: the same operations in the same order.
//!
//! A tile is 3 rows x 4 latents: 12 sums, 3 rows and a weight fill the 16 registers, and 7 loads feed 12
//! multiply-adds. Lanes across latents would save the tree at the end, 10 % of the work at d = 64, but
//! then one latent alone could not be computed from one row of the matrix.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; loads and stores arrays of eight and four values")]

use std::arch::x86_64::{
    __m128, __m256, _mm_add_ps, _mm_loadu_ps, _mm_storeu_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps,
    _mm256_hadd_ps, _mm256_loadu_ps, _mm256_setzero_ps,
};
use std::ops::Range;

use crate::encode::native::cpu::Avx2;
use crate::encode::native::dot::LANES;
use crate::encode::native::model::NativeModel;

/// Rows of a tile.
const ROWS: usize = 3;
/// Latents of a tile; the padded dictionary is a multiple of it.
const LATENTS: usize = 4;

/// Latents computed together where they are any.
const GROUP: usize = 2 * LATENTS;

/// Values of the latents in `panel` (a multiple of 4 of them) for all rows.
pub(super) fn panel(_: Avx2, model: &NativeModel, panel: Range<usize>, rows: &[f32], dense: &mut [f32]) {
    // SAFETY: a value of `Avx2` exists only where the features were detected.
    unsafe { panel_avx2(model, panel, rows, dense) }
}

/// Values of some latents of one row.
pub(super) fn some(_: Avx2, model: &NativeModel, latents: &[u32], x: &[f32], values: &mut [f32]) {
    // SAFETY: a value of `Avx2` exists only where the features were detected.
    unsafe { some_avx2(model, latents, x, values) }
}

#[target_feature(enable = "avx2,fma")]
fn panel_avx2(model: &NativeModel, panel: Range<usize>, rows: &[f32], dense: &mut [f32]) {
    let (d_in, d_sae) = (model.padded_in(), model.padded_sae());
    let n_whole = rows.len() / (d_in * ROWS) * ROWS;
    let (whole, rest) = rows.split_at(n_whole * d_in);
    let (whole_out, rest_out) = dense.split_at_mut(n_whole * d_sae);
    for (x, out) in whole.chunks_exact(d_in * ROWS).zip(whole_out.chunks_exact_mut(d_sae * ROWS)) {
        for latent in panel.clone().step_by(LATENTS) {
            tile::<ROWS>(model, latent, x, out);
        }
    }
    for (x, out) in rest.chunks_exact(d_in).zip(rest_out.chunks_exact_mut(d_sae)) {
        for latent in panel.clone().step_by(LATENTS) {
            tile::<1>(model, latent, x, out);
        }
    }
}

/// Four latents from `latent` on for `R` rows.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn tile<const R: usize>(model: &NativeModel, latent: usize, rows: &[f32], dense: &mut [f32]) {
    let (d_in, d_sae) = (model.padded_in(), model.padded_sae());
    let n = d_in / LANES;
    let mut w: [&[[f32; LANES]]; LATENTS] = [&[]; LATENTS];
    for (at, w) in w.iter_mut().enumerate() {
        *w = &model.row(latent + at).as_chunks().0[..n];
    }
    let mut x: [&[[f32; LANES]]; R] = [&[]; R];
    for (at, x) in x.iter_mut().enumerate() {
        *x = &rows[at * d_in..(at + 1) * d_in].as_chunks().0[..n];
    }
    let mut sums = [[_mm256_setzero_ps(); LATENTS]; R];
    for chunk in 0..n {
        for at in 0..LATENTS {
            let w = load(&w[at][chunk]);
            for row in 0..R {
                sums[row][at] = _mm256_fmadd_ps(w, load(&x[row][chunk]), sums[row][at]);
            }
        }
    }
    let Some(bias) = model.bias()[latent..].first_chunk::<LATENTS>() else { return };
    for (row, sums) in sums.into_iter().enumerate() {
        if let Some(out) = dense[row * d_sae + latent..].first_chunk_mut::<LATENTS>() {
            store(out, _mm_add_ps(tree(sums), load4(bias)));
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn some_avx2(model: &NativeModel, latents: &[u32], x: &[f32], values: &mut [f32]) {
    let x = x.as_chunks::<LANES>().0;
    let (groups, rest) = latents.as_chunks::<GROUP>();
    let mut places = values.as_chunks_mut::<LATENTS>().0.iter_mut();
    for group in groups {
        let (Some(low), Some(high)) = (places.next(), places.next()) else { return };
        let [a, b, c, d, e, f, g, h] = sums_of(model, *group, x);
        let latents = group.as_chunks().0;
        store(low, with_bias(model, &latents[0], [a, b, c, d]));
        store(high, with_bias(model, &latents[1], [e, f, g, h]));
    }
    for (group, place) in rest.chunks(LATENTS).zip(places) {
        // A group that is not full computes its first latent several times.
        let mut latents = [group[0]; LATENTS];
        latents[..group.len()].copy_from_slice(group);
        store(place, with_bias(model, &latents, sums_of(model, latents, x)));
    }
}

/// The eight sums of `N` latents.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn sums_of<const N: usize>(model: &NativeModel, latents: [u32; N], x: &[[f32; LANES]]) -> [__m256; N] {
    let mut w: [&[[f32; LANES]]; N] = [&[]; N];
    for (w, latent) in w.iter_mut().zip(latents) {
        *w = &model.row(latent as usize).as_chunks().0[..x.len()];
    }
    let mut sums = [_mm256_setzero_ps(); N];
    for (chunk, x) in x.iter().enumerate() {
        let x = load(x);
        for at in 0..N {
            sums[at] = _mm256_fmadd_ps(load(&w[at][chunk]), x, sums[at]);
        }
    }
    sums
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn with_bias(model: &NativeModel, latents: &[u32; LATENTS], sums: [__m256; LATENTS]) -> __m128 {
    let mut bias = [0f32; LATENTS];
    for (bias, latent) in bias.iter_mut().zip(latents) {
        *bias = model.bias()[*latent as usize];
    }
    _mm_add_ps(tree(sums), load4(&bias))
}

/// The eight sums of four latents added up as the definition says.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn tree([a, b, c, d]: [__m256; LATENTS]) -> __m128 {
    let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs))
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(values: &[f32; LANES]) -> __m256 {
    // SAFETY: eight values are 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load4(values: &[f32; LATENTS]) -> __m128 {
    // SAFETY: four values are 16 bytes; the load needs no alignment.
    unsafe { _mm_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(into: &mut [f32; LATENTS], values: __m128) {
    // SAFETY: four values are 16 bytes; the store needs no alignment.
    unsafe { _mm_storeu_ps(into.as_mut_ptr(), values) }
}
