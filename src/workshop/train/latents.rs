//! The second half of a step: each latent sums the gradients of the few rows that used it, and moves.
//!
//! A latent's sum runs over the rows in their order, and a latent belongs to one chunk of latents:
//! which thread does the chunk changes no bit.

use crate::workshop::train::adam::AdamStep;
use crate::workshop::train::linear::{add_scaled, weighted_sum};
use crate::workshop::train::state::{Parameter, TrainingState};

/// Latents of a chunk.
pub const CHUNK_LATENTS: usize = 64;

/// The terms of a step by latent, rows ascending inside.
#[derive(Debug, Default)]
pub struct ByLatent {
    ends: Vec<u32>,
    /// Row of the batch's centred rows, and its factor.
    centred: Vec<(usize, f32)>,
    /// Row of the batch's gradients, and its factor.
    gradients: Vec<(usize, f32)>,
}

impl ByLatent {
    /// Sorts terms `(latent, centred row, slope, gradient row, value)` by latent, keeping their order inside.
    pub fn sort(&mut self, d_sae: usize, terms: impl Iterator<Item = (u32, usize, f32, usize, f32)> + Clone) {
        self.ends.clear();
        self.ends.resize(d_sae + 1, 0);
        let mut n = 0;
        for (latent, ..) in terms.clone() {
            self.ends[latent as usize + 1] += 1;
            n += 1;
        }
        for latent in 0..d_sae {
            self.ends[latent + 1] += self.ends[latent];
        }
        self.centred.resize(n, (0, 0.0));
        self.gradients.resize(n, (0, 0.0));
        // `ends[j]` walks from the latent's start to its end.
        for (latent, row, slope, gradient_row, value) in terms {
            let at = self.ends[latent as usize] as usize;
            self.ends[latent as usize] += 1;
            self.centred[at] = (row, slope);
            self.gradients[at] = (gradient_row, value);
        }
    }

    /// Places of a latent's terms.
    fn range(&self, latent: usize) -> std::ops::Range<usize> {
        let start = if latent == 0 { 0 } else { self.ends[latent - 1] as usize };
        start..self.ends[latent] as usize
    }
}

/// The parameters of a chunk of latents.
#[derive(Debug)]
pub struct LatentChunk<'a> {
    first: usize,
    // Each tensor's weights, and its memory in Adam.
    w_enc: (&'a mut [f32], &'a mut [f32]),
    b_enc: (&'a mut [f32], &'a mut [f32]),
    w_dec: (&'a mut [f32], &'a mut [f32]),
    /// Step in which each latent last moved.
    moved_at: &'a mut [u64],
    /// What the chunk adds to the gradient of `b_dec` through the centring, `[d_in]`.
    centring: &'a mut [f32],
}

/// Cuts the state's latents into chunks; `centring` holds `[chunks, d_in]`.
pub fn chunks<'a>(state: &'a mut TrainingState, d_in: usize, centring: &'a mut [f32]) -> impl Iterator<Item = LatentChunk<'a>> {
    let rows = CHUNK_LATENTS * d_in;
    let parts = cut(&mut state.w_enc, rows).zip(cut(&mut state.b_enc, CHUNK_LATENTS)).zip(cut(&mut state.w_dec, rows));
    let parts = parts.zip(state.moved_at.chunks_mut(CHUNK_LATENTS)).zip(centring.chunks_mut(d_in));
    parts.enumerate().map(|(i, ((((w_enc, b_enc), w_dec), moved_at), centring))| LatentChunk {
        first: i * CHUNK_LATENTS,
        w_enc,
        b_enc,
        w_dec,
        moved_at,
        centring,
    })
}

impl LatentChunk<'_> {
    /// Sums the gradients of the latents that any row used, and takes step `step >= 1` of Adam with them.
    #[inline(always)]
    pub fn run(&mut self, (step, adam): (u64, AdamStep), terms: &ByLatent, centred: &[f32], gradients: &[f32], scratch: &mut Vec<f32>) {
        let d = self.centring.len();
        self.centring.fill(0.0);
        scratch.resize(d, 0.0);
        for at in 0..self.b_enc.0.len() {
            let range = terms.range(self.first + at);
            if range.is_empty() {
                continue;
            }
            let row = at * d..(at + 1) * d;
            let idle = step - std::mem::replace(&mut self.moved_at[at], step) - 1;
            adam.fade(idle, [&mut self.w_enc.1[row.clone()], &mut self.b_enc.1[at..=at], &mut self.w_dec.1[row.clone()]]);
            let slope: f32 = terms.centred[range.clone()].iter().map(|(_, slope)| slope).sum();
            add_scaled(self.centring, -slope, &self.w_enc.0[row.clone()]);
            weighted_sum(scratch, terms.centred[range.clone()].iter().copied(), centred);
            adam.update(&mut self.w_enc.0[row.clone()], scratch, &mut self.w_enc.1[row.clone()]);
            adam.update(&mut self.b_enc.0[at..=at], &[slope], &mut self.b_enc.1[at..=at]);
            weighted_sum(scratch, terms.gradients[range].iter().copied(), gradients);
            adam.update_unit(&mut self.w_dec.0[row.clone()], scratch, &mut self.w_dec.1[row]);
        }
    }
}

/// Chunks of weights, each with its memory in Adam.
fn cut(parameter: &mut Parameter, n: usize) -> impl Iterator<Item = (&mut [f32], &mut [f32])> {
    parameter.weights.chunks_mut(n).zip(parameter.second.chunks_mut(n))
}
