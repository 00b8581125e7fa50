//! Adam (Kingma and Ba 2015) without momentum, fused with what a decoder row needs: no radial gradient,
//! unit norm.
//!
//! Momentum (beta 1) is 0: a latent has gradients in few steps, and a momentum would go on pushing it in the
//! steps between, away from the rows that it stands for (see `Recipe::beta2`).

//!
//! Without momentum a latent that no row used stays where it is, and only its memory fades. So a step
//! touches the latents that were used, and what faded meanwhile is made up for when one is used again:
//! the same numbers as a step over all of them, within rounding, at half the cost. (Fading step by step
//! also ends in numbers below f32's normal range, which CPUs compute a hundred times slower.)

use crate::workshop::train::linear::dot;

/// Keeps the quotient finite. Far below the root of any gradient's mean square that occurs.
const EPSILON: f32 = 1e-8;

/// Memory below this share of what it was is forgotten: nothing of it is left in f32 beside a new gradient.
const FORGOTTEN: f32 = 1e-30;

/// One step's factors: the bias correction folded into rate and epsilon.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    rate: f32,
    epsilon: f32,
    beta2: f32,
}

impl AdamStep {
    /// Step `t >= 1` at this learning rate.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "factors of an f32 update")]
    pub fn new(t: u64, learning_rate: f32, beta2: f32) -> Self {
        let second = (1.0 - f64::from(beta2).powf(t as f64)).sqrt();
        Self { rate: (f64::from(learning_rate) * second) as f32, epsilon: (f64::from(EPSILON) * second) as f32, beta2 }
    }

    /// Fades the memory of a latent that was idle for so many steps.
    #[inline(always)]
    pub fn fade(self, idle: u64, second: [&mut [f32]; 3]) {
        if idle == 0 {
            return;
        }
        let share = self.beta2.powi(i32::try_from(idle).unwrap_or(i32::MAX));
        let share = if share < FORGOTTEN { 0.0 } else { share };
        second.into_iter().flatten().for_each(|v| *v *= share);
    }

    /// `w -= rate * g / (sqrt v + epsilon)` for each value, after `v` has taken the gradient's square in.
    #[inline(always)]
    pub fn update(self, weights: &mut [f32], gradient: &[f32], second: &mut [f32]) {
        for ((w, g), v) in weights.iter_mut().zip(gradient).zip(second) {
            *v = self.beta2 * *v + (1.0 - self.beta2) * (g * g);
            *w -= self.rate * g / (v.sqrt() + self.epsilon);
        }
    }

    /// The same for a row of unit norm: the gradient's part along the row, which a rescaling would undo
    /// anyway, is taken away first, and the row is unit again after.
    #[inline(always)]
    pub fn update_unit(self, row: &mut [f32], gradient: &mut [f32], second: &mut [f32]) {
        let along = dot(row, gradient);
        for (g, w) in gradient.iter_mut().zip(row.iter()) {
            *g -= along * w;
        }
        self.update(row, gradient, second);
        let norm = dot(row, row).sqrt();
        if norm > 0.0 {
            let scale = 1.0 / norm;
            row.iter_mut().for_each(|w| *w *= scale);
        }
    }
}
