//! A model whose weights move between batches, as in training: its rows are selected by the screen's estimates alone.
//!
//! What moved is rounded again for the screen, latent by latent and by whoever moved it; [`LiveModel::settle`] then
//! takes the largest of all. Rows are centred by the caller, who needs them centred anyway.
//!
//! **No proof is asked for.** Of a row the latents are computed whose estimate is among the k largest, and a few more, and the k
//! largest of these values are selected. A latent that is missed lies within a rounding of 8 bits of the k-th: training moves the
//! weights further than that in a step, and what the screen's bound costs, most of its time, buys nothing. The estimates are whole
//! numbers and the values the engine's, so that every kernel selects the same.

use crate::encode::native::cpu::Kernel;
use crate::encode::native::model::NativeModel;
use crate::encode::native::passes::Passes;
use crate::encode::native::screen::{Form, PANEL, Screen};
use crate::encode::native::screen_latent::{LatentFacts, Places};
#[cfg(target_arch = "x86_64")]
use crate::encode::native::screen_latent_avx512;
use crate::encode::native::screen_select::Chooser;
use crate::sae::activation::SparseActivations;
use crate::sae::weights::SaeSpec;
use crate::sae::wide::{Wide, Work};

/// Encoder weights that move.
#[derive(Debug)]
pub struct LiveModel {
    kernel: Kernel,
    model: NativeModel,
    screen: Option<Screen>,
    facts: Vec<LatentFacts>,
    /// Whether the screen's bound holds for the weights as they are.
    is_sane: bool,
}

impl LiveModel {
    /// A model of this shape; all its weights are zero. Every latent is then set and rounded, and the model settled.
    #[must_use]
    pub fn new(spec: SaeSpec, kernel: Kernel) -> Self {
        let model = NativeModel::zeros(spec);
        let screen = Chooser::can_choose(&model).then(|| Screen::empty(&model, Form::Quads));
        Self { kernel, facts: vec![LatentFacts::default(); model.padded_sae()], model, screen, is_sane: false }
    }

    /// Latents in parts of `n` panels of 32, for as many threads.
    pub fn parts(&mut self, n: usize) -> impl Iterator<Item = LivePart<'_>> {
        let (kernel, d_in, padded_in, n) = (self.kernel, self.model.spec().d_in.get(), self.model.padded_in(), n * PANEL);
        let (weights, biases) = self.model.weights_mut();
        let parts = weights.chunks_mut(n * padded_in).zip(biases.chunks_mut(n)).zip(self.facts.chunks_mut(n));
        let mut places = self.screen.as_mut().map(Screen::places);
        parts.map(move |((weights, biases), facts)| LivePart {
            kernel,
            d_in,
            padded_in,
            places: places.as_mut().map(|places| places.split_off(facts.len())),
            weights,
            biases,
            facts,
        })
    }

    /// A latent's weights and bias.
    #[must_use]
    pub fn latent(&self, latent: usize) -> (&[f32], f32) {
        (&self.model.row(latent)[..self.model.spec().d_in.get()], self.model.bias()[latent])
    }

    /// Takes in what was set since the last time.
    pub fn settle(&mut self) {
        let biases = self.model.bias();
        self.is_sane = self.screen.as_mut().is_some_and(|screen| Wide::detect().run(Settling { screen, facts: &self.facts, biases }));
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
    kernel: Kernel,
    d_in: usize,
    padded_in: usize,
    weights: &'a mut [f32],
    biases: &'a mut [f32],
    facts: &'a mut [LatentFacts],
    places: Option<Places<'a>>,
}

impl LivePart<'_> {
    /// A latent's weights and bias, to be set; it is counted from the part's first.
    #[inline(always)]
    pub fn latent(&mut self, latent: usize) -> (&mut [f32], &mut f32) {
        (&mut self.weights[latent * self.padded_in..][..self.d_in], &mut self.biases[latent])
    }

    /// Rounds a latent that was set.
    #[inline(always)]
    pub fn round(&mut self, latent: usize) {
        let row = &self.weights[latent * self.padded_in..][..self.padded_in];
        if let Some(places) = &mut self.places {
            self.facts[latent] = match self.kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512(proof) => screen_latent_avx512::set(proof, places, latent, row),
                _ => places.set(latent, row),
            };
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
        Self(Passes::by_estimates(kernel, spec.selection))
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
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::encode::Encoder;
    use crate::encode::native::tests::weights;
    use crate::encode::native::{NativeEncoder, product, stress_rows};
    use crate::sae::weights::{SaeWeights, Selection};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn a_model_that_moved_selects_its_largest_within_a_rounding_and_alike_on_every_kernel(
            d_in in 1usize..150, d_sae in 1usize..900, k in 1usize..100, seed in any::<u64>(),
        ) {
            let selection = Selection::TopK(NonZeroUsize::new(k).unwrap());
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
            let (mut exact, mut dense) = (SparseActivations::default(), vec![0.0; native.padded_sae()]);
            NativeEncoder::in_full(Arc::clone(&native), Kernel::Portable).encode(&rows, &mut exact).unwrap();
            let mut answers = Kernel::all().into_iter().map(|kernel| {
                let mut live = LiveModel::new(spec, kernel);
                for (from, latents) in [(&first, (0..d_sae).collect()), (&second, moved.clone())] {
                    for (at, mut part) in live.parts(2).enumerate() {
                        for latent in latents.iter().filter(|latent| **latent / 64 == at) {
                            let (weights, bias) = part.latent(latent % 64);
                            weights.copy_from_slice(from.w_enc().row(*latent).as_slice().unwrap());
                            *bias = from.b_enc()[*latent];
                            part.round(latent % 64);
                        }
                    }
                    live.settle();
                }
                let mut found = SparseActivations::default();
                LiveEncoder::new(spec, kernel).encode(&live, rows.values(), &mut found);
                (kernel, found)
            });
            let (_, portable) = answers.next().unwrap();
            for (kernel, found) in answers {
                prop_assert_eq!(&found, &portable, "{}", kernel.name());
            }
            let (norm, bias) = (native.norms().iter().fold(0.0f64, |a, b| a.max(*b)), b.iter().fold(0.0f32, |a, b| a.max(b.abs())));
            for (at, x) in rows.values().chunks_exact(d_in).enumerate() {
                let mut y = vec![0.0; native.padded_in()];
                y[..d_in].copy_from_slice(x);
                product::dense(Kernel::Portable, &native, &y, &mut dense);
                let ((latents, values), (_, largest)) = (portable.row(at), exact.row(at));
                // As many, with the engine's own values; and of these in their order each is as large as the exact one but
                // for two roundings of the row's and the latents' numbers.
                prop_assert!(latents.iter().zip(values).all(|(latent, value)| dense[latent.index()].to_bits() == value.to_bits()));
                let sorted = |values: &[f32]| { let mut values = values.to_vec(); values.sort_by(f32::total_cmp); values.reverse(); values };
                let length = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let rounding = (norm * length * 4.0 * (d_in as f64).sqrt() + f64::from(bias)) / 127.0;
                let (found, expected) = (sorted(values), sorted(largest));
                for (place, value) in expected.iter().enumerate() {
                    let reached = f64::from(found.get(place).copied().unwrap_or(0.0));
                    prop_assert!(f64::from(*value) - reached <= rounding, "place {place}: {reached} for {value}, rounding {rounding}");
                }
            }
        }
    }
}
