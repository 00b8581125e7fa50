//! The engine of our own: the same active sets and values as ONNX Runtime, below the dense product's cost.
//!
//! It runs where the bundle's graph is an affine map with or without a ReLU ([`crate::bundle::onnx`]
//! says so, by meaning). Each value is computed with the dot product of `dot`, whatever the CPU; the
//! `screen` says which values need not be computed, with a proof, and `encode` gives the same bits
//! as evaluating every latent. Tests hold it to that on rows made to break the bound.

use std::sync::Arc;

use crate::encode::{EncodeError, Encoder};
use crate::sae::activation::SparseActivations;
use crate::sae::aligned::Aligned;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::topk::Selector;

mod agreement;
mod cpu;
mod dot;
#[cfg(target_arch = "x86_64")]
mod dot_avx2;
#[cfg(target_arch = "x86_64")]
mod dot_avx512;
mod model;
mod product;
mod screen;
#[cfg(target_arch = "x86_64")]
mod screen_avx2;
#[cfg(target_arch = "x86_64")]
mod screen_avx512;
mod screen_kernel;
mod screen_row;
mod screen_select;
mod screen_steps;
#[cfg(target_arch = "x86_64")]
mod select_avx512;
mod stress;

use screen::{Form, Screen};
use screen_row::Tile;
use screen_select::{Chooser, Statistics};

pub use agreement::{Agreement, compare};
pub use cpu::Kernel;
pub use model::NativeModel;
pub use screen_select::Statistics as EncodeStatistics;
pub use stress::rows as stress_rows;

/// Name of this engine.
pub(super) const ENGINE: &str = "native";
/// Rows whose dense values are in memory at once: 48 x 1,024 values fit the second cache.
const BLOCK: usize = 48;

/// Encodes with our own kernels.
#[derive(Debug)]
pub struct NativeEncoder {
    model: Arc<NativeModel>,
    screen: Option<Screen>,
    kernel: Kernel,
    selector: Selector,
    chooser: Chooser,
    tile: Tile,
    rows: Vec<f32>,
    mid: Aligned<i16>,
    dense: Vec<f32>,
}

impl NativeEncoder {
    /// An encoder with the given instructions, with a screen where the shape allows one.
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
        let selection = model.spec().selection;
        Self {
            model,
            screen: None,
            kernel,
            selector: Selector::new(selection),
            chooser: Chooser::default(),
            tile: Tile::default(),
            rows: Vec::new(),
            mid: Aligned::default(),
            dense: Vec::new(),
        }
    }

    /// What became of all rows so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.chooser.statistics
    }

    fn encode_in_full(&mut self, batch: &EmbeddingBatch, activations: &mut SparseActivations) {
        for block in batch.values().chunks(BLOCK * batch.d_in()) {
            self.rows.resize(block.len() / batch.d_in() * self.model.padded_in(), 0.0);
            self.model.centre(block, &mut self.rows);
            self.dense.resize(self.rows.len() / self.model.padded_in() * self.model.padded_sae(), 0.0);
            product::dense(self.kernel, &self.model, &self.rows, &mut self.dense);
            for row in self.dense.chunks_exact_mut(self.model.padded_sae()) {
                self.model.gate(0..row.len(), row);
                self.selector.select(row, activations);
            }
        }
    }

    fn encode_screened(&mut self, screen: &Screen, batch: &EmbeddingBatch, activations: &mut SparseActivations) {
        let Self { model, kernel, selector, chooser, tile, rows, mid, dense, .. } = self;
        let (d_in, d_sae, parts) = (model.padded_in(), model.padded_sae(), (*kernel, &**model, screen));
        let tile_rows = screen.form.rows();
        mid.reserve_exactly(tile_rows * d_sae);
        for block in batch.values().chunks(tile_rows * batch.d_in()) {
            let n_rows = block.len() / batch.d_in();
            rows.resize(n_rows * d_in, 0.0);
            screen_kernel::round(parts, block, rows, tile);
            screen_kernel::estimates(*kernel, screen, tile, mid);
            chooser.look(parts, &tile.rows[..n_rows], &mid[..n_rows * d_sae], rows);
            for (at, y) in rows.chunks_exact(d_in).enumerate() {
                if !chooser.append(parts, (at, y), activations) {
                    dense.resize(d_sae, 0.0);
                    product::dense(*kernel, model, y, dense);
                    model.gate(0..d_sae, dense);
                    selector.select(dense, activations);
                }
            }
        }
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
        match self.screen.take() {
            Some(screen) => {
                self.encode_screened(&screen, batch, activations);
                self.screen = Some(screen);
            }
            None => self.encode_in_full(batch, activations),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
