//! The second half of a step: each latent sums the gradients of the few rows that used it, and moves.
//!
//! A latent's sum runs over the rows in their order, and a latent belongs to one chunk of latents:
//! which thread does the chunk changes no bit.

use crate::encode::native::{LiveModel, LivePart};
use crate::workshop::train::adam::AdamStep;
use crate::workshop::train::dots::Dots;
#[cfg(target_arch = "x86_64")]
use crate::workshop::train::latent_avx512;
#[cfg(target_arch = "x86_64")]
use crate::workshop::train::linear::REGISTERS;
use crate::workshop::train::linear::Share;
use crate::workshop::train::moving::Moving;
use crate::workshop::train::state::TrainingState;

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
    /// The encoder's weights, where it reads them.
    live: LivePart<'a>,
    // Their memory in Adam.
    v_enc: &'a mut [f32],
    v_bias: &'a mut [f32],
    /// The decoder's rows, and their memory.
    w_dec: (&'a mut [f32], &'a mut [f32]),
    /// Step in which each latent last moved.
    moved_at: &'a mut [u64],
    /// What the chunk adds to the gradient of `b_dec` through the centring, `[d_in]`.
    centring: &'a mut [f32],
}

/// Cuts the state's latents into chunks; `centring` holds `[chunks, d_in]`.
pub fn chunks<'a>(
    state: &'a mut TrainingState,
    live: &'a mut LiveModel,
    d_in: usize,
    centring: &'a mut [f32],
) -> impl Iterator<Item = LatentChunk<'a>> {
    let rows = CHUNK_LATENTS * d_in;
    let encoder = live.parts(PANELS).zip(state.w_enc.second.chunks_mut(rows)).zip(state.b_enc.second.chunks_mut(CHUNK_LATENTS));
    let decoder = state.w_dec.weights.chunks_mut(rows).zip(state.w_dec.second.chunks_mut(rows));
    let parts = encoder.zip(decoder).zip(state.moved_at.chunks_mut(CHUNK_LATENTS)).zip(centring.chunks_mut(d_in));
    parts.enumerate().map(|(i, (((((live, v_enc), v_bias), w_dec), moved_at), centring))| LatentChunk {
        first: i * CHUNK_LATENTS,
        live,
        v_enc,
        v_bias,
        w_dec,
        moved_at,
        centring,
    })
}

/// Hands all encoder weights to the encoder.
pub fn show(state: &TrainingState, live: &mut LiveModel) {
    let d_in = state.b_dec.weights.len();
    let latents = state.w_enc.weights.chunks(CHUNK_LATENTS * d_in).zip(state.b_enc.weights.chunks(CHUNK_LATENTS));
    for (mut part, (weights, biases)) in live.parts(PANELS).zip(latents) {
        for (at, (from, from_bias)) in weights.chunks_exact(d_in).zip(biases).enumerate() {
            let (weights, bias) = part.latent(at);
            weights.copy_from_slice(from);
            *bias = *from_bias;
            part.round(at);
        }
    }
    live.settle();
}

/// Takes all encoder weights back.
pub fn take(state: &mut TrainingState, live: &LiveModel) {
    let d_in = state.b_dec.weights.len();
    for (at, (weights, bias)) in state.w_enc.weights.chunks_exact_mut(d_in).zip(&mut state.b_enc.weights).enumerate() {
        let (from, from_bias) = live.latent(at);
        weights.copy_from_slice(from);
        *bias = from_bias;
    }
}

impl LatentChunk<'_> {
    /// Sums the gradients of the latents that any row used, and takes step `step >= 1` of Adam with them.
    #[inline(always)]
    pub fn run(&mut self, dots: Dots, (step, adam): (u64, AdamStep), by_latent: &ByLatent, (centred, gradients): (&[f32], &[f32])) {
        let d = self.centring.len();
        self.centring.fill(0.0);
        let mut scratch = vec![0.0; 2 * d];
        for at in 0..self.v_bias.len() {
            let shares = by_latent.of(self.first + at);
            if shares.is_empty() {
                continue;
            }
            let row = at * d..(at + 1) * d;
            let (w_enc, bias) = self.live.latent(at);
            let mut latent =
                Moving { w_enc, v_enc: &mut self.v_enc[row.clone()], w_dec: &mut self.w_dec.0[row.clone()], v_dec: &mut self.w_dec.1[row] };
            let idle = step - std::mem::replace(&mut self.moved_at[at], step) - 1;
            adam.fade(idle, [latent.v_enc, &mut self.v_bias[at..=at], latent.v_dec]);
            let slope = take_step(&mut latent, dots, adam, shares, (centred, gradients), self.centring, &mut scratch);
            adam.update(std::slice::from_mut(bias), &[slope], &mut self.v_bias[at..=at]);
            self.live.round(at);
        }
    }
}

/// The step of one latent, in registers where its rows fit them.
#[inline(always)]
fn take_step(
    latent: &mut Moving<'_>,
    dots: Dots,
    adam: AdamStep,
    shares: &[Share],
    (centred, gradients): (&[f32], &[f32]),
    centring: &mut [f32],
    scratch: &mut [f32],
) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if let Dots::Avx512(proof) = dots
        && let Some(slope) = latent_avx512::step::<REGISTERS>(proof, adam, latent, shares, (centred, gradients), centring)
    {
        return slope;
    }
    latent.step(dots, adam, shares, (centred, gradients), centring, scratch)
}
