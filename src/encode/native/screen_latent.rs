//! One latent's weights rounded for the screen, and what the bound needs to know of them.
//!
//! In training every latent is rounded in every step, so that this is written for registers: `v = w / s` is at most
//! 127 whatever the weights are, its sums of squares fit f32, and `v - q` is exact. All is relative to the latent's
//! own step: `||w|| / s`, `||w - s q|| / s` and `||q||`.

use crate::encode::native::screen_form::{BLOCK_PAIRS, Form, OFFSET, PANEL};

/// Largest rounded weight.
const MOST: f32 = 127.0;
/// Largest norm of a latent's weights in a block. With 180 for the row, their product fits 15 bits, and
/// both are rounded about as finely.
const BLOCK_NORM: f32 = 170.0;
/// Smallest step: its inverse is a number. Weights below it are rounded to nothing, and their error is counted.
const LEAST_STEP: f32 = 1e-30;
/// Adding and subtracting it rounds an f32 of less than 2^22 to a whole number, ties to even.
pub(super) const ROUNDER: f32 = 12_582_912.0;
/// Values taken at once; rows are padded to a multiple of it.
pub(super) const LANES: usize = 16;

/// What rounding a latent's weights came to. All zero for a latent without weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LatentFacts {
    /// `s_j`
    pub(super) step: f32,
    /// `sum v^2`, `sum (v - q)^2`, `sum q^2`
    pub(super) squares: [f32; 3],
    /// Pairs: the largest `sum q^2` of a block.
    pub(super) block_square: f32,
}

/// Where latents of whole panels keep their rounded weights.
#[derive(Debug)]
pub(super) struct Places<'a> {
    pub(super) form: Form,
    pub(super) n_groups: usize,
    /// `[panels, n_groups, PANEL, 2 or 4]`
    pub(super) weights: &'a mut [i8],
    /// Pairs: `[panels, n_blocks, PANEL]`
    pub(super) starts: &'a mut [i16],
}

impl<'a> Places<'a> {
    /// Splits off the places of the first `n` latents, whole panels.
    pub(super) fn split_off(&mut self, n: usize) -> Places<'a> {
        let n_blocks = if self.starts.is_empty() { 0 } else { self.n_groups.div_ceil(BLOCK_PAIRS) };
        Places {
            form: self.form,
            n_groups: self.n_groups,
            weights: self.weights.split_off_mut(..n * self.n_groups * self.form.group()).unwrap_or_default(),
            starts: self.starts.split_off_mut(..n * n_blocks).unwrap_or_default(),
        }
    }

    /// Rounds the weights of `latent`, counted from the first of these panels.
    #[inline(always)]
    pub(super) fn set(&mut self, latent: usize, row: &[f32]) -> LatentFacts {
        let (step, inverse) = step_of(largest(row));
        match self.form {
            Form::Quads => LatentFacts { step, squares: self.write::<4>(latent, row, inverse), block_square: 0.0 },
            Form::Pairs => {
                let squares = row.chunks(2 * BLOCK_PAIRS).map(|block| block.iter().map(|w| (w * inverse) * (w * inverse)).sum::<f32>());
                let times = (squares.fold(0.0, f32::max).sqrt() / BLOCK_NORM).max(1.0);
                let (step, inverse) = (step * times, inverse / times);
                let squares = self.write::<2>(latent, row, inverse);
                LatentFacts { step, squares, block_square: self.start(latent, row, inverse) }
            }
        }
    }

    /// Writes the rounded weights, `SIZE` of a latent side by side: 4 in quads, 2 in pairs.
    #[inline(always)]
    fn write<const SIZE: usize>(&mut self, latent: usize, row: &[f32], inverse: f32) -> [f32; 3] {
        let (panel, column) = (latent / PANEL, self.form.column(latent % PANEL));
        let places = &mut self.weights[panel * self.n_groups * PANEL * SIZE + column * SIZE..];
        // Quads keep q + 128: in eight bits the sign turned round.
        let flip = if SIZE == 4 { 128 } else { 0 };
        let (mut values, mut errors, mut rounded) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        for (at, weights) in row.as_chunks::<LANES>().0.iter().enumerate() {
            let mut bytes = [0u8; LANES];
            for lane in 0..LANES {
                let v = weights[lane] * inverse;
                let rounder = v + ROUNDER;
                let q = rounder - ROUNDER;
                values[lane] += v * v;
                errors[lane] += (v - q) * (v - q);
                rounded[lane] += q * q;
                bytes[lane] = (rounder.to_bits() & 0xff) as u8 ^ flip;
            }
            for (group, from) in bytes.as_chunks::<SIZE>().0.iter().enumerate() {
                if let Some(place) = places[(at * (LANES / SIZE) + group) * PANEL * SIZE..].first_chunk_mut::<SIZE>() {
                    *place = from.map(u8::cast_signed);
                }
            }
        }
        [sum(values), sum(errors), sum(rounded)]
    }

    /// Pairs: what the sums of each block start from; returns the largest `sum q^2` of a block.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "wrapping is what is wanted")]
    fn start(&mut self, latent: usize, row: &[f32], inverse: f32) -> f32 {
        let n_blocks = self.n_groups.div_ceil(BLOCK_PAIRS);
        let mut most = 0f32;
        for (block, values) in row.chunks(2 * BLOCK_PAIRS).enumerate() {
            let (mut total, mut square) = (0f32, 0f32);
            for value in values {
                let q = value * inverse + ROUNDER - ROUNDER;
                total += q;
                square += q * q;
            }
            most = most.max(square);
            let at = (latent / PANEL * n_blocks + block) * PANEL + latent % PANEL;
            self.starts[at] = (-i32::from(OFFSET) * total as i32) as i16;
        }
        most
    }
}

/// The step of a latent whose largest weight has this magnitude, and its inverse.
#[inline(always)]
pub(super) fn step_of(most: f32) -> (f32, f32) {
    // NaN is no weight of any SAE; it is kept from the sums.
    let step = if most > 0.0 { (most / MOST).max(LEAST_STEP) } else { 0.0 };
    (step, if step > 0.0 { 1.0 / step } else { 0.0 })
}

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut maxima = [0f32; LANES];
    for values in row.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let magnitude = values[lane].abs();
            maxima[lane] = larger(magnitude, maxima[lane]);
        }
    }
    // Written out, because the compiler keeps what it halves in a loop in memory.
    let (mut eight, mut four) = ([0f32; 8], [0f32; 4]);
    for at in 0..8 {
        eight[at] = larger(maxima[at], maxima[at + 8]);
    }
    for at in 0..4 {
        four[at] = larger(eight[at], eight[at + 4]);
    }
    larger(larger(four[0], four[2]), larger(four[1], four[3]))
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn sum(lanes: [f32; LANES]) -> f32 {
    let mut eight = [0f32; 8];
    for at in 0..8 {
        eight[at] = lanes[at] + lanes[at + 8];
    }
    ((eight[0] + eight[4]) + (eight[2] + eight[6])) + ((eight[1] + eight[5]) + (eight[3] + eight[7]))
}
