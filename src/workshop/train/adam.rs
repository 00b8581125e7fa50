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

use crate::workshop::train::dots::Dots;

/// Keeps the quotient finite: added to the mean square, as its own square. Far below any root of one that occurs.
const EPSILON: f64 = 1e-8;

/// Values taken at once.
const LANES: usize = 16;

/// Memory below this share of what it was is forgotten: nothing of it is left in f32 beside a new gradient.
const FORGOTTEN: f32 = 1e-30;

/// An inverse root's first guess: this, less half of the value's bits.
pub(super) const FIRST_GUESS: u32 = 0x5f37_5a86;
/// `s^(-1/2)` for `s` within 7 % of 1, as the guess leaves it: Taylor's 15/8 - 5/4 s + 3/8 s^2, its error spread evenly.
pub(super) const ROOT_TERMS: [f32; 3] = [1.876_278, -1.251_459, 0.375_182];

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
        let second = 1.0 - f64::from(beta2).powf(t as f64);
        Self { rate: (f64::from(learning_rate) * second.sqrt()) as f32, epsilon: (EPSILON * EPSILON * second) as f32, beta2 }
    }

    /// Rate, epsilon, the share of the memory that is kept, and that of the new square.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn factors(self) -> [f32; 4] {
        [self.rate, self.epsilon, self.beta2, 1.0 - self.beta2]
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

    /// `w -= rate * g / sqrt(v + epsilon)` for each value, after `v` has taken the gradient's square in.
    #[inline(always)]
    pub fn update(self, weights: &mut [f32], gradient: &[f32], second: &mut [f32]) {
        let ((w, w_rest), (g, g_rest), (v, v_rest)) =
            (weights.as_chunks_mut::<LANES>(), gradient.as_chunks::<LANES>(), second.as_chunks_mut::<LANES>());
        for ((w, g), v) in w.iter_mut().zip(g).zip(v) {
            for lane in 0..LANES {
                self.update_one(&mut w[lane], g[lane], &mut v[lane]);
            }
        }
        for ((w, g), v) in w_rest.iter_mut().zip(g_rest).zip(v_rest) {
            self.update_one(w, *g, v);
        }
    }

    #[inline(always)]
    fn update_one(self, w: &mut f32, g: f32, v: &mut f32) {
        *v = ((1.0 - self.beta2) * g).mul_add(g, self.beta2 * *v);
        *w = (-(self.rate * g)).mul_add(inverse_root(*v + self.epsilon), *w);
    }

    /// The same for a row of unit norm: the gradient's part along the row, which a rescaling would undo
    /// anyway, is taken away first, and the row is unit again after.
    #[inline(always)]
    pub fn update_unit(self, dots: Dots, row: &mut [f32], gradient: &mut [f32], second: &mut [f32]) {
        let along = dots.one(row, gradient);
        for (g, w) in gradient.iter_mut().zip(row.iter()) {
            *g = (-along).mul_add(*w, *g);
        }
        self.update(row, gradient, second);
        let norm = dots.one(row, row).sqrt();
        if norm > 0.0 {
            let scale = 1.0 / norm;
            row.iter_mut().for_each(|w| *w *= scale);
        }
    }
}

/// `1 / sqrt(value)` within 3e-5 of it, for `value > 0`.
///
/// A first guess `r` from the exponent's bits, and then `r` times the first terms of `(r^2 value)^(-1/2)` about 1: a third of the
/// time of the CPU's root and quotient, and the same bits on every machine, which its own approximation does not promise.
/// The length of a step matters to no such digit.
#[inline(always)]
fn inverse_root(value: f32) -> f32 {
    let guess = f32::from_bits(FIRST_GUESS - (value.to_bits() >> 1));
    let square = value * guess * guess;
    let [a, b, c] = ROOT_TERMS;
    guess * c.mul_add(square, b).mul_add(square, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverse_root_is_one_within_three_parts_in_a_hundred_thousand() {
        let mut worst = 0f64;
        for bits in (1e-17f32.to_bits()..1e17f32.to_bits()).step_by(997) {
            let value = f32::from_bits(bits);
            worst = worst.max((f64::from(inverse_root(value)) * f64::from(value).sqrt() - 1.0).abs());
        }
        assert!(worst < 3e-5, "{worst}");
    }
}
