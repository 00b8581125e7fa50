//! Foreign forward passes as ours: everything that is linear is folded into the weights.
//!
//! Ours is `z = select((x - b_dec) W_enc^T + b_enc)` with one selection for all latents. A threshold of its
//! own for each latent becomes one threshold by scaling: `pre_j > t_j` is `pre_j / t_j > 1`, the decoder's
//! row takes the factor back. A gate becomes such a threshold: `w x + b_gate > 0` is
//! `e^r w x + b_mag > b_mag - e^r b_gate`. The latents' values are then in other units, the active sets and
//! the reconstruction are the same.

use std::num::NonZeroUsize;

use anyhow::{Context, ensure};
use ndarray::{Array1, Array2};

use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

/// Smallest threshold that is scaled to 1. A latent whose own threshold is below it (a plain ReLU among
/// others) is then active above this value instead of above 0: what lies between is rounding noise of f32.
const LEAST_THRESHOLD: f32 = 1e-6;

/// An SAE as its family computes it, matrices with one row a latent.
#[derive(Clone, Debug)]
pub(super) struct Foreign {
    pub(super) w_enc: Array2<f32>,
    pub(super) b_enc: Array1<f32>,
    pub(super) w_dec: Array2<f32>,
    pub(super) b_dec: Array1<f32>,
    pub(super) centring: bool,
    pub(super) activation: Activation,
}

/// Which latents are active.
#[derive(Clone, Debug)]
pub(super) enum Activation {
    Relu,
    TopK(NonZeroUsize),
    /// One threshold for all.
    Threshold(f32),
    /// One for each latent, on the value before the selection.
    Thresholds(Array1<f32>),
}

impl Foreign {
    /// Gated: `[w x + b_gate > 0] ReLU(e^r w x + b_mag)`, as thresholds. `b_enc` is ignored.
    pub(super) fn gated(mut self, b_gate: &Array1<f32>, b_mag: &Array1<f32>, r_mag: &Array1<f32>) -> Self {
        let scale = r_mag.mapv(f32::exp);
        scale_rows(&mut self.w_enc, &scale);
        self.activation = Activation::Thresholds(b_mag - &(&scale * b_gate));
        self.b_enc.clone_from(b_mag);
        self
    }

    /// `x` is multiplied by `scale` before, the reconstruction divided after.
    pub(super) fn scaled_input(mut self, scale: f32) -> Self {
        self.w_enc *= scale;
        self.w_dec /= scale;
        self.b_dec /= scale;
        self
    }

    /// Values are multiplied by the decoder rows' norms before the selection, and divided after.
    pub(super) fn rescaled_by_decoder(mut self) -> Self {
        let norms: Array1<f32> = self.w_dec.rows().into_iter().map(|row| row.dot(&row).sqrt().max(f32::MIN_POSITIVE)).collect();
        scale_rows(&mut self.w_enc, &norms);
        self.b_enc *= &norms;
        scale_rows(&mut self.w_dec, &norms.mapv(f32::recip));
        self
    }

    /// Ours.
    ///
    /// # Errors
    /// Shapes that do not belong together, or a value that is not finite.
    pub(super) fn folded(mut self) -> anyhow::Result<SaeWeights> {
        let selection = match std::mem::replace(&mut self.activation, Activation::Relu) {
            Activation::Relu => Selection::Threshold(0.0),
            Activation::TopK(k) => Selection::TopK(k),
            Activation::Threshold(threshold) => Selection::Threshold(threshold.max(0.0)),
            Activation::Thresholds(thresholds) => self.fold_thresholds(&thresholds),
        };
        let (d_sae, d_in) = self.w_enc.dim();
        let size = |n: usize| NonZeroUsize::new(n).context("a matrix without values");
        let spec = SaeSpec { d_in: size(d_in)?, d_sae: size(d_sae)?, selection, centring: self.centring };
        if let Selection::TopK(k) = selection {
            ensure!(k.get() <= d_sae, "k = {k}, but there are {d_sae} latents");
        }
        let all = self.w_enc.iter().chain(&self.b_enc).chain(&self.w_dec).chain(&self.b_dec);
        ensure!(all.into_iter().all(|value| value.is_finite()), "a weight is not finite: the file is damaged or the training diverged");
        Ok(SaeWeights::new(spec, self.w_enc, self.b_enc, Some(self.w_dec), self.b_dec)?)
    }

    fn fold_thresholds(&mut self, thresholds: &Array1<f32>) -> Selection {
        if let Some(first) = thresholds.first()
            && thresholds.iter().all(|threshold| threshold == first)
        {
            return Selection::Threshold(first.max(0.0));
        }
        let scale = thresholds.mapv(|threshold| threshold.max(LEAST_THRESHOLD));
        let inverse = scale.mapv(f32::recip);
        scale_rows(&mut self.w_enc, &inverse);
        self.b_enc *= &inverse;
        scale_rows(&mut self.w_dec, &scale);
        Selection::Threshold(1.0)
    }
}

