//! How rows are encoded: every latent of a row, or the few that the screen leaves. Memory is kept between batches.

use crate::encode::native::cpu::Kernel;
use crate::encode::native::model::NativeModel;
use crate::encode::native::product;
use crate::encode::native::screen::Screen;
use crate::encode::native::screen_kernel;
use crate::encode::native::screen_row::Tile;
use crate::encode::native::screen_select::{Chooser, Statistics};
use crate::sae::activation::SparseActivations;
use crate::sae::aligned::Aligned;
use crate::sae::topk::Selector;
use crate::sae::weights::Selection;

/// Rows whose dense values are in memory at once: 48 x 1,024 values fit the second cache.
const BLOCK: usize = 48;

/// Instructions and memory of an encoder, without its weights.
#[derive(Debug)]
pub(super) struct Passes {
    kernel: Kernel,
    selector: Selector,
    chooser: Chooser,
    tile: Tile,
    rows: Vec<f32>,
    mid: Aligned<i16>,
    dense: Vec<f32>,
}

impl Passes {
    /// Memory for models with this selection.
    pub(super) fn new(kernel: Kernel, selection: Selection) -> Self {
        Self {
            kernel,
            selector: Selector::new(selection),
            chooser: Chooser::default(),
            tile: Tile::default(),
            rows: Vec::new(),
            mid: Aligned::default(),
            dense: Vec::new(),
        }
    }

    /// The same for models that are screened by estimates alone.
    pub(super) fn by_estimates(kernel: Kernel, selection: Selection) -> Self {
        Self { chooser: Chooser::by_estimates(), ..Self::new(kernel, selection) }
    }

    /// What became of all rows that were screened.
    pub(super) fn statistics(&self) -> Statistics {
        self.chooser.statistics
    }

    /// Appends the sparse rows of `xs [n, d_in]`. A screen changes the time alone.
    pub(super) fn encode(&mut self, model: &NativeModel, screen: Option<&Screen>, xs: &[f32], activations: &mut SparseActivations) {
        match screen {
            Some(screen) => self.screened(model, screen, xs, activations),
            None => self.in_full(model, xs, activations),
        }
    }

    fn in_full(&mut self, model: &NativeModel, xs: &[f32], activations: &mut SparseActivations) {
        let d_in = model.spec().d_in.get();
        for block in xs.chunks(BLOCK * d_in) {
            self.rows.resize(block.len() / d_in * model.padded_in(), 0.0);
            model.centre(block, &mut self.rows);
            self.dense.resize(self.rows.len() / model.padded_in() * model.padded_sae(), 0.0);
            product::dense(self.kernel, model, &self.rows, &mut self.dense);
            for row in self.dense.chunks_exact_mut(model.padded_sae()) {
                model.gate(0..row.len(), row);
                self.selector.select(row, activations);
            }
        }
    }

    fn screened(&mut self, model: &NativeModel, screen: &Screen, xs: &[f32], activations: &mut SparseActivations) {
        let Self { kernel, selector, chooser, tile, rows, mid, dense } = self;
        let (d_in, d_sae, parts) = (model.padded_in(), model.padded_sae(), (*kernel, model, screen));
        let (width, tile_rows) = (model.spec().d_in.get(), screen.form.rows());
        mid.reserve_exactly(tile_rows * d_sae);
        for block in xs.chunks(tile_rows * width) {
            let n_rows = block.len() / width;
            rows.resize(n_rows * d_in, 0.0);
            screen_kernel::round(parts, block, rows, tile);
            screen_kernel::estimates(*kernel, screen, tile, mid);
            chooser.look(parts, &tile.rows[..n_rows], &mid[..n_rows * d_sae], rows);
            for (at, y) in rows.chunks_exact(d_in).enumerate() {
                if !chooser.append(parts, at, activations) {
                    dense.resize(d_sae, 0.0);
                    product::dense(*kernel, model, y, dense);
                    model.gate(0..d_sae, dense);
                    selector.select(dense, activations);
                }
            }
        }
    }
}
