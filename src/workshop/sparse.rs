//! An SAE's sparse activations offline: one dense product, then the exact selection.
//!
//! The product is a row of the batch at a time in effect: its result does not depend on which rows
//! share the batch, so that any split over threads or files gives the same bytes.

use ndarray::{Array2, ArrayView2};

use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::topk::Selector;
use crate::sae::weights::SaeWeights;

/// Encodes batches; keeps its memory.
#[derive(Debug)]
pub struct SparseEncoder {
    /// `W_enc^T`, `[d_in, d_sae]`.
    weights: Array2<f32>,
    bias: Vec<f32>,
    centre: Option<Vec<f32>>,
    selector: Selector,
}

impl SparseEncoder {
    /// An encoder of these weights.
    #[must_use]
    pub fn new(sae: &SaeWeights) -> Self {
        Self {
            weights: sae.w_enc().t().as_standard_layout().into_owned(),
            bias: sae.b_enc().to_vec(),
            centre: sae.spec().centring.then(|| sae.b_dec().to_vec()),
            selector: Selector::new(sae.spec().selection),
        }
    }

    /// Encodes `[n, d_in]` into `n` sparse rows, replacing what `activations` held.
    ///
    /// # Panics
    /// When the batch has another width than the SAE, as a matrix product does.
    pub fn encode(&mut self, batch: &EmbeddingBatch, activations: &mut SparseActivations) {
        activations.clear();
        let dense = self.dense(batch.view());
        for row in dense.rows() {
            if let Some(row) = row.as_slice() {
                self.selector.select(row, activations);
            }
        }
    }

    /// Values before the selection, without ReLU: `[n, d_sae]`.
    fn dense(&self, rows: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut dense = match &self.centre {
            None => rows.dot(&self.weights),
            Some(centre) => {
                let mut centred = rows.to_owned();
                for mut row in centred.rows_mut() {
                    row.iter_mut().zip(centre).for_each(|(value, centre)| *value -= centre);
                }
                centred.dot(&self.weights)
            }
        };
        for mut row in dense.rows_mut() {
            row.iter_mut().zip(&self.bias).for_each(|(value, bias)| *value += bias);
        }
        dense
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::Array1;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::sae::weights::{SaeSpec, Selection};

    #[test]
    fn the_fast_encoder_agrees_with_the_yardstick_and_with_itself_row_by_row() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let size = |n| NonZeroUsize::new(n).unwrap();
        for centring in [true, false] {
            let spec = SaeSpec { d_in: size(24), d_sae: size(300), selection: Selection::TopK(size(7)), centring };
            let mut matrix = |a, b| Array2::from_shape_simple_fn((a, b), || rng.random_range(-1.0f32..1.0));
            let (w, x, b) = (matrix(300, 24), matrix(70, 24), matrix(1, 24).row(0).to_owned());
            let sae = SaeWeights::new(spec, w.clone(), Array1::from_elem(300, 0.1), Some(w), b).unwrap();
            let mut encoder = SparseEncoder::new(&sae);
            let mut batch = EmbeddingBatch::new(spec.d_in);
            x.rows().into_iter().for_each(|row| batch.push(row.as_slice().unwrap()).unwrap());
            let (mut all, mut one) = (SparseActivations::default(), SparseActivations::default());
            encoder.encode(&batch, &mut all);
            for row in 0..x.nrows() {
                batch.clear();
                batch.push(x.row(row).as_slice().unwrap()).unwrap();
                encoder.encode(&batch, &mut one);
                assert_eq!(one.row(0), all.row(row), "the same bytes in any batch");
                let expected = sae.encode(batch.row(0));
                assert_eq!(expected.len(), 7);
                for ((latent, value), (by_hand, exact)) in all.row(row).0.iter().zip(all.row(row).1).zip(&expected) {
                    // Another latent only where two are equal within rounding.
                    assert!((f64::from(*value) - exact).abs() < 1e-4, "{latent} {by_hand}");
                }
            }
        }
    }
}