/// Multiplies each row by its factor.
pub(super) fn scale_rows(matrix: &mut Array2<f32>, factors: &Array1<f32>) {
    for (mut row, factor) in matrix.rows_mut().into_iter().zip(factors) {
        row *= *factor;
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    fn foreign(rng: &mut impl Rng, activation: Activation) -> Foreign {
        let mut matrix = |a, b| Array2::from_shape_simple_fn((a, b), || rng.random_range(-1.0f32..1.0));
        let (w_enc, w_dec, bias) = (matrix(20, 6), matrix(20, 6), matrix(1, 26));
        Foreign {
            w_enc,
            w_dec,
            b_enc: bias.row(0).iter().take(20).copied().collect(),
            b_dec: bias.row(0).iter().skip(20).copied().collect(),
            centring: true,
            activation,
        }
    }

    fn decoded(sae: &SaeWeights, x: &[f32]) -> (Vec<u32>, Vec<f64>) {
        let active = sae.encode(x);
        (active.iter().map(|(latent, _)| latent.0).collect(), sae.decode(&active).unwrap())
    }

    #[test]
    fn thresholds_and_gates_keep_active_sets_and_reconstruction() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut vector = |n| Array1::from_shape_simple_fn(n, || rng.random_range(-0.5f32..0.5));
        let (thresholds, gate, mag, r) = (vector(20).mapv(f32::abs), vector(20), vector(20), vector(20));
        let jump = foreign(&mut rng, Activation::Thresholds(thresholds.clone()));
        let gated = foreign(&mut rng, Activation::Relu);
        let (ours, ours_gated) = (jump.clone().folded().unwrap(), gated.clone().gated(&gate, &mag, &r).folded().unwrap());
        for _ in 0..50 {
            let x: Vec<f32> = (0..6).map(|_| rng.random_range(-2.0..2.0)).collect();
            // By the family's own formula, in f64.
            let product = |of: &Foreign, latent: usize| -> f64 {
                (0..6).map(|i| f64::from(of.w_enc[[latent, i]]) * f64::from(x[i] - of.b_dec[i])).sum()
            };
            let check = |of: &Foreign, sae: &SaeWeights, value: &dyn Fn(usize, f64) -> f64| {
                let values: Vec<f64> = (0..20).map(|latent| value(latent, product(of, latent))).collect();
                let (active, x_hat) = decoded(sae, &x);
                assert_eq!(active, (0..20u32).filter(|latent| values[*latent as usize] > 0.0).collect::<Vec<_>>());
                for (i, ours) in x_hat.iter().enumerate() {
                    let theirs: f64 = (0..20).map(|j| values[j] * f64::from(of.w_dec[[j, i]])).sum::<f64>() + f64::from(of.b_dec[i]);
                    assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
                }
            };
            check(&jump, &ours, &|j, product| {
                let pre = product + f64::from(jump.b_enc[j]);
                if pre > f64::from(thresholds[j]) { pre } else { 0.0 }
            });
            check(&gated, &ours_gated, &|j, product| {
                let magnitude = f64::from(r[j]).exp() * product + f64::from(mag[j]);
                if product + f64::from(gate[j]) > 0.0 { magnitude.max(0.0) } else { 0.0 }
            });
        }
    }

    #[test]
    fn scales_fold_away() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let before = foreign(&mut rng, Activation::Relu);
        let mut input_scaled = before.clone();
        input_scaled.b_dec *= 3.0;
        let (plain, scaled) = (before.clone().folded().unwrap(), input_scaled.scaled_input(3.0).folded().unwrap());
        // scaled_input(3) of an SAE about 3 b_dec is the SAE about b_dec with three times its weights.
        assert_eq!(plain.b_dec().map(|b| (b * 1e4).round()), scaled.b_dec().map(|b| (b * 1e4).round()));
        let rescaled = before.rescaled_by_decoder().folded().unwrap();
        let x = [0.3, -1.0, 0.7, 0.2, -0.4, 1.1];
        let ((a, x_a), (b, x_b)) = (decoded(&plain, &x), decoded(&rescaled, &x));
        assert_eq!(a, b);
        assert!(x_a.iter().zip(&x_b).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    #[test]
    fn what_is_not_finite_or_too_many_is_refused() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let mut broken = foreign(&mut rng, Activation::Relu);
        broken.b_enc[3] = f32::NAN;
        assert!(broken.folded().unwrap_err().to_string().contains("not finite"));
        let k = NonZeroUsize::new(21).unwrap();
        assert!(foreign(&mut rng, Activation::TopK(k)).folded().unwrap_err().to_string().contains("20 latents"));
    }
}
