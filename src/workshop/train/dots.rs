//! The inner loops that end in few numbers or keep a row in registers, with the instructions that are asked for.

#[cfg(target_arch = "x86_64")]
use crate::encode::native::Avx512;
use crate::encode::native::Kernel;
use crate::sae::latent::LatentId;
#[cfg(target_arch = "x86_64")]
use crate::workshop::train::linear::{LANES, REGISTERS};
use crate::workshop::train::linear::{PANEL, add_latents, dot};
#[cfg(target_arch = "x86_64")]
use crate::workshop::train::{asleep_avx512, linear_avx512, row_avx512};

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
