//! Some latents of a model, side by side, so that their values for many rows are a small dense product.

use crate::encode::native::cpu::Kernel;
use crate::encode::native::live::LiveModel;
use crate::encode::native::model::NativeModel;
use crate::encode::native::product;

/// Latents that were taken out of a model, with the bits their values have in it.
#[derive(Debug)]
pub struct SomeLatents {
    kernel: Kernel,
    model: NativeModel,
}

impl SomeLatents {
    /// None, of models with rows of `d_in` values.
    #[must_use]
    pub fn new(d_in: usize, kernel: Kernel) -> Self {
        Self { kernel, model: NativeModel::of_no_latent(d_in) }
    }

    /// Takes the weights of these latents, in place of those it had.
    pub fn take(&mut self, from: &LiveModel, latents: &[u32]) {
        self.model.take(from.model(), latents);
    }

    /// Values of a row: those of the latents, and zeros behind them.
    #[must_use]
    pub fn width(&self) -> usize {
        self.model.padded_sae()
    }

    /// Values for centred rows `[n, d_in]`: `[n, width]`, without ReLU.
    pub fn values(&self, rows: &[f32], into: &mut Vec<f32>) {
        let (d_in, padded) = (self.model.spec().d_in.get(), self.model.padded_in());
        into.resize(rows.len() / d_in * self.width(), 0.0);
        if self.width() == 0 {
            return;
        }
        if padded == d_in {
            return product::dense(self.kernel, &self.model, rows, into);
        }
        let mut wide = vec![0.0; rows.len() / d_in * padded];
        wide.chunks_exact_mut(padded).zip(rows.chunks_exact(d_in)).for_each(|(wide, row)| wide[..d_in].copy_from_slice(row));
        product::dense(self.kernel, &self.model, &wide, into);
    }
}
