//! The screen's arithmetic in AVX-512 with VNNI: the twin of the portable one, integer for integer.
//!
//! A tile is 12 rows x 32 latents: 24 sums of 16 numbers, two registers of weights and a row's quad. A step
//! multiplies and adds four dimensions: two loads of weights serve twelve rows.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; loads and stores arrays of one register's size")]

use std::arch::x86_64::{
    __m512i, _mm_cvtsi32_si128, _mm512_add_epi16, _mm512_add_epi32, _mm512_castsi512_si128, _mm512_cmpgt_epi16_mask, _mm512_cvtepu8_epi32,
    _mm512_dpbusd_epi32, _mm512_extracti32x4_epi32, _mm512_loadu_si512, _mm512_maskz_compress_epi8, _mm512_maskz_compress_epi32,
    _mm512_max_epi16, _mm512_mulhrs_epi16, _mm512_packs_epi32, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_setr_epi32,
    _mm512_setzero_si512, _mm512_sra_epi32, _mm512_storeu_si512,
};

use crate::encode::native::cpu::Avx512;
use crate::encode::native::model::NativeModel;
use crate::encode::native::screen::{PANEL, QUAD_ROWS as ROWS, Screen};
use crate::encode::native::screen_row::{Tile, TileRow};
use crate::encode::native::screen_steps as steps;

/// Bytes of a register.
const BYTES: usize = 64;
/// Latents of a panel whose positions fill a register.
const HALF: usize = PANEL / 2;
/// Latents of two panels.
const TWO: usize = 2 * PANEL;
/// Their positions.
const WITHIN_TWO: [i8; TWO] = {
    let (mut positions, mut position) = ([0; TWO], 0);
    while (position as usize) < TWO {
        positions[position as usize] = position;
        position += 1;
    }
    positions
};
/// Rows whose bounds are bisected together: four of 128 lanes fill half the registers.
const BISECTED: usize = 4;

/// Centres and rounds a tile's rows.
pub(super) fn round(proof: Avx512, (model, screen): (&NativeModel, &Screen), xs: &[f32], ys: &mut [f32], tile: &mut Tile) {
    // SAFETY: a value of `Avx512` exists only where the features were detected.
    unsafe { round_avx512(proof, model, screen, xs, ys, tile) }
}

/// `mid_j` of all latents for the rows of a tile.
pub(super) fn estimates(_: Avx512, screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    // SAFETY: as above.
    unsafe { estimates_avx512(screen, tile, mid) }
}

/// `maxima[l]` = the largest of 0 and the values at `l`, `l + n`, ... of `n` lanes, a multiple of 32.
pub(super) fn lane_maxima(_: Avx512, mid: &[i16], maxima: &mut [i16]) {
    // SAFETY: as above.
    unsafe { lane_maxima_avx512(mid, maxima) }
}

/// For each row of `n_lanes` maxima, a multiple of 32, a number that at least `k` of them reach.
pub(super) fn bisect(_: Avx512, maxima: &[i16], n_lanes: usize, k: usize, bounds: &mut [i16]) {
    // SAFETY: as above.
    unsafe { bisect_avx512(maxima, n_lanes, k, bounds) }
}

/// Positions of the latents whose estimate and margin reach `bound`, ascending, into `latents`; returns how many.
pub(super) fn collect(proof: Avx512, screen: &Screen, mid: &[i16], margin: i16, bound: i16, latents: &mut [u32]) -> usize {
    // SAFETY: as above; and a value of `Vbmi2` exists only where that was detected.
    unsafe {
        match (proof.vbmi2(), margin) {
            (Some(_), 0) => collect_vbmi2::<false>(screen, mid, 0, bound, latents),
            (Some(_), _) => collect_vbmi2::<true>(screen, mid, margin, bound, latents),
            (None, 0) => collect_avx512::<false>(screen, mid, 0, bound, latents),
            (None, _) => collect_avx512::<true>(screen, mid, margin, bound, latents),
        }
    }
}

