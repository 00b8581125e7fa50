//! The screen's arithmetic, with the instructions that are asked for; the portable one is the rule of the others.

use crate::encode::native::cpu::Kernel;
use crate::encode::native::model::NativeModel;
#[cfg(target_arch = "x86_64")]
use crate::encode::native::quads_avx2;
#[cfg(target_arch = "x86_64")]
use crate::encode::native::quads_vnni_avx2;
use crate::encode::native::screen::{BLOCK_PAIRS, Form, PAIR_ROWS, PANEL, QUAD_ROWS, Screen};
#[cfg(target_arch = "x86_64")]
use crate::encode::native::screen_avx2;
#[cfg(target_arch = "x86_64")]
use crate::encode::native::screen_avx512;
use crate::encode::native::screen_passes::Plain;
use crate::encode::native::screen_row::Tile;
use crate::encode::native::screen_steps::{self as steps, high_product};

/// What computes: instructions, weights, rounded weights.
pub(super) type Parts<'a> = (Kernel, &'a NativeModel, &'a Screen);

/// Centres a tile's rows, `xs [n, d_in]` to `ys [n, padded_in]`, and rounds them. The same code for all, compiled
/// for what the CPU has.
pub(super) fn round((kernel, model, screen): Parts<'_>, xs: &[f32], ys: &mut [f32], tile: &mut Tile) {
    match kernel {
        Kernel::Portable => tile.set_all(Plain, model, screen, xs, ys),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => screen_avx2::round(proof, (model, screen), xs, ys, tile),
        #[cfg(target_arch = "x86_64")]
        Kernel::AvxVnni(proof) => screen_avx2::round(proof.avx2(), (model, screen), xs, ys, tile),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(proof) => screen_avx512::round(proof, (model, screen), xs, ys, tile),
    }
}

/// `mid_j` of all latents for the rows of a tile, `[rows, d_sae]`.
pub(super) fn estimates(kernel: Kernel, screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    match (kernel, screen.form) {
        #[cfg(target_arch = "x86_64")]
        (Kernel::Avx2(proof), Form::Pairs) => screen_avx2::estimates(proof, screen, tile, mid),
        #[cfg(target_arch = "x86_64")]
        (Kernel::Avx2(proof), Form::Quads) => quads_avx2::estimates(proof, screen, tile, mid),
        #[cfg(target_arch = "x86_64")]
        (Kernel::AvxVnni(proof), Form::Pairs) => screen_avx2::estimates(proof.avx2(), screen, tile, mid),
        #[cfg(target_arch = "x86_64")]
        (Kernel::AvxVnni(proof), Form::Quads) => quads_vnni_avx2::estimates(proof.vnni(), screen, tile, mid),
        #[cfg(target_arch = "x86_64")]
        (Kernel::Avx512(proof), Form::Pairs) => screen_avx2::estimates(proof.avx2(), screen, tile, mid),
        #[cfg(target_arch = "x86_64")]
        (Kernel::Avx512(proof), Form::Quads) => screen_avx512::estimates(proof, screen, tile, mid),
        _ => estimates_portable(screen, tile, mid),
    }
}

/// The twin of the fast paths: the same integers, one at a time.
fn estimates_portable(screen: &Screen, tile: &Tile, mid: &mut [i16]) {
    for (row, mid) in mid.chunks_exact_mut(screen.d_sae).enumerate() {
        for (latent, mid) in mid.iter_mut().enumerate() {
            let total = match screen.form {
                Form::Pairs => sum_of_pairs(screen, tile, row, latent),
                Form::Quads => sum_of_quads(screen, tile, row, latent),
            };
            let scaled = high_product(total, screen.scales[latent]);
            *mid = scaled.wrapping_add(high_product(screen.biases[latent], tile.rows[row].bias_factor));
        }
    }
}

