//! The engine's own dot product: the one definition that every kernel of it repeats bit for bit.
//!
//! ```text
//! a[l] = fma(w[8c + l], x[8c + l], a[l])        for c = 0, 1, ...; a[l] = 0 at first; l = 0..8
//! v    = (((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7))) + b
//! ```
//!
//! Eight sums along the embedding rather than one latent a lane: one latent can then be computed alone
//! from its row of the matrix, with the same bits as among all of them, which the screen lives on.
//! Both vectors are padded with zeros to a multiple of 8, which changes nothing: `fma(0, 0, a) = a`.
//!
//! Error against exact arithmetic: each a[l] takes n = ceil(d / 8) roundings, the tree three, the bias
//! one, so `|v - (w.x + b)| <= u (n + 4) (sum |w_i x_i| + |b|) (1 + small)`, `u = 2^-24`.

use crate::encode::native::cpu::Kernel;
#[cfg(target_arch = "x86_64")]
use crate::encode::native::dot_avx2;
use crate::encode::native::model::NativeModel;

/// Partial sums of a dot product.
pub(super) const LANES: usize = 8;
/// Latents whose weights stay in the first cache while a block of rows passes by.
const PANEL: usize = 32;

/// `w . x`, both of one length that is a multiple of [`LANES`].
pub(super) fn dot(w: &[f32], x: &[f32]) -> f32 {
    let mut a = [0f32; LANES];
    for (w, x) in w.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
        for ((a, w), x) in a.iter_mut().zip(w).zip(x) {
            *a = w.mul_add(*x, *a);
        }
    }
    ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]))
}

/// Values of all latents: `rows [n, padded_in]` to `dense [n, padded_sae]`, without the ReLU.
pub(super) fn dense(kernel: Kernel, model: &NativeModel, rows: &[f32], dense: &mut [f32]) {
    let (d_in, d_sae) = (model.padded_in(), model.padded_sae());
    debug_assert_eq!(rows.len() / d_in, dense.len() / d_sae);
    for start in (0..d_sae).step_by(PANEL) {
        let panel = start..(start + PANEL).min(d_sae);
        match kernel {
            Kernel::Portable => {
                for (x, out) in rows.chunks_exact(d_in).zip(dense.chunks_exact_mut(d_sae)) {
                    for latent in panel.clone() {
                        out[latent] = dot(model.row(latent), x) + model.bias()[latent];
                    }
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(proof) => dot_avx2::panel(proof, model, panel, rows, dense),
        }
    }
}

/// Values of the given latents of one row, appended to `values`.
pub(super) fn some(kernel: Kernel, model: &NativeModel, latents: &[u32], x: &[f32], values: &mut Vec<f32>) {
    match kernel {
        Kernel::Portable => {
            values.extend(latents.iter().map(|latent| dot(model.row(*latent as usize), x) + model.bias()[*latent as usize]));
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => dot_avx2::some(proof, model, latents, x, values),
    }
}
