//! A model whose weights move between batches, as in training: encoded with the screen and with the same bits.
//!
//! What moved is rounded again for the screen, latent by latent and by whoever moved it; [`LiveModel::settle`] then
//! takes the largest of all. Rows are centred by the caller, who needs them centred anyway.

use crate::encode::native::cpu::Kernel;
use crate::encode::native::model::NativeModel;
use crate::encode::native::passes::Passes;
use crate::encode::native::screen::{Form, PANEL, Screen};
use crate::encode::native::screen_latent::{LatentFacts, Places};
use crate::encode::native::screen_select::Chooser;
use crate::sae::activation::SparseActivations;
use crate::sae::weights::SaeSpec;
use crate::sae::wide::{Wide, Work};

/// Encoder weights that move.
#[derive(Debug)]
pub struct LiveModel {
    model: NativeModel,
    screen: Option<Screen>,
    facts: Vec<LatentFacts>,
    /// Whether the screen's bound holds for the weights as they are.
    is_sane: bool,
}

impl LiveModel {
    /// A model of this shape; all its weights are zero. Every latent is then set, and the model settled.
    #[must_use]
    pub fn new(spec: SaeSpec, kernel: Kernel) -> Self {
        let model = NativeModel::zeros(spec);
        let screen = Chooser::can_choose(&model).then(|| Screen::empty(&model, Form::of(kernel)));
        Self { facts: vec![LatentFacts::default(); model.padded_sae()], model, screen, is_sane: false }
    }

    /// Latents in parts of `n` panels of 32, for as many threads.
    pub fn parts(&mut self, n: usize) -> impl Iterator<Item = LivePart<'_>> {
        let (d_in, n) = (self.model.padded_in(), n * PANEL);
        let (weights, biases) = self.model.weights_mut();
        let parts = weights.chunks_mut(n * d_in).zip(biases.chunks_mut(n)).zip(self.facts.chunks_mut(n));
        let mut places = self.screen.as_mut().map(Screen::places);
        parts.map(move |((weights, biases), facts)| LivePart {
            d_in,
            places: places.as_mut().map(|places| places.split_off(facts.len())),
            weights,
            biases,
            facts,
        })
    }

    /// Takes in what was set since the last time.
    pub fn settle(&mut self) {
        let biases = self.model.bias();
        self.is_sane = self.screen.as_mut().is_some_and(|screen| Wide::detect().run(Settling { screen, facts: &self.facts, biases }));
    }

    /// The weights as they are.
    pub(super) fn model(&self) -> &NativeModel {
        &self.model
    }
}

struct Settling<'a> {
    screen: &'a mut Screen,
    facts: &'a [LatentFacts],
    biases: &'a [f32],
}

impl Work for Settling<'_> {
    type Done = bool;

    #[inline(always)]
    fn run(self) -> bool {
        self.screen.settle(self.facts, self.biases, 0.0)
    }
}

/// Some panels of latents.
#[derive(Debug)]
pub struct LivePart<'a> {
    d_in: usize,
    weights: &'a mut [f32],
    biases: &'a mut [f32],
    facts: &'a mut [LatentFacts],
    places: Option<Places<'a>>,
}

impl LivePart<'_> {
    /// Sets a latent, counted from the part's first.
    #[inline(always)]
    pub fn set(&mut self, latent: usize, weights: &[f32], bias: f32) {
        let row = &mut self.weights[latent * self.d_in..][..self.d_in];
        row[..weights.len()].copy_from_slice(weights);
        self.biases[latent] = bias;
        if let Some(places) = &mut self.places {
            self.facts[latent] = places.set(latent, row);
        }
    }
}

/// Encodes with a [`LiveModel`]; one a thread.
#[derive(Debug)]
pub struct LiveEncoder(Passes);

impl LiveEncoder {
    /// An encoder for models of this shape.
    #[must_use]
    pub fn new(spec: SaeSpec, kernel: Kernel) -> Self {
        Self(Passes::new(kernel, spec.selection))
    }

    /// Encodes centred rows `[n, d_in]`, replacing what `activations` held.
    pub fn encode(&mut self, model: &LiveModel, rows: &[f32], activations: &mut SparseActivations) {
        debug_assert_eq!(rows.len() % model.model.spec().d_in.get(), 0);
        activations.clear();
        self.0.encode(&model.model, model.screen.as_ref().filter(|_| model.is_sane), rows, activations);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::encode::Encoder;
    use crate::encode::native::tests::{selection, weights};
    use crate::encode::native::{NativeEncoder, stress_rows};
    use crate::sae::weights::SaeWeights;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn a_model_that_moved_encodes_as_one_made_of_its_weights(
            d_in in 1usize..150, d_sae in 1usize..900, selection in selection(), seed in any::<u64>(),
        ) {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            // Two sets of weights without thresholds; some latents stay at the first.
            let [first, second] = [seed, seed ^ 0x5555].map(|seed| weights(d_in, d_sae, selection, (seed >> 1) / 3 * 3 + 1));
            let (mut w, mut b) = (first.w_enc().clone(), first.b_enc().clone());
            let moved: Vec<usize> = (0..d_sae).filter(|_| rng.random_bool(0.6)).collect();
            for latent in &moved {
                w.row_mut(*latent).assign(&second.w_enc().row(*latent));
                b[*latent] = second.b_enc()[*latent];
            }
            let spec = SaeSpec { centring: false, ..*first.spec() };
            let made = SaeWeights::new(spec, w.clone(), b.clone(), None, second.b_dec().clone()).unwrap();
            let native = Arc::new(NativeModel::new(&made));
            let rows = stress_rows(&native, 40, seed);
            let mut expected = SparseActivations::default();
            NativeEncoder::in_full(native, Kernel::Portable).encode(&rows, &mut expected).unwrap();
            for kernel in Kernel::all() {
                let mut live = LiveModel::new(spec, kernel);
                for (from, latents) in [(&first, (0..d_sae).collect()), (&second, moved.clone())] {
                    for (at, mut part) in live.parts(2).enumerate() {
                        for latent in latents.iter().filter(|latent| **latent / 64 == at) {
                            part.set(latent % 64, from.w_enc().row(*latent).as_slice().unwrap(), from.b_enc()[*latent]);
                        }
                    }
                    live.settle();
                }
                let mut found = SparseActivations::default();
                LiveEncoder::new(spec, kernel).encode(&live, rows.values(), &mut found);
                prop_assert_eq!(&found, &expected, "{}", kernel.name());
            }
        }
    }
}
