//! Quads with VNNI in registers of 32 bytes: the sums of `screen_avx512` on CPUs without AVX-512, integer for integer.
//!
//! Such CPUs have AVX-VNNI, the same instruction in another encoding; those with AVX-512 have both or the other one, so that
//! tests on them force this code, too. A tile's rows are taken three at a time: twelve sums, weights and a row fill the
//! sixteen registers.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected")]

use std::arch::x86_64::{__m256i, _mm256_dpbusd_avx_epi32, _mm256_dpbusd_epi32, _mm256_set1_epi32};

use crate::encode::native::cpu::Vnni256;
use crate::encode::native::quads_avx2::{BYTES, PARTS, finish, load_i8};
use crate::encode::native::screen::{PANEL, QUAD_ROWS, Screen};
use crate::encode::native::screen_row::Tile;

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
