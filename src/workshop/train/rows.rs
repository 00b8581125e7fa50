//! The first half of a step: each row of a batch is encoded, decoded and gives its gradients.
//!
//! The engine's encoder finds the `k` active latents of a row by its estimates; all that follows touches these alone. With
//! `e = x - x_hat` and a loss of `||e||^2 / (B V)`, the gradient of the reconstruction is
//! `g = -2 e / (B V)`, of an active latent's value `g . W_dec[j]`.
//!
//! The auxiliary loss (AuxK) lets the `k_aux` dead latents of largest value explain `e`, which counts as
//! a constant: `||e_hat - e||^2 / (B V)` with `e_hat = sum a_j W_dec[j]`. There is no `b_dec` in it, and
//! `e` is what is missing, not its negative: both are known faults of published code.

use crate::encode::native::{Kernel, Largest, LiveEncoder, LiveModel};
use crate::sae::activation::SparseActivations;
use crate::sae::latent::LatentId;
use crate::sae::weights::SaeSpec;
use crate::workshop::train::asleep::Asleep;
use crate::workshop::train::dots::Dots;
use crate::workshop::train::linear::Share;
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
    dots: Dots,
    slopes: Vec<f32>,
    encoder: LiveEncoder,
    active: SparseActivations,
    asleep_values: Vec<f32>,
    /// A row's `-x`, and its `-e`.
    start: Vec<f32>,
    missing: Vec<f32>,
    k_aux: usize,
    aux_selector: Largest,
}

impl RowChunk {
    /// A chunk for SAEs of this shape.
    #[must_use]
    pub fn new(spec: SaeSpec, k_aux: usize, kernel: Kernel) -> Self {
        Self {
            shares: Vec::new(),
            squared_error: 0.0,
            gradient_sum: vec![0.0; spec.d_in.get()],
            dots: Dots::of(kernel, spec.d_in.get()),
            slopes: Vec::new(),
            encoder: LiveEncoder::new(spec, kernel),
            active: SparseActivations::default(),
            asleep_values: Vec::new(),
            start: vec![0.0; spec.d_in.get()],
            missing: vec![0.0; spec.d_in.get()],
            k_aux,
            aux_selector: Largest::new(kernel),
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
            step.asleep.values(self.dots, rows.centred, d, &mut self.asleep_values);
        }
        let (own, aux) = rows.gradients.split_at_mut((CHUNK_ROWS * d).min(rows.gradients.len()));
        let mut aux = aux.chunks_exact_mut(d);
        for (at, (centred, gradient)) in rows.centred.chunks_exact(d).zip(own.chunks_exact_mut(d)).enumerate() {
            // -e = x_hat - x, with b_dec taken from both.
            for (start, x) in self.start.iter_mut().zip(centred) {
                *start = -x;
            }
            let aux = aux.next().filter(|_| with_aux && at.is_multiple_of(step.aux_every));
            let missing = aux.is_some().then_some(&mut self.missing[..]);
            let (latents, values) = self.active.row(at);
            let w_dec = &step.state.w_dec.weights;
            let square = self.dots.decode(&self.start, (latents, values), w_dec, missing, (gradient, step.scale));
            self.squared_error += f64::from(square);
            let row = rows.first + small(at);
            if let Some(aux) = aux {
                // Every chunk before this one has twice `CHUNK_ROWS` rows of gradients.
                self.explain(step, at, (row, 2 * rows.first + small(CHUNK_ROWS) + small(at)), aux);
            }
            for (g, sum) in gradient.iter().zip(&mut self.gradient_sum) {
                *sum += *g;
            }
            let (latents, values) = self.active.row(at);
            self.slopes.resize(latents.len(), 0.0);
            self.dots.some(gradient, latents, w_dec, &mut self.slopes);
            push(&mut self.shares, (latents, values, &self.slopes), (row, 2 * rows.first + small(at)));
        }
    }

    /// The auxiliary loss of a row: the dead latents' part in what is missing, `-e`, and its gradient.
    #[inline(always)]
    fn explain(&mut self, step: Step<'_>, at: usize, places: (u32, u32), gradient: &mut [f32]) {
        let w_dec = &step.state.w_dec.weights;
        let (latents, values) = step.asleep.largest(&mut self.aux_selector, &self.asleep_values, at, self.k_aux);
        self.dots.decode(&self.missing, (latents, values), w_dec, None, (gradient, step.aux_scale));
        self.slopes.resize(latents.len(), 0.0);
        self.dots.some(gradient, latents, w_dec, &mut self.slopes);
        push(&mut self.shares, (latents, values, &self.slopes), places);
    }

    /// Active latents of each row; without those of the auxiliary loss.
    #[must_use]
    pub fn active(&self) -> &SparseActivations {
        &self.active
    }
}

/// What a row adds to each of its latents, given their values and the slopes of the loss in these.
#[inline(always)]
fn push(shares: &mut Vec<(u32, Share)>, (latents, values, slopes): (&[LatentId], &[f32], &[f32]), (row, gradient_row): (u32, u32)) {
    let parts = latents.iter().zip(values).zip(slopes);
    shares.extend(parts.map(|((latent, value), slope)| (latent.0, Share { row, slope: *slope, gradient_row, value: *value })));
}

/// A row of a chunk.
#[inline(always)]
fn small(row: usize) -> u32 {
    u32::try_from(row).unwrap_or(u32::MAX)
}
