//! The first half of a step: each row of a batch is encoded, decoded and gives its gradients.
//!
//! One dense product for the encoder; all that follows touches the `k` active latents of a row. With
//! `e = x - x_hat` and a loss of `||e||^2 / (B V)`, the gradient of the reconstruction is
//! `g = -2 e / (B V)`, of an active latent's value `g . W_dec[j]`.
//!
//! The auxiliary loss (AuxK) lets the `k_aux` dead latents of largest value explain `e`, which counts as
//! a constant: `||e_hat - e||^2 / (B V)` with `e_hat = sum a_j W_dec[j]`. There is no `b_dec` in it, and
//! `e` is what is missing, not its negative: both are known faults of published code.

use ndarray::{ArrayView2, ArrayViewMut2, linalg::general_mat_mul};

use crate::sae::activation::SparseActivations;
use crate::sae::topk::Selector;
use crate::sae::weights::Selection;
use crate::workshop::train::linear::{add_scaled, dot};
use crate::workshop::train::recipe::Recipe;
use crate::workshop::train::state::TrainingState;

/// Rows of a chunk. The unit of work of a thread: the same whatever their number, so that the bits are. Fewer pack
/// the encoder's weights for the product more often; more push a chunk's values out of the second cache.
pub const CHUNK_ROWS: usize = 128;

/// One active latent of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// The latent.
    pub latent: u32,
    /// Row of the chunk.
    pub row: u32,
    /// Row of the chunk's gradients: behind the rows' own come those of the auxiliary loss.
    pub gradient_row: u32,
    /// The latent's value.
    pub value: f32,
    /// Gradient of the loss by it.
    pub slope: f32,
}

/// What all chunks of a step have in common.
#[derive(Clone, Copy, Debug)]
pub struct StepConstants<'a> {
    /// Dead latents, ascending.
    pub dead: &'a [u32],
    /// `2 / (B V)`.
    pub scale: f32,
    /// The same times the weight of the auxiliary loss; 0 for none.
    pub aux_scale: f32,
    /// One row in this many gets it.
    pub aux_every: usize,
}

/// A chunk's rows and what becomes of them.
#[derive(Debug)]
pub struct RowChunk {
    d_in: usize,
    d_sae: usize,
    /// `x - b_dec`, `[rows, d_in]`.
    pub centred: Vec<f32>,
    /// Gradients `[rows, d_in]`, then those of the auxiliary loss.
    pub gradients: Vec<f32>,
    /// Active latents of all rows.
    pub terms: Vec<Term>,
    /// `sum ||e||^2`.
    pub squared_error: f64,
    n_rows: usize,
    dense: Vec<f32>,
    dead_values: Vec<f32>,
    active: SparseActivations,
    selector: Selector,
    aux_selector: Selector,
}

impl RowChunk {
    /// A chunk for SAEs of this recipe.
    #[must_use]
    pub fn new(recipe: &Recipe, d_in: usize) -> Self {
        let select = |k: usize| Selector::new(Selection::TopK(std::num::NonZeroUsize::new(k).unwrap_or(std::num::NonZeroUsize::MIN)));
        Self {
            d_in,
            d_sae: recipe.d_sae,
            centred: Vec::new(),
            gradients: Vec::new(),
            terms: Vec::new(),
            squared_error: 0.0,
            n_rows: 0,
            dense: Vec::new(),
            dead_values: Vec::new(),
            active: SparseActivations::default(),
            selector: select(recipe.k),
            aux_selector: select(recipe.k_aux),
        }
    }

