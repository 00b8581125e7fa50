//! The first half of a step: each row of a batch is encoded, decoded and gives its gradients.
//!
//! The engine's encoder finds the `k` active latents of a row; all that follows touches these alone. With
//! `e = x - x_hat` and a loss of `||e||^2 / (B V)`, the gradient of the reconstruction is
//! `g = -2 e / (B V)`, of an active latent's value `g . W_dec[j]`.
//!
//! The auxiliary loss (AuxK) lets the `k_aux` dead latents of largest value explain `e`, which counts as
//! a constant: `||e_hat - e||^2 / (B V)` with `e_hat = sum a_j W_dec[j]`. There is no `b_dec` in it, and
//! `e` is what is missing, not its negative: both are known faults of published code.

use std::num::NonZeroUsize;

use crate::encode::native::{Kernel, LiveEncoder, LiveModel};
use crate::sae::activation::SparseActivations;
use crate::sae::latent::LatentId;
use crate::sae::topk::Selector;
use crate::sae::weights::{SaeSpec, Selection};
use crate::workshop::train::asleep::Asleep;
use crate::workshop::train::linear::{Share, add_latents, dot};
use crate::workshop::train::state::TrainingState;

/// Rows of a chunk. The unit of work of a thread: the same whatever their number, so that the bits are.
pub const CHUNK_ROWS: usize = 128;

/// What all chunks of a step have in common.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The run before the step.
    pub state: &'a TrainingState,
    /// Its encoder.
    pub live: &'a LiveModel,
    /// Its dead latents.
    pub asleep: &'a Asleep,
    /// `2 / (B V)`.
    pub scale: f32,
    /// The same times the weight of the auxiliary loss; 0 for none.
    pub aux_scale: f32,
    /// One row in this many gets it.
    pub aux_every: usize,
}

/// The rows of a chunk and where its results go.
#[derive(Debug)]
pub struct Rows<'a> {
    /// The vectors.
    pub rows: &'a [&'a [f32]],
    /// Their first in the batch.
    pub first: u32,
    /// `x - b_dec`, `[rows, d_in]`.
    pub centred: &'a mut [f32],
    /// Gradients `[rows, d_in]`, and from row [`CHUNK_ROWS`] on those of the auxiliary loss.
    pub gradients: &'a mut [f32],
}

/// What becomes of a chunk's rows, and memory.
#[derive(Debug)]
pub struct RowChunk {
    /// Active latents of all rows and what each adds to its latent's gradients.
    pub shares: Vec<(u32, Share)>,
    /// `sum ||e||^2`.
    pub squared_error: f64,
    /// Sum of the rows' own gradients, `[d_in]`.
    pub gradient_sum: Vec<f32>,
    encoder: LiveEncoder,
    active: SparseActivations,
    asleep: SparseActivations,
    asleep_values: Vec<f32>,
    asleep_latents: Vec<LatentId>,
    aux_selector: Selector,
}

impl RowChunk {
    /// A chunk for SAEs of this shape.
    #[must_use]
    pub fn new(spec: SaeSpec, k_aux: usize, kernel: Kernel) -> Self {
        Self {
            shares: Vec::new(),
            squared_error: 0.0,
            gradient_sum: vec![0.0; spec.d_in.get()],
            encoder: LiveEncoder::new(spec, kernel),
            active: SparseActivations::default(),
            asleep: SparseActivations::default(),
            asleep_values: Vec::new(),
            asleep_latents: Vec::new(),
            aux_selector: Selector::new(Selection::TopK(NonZeroUsize::new(k_aux).unwrap_or(NonZeroUsize::MIN))),
        }
    }

    /// Encodes and decodes the rows.
    #[inline(always)]
    pub fn run(&mut self, step: Step<'_>, rows: Rows<'_>) {
        let d = self.gradient_sum.len();
        self.squared_error = 0.0;
        self.shares.clear();
        self.gradient_sum.fill(0.0);
        for (centred, row) in rows.centred.chunks_exact_mut(d).zip(rows.rows) {
            for ((place, x), b) in centred.iter_mut().zip(*row).zip(&step.state.b_dec.weights) {
                *place = x - b;
            }
        }
        self.encoder.encode(step.live, rows.centred, &mut self.active);
        let with_aux = step.aux_scale > 0.0;
        if with_aux {
            step.asleep.values(rows.centred, &mut self.asleep_values);
        }
        let (own, aux) = rows.gradients.split_at_mut((CHUNK_ROWS * d).min(rows.gradients.len()));
        let (mut aux, mut n_aux) = (aux.chunks_exact_mut(d), 0u32);
        for (at, (centred, residual)) in rows.centred.chunks_exact(d).zip(own.chunks_exact_mut(d)).enumerate() {
            // -e = x_hat - x, with b_dec taken from both.
            for (e, x) in residual.iter_mut().zip(centred) {
                *e = -x;
            }
            let (latents, values) = self.active.row(at);
            add_latents(residual, (latents, values), &step.state.w_dec.weights);
            self.squared_error += f64::from(dot(residual, residual));
            let row = rows.first + small(at);
            if with_aux
                && at.is_multiple_of(step.aux_every)
                && let Some(aux) = aux.next()
            {
                aux.copy_from_slice(residual);
                // Every chunk before this one has twice `CHUNK_ROWS` rows of gradients.
                self.explain(step, at, (row, 2 * rows.first + small(CHUNK_ROWS) + n_aux), aux);
                n_aux += 1;
            }
            for (e, sum) in residual.iter_mut().zip(&mut self.gradient_sum) {
                *e *= step.scale;
                *sum += *e;
            }
            let (latents, values) = self.active.row(at);
            push(&mut self.shares, (latents, values), (row, 2 * rows.first + small(at)), residual, &step.state.w_dec.weights);
        }
    }

    /// The auxiliary loss of a row: the dead latents' part in its residual, `-e`, which becomes their gradient.
    #[inline(always)]
    fn explain(&mut self, step: Step<'_>, at: usize, places: (u32, u32), residual: &mut [f32]) {
        let width = step.asleep.width();
        self.asleep.clear();
        self.aux_selector.select(&self.asleep_values[at * width..(at + 1) * width], &mut self.asleep);
        let (among, values) = self.asleep.row(0);
        self.asleep_latents.clear();
        for place in among {
            self.asleep_latents.push(LatentId(step.asleep.latents()[place.index()]));
        }
        add_latents(residual, (&self.asleep_latents, values), &step.state.w_dec.weights);
        for e in residual.iter_mut() {
            *e *= step.aux_scale;
        }
        push(&mut self.shares, (&self.asleep_latents, values), places, residual, &step.state.w_dec.weights);
    }

    /// Latents that fired, one entry a row and latent; without those of the auxiliary loss.
    pub fn fired(&self) -> impl Iterator<Item = LatentId> + '_ {
        (0..self.active.n_rows()).flat_map(|row| self.active.row(row).0).copied()
    }
}

/// What a row with this gradient adds to each of its latents.
#[inline(always)]
fn push(
    shares: &mut Vec<(u32, Share)>,
    (latents, values): (&[LatentId], &[f32]),
    (row, gradient_row): (u32, u32),
    gradient: &[f32],
    w_dec: &[f32],
) {
    let d = gradient.len();
    for (latent, value) in latents.iter().zip(values) {
        let slope = dot(gradient, &w_dec[latent.index() * d..][..d]);
        shares.push((latent.0, Share { row, slope, gradient_row, value: *value }));
    }
}

/// A row of a chunk.
#[inline(always)]
fn small(row: usize) -> u32 {
    u32::try_from(row).unwrap_or(u32::MAX)
}
