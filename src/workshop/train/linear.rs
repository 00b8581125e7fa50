//! The inner loops of a training step: sums over rows of `d_in` values.
//!
//! Blocks of 64 values stay in registers while the few rows that touch a latent pass by. Compiled
//! within `Wide::run` for what the CPU has; the order of the operations is fixed by the source, so that
//! the bits do not depend on it.

#[cfg(target_arch = "x86_64")]
use crate::encode::native::Avx512;
use crate::encode::native::Kernel;
use crate::sae::latent::LatentId;
#[cfg(target_arch = "x86_64")]
use crate::workshop::train::{asleep_avx512, linear_avx512, row_avx512};

/// Latents that are computed side by side: two registers of AVX-512.
pub(super) const PANEL: usize = 32;
/// Sums a dot product is kept in.
pub(super) const LANES: usize = 16;

/// Registers of AVX-512 a row fills where all of it is kept in them: rows of 64 values, as most recommenders have. Wider rows
/// have sums enough to spread the cost of several passes over.
#[cfg(target_arch = "x86_64")]
pub(super) const REGISTERS: usize = 4;

/// What computes dot products: all give the same bits.
#[derive(Clone, Copy, Debug)]
pub enum Dots {
    /// What every machine of the target has.
    Portable,
    /// AVX-512, for rows of whole registers.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Dots {
    /// The fastest for rows of `d_in` values with these instructions.
    #[must_use]
    pub fn of(kernel: Kernel, d_in: usize) -> Self {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(proof) if d_in.is_multiple_of(LANES) => Self::Avx512(proof),
            _ => Self::Portable,
        }
    }

    /// `a . b`
    #[inline(always)]
    #[must_use]
    pub fn one(self, a: &[f32], b: &[f32]) -> f32 {
        match self {
            Self::Portable => dot(a, b),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(proof) => linear_avx512::dot(proof, a, b),
        }
    }

    /// `e = start + sum values[j] w_dec[latents[j]]`: `e` itself to `missing` where that is asked for, `scale e` to `gradient`;
    /// returns `||e||^2`.
    #[inline(always)]
    pub fn decode(
        self,
        start: &[f32],
        (latents, values): (&[LatentId], &[f32]),
        w_dec: &[f32],
        missing: Option<&mut [f32]>,
        (gradient, scale): (&mut [f32], f32),
    ) -> f32 {
        #[cfg(target_arch = "x86_64")]
        let mut missing = missing;
        #[cfg(target_arch = "x86_64")]
        if let Self::Avx512(proof) = self
            && let Some(square) =
                row_avx512::decode::<REGISTERS>(proof, start, (latents, values), w_dec, missing.as_deref_mut(), (gradient, scale))
        {
            return square;
        }
        gradient.copy_from_slice(start);
        add_latents(gradient, (latents, values), w_dec);
        let square = self.one(gradient, gradient);
        if let Some(missing) = missing {
            missing.copy_from_slice(gradient);
        }
        gradient.iter_mut().for_each(|e| *e *= scale);
        square
    }

    /// Values of `PANEL` latents whose `weights [d_in, PANEL]` lie side by side, for rows `[n, d_in]`, each to the first of
    /// `width` places.
    #[inline(always)]
    pub(super) fn panel(
        self,
        (weights, biases): (&[f32], &[f32; PANEL]),
        (rows, d_in): (&[f32], usize),
        (into, width): (&mut [f32], usize),
    ) {
        match self {
            Self::Portable => {
                for (row, into) in rows.chunks_exact(d_in).zip(into.chunks_mut(width)) {
                    let mut sums = *biases;
                    for (x, weights) in row.iter().zip(weights.as_chunks::<PANEL>().0) {
                        for lane in 0..PANEL {
                            sums[lane] = weights[lane].mul_add(*x, sums[lane]);
                        }
                    }
                    into[..PANEL].copy_from_slice(&sums);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(proof) => asleep_avx512::panel(proof, (weights, biases), (rows, d_in), (into, width)),
        }
    }

    /// `row . matrix[latent]` of each latent.
    #[inline(always)]
    pub fn some(self, row: &[f32], latents: &[LatentId], matrix: &[f32], into: &mut [f32]) {
        match self {
            Self::Portable => {
                for (latent, into) in latents.iter().zip(into) {
                    *into = dot(row, &matrix[latent.index() * row.len()..][..row.len()]);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(proof) => linear_avx512::dots(proof, row, latents, matrix, into),
        }
    }
}

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
