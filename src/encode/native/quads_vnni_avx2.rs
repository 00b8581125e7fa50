//! Quads with VNNI in registers of 32 bytes: the sums of `screen_avx512` on CPUs without AVX-512, integer for integer.
//!
//! Such CPUs have AVX-VNNI, the same instruction in another encoding; those with AVX-512 have both or the other one, so that
//! tests on them force this code, too. A tile's rows are taken three at a time: twelve sums, weights and a row fill the
//! sixteen registers.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected; loads and stores arrays of one register's size")]

use std::arch::x86_64::{
    __m256i, _mm_cvtsi32_si128, _mm256_add_epi16, _mm256_dpbusd_avx_epi32, _mm256_dpbusd_epi32, _mm256_loadu_si256, _mm256_mulhrs_epi16,
    _mm256_packs_epi32, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_sra_epi32, _mm256_storeu_si256,
};

use crate::encode::native::cpu::Vnni256;
use crate::encode::native::screen::{PANEL, QUAD_ROWS, Screen};
use crate::encode::native::screen_row::Tile;

/// Bytes of a register.
const BYTES: usize = 32;
/// Registers of a panel's quads.
const PARTS: usize = PANEL * 4 / BYTES;
/// Rows that are multiplied while a panel's weights are at hand.
const ROWS: usize = 3;

/// `mid_j` of all latents for the rows of a tile.
pub(super) fn estimates(proof: Vnni256, screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    // SAFETY: a value of `Vnni256` exists only where the features of its encoding were detected.
    unsafe {
        match proof {
            Vnni256::Avx(_) => estimates_avx(screen, tile, mid),
            Vnni256::Avx512(_) => estimates_avx512(screen, tile, mid),
        }
    }
}

/// The same code for both encodings of the product.
macro_rules! estimates {
    ($name:ident, $features:literal, $dot:ident) => {
        #[target_feature(enable = $features)]
        fn $name(screen: &Screen, tile: &Tile, mid: &mut [i16]) {
            for (panel, weights) in screen.weights.chunks_exact(screen.n_groups * PANEL * 4).enumerate() {
                for first in (0..QUAD_ROWS).step_by(ROWS) {
                    let mut sums: [[__m256i; PARTS]; ROWS] =
                        std::array::from_fn(|row| [_mm256_set1_epi32(tile.rows[first + row].start); PARTS]);
                    for (weights, quads) in weights.as_chunks::<{ PARTS * BYTES }>().0.iter().zip(tile.quads.as_chunks::<QUAD_ROWS>().0) {
                        for (part, weights) in weights.as_chunks::<BYTES>().0.iter().enumerate() {
                            let weights = load_i8(weights);
                            for (sums, quad) in sums.iter_mut().zip(&quads[first..]) {
                                sums[part] = $dot(sums[part], weights, _mm256_set1_epi32(*quad));
                            }
                        }
                    }
                    for (at, sums) in sums.into_iter().enumerate() {
                        finish(screen, tile, (panel, first + at), sums, mid);
                    }
                }
            }
        }
    };
}

estimates!(estimates_avx, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
estimates!(estimates_avx512, "avx2,avx512vl,avx512vnni", _mm256_dpbusd_epi32);

/// Sums of a panel and a row, shifted, packed, scaled and with the latents' biases.
#[target_feature(enable = "avx2")]
#[inline]
fn finish(screen: &Screen, tile: &Tile, (panel, row): (usize, usize), sums: [__m256i; PARTS], mid: &mut [i16]) {
    let scales = screen.scales[panel * PANEL..].as_chunks::<{ PANEL / 2 }>().0;
    let biases = screen.biases[panel * PANEL..].as_chunks::<{ PANEL / 2 }>().0;
    let shift = _mm_cvtsi32_si128(tile.rows[row].shift.cast_signed());
    let [a, b, c, d] = sums.map(|sum| _mm256_sra_epi32(sum, shift));
    let factor = _mm256_set1_epi16(tile.rows[row].bias_factor);
    let place = &mut mid[row * screen.d_sae + panel * PANEL..][..PANEL];
    // `Form::column` has put latents 0-3 and 8-11 in the first register and 4-7 and 12-15 in the third.
    let halves = [_mm256_packs_epi32(a, c), _mm256_packs_epi32(b, d)];
    for (half, total) in halves.into_iter().enumerate() {
        let bias = _mm256_mulhrs_epi16(load(&biases[half]), factor);
        let scaled = _mm256_mulhrs_epi16(total, load(&scales[half]));
        store(&mut place[half * (PANEL / 2)..][..PANEL / 2], _mm256_add_epi16(scaled, bias));
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(values: &[i16; PANEL / 2]) -> __m256i {
    // SAFETY: sixteen numbers are 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_i8(values: &[i8; BYTES]) -> __m256i {
    // SAFETY: 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(into: &mut [i16], values: __m256i) {
    debug_assert_eq!(into.len() * 2, BYTES);
    // SAFETY: the caller hands over room for sixteen numbers, which are 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(into.as_mut_ptr().cast(), values) }
}
