//! Rows rounded for the screen: the step, the whole numbers, and the margin `E` of the bound.

use crate::encode::native::model::NativeModel;
use crate::encode::native::screen::{BLOCK_PAIRS, Form, MOST_ROWS, OFFSET, PAIR_ROWS, QUAD_ROWS, Screen};
use crate::encode::native::screen_passes::{LANES, ROUNDER, RowPasses, Size, Sums, UP, size, sum};

/// Largest rounded value of a row in pairs.
const MOST: f32 = 63.0;
/// Largest rounded value of a row in quads.
const MOST_IN_QUADS: f32 = 127.0;
/// Largest norm of a row's rounded values in a block times that of the weights.
const MOST_IN_BLOCK: f64 = 32_767.0;
/// Largest bound in units, so that 16 bits hold it.
const MOST_UNITS: f64 = 32_700.0;
/// What the steps below aim at: rounding and the margin come on top.
const AIM: f64 = 29_000.0;
/// Rows with a largest value outside this range are computed in full: squares of f32 would leave its range.
const SANE: std::ops::RangeInclusive<f32> = 1e-15..=1e15;
/// Most bits a row's sums are shifted right by: beyond, biases leave nothing of its products.
const MOST_SHIFT: u32 = 20;

/// Rows ready for the screen, in its form.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tile {
    /// Pairs: two rounded values a word, offset: `[n_groups, PAIR_ROWS]`
    pub(super) pairs: Vec<u16>,
    /// Quads: four rounded values a word: `[n_groups, QUAD_ROWS]`
    pub(super) quads: Vec<i32>,
    /// What belongs to each row.
    pub(super) rows: [TileRow; MOST_ROWS],
}

/// A row's part of the bound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct TileRow {
    /// `E`
    pub(super) margin: i16,
    /// `max |b| / u`, rounded.
    pub(super) bias_factor: i16,
    /// `u`; 0 where the row cannot be screened.
    pub(super) unit: f64,
    /// Quads: what the sums start from, `-128 sum(p)` and half of what is shifted out.
    pub(super) start: i32,
    /// Quads: bits the sums are shifted right by, `h`.
    pub(super) shift: u32,
}

impl Tile {
    /// Centres rows `xs [n, d_in]`, leaves them padded in `ys [n, padded_in]`, and puts them rounded in their places.
    #[inline(always)]
    pub(super) fn set_all(&mut self, passes: impl RowPasses, model: &NativeModel, screen: &Screen, xs: &[f32], ys: &mut [f32]) {
        model.centre(xs, ys);
        // A loop and no closure: a closure is compiled on its own, for no CPU in particular.
        for (row, y) in ys.chunks_exact(model.padded_in()).enumerate() {
            self.set(passes, screen, row, y);
        }
    }

    /// Puts a centred, padded row in its place. Afterwards its `unit` is 0 where it must be computed in full.
    #[inline(always)]
    fn set(&mut self, passes: impl RowPasses, screen: &Screen, row: usize, y: &[f32]) {
        match screen.form {
            Form::Pairs => self.pairs.resize(screen.n_groups * PAIR_ROWS, 0),
            Form::Quads => self.quads.resize(screen.n_groups * QUAD_ROWS, 0),
        }
        let size = match screen.form {
            Form::Pairs => size::<{ 2 * BLOCK_PAIRS }>(y),
            Form::Quads => passes.size(y),
        };
        self.rows[row] = if !SANE.contains(&size.most) || !size.square.is_finite() {
            TileRow::default()
        } else {
            match screen.form {
                Form::Pairs => self.set_pairs(screen, row, y, &size),
                Form::Quads => self.set_quads(passes, screen, row, y, &size),
            }
            .unwrap_or_default()
        };
    }

