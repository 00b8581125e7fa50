//! What is trained and how: every choice that decides the weights, and nothing else.

use serde::{Deserialize, Serialize};

/// A TopK SAE to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Active latents a row.
    pub k: usize,
    /// Latents.
    pub d_sae: usize,
    /// Draws the first weights and the order of the rows.
    pub seed: u64,
    /// Passes over the training rows. More: better, until the learning rate has decayed anyway. On SASRec's train rows
    /// alone, k 32 of 2,048, four seeds: FVU .0035 to .0039 after 30 passes, .0027 to .0029 after 40.
    pub epochs: usize,
    /// Rows a step. Fewer: better per epoch and slower; 4,096 at this learning rate is under-trained.
    pub batch: usize,
    /// Adam's step. Weights are unit rows, and the vectors are scaled to unit variance a dimension. The more
    /// latents share a row, the less each may move: larger leaves less unexplained and more latents dead. Tried on
    /// SASRec's train rows alone (a user's last two held out; `make train-quality ARGS=--choose`), worst of three
    /// seeds: FVU .0253 and 6.4 % dead for k 8 of 1,024 at 2e-3, .0037 and 8.8 % for k 32 of 2,048 at 7e-4.
    pub learning_rate: f32,
    /// Share of the steps in which the learning rate rises from zero.
    pub warm_up: f32,
    /// Share of the steps, at the end, in which it falls to zero.
    pub decay: f32,
    /// Weight of the auxiliary loss; RecSAE and the TopK paper: 1/32.
    pub aux_weight: f32,
    /// Dead latents that try to explain a row's residual; RecSAE: d_in / 2.
    pub k_aux: usize,
    /// Adam's memory of squared gradients. A latent of one row in a thousand has forgotten its gradients
    /// between two rows at .999 (and momentum goes on pushing after the row): the next row throws it so far
    /// that it never fires again. Measured on SASRec, k 8 of 1,024, latents dead on held-out rows, without
    /// momentum: 12 % at .99, 7 % at .95 and .9; with Adam's usual .9 and .999: 21 %.
    pub beta2: f32,
    /// One row in this many gets the auxiliary loss, with its weight multiplied by as much. At 4 a step is
    /// 4 % cheaper and leaves more latents dead (k 32 of 2,048: 15 % for 10 %).
    pub aux_every: usize,
    /// A latent is dead that has not fired for this many rows.
    pub dead_after: u64,
}

impl Recipe {
    /// The default recipe for vectors of `d_in` values.
    #[must_use]
    pub fn new(d_in: usize, d_sae: usize, k: usize, seed: u64) -> Self {
        Self {
            k,
            d_sae,
            seed,
            epochs: 40,
            batch: 256,
            learning_rate: 2e-3 * (8.0 / k.max(1) as f32).powf(0.75),
            warm_up: 0.02,
            decay: 0.3,
            aux_weight: 1.0 / 32.0,
            k_aux: (d_in / 2).max(1),
            beta2: 0.9,
            aux_every: 1,
            dead_after: 10_000,
        }
    }

    /// Learning rate at a step of so many: a trapezium.
    #[must_use]
    pub fn learning_rate_at(&self, step: u64, n_steps: u64) -> f32 {
        let n = n_steps.max(1) as f32;
        let (done, left) = ((step + 1) as f32, (n_steps.saturating_sub(step)) as f32);
        let rising = if self.warm_up > 0.0 { done / (self.warm_up * n) } else { 1.0 };
        let falling = if self.decay > 0.0 { left / (self.decay * n) } else { 1.0 };
        self.learning_rate * rising.min(falling).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_holds_and_falls_to_almost_nothing() {
        let recipe = Recipe { learning_rate: 0.01, warm_up: 0.1, decay: 0.3, ..Recipe::new(64, 1024, 8, 1) };
        // Of 100 steps the first ten rise by a tenth each, the last thirty fall by a thirtieth each.
        for (step, share) in [(0, 0.1), (4, 0.5), (9, 1.0), (50, 1.0), (70, 1.0), (71, 29.0 / 30.0), (85, 0.5), (99, 1.0 / 30.0)] {
            let rate = recipe.learning_rate_at(step, 100);
            assert!((rate - 0.01 * share).abs() < 1e-8, "step {step}: {rate}");
        }
        let plain = Recipe { warm_up: 0.0, decay: 0.0, ..recipe };
        assert!((0..100).all(|step| plain.learning_rate_at(step, 100) == 0.01));
    }
}
