//! Rows rounded for the screen: the step, the whole numbers, and the margin `E` of the bound.

use crate::encode::native::screen::{BLOCK_PAIRS, OFFSET, ROWS, Screen};

/// Largest rounded value of a row.
const MOST: f32 = 63.0;
/// Largest norm of a row's rounded values in a block times that of the weights.
const MOST_IN_BLOCK: f64 = 32_767.0;
/// Largest bound in units, so that 16 bits hold it.
const MOST_UNITS: f64 = 32_700.0;
/// What the steps below aim at: rounding and the margin come on top.
const AIM: f64 = 29_000.0;
/// Rows with a largest value outside this range are computed in full: squares of f32 would leave its range.
const SANE: std::ops::RangeInclusive<f32> = 1e-15..=1e15;
/// Adding and subtracting it rounds an f32 of less than 2^22 to a whole number, ties to even.
const ROUNDER: f32 = 12_582_912.0;
/// More than all roundings of f32 in a sum of squares of a row.
const UP: f64 = 1.000_1;
/// Sums kept apart, so that the compiler can use vector registers.
const LANES: usize = 8;

/// Five rows ready for the screen.
#[derive(Clone, Debug, Default)]
pub(super) struct Tile {
    /// Two rounded values a word, offset: `[n_pairs, ROWS]`
    pub(super) pairs: Vec<u16>,
    /// What belongs to each row.
    pub(super) rows: [TileRow; ROWS],
}

/// A row's part of the bound.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TileRow {
    /// `E`
    pub(super) margin: i16,
    /// `max |b| / u`, rounded.
    pub(super) bias_factor: i16,
    /// `u`; 0 where the row cannot be screened.
    pub(super) unit: f64,
}

impl Tile {
    /// Puts a centred, padded row in its place. Afterwards its `unit` is 0 where it must be computed in full.
    #[inline(always)]
    pub(super) fn set(&mut self, screen: &Screen, row: usize, y: &[f32]) {
        self.pairs.resize(screen.n_pairs * ROWS, 0);
        self.rows[row] = self.rounded(screen, row, y).unwrap_or_default();
    }

    #[inline(always)]
    fn rounded(&mut self, screen: &Screen, row: usize, y: &[f32]) -> Option<TileRow> {
        let (mut most, mut square, mut block_square) = (0f32, 0f64, 0f64);
        for block in y.chunks(2 * BLOCK_PAIRS) {
            let (mut maxima, mut squares) = ([0f32; LANES], [0f32; LANES]);
            for eight in block.as_chunks::<LANES>().0 {
                for lane in 0..LANES {
                    let magnitude = eight[lane].abs();
                    maxima[lane] = if magnitude > maxima[lane] { magnitude } else { maxima[lane] };
                    squares[lane] += eight[lane] * eight[lane];
                }
            }
            most = maxima.iter().fold(most, |most, value| if *value > most { *value } else { most });
            let in_block = f64::from(sum(squares)) * UP;
            square += in_block;
            block_square = block_square.max(in_block);
        }
        if !SANE.contains(&most) || !square.is_finite() {
            return None;
        }
        let (norm, halving) = (square.sqrt(), f64::from(1u32 << screen.shift));
        let step = (f64::from(most) / f64::from(MOST))
            .max(block_square.sqrt() * screen.block_norm / AIM)
            .max((norm * screen.norm + screen.largest_bias / screen.largest_step) / (AIM * halving));
        let (step, inverse) = (to_f32(step), to_f32(1.0 / step));
        let (mut error_square, mut p_square, mut p_block_square) = (0f64, 0f64, 0f64);
        for (block, values) in y.chunks(2 * BLOCK_PAIRS).enumerate() {
            let (mut errors, mut squares) = ([0f32; LANES], [0f32; LANES]);
            for (at, eight) in values.as_chunks::<LANES>().0.iter().enumerate() {
                let mut bits = [0u32; LANES];
                for lane in 0..LANES {
                    let rounder = eight[lane] * inverse + ROUNDER;
                    let p = rounder - ROUNDER;
                    let error = eight[lane] - step * p;
                    errors[lane] += error * error;
                    squares[lane] += p * p;
                    bits[lane] = rounder.to_bits().wrapping_add(OFFSET.unsigned_abs().into()) & 0xff;
                }
                for pair in 0..LANES / 2 {
                    let word = bits[2 * pair] | (bits[2 * pair + 1] << 8);
                    self.pairs[(block * BLOCK_PAIRS + at * LANES / 2 + pair) * ROWS + row] = (word & 0xffff) as u16;
                }
            }
            error_square += f64::from(sum(errors)) * UP;
            let in_block = f64::from(sum(squares)) * UP;
            p_square += in_block;
            p_block_square = p_block_square.max(in_block);
        }
        let step = f64::from(step);
        let p_norm = p_square.sqrt();
        // The error of a value is itself a rounded difference.
        let error = error_square.sqrt() + norm * 2f64.powi(-22);
        let margin = (error * screen.ratio_weights + step * p_norm * screen.ratio_error + screen.float_error * norm * screen.ratio_weights)
            / (step * halving);
        let margin = (margin * UP).ceil();
        let unit = step * screen.largest_step * halving;
        let bias_units = screen.largest_bias / unit;
        let fits = p_block_square.sqrt() * screen.block_norm <= MOST_IN_BLOCK
            && p_norm * screen.norm / halving + margin + bias_units <= MOST_UNITS;
        fits.then(|| TileRow { margin: to_i16(margin), bias_factor: to_i16(bias_units.round()), unit })
    }
}

#[inline(always)]
fn sum(lanes: [f32; LANES]) -> f32 {
    ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
}

#[expect(clippy::cast_possible_truncation, reason = "a step between 1e-17 and 1e17, rounded to f32")]
fn to_f32(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_possible_truncation, reason = "at most 32,700, which was checked")]
fn to_i16(value: f64) -> i16 {
    value as i16
}
