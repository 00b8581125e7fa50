//! Sixteen values as a register, and back.

#![expect(unsafe_code, reason = "loads and stores arrays of sixteen values")]

use std::arch::x86_64::{__m512, _mm512_loadu_ps, _mm512_storeu_ps};

use crate::workshop::train::linear::LANES;

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(values: &[f32; LANES]) -> __m512 {
    // SAFETY: sixteen values are 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store(into: &mut [f32; LANES], values: __m512) {
    // SAFETY: sixteen values are 64 bytes; the store needs no alignment.
    unsafe { _mm512_storeu_ps(into.as_mut_ptr(), values) }
}
