//! The two passes over a row that is rounded: how large it is, and its whole numbers with what rounding came to.
//!
//! Plain here, and for quads in AVX-512 in `screen_row_avx512`: the same operations in the same order, so that a row has the
//! same bits everywhere.

use crate::encode::native::screen_form::QUAD_ROWS;

/// Adding and subtracting it rounds an f32 of less than 2^22 to a whole number, ties to even.
pub(super) const ROUNDER: f32 = 12_582_912.0;
/// More than all roundings of f32 in a sum of squares of a row.
pub(super) const UP: f64 = 1.000_1;
/// Sums kept apart, so that the compiler can use vector registers.
pub(super) const LANES: usize = 8;
/// The same for quads; rows are padded to a multiple of it.
const WIDE_LANES: usize = 16;
/// Dimensions whose sums of squares are taken in f32 before they go on in f64.
pub(super) const EXACT: usize = 512;

/// The two passes over a row in quads, in whatever instructions: the same operations in the same order.
pub(super) trait RowPasses: Copy {
    /// Largest magnitude and sum of squares.
    fn size(self, y: &[f32]) -> Size;
    /// Puts the row's rounded values in their places.
    fn quads(self, y: &[f32], step: f32, inverse: f32, row: usize, quads: &mut [i32]) -> Sums;
}

/// One value after the other, or what the compiler makes of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain;

/// What rounding a row's values came to.
pub(super) struct Sums {
    /// `||y - t p||^2`
    pub(super) error_square: f64,
    /// `||p||^2`
    pub(super) p_square: f64,
    /// `sum(p)`
    pub(super) total: f32,
}

impl RowPasses for Plain {
    #[inline(always)]
    fn size(self, y: &[f32]) -> Size {
        size::<EXACT>(y)
    }

    #[inline(always)]
    fn quads(self, y: &[f32], step: f32, inverse: f32, row: usize, quads: &mut [i32]) -> Sums {
        let (mut error_square, mut p_square, mut total) = (0f64, 0f64, 0f32);
        let words = quads.as_chunks_mut::<{ WIDE_LANES / 4 * QUAD_ROWS }>().0;
        for (values, words) in y.chunks(EXACT).zip(words.chunks_mut(EXACT / WIDE_LANES)) {
            let (mut errors, mut squares, mut sums) = ([0f32; WIDE_LANES], [0f32; WIDE_LANES], [0f32; WIDE_LANES]);
            for (values, words) in values.as_chunks::<WIDE_LANES>().0.iter().zip(words) {
                let mut bytes = [0u8; WIDE_LANES];
                for lane in 0..WIDE_LANES {
                    let rounder = values[lane] * inverse + ROUNDER;
                    let p = rounder - ROUNDER;
                    let error = values[lane] - step * p;
                    errors[lane] += error * error;
                    squares[lane] += p * p;
                    sums[lane] += p;
                    bytes[lane] = (rounder.to_bits() & 0xff) as u8;
                }
                for (word, four) in words.iter_mut().skip(row).step_by(QUAD_ROWS).zip(bytes.as_chunks::<4>().0) {
                    *word = i32::from_le_bytes(*four);
                }
            }
            error_square += f64::from(sum_wide(errors)) * UP;
            p_square += f64::from(sum_wide(squares)) * UP;
            total += sum_wide(sums);
        }
        Sums { error_square, p_square, total }
    }
}

/// What a first look at a row says.
pub(super) struct Size {
    pub(super) most: f32,
    /// `||y||^2`, no less.
    pub(super) square: f64,
    /// The largest of the blocks'.
    pub(super) block_square: f64,
}

/// The first pass, in blocks of so many values.
#[inline(always)]
pub(super) fn size<const BLOCK: usize>(y: &[f32]) -> Size {
    let mut size = Size { most: 0.0, square: 0.0, block_square: 0.0 };
    let mut maxima = [0f32; WIDE_LANES];
    for block in y.chunks(BLOCK) {
        let mut squares = [0f32; WIDE_LANES];
        for values in block.as_chunks::<WIDE_LANES>().0 {
            for lane in 0..WIDE_LANES {
                let magnitude = values[lane].abs();
                maxima[lane] = if magnitude > maxima[lane] { magnitude } else { maxima[lane] };
                squares[lane] += values[lane] * values[lane];
            }
        }
        let in_block = f64::from(sum_wide(squares)) * UP;
        size.square += in_block;
        size.block_square = size.block_square.max(in_block);
    }
    for step in [8, 4, 2, 1] {
        for lane in 0..step {
            maxima[lane] = if maxima[lane + step] > maxima[lane] { maxima[lane + step] } else { maxima[lane] };
        }
    }
    Size { most: maxima[0], ..size }
}

/// The sum by halves: what lies half of the lanes apart is added first.
#[inline(always)]
fn sum_wide(lanes: [f32; WIDE_LANES]) -> f32 {
    let mut folded = [0f32; LANES];
    for lane in 0..LANES {
        folded[lane] = lanes[lane] + lanes[lane + LANES];
    }
    sum(folded)
}

/// The same of fewer.
#[inline(always)]
pub(super) fn sum(lanes: [f32; LANES]) -> f32 {
    let mut four = [0f32; 4];
    for lane in 0..4 {
        four[lane] = lanes[lane] + lanes[lane + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}
