//! The engine of our own: the same active sets and values as ONNX Runtime, below the dense product's cost.
//!
//! It runs where the bundle's graph is an affine map with or without a ReLU ([`crate::bundle::onnx`]
//! says so, by meaning). Each value is computed with the dot product of `dot`, whatever the CPU; the
//! `screen` says which values need not be computed, with a proof, and `encode` gives the same bits
//! as evaluating every latent. Tests hold it to that on rows made to break the bound.

use std::sync::Arc;

use crate::encode::{EncodeError, Encoder};
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;

mod agreement;
mod cpu;
mod dot;
#[cfg(target_arch = "x86_64")]
mod dot_avx2;
#[cfg(target_arch = "x86_64")]
mod dot_avx512;
mod largest;
mod live;
mod model;
mod passes;
mod product;
#[cfg(target_arch = "x86_64")]
mod quads_avx2;
#[cfg(target_arch = "x86_64")]
mod quads_vnni_avx2;
mod screen;
#[cfg(target_arch = "x86_64")]
mod screen_avx2;
#[cfg(target_arch = "x86_64")]
mod screen_avx512;
mod screen_form;
mod screen_kernel;
mod screen_latent;
#[cfg(target_arch = "x86_64")]
mod screen_latent_avx512;
mod screen_passes;
mod screen_row;
#[cfg(target_arch = "x86_64")]
mod screen_row_avx512;
mod screen_select;
mod screen_steps;
mod screen_worth;
#[cfg(target_arch = "x86_64")]
mod select_avx512;
mod stress;

use passes::Passes;
use screen::{Form, Screen};
use screen_select::{Chooser, Statistics};
use screen_worth::Worth;

pub use agreement::{Agreement, compare};
#[cfg(target_arch = "x86_64")]
pub use cpu::Avx512;
pub use cpu::Kernel;
pub use largest::Largest;
pub use live::{LiveEncoder, LiveModel, LivePart};
pub use model::NativeModel;
pub use screen_select::Statistics as EncodeStatistics;
pub use stress::rows as stress_rows;

/// Name of this engine.
pub(super) const ENGINE: &str = "native";

/// Encodes with our own kernels.
#[derive(Debug)]
pub struct NativeEncoder {
    model: Arc<NativeModel>,
    screen: Option<Screen>,
    worth: Worth,
    passes: Passes,
}

impl NativeEncoder {
    /// An encoder with the given instructions, with a screen where the shape allows one and while it pays.
    #[must_use]
    pub fn new(model: Arc<NativeModel>, kernel: Kernel) -> Self {
        Self::screened(model, kernel, Form::of(kernel))
    }

    fn screened(model: Arc<NativeModel>, kernel: Kernel, form: Form) -> Self {
        let screen = Chooser::can_choose(&model).then(|| Screen::new(&model, form)).flatten();
        Self { screen, ..Self::in_full(model, kernel) }
    }

    /// An encoder that evaluates every latent: the yardstick of the screen, bit for bit.
    #[must_use]
    pub fn in_full(model: Arc<NativeModel>, kernel: Kernel) -> Self {
        let passes = Passes::new(kernel, model.spec().selection);
        Self { model, screen: None, worth: Worth::default(), passes }
    }

    /// Whether values are screened, or all computed: as there is no screen for the shape, or it does not pay.
    #[must_use]
    pub fn is_screened(&self) -> bool {
        self.screen.is_some() && self.worth.pays()
    }

    /// Judges the screen by the rows from here on: those made to break its bound say nothing of them.
    pub fn judge_anew(&mut self) {
        self.worth = Worth::starting_at(self.passes.statistics());
    }

    /// What became of all rows that were screened.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.passes.statistics()
    }
}

impl Encoder for NativeEncoder {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn d_in(&self) -> usize {
        self.model.spec().d_in.get()
    }

    fn d_sae(&self) -> usize {
        self.model.spec().d_sae.get()
    }

    fn encode(&mut self, batch: &EmbeddingBatch, activations: &mut SparseActivations) -> Result<(), EncodeError> {
        activations.clear();
        if batch.d_in() != self.d_in() {
            let message = format!("expected rows of {}, found {}", self.d_in(), batch.d_in());
            return Err(EncodeError { engine: ENGINE, message });
        }
        let screen = self.screen.as_ref().filter(|_| self.worth.pays());
        self.passes.encode(&self.model, screen, batch.values(), activations);
        self.worth.look(batch.n_rows() as u64, self.passes.statistics(), &self.model);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