    /// Takes rows in.
    pub fn fill<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]>) {
        self.centred.clear();
        rows.for_each(|row| self.centred.extend_from_slice(row));
        self.n_rows = self.centred.len() / self.d_in;
    }

    /// Encodes and decodes the rows.
    #[inline(always)]
    pub fn run(&mut self, state: &TrainingState, step: StepConstants<'_>) {
        self.squared_error = 0.0;
        self.terms.clear();
        self.gradients.clear();
        self.gradients.resize(self.n_rows * self.d_in, 0.0);
        for row in self.centred.chunks_exact_mut(self.d_in) {
            row.iter_mut().zip(&state.b_dec.weights).for_each(|(x, b)| *x -= b);
        }
        self.encode(state);
        for row in 0..self.n_rows {
            self.reconstruct(row, &state.w_dec.weights, step.scale);
            if step.aux_scale > 0.0 && row.is_multiple_of(step.aux_every) {
                self.reconstruct_residual(row, &state.w_dec.weights, step);
            }
        }
    }

    /// `dense = centred W_enc^T + b_enc`, `[rows, d_sae]`, and the `k` largest of each row.
    fn encode(&mut self, state: &TrainingState) {
        self.dense.clear();
        for _ in 0..self.n_rows {
            self.dense.extend_from_slice(&state.b_enc.weights);
        }
        let shapes = (
            ArrayView2::from_shape((self.n_rows, self.d_in), &self.centred),
            ArrayView2::from_shape((self.d_sae, self.d_in), &state.w_enc.weights),
            ArrayViewMut2::from_shape((self.n_rows, self.d_sae), &mut self.dense),
        );
        // The buffers are made of whole rows above.
        if let (Ok(x), Ok(w), Ok(mut dense)) = shapes {
            general_mat_mul(1.0, &x, &w.t(), 1.0, &mut dense);
        }
        self.active.clear();
        for row in self.dense.chunks_exact(self.d_sae) {
            self.selector.select(row, &mut self.active);
        }
    }

    #[inline(always)]
    fn reconstruct(&mut self, row: usize, w_dec: &[f32], scale: f32) {
        let d = self.d_in;
        let (latents, values) = self.active.row(row);
        let residual = &mut self.gradients[row * d..(row + 1) * d];
        // -e = x_hat - x, with b_dec taken from both.
        residual.iter_mut().zip(&self.centred[row * d..(row + 1) * d]).for_each(|(e, x)| *e = -x);
        for (latent, value) in latents.iter().zip(values) {
            add_scaled(residual, *value, &w_dec[latent.index() * d..][..d]);
        }
        self.squared_error += f64::from(dot(residual, residual));
        residual.iter_mut().for_each(|e| *e *= scale);
        let at = small(row);
        for (latent, value) in latents.iter().zip(values) {
            let slope = dot(residual, &w_dec[latent.index() * d..][..d]);
            self.terms.push(Term { latent: latent.0, row: at, gradient_row: at, value: *value, slope });
        }
    }

    #[inline(always)]
    fn reconstruct_residual(&mut self, row: usize, w_dec: &[f32], step: StepConstants<'_>) {
        let d = self.d_in;
        let dense = &self.dense[row * self.d_sae..(row + 1) * self.d_sae];
        self.dead_values.clear();
        self.dead_values.extend(step.dead.iter().map(|latent| dense[*latent as usize]));
        let first = self.active.n_rows();
        self.aux_selector.select(&self.dead_values, &mut self.active);
        let (places, values) = self.active.row(first);
        let start = self.gradients.len();
        let at = start / d;
        // e_hat - e: the main gradient is -scale e.
        let per_scale = 1.0 / step.scale;
        self.gradients.extend_from_within(row * d..(row + 1) * d);
        let residual = &mut self.gradients[start..];
        residual.iter_mut().for_each(|g| *g *= per_scale);
        for (place, value) in places.iter().zip(values) {
            add_scaled(residual, *value, &w_dec[step.dead[place.index()] as usize * d..][..d]);
        }
        residual.iter_mut().for_each(|e| *e *= step.aux_scale);
        for (place, value) in places.iter().zip(values) {
            let latent = step.dead[place.index()];
            let slope = dot(residual, &w_dec[latent as usize * d..][..d]);
            self.terms.push(Term { latent, row: small(row), gradient_row: small(at), value: *value, slope });
        }
    }

    /// Latents that fired, one entry a row and latent; without those of the auxiliary loss.
    pub fn fired(&self) -> impl Iterator<Item = u32> + '_ {
        let n_rows = small(self.n_rows);
        self.terms.iter().filter(move |term| term.gradient_row < n_rows).map(|term| term.latent)
    }
}

/// A row of a chunk, of which there are at most twice [`CHUNK_ROWS`].
fn small(row: usize) -> u32 {
    u32::try_from(row).unwrap_or(u32::MAX)
}