// The code is in the callee, which is inlined and so compiled for the features named here.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
fn round_avx512(passes: Avx512, model: &NativeModel, screen: &Screen, xs: &[f32], ys: &mut [f32], tile: &mut Tile) {
    tile.set_all(passes, model, screen, xs, ys);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[expect(clippy::needless_range_loop, reason = "a loop over numbers is unrolled, one over the sums puts them all into memory first")]
fn estimates_avx512(screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    let d_sae = screen.d_sae;
    for (panel, weights) in screen.weights.chunks_exact(screen.n_groups * PANEL * 4).enumerate() {
        let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
        for (sums, row) in sums.iter_mut().zip(&tile.rows) {
            *sums = [_mm512_set1_epi32(row.start); 2];
        }
        for (weights, quads) in weights.as_chunks::<{ 2 * BYTES }>().0.iter().zip(tile.quads.as_chunks::<ROWS>().0) {
            let (low, high) = weights.split_at(BYTES);
            let (low, high) = (load_i8(low), load_i8(high));
            for row in 0..ROWS {
                let x = _mm512_set1_epi32(quads[row]);
                sums[row][0] = _mm512_dpbusd_epi32(sums[row][0], low, x);
                sums[row][1] = _mm512_dpbusd_epi32(sums[row][1], high, x);
            }
        }
        let first = panel * PANEL;
        let (scales, biases) = (load(&screen.scales[first..first + PANEL]), load(&screen.biases[first..first + PANEL]));
        for row in 0..ROWS {
            let TileRow { shift, bias_factor, .. } = tile.rows[row];
            let shift = _mm_cvtsi32_si128(shift.cast_signed());
            let total = _mm512_packs_epi32(_mm512_sra_epi32(sums[row][0], shift), _mm512_sra_epi32(sums[row][1], shift));
            let bias = _mm512_mulhrs_epi16(biases, _mm512_set1_epi16(bias_factor));
            let at = row * d_sae + first;
            store(&mut mid[at..at + PANEL], _mm512_add_epi16(_mm512_mulhrs_epi16(total, scales), bias));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn lane_maxima_avx512(mid: &[i16], maxima: &mut [i16]) {
    let n_lanes = maxima.len();
    for (block, maxima) in maxima.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        let mut register = _mm512_setzero_si512();
        for stride in mid.chunks(n_lanes) {
            let Some(values) = stride.get(block * PANEL..(block + 1) * PANEL) else { continue };
            register = _mm512_max_epi16(register, load(values));
        }
        store(maxima, register);
    }
}

#[target_feature(enable = "avx512f,avx512bw,popcnt")]
fn bisect_avx512(maxima: &[i16], n_lanes: usize, k: usize, bounds: &mut [i16]) {
    let n_reaching = |values: &[i16], bound| {
        let below = below(bound);
        let mut n = 0;
        for values in values.as_chunks::<PANEL>().0 {
            n += _mm512_cmpgt_epi16_mask(load(values), below).count_ones();
        }
        n as usize
    };
    let (whole, rest) = bounds.as_chunks_mut::<BISECTED>();
    let (whole_maxima, rest_maxima) = maxima.split_at(whole.len() * BISECTED * n_lanes);
    for (maxima, bounds) in whole_maxima.chunks_exact(BISECTED * n_lanes).zip(whole) {
        let mut rows: [&[i16]; BISECTED] = [&[]; BISECTED];
        for (row, maxima) in rows.iter_mut().zip(maxima.chunks_exact(n_lanes)) {
            *row = maxima;
        }
        *bounds = steps::bisect(rows, k, n_reaching);
    }
    for (maxima, bound) in rest_maxima.chunks_exact(n_lanes).zip(rest) {
        [*bound] = steps::bisect([maxima], k, n_reaching);
    }
}

// Sixty-four positions within two panels are moved together at once; more than sixteen of them are hardly ever wanted.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "sixty-four")]
fn collect_vbmi2<const MARGINS: bool>(screen: &Screen, mid: &[i16], margin: i16, bound: i16, latents: &mut [u32]) -> usize {
    let (below, margins) = (below(bound), _mm512_set1_epi16(margin));
    let reached = |mid: &[i16; PANEL], scales: &[i16; PANEL]| {
        let mid = load(mid);
        let up = if MARGINS { _mm512_add_epi16(mid, _mm512_mulhrs_epi16(margins, load(scales))) } else { mid };
        u64::from(_mm512_cmpgt_epi16_mask(up, below))
    };
    let within = load_i8(&WITHIN_TWO);
    let (mut first, step) = (_mm512_setzero_si512(), _mm512_set1_epi32(TWO as i32));
    let mut n = 0;
    let (mids, scales) = (mid.as_chunks::<PANEL>().0.chunks(2), screen.scales.as_chunks::<PANEL>().0.chunks(2));
    for (mids, scales) in mids.zip(scales) {
        let mut mask = reached(&mids[0], &scales[0]);
        if let ([_, mid], [_, scale]) = (mids, scales) {
            mask |= reached(mid, scale) << PANEL;
        }
        let moved = _mm512_maskz_compress_epi8(mask, within);
        let Some(places) = latents.get_mut(n..n + TWO) else { return latents.len() };
        let found = mask.count_ones() as usize;
        let (places, _) = places.as_chunks_mut::<HALF>();
        store_positions(&mut places[0], _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm512_castsi512_si128(moved)), first));
        if found > HALF {
            store_positions(&mut places[1], _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32::<1>(moved)), first));
            store_positions(&mut places[2], _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32::<2>(moved)), first));
            store_positions(&mut places[3], _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32::<3>(moved)), first));
        }
        first = _mm512_add_epi32(first, step);
        n += found;
    }
    n
}

