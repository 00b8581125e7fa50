//! The second half of a step: each latent sums the gradients of the few rows that used it, and moves.
//!
//! A latent's sum runs over the rows in their order, and a latent belongs to one chunk of latents:
//! which thread does the chunk changes no bit.

use crate::encode::native::{LiveModel, LivePart};
use crate::workshop::train::adam::AdamStep;
#[cfg(target_arch = "x86_64")]
use crate::workshop::train::latent_avx512;
use crate::workshop::train::linear::{Dots, REGISTERS, Share, add_scaled, sum_shares};
use crate::workshop::train::state::{Parameter, TrainingState};

/// Latents of a chunk.
pub const CHUNK_LATENTS: usize = PANELS * 32;
/// The same in panels of the encoder.
const PANELS: usize = 2;

/// The shares of a step by latent, rows ascending inside.
#[derive(Debug, Default)]
pub struct ByLatent {
    ends: Vec<u32>,
    shares: Vec<Share>,
}

impl ByLatent {
    /// Sorts shares by latent, keeping their order inside.
    pub fn sort<'a>(&mut self, d_sae: usize, chunks: impl Iterator<Item = &'a [(u32, Share)]> + Clone) {
        self.ends.clear();
        self.ends.resize(d_sae + 1, 0);
        let mut n = 0;
        for chunk in chunks.clone() {
            n += chunk.len();
            for (latent, _) in chunk {
                self.ends[*latent as usize + 1] += 1;
            }
        }
        for latent in 0..d_sae {
            self.ends[latent + 1] += self.ends[latent];
        }
        self.shares.resize(n, Share::default());
        // `ends[j]` walks from the latent's start to its end.
        for (latent, share) in chunks.flatten() {
            let end = &mut self.ends[*latent as usize];
            self.shares[*end as usize] = *share;
            *end += 1;
        }
    }

    /// A latent's shares.
    fn of(&self, latent: usize) -> &[Share] {
        let start = if latent == 0 { 0 } else { self.ends[latent - 1] as usize };
        &self.shares[start..self.ends[latent] as usize]
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
    /// The same encoder weights where the encoder reads them.
    live: LivePart<'a>,
}

/// Cuts the state's latents into chunks; `centring` holds `[chunks, d_in]`.
pub fn chunks<'a>(
    state: &'a mut TrainingState,
    live: &'a mut LiveModel,
    d_in: usize,
    centring: &'a mut [f32],
) -> impl Iterator<Item = LatentChunk<'a>> {
    let rows = CHUNK_LATENTS * d_in;
    let parts = cut(&mut state.w_enc, rows).zip(cut(&mut state.b_enc, CHUNK_LATENTS)).zip(cut(&mut state.w_dec, rows));
    let parts = parts.zip(state.moved_at.chunks_mut(CHUNK_LATENTS)).zip(centring.chunks_mut(d_in)).zip(live.parts(PANELS));
    parts.enumerate().map(|(i, (((((w_enc, b_enc), w_dec), moved_at), centring), live))| LatentChunk {
        first: i * CHUNK_LATENTS,
        w_enc,
        b_enc,
        w_dec,
        moved_at,
        centring,
        live,
    })
}

impl LatentChunk<'_> {
    /// Hands all encoder weights to the encoder.
    #[inline(always)]
    pub fn show(&mut self) {
        let d = self.centring.len();
        for at in 0..self.b_enc.0.len() {
            self.live.set(at, &self.w_enc.0[at * d..(at + 1) * d], self.b_enc.0[at]);
        }
    }

    /// Sums the gradients of the latents that any row used, and takes step `step >= 1` of Adam with them.
    #[inline(always)]
    pub fn run(&mut self, dots: Dots, (step, adam): (u64, AdamStep), by_latent: &ByLatent, (centred, gradients): (&[f32], &[f32])) {
        let d = self.centring.len();
        self.centring.fill(0.0);
        let mut scratch = vec![0.0; 2 * d];
        for at in 0..self.b_enc.0.len() {
            let shares = by_latent.of(self.first + at);
            if shares.is_empty() {
                continue;
            }
            let row = at * d..(at + 1) * d;
            let mut latent = Moving {
                w_enc: &mut self.w_enc.0[row.clone()],
                v_enc: &mut self.w_enc.1[row.clone()],
                w_dec: &mut self.w_dec.0[row.clone()],
                v_dec: &mut self.w_dec.1[row],
            };
            let idle = step - std::mem::replace(&mut self.moved_at[at], step) - 1;
            adam.fade(idle, [latent.v_enc, &mut self.b_enc.1[at..=at], latent.v_dec]);
            let mut slope = 0.0;
            for share in shares {
                slope += share.slope;
            }
            latent.step(dots, adam, (shares, slope), (centred, gradients), self.centring, &mut scratch);
            adam.update(&mut self.b_enc.0[at..=at], &[slope], &mut self.b_enc.1[at..=at]);
            self.live.set(at, latent.w_enc, self.b_enc.0[at]);
        }
    }
}

/// The rows of a latent that moves: weights, and their memory in Adam.
#[derive(Debug)]
pub(super) struct Moving<'a> {
    pub(super) w_enc: &'a mut [f32],
    pub(super) v_enc: &'a mut [f32],
    pub(super) w_dec: &'a mut [f32],
    pub(super) v_dec: &'a mut [f32],
}

impl Moving<'_> {
    /// Moves by the gradients that its shares sum up to, and adds to `centring` what it takes from `b_dec`'s.
    #[inline(always)]
    fn step(
        &mut self,
        dots: Dots,
        adam: AdamStep,
        (shares, slope): (&[Share], f32),
        (centred, gradients): (&[f32], &[f32]),
        centring: &mut [f32],
        scratch: &mut [f32],
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Dots::Avx512(proof) = dots
            && latent_avx512::step::<REGISTERS>(proof, adam, self, (shares, slope), (centred, gradients), centring)
        {
            return;
        }
        let (by_row, by_gradient) = scratch.split_at_mut(centring.len());
        add_scaled(centring, -slope, self.w_enc);
        sum_shares((by_row, by_gradient), shares, centred, gradients);
        adam.update(self.w_enc, by_row, self.v_enc);
        adam.update_unit(dots, self.w_dec, by_gradient, self.v_dec);
    }
}

/// Chunks of weights, each with its memory in Adam.
fn cut(parameter: &mut Parameter, n: usize) -> impl Iterator<Item = (&mut [f32], &mut [f32])> {
    parameter.weights.chunks_mut(n).zip(parameter.second.chunks_mut(n))
}
