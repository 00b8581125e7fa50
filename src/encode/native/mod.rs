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
use crate::sae::topk::Selector;
use crate::sae::wide::Wide;

mod agreement;
mod cpu;
mod dot;
#[cfg(target_arch = "x86_64")]
mod dot_avx2;
mod model;
mod product;
mod screen;
#[cfg(target_arch = "x86_64")]
mod screen_avx2;
mod screen_kernel;
mod screen_row;
mod screen_select;
mod stress;

use screen::{ROWS, Screen};
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
    wide: Wide,
    selector: Selector,
    chooser: Chooser,
    tile: Tile,
    rows: Vec<f32>,
    mid: Vec<i16>,
    dense: Vec<f32>,
}

impl NativeEncoder {
    /// An encoder with the given instructions, with a screen where the shape allows one.
    #[must_use]
    pub fn new(model: Arc<NativeModel>, kernel: Kernel) -> Self {
        let screen = Chooser::can_choose(&model).then(|| Screen::new(&model)).flatten();
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
            wide: if kernel == Kernel::Portable { Wide::portable() } else { Wide::detect() },
            selector: Selector::new(selection),
            chooser: Chooser::default(),
            tile: Tile::default(),
            rows: Vec::new(),
            mid: Vec::new(),
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
            self.rows.clear();
            block.chunks_exact(batch.d_in()).for_each(|row| self.model.centre(row, &mut self.rows));
            self.dense.resize(self.rows.len() / self.model.padded_in() * self.model.padded_sae(), 0.0);
            product::dense(self.kernel, &self.model, &self.rows, &mut self.dense);
            for row in self.dense.chunks_exact(self.model.padded_sae()) {
                self.selector.select(row, activations);
            }
        }
    }

    fn encode_screened(&mut self, screen: &Screen, batch: &EmbeddingBatch, activations: &mut SparseActivations) {
        let Self { model, kernel, wide, selector, chooser, tile, rows, mid, dense, .. } = self;
        let d_sae = model.padded_sae();
        mid.resize(ROWS * d_sae, 0);
        for block in batch.values().chunks(ROWS * batch.d_in()) {
            rows.clear();
            wide.run(|| {
                block.chunks_exact(batch.d_in()).for_each(|row| model.centre(row, rows));
                rows.chunks_exact(model.padded_in()).enumerate().for_each(|(at, y)| tile.set(screen, at, y));
            });
            screen_kernel::estimates(*kernel, screen, tile, mid);
            for ((y, row), mid) in rows.chunks_exact(model.padded_in()).zip(&tile.rows).zip(mid.chunks_exact(d_sae)) {
                chooser.statistics.n_rows += 1;
                if !chooser.choose((*kernel, model, screen), row, mid, y, activations) {
                    chooser.statistics.n_in_full += 1;
                    dense.resize(d_sae, 0.0);
                    product::dense(*kernel, model, y, dense);
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
