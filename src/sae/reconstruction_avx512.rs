//! The sums of a row's reconstruction in AVX-512: the twin of the portable path in `sae::reconstruction`, bit for bit.
//!
//! Of the portable path compilers make additions of single values, which take longer than everything else that is counted of
//! a record. The operations and their order are the same: no fused multiply-add, eight sums kept apart.

#![expect(unsafe_code, reason = "calls code for a CPU feature that was detected; loads and stores no more than a slice holds")]

use std::arch::x86_64::{
    __m512, __m512d, _mm512_add_pd, _mm512_add_ps, _mm512_castpd_ps, _mm512_castpd256_pd512, _mm512_castps_pd, _mm512_castps512_ps256,
    _mm512_cvtps_pd, _mm512_extractf64x4_pd, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_maskz_mov_ps, _mm512_mul_pd,
    _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_pd, _mm512_setzero_ps, _mm512_storeu_pd, _mm512_sub_pd,
};

use crate::sae::reconstruction_row::{LANES, Row, Sums};

/// Values of a register.
const WIDTH: usize = 16;
/// Values of the reconstruction that are held in registers while all latents pass by.
const BLOCK: usize = 4 * WIDTH;

/// Proof that this CPU has the feature the functions below are compiled for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

impl Avx512 {
    /// The proof, where the CPU has the feature.
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }

    /// The sums of a row, and its reconstruction in `x_hat [d_in]`.
    pub(super) fn sums(self, row: Row<'_>, x_hat: &mut [f32]) -> Sums {
        // SAFETY: a value of this type exists only where the feature was detected.
        unsafe { sums(row, x_hat) }
    }
}

#[target_feature(enable = "avx512f")]
fn sums(row: Row<'_>, x_hat: &mut [f32]) -> Sums {
    let d_in = row.b_dec.len();
    let mut sums = [_mm512_setzero_pd(); 4];
    let whole = d_in - d_in % BLOCK;
    for start in (0..whole).step_by(BLOCK) {
        add_block::<4>(&mut sums, row, start..start + BLOCK, x_hat);
    }
    for start in (whole..d_in).step_by(WIDTH) {
        add_block::<1>(&mut sums, row, start..d_in.min(start + WIDTH), x_hat);
    }
    sums.map(|sum| {
        let mut lanes = [0.0; LANES];
        // SAFETY: the array holds the eight values of a register.
        unsafe { _mm512_storeu_pd(lanes.as_mut_ptr(), sum) };
        lanes
    })
}

/// Reconstructs up to `N` registers of values and adds them to the sums.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_block<const N: usize>(sums: &mut [__m512d; 4], row: Row<'_>, at: std::ops::Range<usize>, x_hat: &mut [f32]) {
    let d_in = row.b_dec.len();
    let mut hats: [__m512; N] = load(&row.b_dec[at.clone()]);
    for (latent, value) in row.latents.iter().zip(row.values) {
        let weights: [__m512; N] = load(&row.w_dec[latent.index() * d_in..][at.clone()]);
        let value = _mm512_set1_ps(*value);
        for register in 0..N {
            hats[register] = _mm512_add_ps(hats[register], _mm512_mul_ps(value, weights[register]));
        }
    }
    let xs: [__m512; N] = load(&row.x[at.clone()]);
    for register in 0..N {
        // Beyond the row there are zeros, which add nothing, whatever the value of a latent is.
        let hat = _mm512_maskz_mov_ps(mask(at.len(), register), hats[register]);
        for (a, b) in halves(xs[register]).into_iter().zip(halves(hat)) {
            let difference = _mm512_sub_pd(a, b);
            sums[0] = _mm512_add_pd(sums[0], _mm512_mul_pd(difference, difference));
            sums[1] = _mm512_add_pd(sums[1], _mm512_mul_pd(a, b));
            sums[2] = _mm512_add_pd(sums[2], _mm512_mul_pd(b, b));
            sums[3] = _mm512_add_pd(sums[3], _mm512_mul_pd(a, a));
        }
    }
    store(hats, &mut x_hat[at]);
}

/// Bits of the places of a register that a slice of that length fills.
#[inline]
fn mask(length: usize, register: usize) -> u16 {
    let n = length.saturating_sub(register * WIDTH);
    if n >= WIDTH { u16::MAX } else { (1 << n) - 1 }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load<const N: usize>(values: &[f32]) -> [__m512; N] {
    let mut registers = [_mm512_setzero_ps(); N];
    for (at, register) in registers.iter_mut().enumerate() {
        // SAFETY: the mask has the bits of values that the slice holds from there on, and no others are read.
        *register = unsafe { _mm512_maskz_loadu_ps(mask(values.len(), at), values.as_ptr().wrapping_add(at * WIDTH)) };
    }
    registers
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<const N: usize>(registers: [__m512; N], values: &mut [f32]) {
    let length = values.len();
    for (at, register) in registers.into_iter().enumerate() {
        // SAFETY: the mask has the bits of places that the slice holds from there on, and no others are written.
        unsafe { _mm512_mask_storeu_ps(values.as_mut_ptr().wrapping_add(at * WIDTH), mask(length, at), register) };
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn halves(values: __m512) -> [__m512d; 2] {
    let upper = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(values))));
    [_mm512_cvtps_pd(_mm512_castps512_ps256(values)), _mm512_cvtps_pd(_mm512_castps512_ps256(upper))]
}