fn sum_of_pairs(screen: &Screen, tile: &Tile, row: usize, latent: usize) -> i16 {
    let mut total = 0i16;
    let n_blocks = screen.n_groups.div_ceil(BLOCK_PAIRS);
    for block in 0..n_blocks {
        let mut sum = screen.starts[(latent / PANEL * n_blocks + block) * PANEL + latent % PANEL];
        for pair in block * BLOCK_PAIRS..((block + 1) * BLOCK_PAIRS).min(screen.n_groups) {
            let at = screen.place(latent, pair);
            let [x0, x1] = tile.pairs[pair * PAIR_ROWS + row].to_le_bytes().map(i16::from);
            sum = sum.wrapping_add(x0 * i16::from(screen.weights[at]) + x1 * i16::from(screen.weights[at + 1]));
        }
        total = total.wrapping_add(if screen.shift == 0 { sum } else { high_product(sum, 1 << (15 - screen.shift)) });
    }
    total
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to the range")]
fn sum_of_quads(screen: &Screen, tile: &Tile, row: usize, latent: usize) -> i16 {
    let mut sum = tile.rows[row].start;
    for quad in 0..screen.n_groups {
        let at = screen.place(latent, quad);
        let x = tile.quads[quad * QUAD_ROWS + row].to_le_bytes().map(|x| i32::from(x.cast_signed()));
        for (x, weight) in x.iter().zip(&screen.weights[at..at + 4]) {
            sum += x * i32::from(weight.cast_unsigned());
        }
    }
    (sum >> tile.rows[row].shift).clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// `maxima[l]` = the largest of 0 and the values at `l`, `l + n`, ... of `n` lanes, a multiple of 32.
pub(super) fn lane_maxima(kernel: Kernel, mid: &[i16], maxima: &mut [i16]) {
    match kernel {
        Kernel::Portable => {
            maxima.fill(0);
            for stride in mid.chunks(maxima.len()) {
                maxima.iter_mut().zip(stride).for_each(|(maximum, value)| *maximum = (*maximum).max(*value));
            }
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => screen_avx2::lane_maxima(proof, mid, maxima),
        #[cfg(target_arch = "x86_64")]
        Kernel::AvxVnni(proof) => screen_avx2::lane_maxima(proof.avx2(), mid, maxima),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(proof) => screen_avx512::lane_maxima(proof, mid, maxima),
    }
}

/// For each row of `n_lanes` maxima a number that at least `k` of them reach: see [`steps::bisect`].
pub(super) fn bisect(kernel: Kernel, maxima: &[i16], n_lanes: usize, k: usize, bounds: &mut [i16]) {
    match kernel {
        Kernel::Portable => {
            for (maxima, bound) in maxima.chunks_exact(n_lanes).zip(bounds) {
                [*bound] = steps::bisect([maxima], k, |maxima, bound| maxima.iter().filter(|value| **value >= bound).count());
            }
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => screen_avx2::bisect(proof, maxima, n_lanes, k, bounds),
        #[cfg(target_arch = "x86_64")]
        Kernel::AvxVnni(proof) => screen_avx2::bisect(proof.avx2(), maxima, n_lanes, k, bounds),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(proof) => screen_avx512::bisect(proof, maxima, n_lanes, k, bounds),
    }
}

/// Positions of the latents whose `up_j`, estimate and margin, reaches the bound, ascending; returns how many there are.
/// `latents` has room for 64 more than are wanted: where it has not, one more than that is returned at least.
pub(super) fn collect(kernel: Kernel, screen: &Screen, mid: &[i16], margin: i16, bound: i16, latents: &mut [u32]) -> usize {
    match kernel {
        Kernel::Portable => {
            let reaches = |(mid, scale): (&i16, &i16)| mid.wrapping_add(high_product(margin, *scale)) >= bound;
            let found = (0u32..).zip(mid.iter().zip(&*screen.scales)).filter(|(_, latent)| reaches(*latent));
            found.zip(latents).map(|((position, _), latent)| *latent = position).count()
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => screen_avx2::collect(proof, screen, mid, margin, bound, latents),
        #[cfg(target_arch = "x86_64")]
        Kernel::AvxVnni(proof) => screen_avx2::collect(proof.avx2(), screen, mid, margin, bound, latents),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(proof) => screen_avx512::collect(proof, screen, mid, margin, bound, latents),
    }
}
