//! The screen's arithmetic, with the instructions that are asked for; the portable one is the rule of the others.

use crate::encode::native::cpu::Kernel;
use crate::encode::native::screen::{BLOCK_PAIRS, PANEL, ROWS, Screen};
#[cfg(target_arch = "x86_64")]
use crate::encode::native::screen_avx2;
use crate::encode::native::screen_row::Tile;

/// `mid_j` of all latents for the rows of a tile, `[ROWS, d_sae]`.
pub(super) fn estimates(kernel: Kernel, screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    match kernel {
        Kernel::Portable => estimates_portable(screen, tile, mid),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => screen_avx2::estimates(proof, screen, tile, mid),
    }
}

/// The twin of the fast paths: the same integers, one at a time.
fn estimates_portable(screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    for (row, mid) in mid.chunks_exact_mut(screen.d_sae).enumerate() {
        for (latent, mid) in mid.iter_mut().enumerate() {
            let weights = &screen.weights[latent / PANEL * screen.n_pairs * PANEL * 2..][..screen.n_pairs * PANEL * 2];
            let mut total = 0i16;
            for block in 0..screen.n_pairs.div_ceil(BLOCK_PAIRS) {
                let mut sum = screen.starts[block * screen.d_sae + latent];
                for pair in block * BLOCK_PAIRS..((block + 1) * BLOCK_PAIRS).min(screen.n_pairs) {
                    let at = (pair * PANEL + latent % PANEL) * 2;
                    let [x0, x1] = tile.pairs[pair * ROWS + row].to_le_bytes().map(i16::from);
                    sum = sum.wrapping_add(x0 * i16::from(weights[at]) + x1 * i16::from(weights[at + 1]));
                }
                total = total.wrapping_add(if screen.shift == 0 { sum } else { high_product(sum, 1 << (15 - screen.shift)) });
            }
            let scaled = high_product(total, screen.scales[latent]);
            *mid = scaled.wrapping_add(high_product(screen.biases[latent], tile.rows[row].bias_factor));
        }
    }
}

/// `maxima[l]` = the largest of 0 and the values at `l`, `l + n`, ... of `n` lanes.
pub(super) fn lane_maxima(kernel: Kernel, up: &[i16], maxima: &mut [i16]) {
    match kernel {
        Kernel::Portable => {
            maxima.fill(0);
            for stride in up.chunks_exact(maxima.len()) {
                maxima.iter_mut().zip(stride).for_each(|(maximum, value)| *maximum = (*maximum).max(*value));
            }
            let n_rest = up.len() % maxima.len() / 64 * 64;
            let rest = &up[up.len() / maxima.len() * maxima.len()..][..n_rest];
            maxima.iter_mut().zip(rest).for_each(|(maximum, value)| *maximum = (*maximum).max(*value));
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => screen_avx2::lane_maxima(proof, up, maxima),
    }
}

/// How many values reach `bound`.
pub(super) fn n_reaching(kernel: Kernel, values: &[i16], bound: i16) -> usize {
    match kernel {
        Kernel::Portable => values.iter().filter(|value| **value >= bound).count(),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => screen_avx2::n_reaching(proof, values, bound),
    }
}

/// Positions of the latents whose `up_j`, estimate and margin, reaches the bound, ascending; returns how many there are.
/// `latents` has room for 64 more than all.
pub(super) fn collect(kernel: Kernel, screen: &Screen, mid: &[i16], margin: i16, bound: i16, latents: &mut [u32]) -> usize {
    match kernel {
        Kernel::Portable => {
            let reaches = |(mid, scale): (&i16, &i16)| mid.wrapping_add(high_product(margin, *scale)) >= bound;
            let found = (0u32..).zip(mid.iter().zip(&screen.scales)).filter(|(_, latent)| reaches(*latent));
            found.zip(latents).map(|((position, _), latent)| *latent = position).count()
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => screen_avx2::collect(proof, screen, mid, margin, bound, latents),
    }
}

/// `a b / 2^15`, rounded: what the CPU's instruction of that kind gives.
#[expect(clippy::cast_possible_truncation, reason = "only -1 times -1 is too large, and no factor is -1")]
fn high_product(a: i16, b: i16) -> i16 {
    ((i32::from(a) * i32::from(b) + (1 << 14)) >> 15) as i16
}
