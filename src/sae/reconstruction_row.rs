//! What both ways to sum a row's reconstruction, plain and in AVX-512, take and give.

use crate::sae::latent::LatentId;

/// Partial sums kept apart, so that the compiler can use vector registers.
pub(super) const LANES: usize = 8;

/// Lanes of `||x - x_hat||^2`, `x . x_hat`, `||x_hat||^2` and `||x||^2`.
pub(super) type Sums = [[f64; LANES]; 4];

/// A row `x [d_in]` with its active latents and their values, and the decoder's numbers: `w_dec [m, d_in]`, `b_dec [d_in]`.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) w_dec: &'a [f32],
    pub(super) b_dec: &'a [f32],
    pub(super) x: &'a [f32],
    pub(super) latents: &'a [LatentId],
    pub(super) values: &'a [f32],
}
