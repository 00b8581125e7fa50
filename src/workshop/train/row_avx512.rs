//! What a row's latents make of it, in AVX-512: what `workshop::train::rows` does in several passes, in registers, bit for bit.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected")]

use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps};

use crate::encode::native::Avx512;
use crate::sae::latent::LatentId;
use crate::workshop::train::linear::LANES;
use crate::workshop::train::linear_avx512::total;
use crate::workshop::train::registers_avx512::{load, store};

/// `dots::Dots::decode` of rows of `N` registers; `None`, and nothing done, where they are of another width.
#[inline(always)]
pub(super) fn decode<const N: usize>(
    _: Avx512,
    start: &[f32],
    active: (&[LatentId], &[f32]),
    w_dec: &[f32],
    missing: Option<&mut [f32]>,
    (gradient, scale): (&mut [f32], f32),
) -> Option<f32> {
    // SAFETY: a value of `Avx512` exists only where the features were detected.
    unsafe { decode_avx512::<N>(start, active, w_dec, missing, (gradient, scale)) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn decode_avx512<const N: usize>(
    start: &[f32],
    (latents, values): (&[LatentId], &[f32]),
    w_dec: &[f32],
    missing: Option<&mut [f32]>,
    (gradient, scale): (&mut [f32], f32),
) -> Option<f32> {
    let w_dec = w_dec.as_chunks::<LANES>().0.as_chunks::<N>().0;
    let start: &[[f32; LANES]; N] = start.as_chunks::<LANES>().0.try_into().ok()?;
    let gradient: &mut [[f32; LANES]; N] = gradient.as_chunks_mut::<LANES>().0.try_into().ok()?;
    let mut e = [_mm512_setzero_ps(); N];
    for at in 0..N {
        e[at] = load(&start[at]);
    }
    for (latent, value) in latents.iter().zip(values) {
        let (w, value) = (&w_dec[latent.index()], _mm512_set1_ps(*value));
        for at in 0..N {
            e[at] = _mm512_fmadd_ps(value, load(&w[at]), e[at]);
        }
    }
    let (mut square, scale) = (_mm512_setzero_ps(), _mm512_set1_ps(scale));
    for at in 0..N {
        square = _mm512_fmadd_ps(e[at], e[at], square);
        store(&mut gradient[at], _mm512_mul_ps(e[at], scale));
    }
    if let Some(missing) = missing {
        for (place, e) in missing.as_chunks_mut::<LANES>().0.iter_mut().zip(e) {
            store(place, e);
        }
    }
    Some(total(square))
}
