//! The inner loops of a training step: sums over rows of `d_in` values.
//!
//! Blocks of 64 values stay in registers while the few rows that touch a latent pass by. Compiled
//! within `Wide::run` for what the CPU has; the order of the operations is fixed by the source, so that
//! the bits do not depend on it.

/// Values of a block: eight AVX2 registers.
pub const BLOCK: usize = 64;

/// `a . b` in eight strands.
#[inline(always)]
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7])) + rest
}

/// `into += factor * row`.
#[inline(always)]
pub fn add_scaled(into: &mut [f32], factor: f32, row: &[f32]) {
    for (out, value) in into.iter_mut().zip(row) {
        *out += factor * value;
    }
}

/// `into = sum_i factors[i] * matrix[rows[i]]`, a block at a time; `matrix` has rows of `into.len()`.
#[inline(always)]
pub fn weighted_sum(into: &mut [f32], terms: impl Iterator<Item = (usize, f32)> + Clone, matrix: &[f32]) {
    let d = into.len();
    let n_blocks = d / BLOCK;
    for block in 0..n_blocks {
        let mut sum = [0f32; BLOCK];
        for (row, factor) in terms.clone() {
            let Some(values) = matrix[row * d + block * BLOCK..].first_chunk::<BLOCK>() else { continue };
            for lane in 0..BLOCK {
                sum[lane] += factor * values[lane];
            }
        }
        into[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(&sum);
    }
    let rest = n_blocks * BLOCK;
    if rest < d {
        into[rest..].fill(0.0);
        for (row, factor) in terms {
            add_scaled(&mut into[rest..], factor, &matrix[row * d + rest..(row + 1) * d]);
        }
    }
}
