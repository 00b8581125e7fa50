//! The inner loops of a training step: sums over rows of `d_in` values.
//!
//! Blocks of 64 values stay in registers while the few rows that touch a latent pass by. Compiled
//! within `Wide::run` for what the CPU has; the order of the operations is fixed by the source, so that
//! the bits do not depend on it.

use crate::sae::latent::LatentId;

/// Latents that are computed side by side: two registers of AVX-512.
pub(super) const PANEL: usize = 32;
/// Sums a dot product is kept in.
pub(super) const LANES: usize = 16;

/// Registers of AVX-512 a row fills where all of it is kept in them: rows of 64 values, as most recommenders have. Wider rows
/// have sums enough to spread the cost of several passes over.
#[cfg(target_arch = "x86_64")]
pub(super) const REGISTERS: usize = 4;

/// Values of a block: four registers of AVX-512, eight of AVX2.
pub const BLOCK: usize = 64;

/// `a . b` in sixteen strands.
#[inline(always)]
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut x = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            x[lane] = a[lane].mul_add(b[lane], x[lane]);
        }
    }
    let mut rest = 0f32;
    for (a, b) in a_rest.iter().zip(b_rest) {
        rest = a.mul_add(*b, rest);
    }
    // Written out: what is halved in a loop the compiler keeps in memory.
    let eight = [x[0] + x[8], x[1] + x[9], x[2] + x[10], x[3] + x[11], x[4] + x[12], x[5] + x[13], x[6] + x[14], x[7] + x[15]];
    let four = [eight[0] + eight[4], eight[1] + eight[5], eight[2] + eight[6], eight[3] + eight[7]];
    (four[0] + four[2]) + (four[1] + four[3]) + rest
}

/// `into += factor * row`.
#[inline(always)]
pub fn add_scaled(into: &mut [f32], factor: f32, row: &[f32]) {
    for (out, value) in into.iter_mut().zip(row) {
        *out = factor.mul_add(*value, *out);
    }
}

/// `into += sum_i factors[i] * matrix[latents[i]]`, a block at a time; `matrix` has rows of `into.len()`.
#[inline(always)]
pub fn add_latents(into: &mut [f32], (latents, factors): (&[LatentId], &[f32]), matrix: &[f32]) {
    let d = into.len();
    let (blocks, rest) = into.as_chunks_mut::<BLOCK>();
    let n_in_blocks = blocks.len() * BLOCK;
    for (block, start) in blocks.iter_mut().zip((0..).step_by(BLOCK)) {
        let mut sums = *block;
        for (latent, factor) in latents.iter().zip(factors) {
            let Some(values) = matrix[latent.index() * d + start..].first_chunk::<BLOCK>() else { continue };
            for lane in 0..BLOCK {
                sums[lane] = factor.mul_add(values[lane], sums[lane]);
            }
        }
        *block = sums;
    }
    if !rest.is_empty() {
        for (latent, factor) in latents.iter().zip(factors) {
            add_scaled(rest, *factor, &matrix[latent.index() * d + n_in_blocks..(latent.index() + 1) * d]);
        }
    }
}

/// What one row adds to the gradients of a latent: `slope` times its centred row, `value` times its gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Row of the batch's centred rows.
    pub row: u32,
    /// Its factor.
    pub slope: f32,
    /// Row of the batch's gradients.
    pub gradient_row: u32,
    /// Its factor.
    pub value: f32,
}

/// Both sums of a latent: `sum slope * centred[row]` and `sum value * gradients[gradient_row]`.
#[inline(always)]
pub fn sum_shares((by_row, by_gradient): (&mut [f32], &mut [f32]), shares: &[Share], centred: &[f32], gradients: &[f32]) {
    let d = by_row.len();
    let ((row_blocks, row_rest), (gradient_blocks, gradient_rest)) =
        (by_row.as_chunks_mut::<BLOCK>(), by_gradient.as_chunks_mut::<BLOCK>());
    let n_in_blocks = row_blocks.len() * BLOCK;
    for ((row_block, gradient_block), start) in row_blocks.iter_mut().zip(gradient_blocks).zip((0..).step_by(BLOCK)) {
        let (mut row_sums, mut gradient_sums) = ([0f32; BLOCK], [0f32; BLOCK]);
        for share in shares {
            let Some(row) = centred[share.row as usize * d + start..].first_chunk::<BLOCK>() else { continue };
            let Some(gradient) = gradients[share.gradient_row as usize * d + start..].first_chunk::<BLOCK>() else { continue };
            for lane in 0..BLOCK {
                row_sums[lane] = share.slope.mul_add(row[lane], row_sums[lane]);
            }
            for lane in 0..BLOCK {
                gradient_sums[lane] = share.value.mul_add(gradient[lane], gradient_sums[lane]);
            }
        }
        *row_block = row_sums;
        *gradient_block = gradient_sums;
    }
    if !row_rest.is_empty() {
        row_rest.fill(0.0);
        gradient_rest.fill(0.0);
        for share in shares {
            let (row, gradient) = (share.row as usize, share.gradient_row as usize);
            add_scaled(row_rest, share.slope, &centred[row * d + n_in_blocks..(row + 1) * d]);
            add_scaled(gradient_rest, share.value, &gradients[gradient * d + n_in_blocks..(gradient + 1) * d]);
        }
    }
}
