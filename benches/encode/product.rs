//! The f32 matrix product alone, as fast as AVX2 and FMA make it: what an encoder is measured against.
//!
//! Tiles of 6 rows x 16 latents, twelve sums in registers; weights and rows lie packed in the order they
//! are read in, and packing them is not counted.
#![allow(unsafe_code, reason = "calls code for CPU features that were detected")]

use std::hint::black_box;

/// Rows of a tile.
const ROWS: usize = 6;
/// Latents of a tile.
const LATENTS: usize = 16;
/// Rows of a block, so that its values stay in the second cache.
const BLOCK: usize = 48;

/// Packed operands; their values do not matter to the time it takes.
pub(crate) struct Product {
    d_in: usize,
    weights: Vec<f32>,
    rows: Vec<f32>,
    values: Vec<f32>,
}

impl Product {
    /// `None` where the CPU has no AVX2 and FMA.
    pub(crate) fn new(d_in: usize, d_sae: usize) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        let fast = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        #[cfg(not(target_arch = "x86_64"))]
        let fast = false;
        let made = || Self { d_in, weights: vec![0.5; d_in * d_sae], rows: vec![0.25; d_in * BLOCK], values: vec![0.0; d_sae * BLOCK] };
        fast.then(made)
    }

    /// Microseconds a row, over about `n_rows` of them.
    pub(crate) fn cost(&mut self, n_rows: usize, cpu_ns: fn() -> u64) -> f64 {
        let n_blocks = n_rows.div_ceil(BLOCK);
        let began = cpu_ns();
        for _ in 0..n_blocks {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a product is made only where the features were detected.
            unsafe {
                block(black_box(&self.weights), black_box(&self.rows), self.d_in, &mut self.values);
            }
            black_box(&self.values);
        }
        (cpu_ns() - began) as f64 / (n_blocks * BLOCK) as f64 / 1e3
    }
}

/// `values [BLOCK, d_sae]` of one block.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn block(weights: &[f32], rows: &[f32], d_in: usize, values: &mut [f32]) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    let d_sae = values.len() / BLOCK;
    for (panel, weights) in weights.chunks_exact(d_in * LATENTS).enumerate() {
        for (tile, rows) in rows.chunks_exact(d_in * ROWS).enumerate() {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            for (w, x) in weights.as_chunks::<LATENTS>().0.iter().zip(rows.as_chunks::<ROWS>().0) {
                // SAFETY: both loads lie inside the 16 values of `w`.
                let (low, high) = unsafe { (_mm256_loadu_ps(w.as_ptr()), _mm256_loadu_ps(w.as_ptr().add(8))) };
                for row in 0..ROWS {
                    let x = _mm256_set1_ps(x[row]);
                    sums[row][0] = _mm256_fmadd_ps(x, low, sums[row][0]);
                    sums[row][1] = _mm256_fmadd_ps(x, high, sums[row][1]);
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                let out = &mut values[(tile * ROWS + row) * d_sae + panel * LATENTS..][..LATENTS];
                // SAFETY: both stores lie inside the 16 values of `out`.
                unsafe {
                    _mm256_storeu_ps(out.as_mut_ptr(), sums[0]);
                    _mm256_storeu_ps(out.as_mut_ptr().add(8), sums[1]);
                }
            }
        }
    }
}