    #[inline(always)]
    fn set_pairs(&mut self, screen: &Screen, row: usize, y: &[f32], size: &Size) -> Option<TileRow> {
        let (norm, halving) = (size.square.sqrt(), halving(screen.shift));
        let step = (f64::from(size.most) / f64::from(MOST))
            .max(size.block_square.sqrt() * screen.block_norm / AIM)
            .max((norm * screen.norm + screen.largest_bias / screen.largest_step) / AIM * halving);
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
                    self.pairs[(block * BLOCK_PAIRS + at * LANES / 2 + pair) * PAIR_ROWS + row] = (word & 0xffff) as u16;
                }
            }
            error_square += f64::from(sum(errors)) * UP;
            let in_block = f64::from(sum(squares)) * UP;
            p_square += in_block;
            p_block_square = p_block_square.max(in_block);
        }
        let fits = p_block_square.sqrt() * screen.block_norm <= MOST_IN_BLOCK;
        let step = f64::from(step);
        let rounded = Rounded { step, inverse: 1.0 / step, norm, error_square, p_norm: p_square.sqrt(), halving, shift: screen.shift };
        rounded.bound(screen).filter(|_| fits)
    }

    #[inline(always)]
    fn set_quads(&mut self, passes: impl RowPasses, screen: &Screen, row: usize, y: &[f32], size: &Size) -> Option<TileRow> {
        let norm = size.square.sqrt();
        let step = size.most * (1.0 / MOST_IN_QUADS);
        let wide_inverse = 1.0 / f64::from(step);
        let inverse = to_f32(wide_inverse);
        let Sums { error_square, p_square, total } = passes.quads(y, step, inverse, row, &mut self.quads);
        let p_norm = p_square.sqrt();
        // As few bits are shifted out as let sums, margin and bias fit.
        let step = f64::from(step);
        let units = (p_norm * screen.norm + screen.bias_steps * wide_inverse) * (1.0 / AIM);
        let shift = if units <= 1.0 { 0 } else { exponent(units) + 1 };
        if shift > MOST_SHIFT {
            return None;
        }
        let rounded = Rounded { step, inverse: wide_inverse, norm, error_square, p_norm, halving: halving(shift), shift };
        // A sum of at most 2^16 whole numbers below 128 is exact in f32.
        let start = to_i32(-128.0 * total);
        rounded.bound(screen).map(|row| TileRow { start: start + ((1 << shift) >> 1), shift, ..row })
    }
}

/// What rounding a row came to.
struct Rounded {
    /// `t`
    step: f64,
    /// `||y||`
    norm: f64,
    /// `||y - t p||^2` as f32 has it.
    error_square: f64,
    /// `1 / t`
    inverse: f64,
    /// `||p||`
    p_norm: f64,
    /// `2^-h`
    halving: f64,
    /// `h`
    shift: u32,
}

impl Rounded {
    /// The row's part of the bound; `None` where 16 bits do not hold it.
    #[inline(always)]
    fn bound(&self, screen: &Screen) -> Option<TileRow> {
        let Self { step, inverse, norm, p_norm, halving, .. } = *self;
        // The error of a value is itself a rounded difference.
        let error = self.error_square.sqrt() + norm * 2f64.powi(-22);
        let margin = (error * screen.ratio_weights + step * p_norm * screen.ratio_error + screen.float_error * norm * screen.ratio_weights)
            * (inverse * halving);
        let margin = (margin * UP).ceil();
        let unit = step * screen.largest_step * f64::from(1u32 << self.shift);
        let bias_units = screen.bias_steps * inverse * halving;
        let fits = p_norm * screen.norm * halving + margin + bias_units <= MOST_UNITS;
        fits.then(|| TileRow { margin: to_i16(margin), bias_factor: to_i16(bias_units.round()), unit, ..TileRow::default() })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a step between 1e-17 and 1e17, rounded to f32")]
fn to_f32(value: f64) -> f32 {
    value as f32
}

/// The exponent of two of a number above 1.
#[inline(always)]
fn exponent(value: f64) -> u32 {
    ((value.to_bits() >> 52) & 0x7ff) as u32 - 1023
}

/// `2^-h`
#[inline(always)]
fn halving(shift: u32) -> f64 {
    f64::from_bits(u64::from(1023 - shift) << 52)
}

#[expect(clippy::cast_possible_truncation, reason = "a whole number of at most 2^30")]
fn to_i32(value: f32) -> i32 {
    value as i32
}

#[expect(clippy::cast_possible_truncation, reason = "at most 32,700, which was checked")]
fn to_i16(value: f64) -> i16 {
    value as i16
}
