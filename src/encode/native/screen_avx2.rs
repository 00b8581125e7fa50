//! The screen's arithmetic in AVX2: the twin of the portable one, integer for integer.
//!
//! A tile is 5 rows x 32 latents: ten sums of 16 numbers, two registers of weights, a row's pair and a
//! product. A step multiplies and adds two dimensions: one load of weights serves five rows.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; loads and stores arrays of one register's size")]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_cmpgt_epi16, _mm256_loadu_si256, _mm256_maddubs_epi16, _mm256_max_epi16, _mm256_movemask_epi8,
    _mm256_mulhrs_epi16, _mm256_packs_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi16, _mm256_setzero_si256, _mm256_storeu_si256,
};

use crate::encode::native::cpu::Avx2;
use crate::encode::native::model::NativeModel;
use crate::encode::native::screen::{BLOCK_PAIRS, PAIR_ROWS as ROWS, PANEL, Screen};
use crate::encode::native::screen_passes::Plain;
use crate::encode::native::screen_row::Tile;
use crate::encode::native::screen_steps::{self as steps, high_product};

/// Numbers of a register.
const WIDTH: usize = 16;
/// Latents whose comparisons are the bits of a word.
const WORD: usize = 2 * PANEL;
/// Latents of a word that are written before anybody looks how many there are. Fewer: a mispredicted branch more
/// often. More: more writes for nothing.
const EAGER: usize = 4;

/// Centres and rounds a tile's rows.
pub(super) fn round(_: Avx2, (model, screen): (&NativeModel, &Screen), xs: &[f32], ys: &mut [f32], tile: &mut Tile) {
    // SAFETY: a value of `Avx2` exists only where the features were detected.
    unsafe { round_avx2(model, screen, xs, ys, tile) }
}

/// `mid_j` of all latents for the rows of a tile.
pub(super) fn estimates(_: Avx2, screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    // SAFETY: as above.
    unsafe { estimates_avx2(screen, tile, mid) }
}

/// `maxima[l]` = the largest of 0 and the values at `l`, `l + n`, ... of `n` lanes, a multiple of 32.
pub(super) fn lane_maxima(_: Avx2, mid: &[i16], maxima: &mut [i16]) {
    // SAFETY: as above.
    unsafe { lane_maxima_avx2(mid, maxima) }
}

/// For each row of `n_lanes` maxima, a multiple of 64, a number that at least `k` of them reach.
pub(super) fn bisect(_: Avx2, maxima: &[i16], n_lanes: usize, k: usize, bounds: &mut [i16]) {
    // SAFETY: as above.
    unsafe { bisect_avx2(maxima, n_lanes, k, bounds) }
}

/// Positions of the latents whose estimate and margin reach `bound`, ascending, into `latents`; returns how many.
pub(super) fn collect(_: Avx2, screen: &Screen, mid: &[i16], margin: i16, bound: i16, latents: &mut [u32]) -> usize {
    // SAFETY: as above.
    unsafe {
        if margin == 0 {
            collect_avx2::<false>(screen, mid, 0, bound, latents)
        } else {
            collect_avx2::<true>(screen, mid, margin, bound, latents)
        }
    }
}

// The code is in the callee, which is inlined and so compiled for the features named here.
#[target_feature(enable = "avx2")]
fn round_avx2(model: &NativeModel, screen: &Screen, xs: &[f32], ys: &mut [f32], tile: &mut Tile) {
    tile.set_all(Plain, model, screen, xs, ys);
}

