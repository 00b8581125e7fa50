//! The engine's values: of all latents for some rows, or of some latents for one row, with the same bits.

use crate::encode::native::cpu::Kernel;
use crate::encode::native::dot::dot;
use crate::encode::native::model::NativeModel;
#[cfg(target_arch = "x86_64")]
use crate::encode::native::{dot_avx2, dot_avx512};

/// Latents whose weights stay in the first cache while a block of rows passes by.
const PANEL: usize = 32;

/// Room behind the values of [`some`] latents.
pub(super) const ROOM: usize = 8;

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
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(proof) => dot_avx2::panel(proof.avx2(), model, panel, rows, dense),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(proof) => dot_avx512::panel(proof, model, panel, rows, dense),
        }
    }
}

/// Values of the given latents of one row, to the first of `values`, which has room for [`ROOM`] more; those beyond
/// hold anything afterwards.
pub(super) fn some(kernel: Kernel, model: &NativeModel, latents: &[u32], x: &[f32], values: &mut [f32]) {
    match kernel {
        Kernel::Portable => {
            for (latent, value) in latents.iter().zip(values) {
                *value = dot(model.row(*latent as usize), x) + model.bias()[*latent as usize];
            }
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => dot_avx2::some(proof, model, latents, x, values),
        #[cfg(target_arch = "x86_64")]
        Kernel::AvxVnni(proof) => dot_avx2::some(proof.avx2(), model, latents, x, values),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(proof) => dot_avx2::some(proof.avx2(), model, latents, x, values),
    }
}