// Sixteen positions at once are moved together and written, whoever of them is wanted: what is written behind the last
// that is, the next sixteen overwrite. Bit by bit a mispredicted branch a word costs more than all of this.
#[target_feature(enable = "avx512f,avx512bw,popcnt")]
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "halves of a mask, and sixteen")]
fn collect_avx512<const MARGINS: bool>(screen: &Screen, mid: &[i16], margin: i16, bound: i16, latents: &mut [u32]) -> usize {
    let (below, margins) = (below(bound), _mm512_set1_epi16(margin));
    let (mut positions, half) = (_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(HALF as i32));
    let mut n = 0;
    for (mid, scales) in mid.as_chunks::<PANEL>().0.iter().zip(screen.scales.as_chunks::<PANEL>().0) {
        let mid = load(mid);
        let up = if MARGINS { _mm512_add_epi16(mid, _mm512_mulhrs_epi16(margins, load(scales))) } else { mid };
        let reached = _mm512_cmpgt_epi16_mask(up, below);
        let (low, high) = (reached as u16, (reached >> HALF) as u16);
        let n_low = low.count_ones() as usize;
        let Some(places) = latents.get_mut(n..n + PANEL) else { return latents.len() };
        take(low, positions, &mut places[..HALF]);
        positions = _mm512_add_epi32(positions, half);
        take(high, positions, &mut places[n_low..n_low + HALF]);
        positions = _mm512_add_epi32(positions, half);
        n += n_low + high.count_ones() as usize;
    }
    n
}

/// Writes the positions whose bit is set, one after the other; zeros behind them.
#[target_feature(enable = "avx512f")]
#[inline]
fn take(bits: u16, positions: __m512i, places: &mut [u32]) {
    store_positions(places, _mm512_maskz_compress_epi32(bits, positions));
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_positions(places: &mut [u32], positions: __m512i) {
    debug_assert_eq!(places.len(), HALF);
    // SAFETY: every caller hands over room for sixteen numbers of four bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(places.as_mut_ptr().cast(), positions) }
}

/// What the values that reach `bound` are greater than, which is what the instruction compares with.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn below(bound: i16) -> __m512i {
    _mm512_set1_epi16(bound.saturating_sub(1))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(values: &[i16]) -> __m512i {
    debug_assert_eq!(values.len() * 2, BYTES);
    // SAFETY: every caller hands over 32 numbers, which are 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_i8(values: &[i8]) -> __m512i {
    debug_assert_eq!(values.len(), BYTES);
    // SAFETY: every caller hands over 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(into: &mut [i16], values: __m512i) {
    debug_assert_eq!(into.len() * 2, BYTES);
    // SAFETY: every caller hands over room for 32 numbers, which are 64 bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(into.as_mut_ptr().cast(), values) }
}
