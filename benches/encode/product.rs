//! The f32 matrix product alone, as fast as the CPU makes it: what an encoder is measured against.
//!
//! Tiles of 12 rows x 32 latents in AVX-512, of 6 x 16 in AVX2, all sums in registers; weights and rows lie packed
//! in the order they are read in, and packing them is not counted.
#![allow(unsafe_code, reason = "calls code for CPU features that were detected")]

use std::hint::black_box;

/// Rows of a block, so that its values stay in the second cache.
const BLOCK: usize = 48;

/// Packed operands; their values do not matter to the time it takes.
pub(crate) struct Product {
    d_in: usize,
    wide: bool,
    weights: Vec<f32>,
    rows: Vec<f32>,
    values: Vec<f32>,
}

impl Product {
    /// `None` where the CPU has no AVX2 and FMA.
    pub(crate) fn new(d_in: usize, d_sae: usize) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        let (fast, wide) = (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"), is_x86_feature_detected!("avx512f"));
        #[cfg(not(target_arch = "x86_64"))]
        let (fast, wide) = (false, false);
        let (weights, rows, values) = (vec![0.5; d_in * d_sae], vec![0.25; d_in * BLOCK], vec![0.0; d_sae * BLOCK]);
        fast.then_some(Self { d_in, wide, weights, rows, values })
    }

    /// Microseconds a row, over about `n_rows` of them.
    pub(crate) fn cost(&mut self, n_rows: usize, cpu_ns: fn() -> u64) -> f64 {
        let n_blocks = n_rows.div_ceil(BLOCK);
        let began = cpu_ns();
        for _ in 0..n_blocks {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a product is made only where the features were detected, and is wide only where AVX-512 was.
            unsafe {
                let (weights, rows) = (black_box(&self.weights), black_box(&self.rows));
                if self.wide {
                    x86::block_avx512(weights, rows, self.d_in, &mut self.values);
                } else {
                    x86::block_avx2(weights, rows, self.d_in, &mut self.values);
                }
            }
            black_box(&self.values);
        }
        (cpu_ns() - began) as f64 / (n_blocks * BLOCK) as f64 / 1e3
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::BLOCK;

    /// `values [BLOCK, d_sae]` of one block, `$ROWS` x `$WIDTH` x 2 at once.
    macro_rules! block {
        ($name:ident, $features:literal, $rows:literal, $width:literal, $fma:ident, $load:ident, $broadcast:ident, $zero:ident, $store:ident) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(weights: &[f32], rows: &[f32], d_in: usize, values: &mut [f32]) {
                let d_sae = values.len() / BLOCK;
                for (panel, weights) in weights.chunks_exact(d_in * 2 * $width).enumerate() {
                    for (tile, rows) in rows.chunks_exact(d_in * $rows).enumerate() {
                        let mut sums = [[$zero(); 2]; $rows];
                        for (w, x) in weights.as_chunks::<{ 2 * $width }>().0.iter().zip(rows.as_chunks::<$rows>().0) {
                            // SAFETY: both loads lie inside the values of `w`.
                            let (low, high) = unsafe { ($load(w.as_ptr()), $load(w.as_ptr().add($width))) };
                            for row in 0..$rows {
                                let x = $broadcast(x[row]);
                                sums[row][0] = $fma(x, low, sums[row][0]);
                                sums[row][1] = $fma(x, high, sums[row][1]);
                            }
                        }
                        for (row, sums) in sums.into_iter().enumerate() {
                            let out = &mut values[(tile * $rows + row) * d_sae + panel * 2 * $width..][..2 * $width];
                            // SAFETY: both stores lie inside the values of `out`.
                            unsafe {
                                $store(out.as_mut_ptr(), sums[0]);
                                $store(out.as_mut_ptr().add($width), sums[1]);
                            }
                        }
                    }
                }
            }
        };
    }

    block!(block_avx2, "avx2,fma", 6, 8, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps);
    block!(block_avx512, "avx512f", 12, 16, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps);
}
