//! A latent that moves: its rows, and the step in several passes.

use crate::workshop::train::adam::AdamStep;
use crate::workshop::train::dots::Dots;
use crate::workshop::train::linear::{Share, add_scaled, sum_shares};

/// The rows of a latent that moves: weights, and their memory in Adam.
#[derive(Debug)]
pub(super) struct Moving<'a> {
    pub(super) w_enc: &'a mut [f32],
    pub(super) v_enc: &'a mut [f32],
    pub(super) w_dec: &'a mut [f32],
    pub(super) v_dec: &'a mut [f32],
}

impl Moving<'_> {
    /// Moves by the gradients that its shares sum up to, and adds to `centring` what it takes from `b_dec`'s. Returns the sum of
    /// the shares' slopes, the gradient of the bias.
    #[inline(always)]
    pub(super) fn step(
        &mut self,
        dots: Dots,
        adam: AdamStep,
        shares: &[Share],
        (centred, gradients): (&[f32], &[f32]),
        centring: &mut [f32],
        scratch: &mut [f32],
    ) -> f32 {
        let mut slope = 0.0;
        for share in shares {
            slope += share.slope;
        }
        let (by_row, by_gradient) = scratch.split_at_mut(centring.len());
        add_scaled(centring, -slope, self.w_enc);
        sum_shares((by_row, by_gradient), shares, centred, gradients);
        adam.update(self.w_enc, by_row, self.v_enc);
        adam.update_unit(dots, self.w_dec, by_gradient, self.v_dec);
        slope
    }
}