#[target_feature(enable = "avx2")]
fn estimates_avx2(screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    let (n_pairs, d_sae) = (screen.n_groups, screen.d_sae);
    let (panels, n_blocks) = (screen.weights.chunks_exact(n_pairs * PANEL * 2), n_pairs.div_ceil(BLOCK_PAIRS));
    for (panel, weights) in panels.enumerate() {
        let first = panel * PANEL;
        let mut totals = [[_mm256_setzero_si256(); 2]; ROWS];
        let blocks = weights.chunks(BLOCK_PAIRS * PANEL * 2).zip(tile.pairs.chunks(BLOCK_PAIRS * ROWS));
        for (block, (weights, pairs)) in blocks.enumerate() {
            let start = &screen.starts[(panel * n_blocks + block) * PANEL..][..PANEL];
            let mut sums = [[load(&start[..WIDTH]), load(&start[WIDTH..])]; ROWS];
            for (weights, pairs) in weights.as_chunks::<{ PANEL * 2 }>().0.iter().zip(pairs.as_chunks::<ROWS>().0) {
                let (low, high) = (load_i8(&weights[..PANEL]), load_i8(&weights[PANEL..]));
                for row in 0..ROWS {
                    let x = _mm256_set1_epi16(pairs[row].cast_signed());
                    sums[row][0] = _mm256_add_epi16(sums[row][0], _mm256_maddubs_epi16(x, low));
                    sums[row][1] = _mm256_add_epi16(sums[row][1], _mm256_maddubs_epi16(x, high));
                }
            }
            if screen.shift == 0 {
                totals = sums;
            } else {
                let half = _mm256_set1_epi16(1 << (15 - screen.shift));
                for (total, sum) in totals.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                    *total = _mm256_add_epi16(*total, _mm256_mulhrs_epi16(*sum, half));
                }
            }
        }
        let (scales, biases) = (&screen.scales[first..][..PANEL], &screen.biases[first..][..PANEL]);
        for (row, totals) in totals.into_iter().enumerate() {
            let factor = _mm256_set1_epi16(tile.rows[row].bias_factor);
            let mid = &mut mid[row * d_sae + first..][..PANEL];
            for (half, total) in totals.into_iter().enumerate() {
                let at = half * WIDTH..(half + 1) * WIDTH;
                let scaled = _mm256_mulhrs_epi16(total, load(&scales[at.clone()]));
                store(&mut mid[at.clone()], _mm256_add_epi16(scaled, _mm256_mulhrs_epi16(load(&biases[at]), factor)));
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn lane_maxima_avx2(mid: &[i16], maxima: &mut [i16]) {
    let n_lanes = maxima.len();
    for (block, maxima) in maxima.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        let mut registers = [_mm256_setzero_si256(); 2];
        for stride in mid.chunks(n_lanes) {
            let Some(values) = stride.get(block * PANEL..(block + 1) * PANEL) else { continue };
            for (register, values) in registers.iter_mut().zip(values.as_chunks::<WIDTH>().0) {
                *register = _mm256_max_epi16(*register, load(values));
            }
        }
        for (register, maxima) in registers.into_iter().zip(maxima.as_chunks_mut::<WIDTH>().0) {
            store(maxima, register);
        }
    }
}

#[target_feature(enable = "avx2,popcnt")]
fn bisect_avx2(maxima: &[i16], n_lanes: usize, k: usize, bounds: &mut [i16]) {
    for (maxima, bound) in maxima.chunks_exact(n_lanes).zip(bounds) {
        [*bound] = steps::bisect([maxima], k, |values, bound| {
            let below = below(bound);
            let mut n = 0;
            for word in values.as_chunks::<WORD>().0 {
                n += reaching(load_word(word), below).count_ones();
            }
            n as usize
        });
    }
}

#[target_feature(enable = "avx2,bmi1,popcnt")]
#[expect(clippy::cast_possible_truncation, reason = "latents are numbered in u32")]
fn collect_avx2<const MARGINS: bool>(screen: &Screen, mid: &[i16], margin: i16, bound: i16, latents: &mut [u32]) -> usize {
    let (below, margins) = (below(bound), _mm256_set1_epi16(margin));
    let mut n = 0;
    let n_words = mid.len() / WORD * WORD;
    let words = mid.as_chunks::<WORD>().0.iter().zip(screen.scales.as_chunks::<WORD>().0);
    for ((mid, scales), start) in words.zip((0u32..).step_by(WORD)) {
        let mut up = load_word(mid);
        if MARGINS {
            let scales = load_word(scales);
            for (up, scale) in up.iter_mut().zip(scales) {
                *up = _mm256_add_epi16(*up, _mm256_mulhrs_epi16(margins, scale));
            }
        }
        let Some(end) = take_bits(reaching(up, below), start, latents, n) else { return latents.len() };
        n = end;
    }
    // Half a word is left where the dictionary is an odd number of panels.
    let mut bits = 0;
    for (at, (mid, scale)) in mid[n_words..].iter().zip(&screen.scales[n_words..]).enumerate() {
        bits |= u64::from(i32::from(*mid) + i32::from(high_product(margin, *scale)) >= i32::from(bound)) << at;
    }
    take_bits(bits, n_words as u32, latents, n).unwrap_or(latents.len())
}

/// What the values that reach `bound` are greater than, which is what the instruction compares with.
#[target_feature(enable = "avx2")]
#[inline]
fn below(bound: i16) -> __m256i {
    _mm256_set1_epi16(bound.saturating_sub(1))
}

/// One bit for each of 64 numbers: whether it is greater than `below`.
#[target_feature(enable = "avx2")]
#[inline]
fn reaching([a, b, c, d]: [__m256i; WORD / WIDTH], below: __m256i) -> u64 {
    // Packing takes turns between the halves of its operands; the permutation puts them in order.
    let low = _mm256_packs_epi16(_mm256_cmpgt_epi16(a, below), _mm256_cmpgt_epi16(b, below));
    let high = _mm256_packs_epi16(_mm256_cmpgt_epi16(c, below), _mm256_cmpgt_epi16(d, below));
    let low = _mm256_movemask_epi8(_mm256_permute4x64_epi64::<0b11_01_10_00>(low)).cast_unsigned();
    let high = _mm256_movemask_epi8(_mm256_permute4x64_epi64::<0b11_01_10_00>(high)).cast_unsigned();
    u64::from(low) | (u64::from(high) << 32)
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_word(word: &[i16; WORD]) -> [__m256i; WORD / WIDTH] {
    [load(&word[..WIDTH]), load(&word[WIDTH..2 * WIDTH]), load(&word[2 * WIDTH..3 * WIDTH]), load(&word[3 * WIDTH..])]
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(values: &[i16]) -> __m256i {
    debug_assert_eq!(values.len(), WIDTH);
    // SAFETY: every caller hands over 16 numbers, which are 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_i8(values: &[i8]) -> __m256i {
    debug_assert_eq!(values.len(), PANEL);
    // SAFETY: every caller hands over 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(into: &mut [i16], values: __m256i) {
    debug_assert_eq!(into.len(), WIDTH);
    // SAFETY: every caller hands over room for 16 numbers, which are 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(into.as_mut_ptr().cast(), values) }
}

/// Writes the positions of a word's bits, the first bit standing for `start`, to `latents[n..]`; returns the new n,
/// or nothing where there is no room for a whole word.
#[inline(always)]
fn take_bits(mut bits: u64, start: u32, latents: &mut [u32], n: usize) -> Option<usize> {
    let places = latents.get_mut(n..n + WORD)?;
    let n_bits = bits.count_ones() as usize;
    for place in &mut places[..EAGER] {
        // Past the last bit this writes 64, which the next word overwrites.
        *place = start + bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
    }
    if n_bits > EAGER {
        for place in &mut places[EAGER..n_bits] {
            *place = start + bits.trailing_zeros();
            bits &= bits.wrapping_sub(1);
        }
    }
    Some(n + n_bits)
}
