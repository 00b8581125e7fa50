//! A latent's step in AVX-512: what `workshop::train::moving` does in several passes, in registers, bit for bit.
//!
//! The compiler writes each pass well and guards each with questions whether its slices overlap, keeps none of their
//! values in registers between them, and a latent has few rows to spread that over.

#![expect(unsafe_code, reason = "calls code for CPU features that were detected")]

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_mul_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_srli_epi32, _mm512_sub_epi32,
};

use crate::encode::native::Avx512;
use crate::workshop::train::adam::{AdamStep, FIRST_GUESS, ROOT_TERMS};
use crate::workshop::train::linear::{LANES, Share};
use crate::workshop::train::linear_avx512::total;
use crate::workshop::train::moving::Moving;
use crate::workshop::train::registers_avx512::{load, store};

/// Takes the step of a latent of rows of `N` registers, and returns the sum of the shares' slopes; what the latent adds to
/// the gradient of `b_dec` is added to `centring`. `None`, and nothing done, where the rows are of another width.
#[inline(always)]
pub(super) fn step<const N: usize>(
    _: Avx512,
    adam: AdamStep,
    latent: &mut Moving<'_>,
    shares: &[Share],
    (centred, gradients): (&[f32], &[f32]),
    centring: &mut [f32],
) -> Option<f32> {
    // SAFETY: a value of `Avx512` exists only where the features were detected.
    unsafe { step_avx512::<N>(adam, latent, shares, (centred, gradients), centring) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn step_avx512<const N: usize>(
    adam: AdamStep,
    latent: &mut Moving<'_>,
    shares: &[Share],
    (centred, gradients): (&[f32], &[f32]),
    centring: &mut [f32],
) -> Option<f32> {
    let (centred, gradients) = (centred.as_chunks::<LANES>().0.as_chunks::<N>().0, gradients.as_chunks::<LANES>().0.as_chunks::<N>().0);
    let (Some(w_enc), Some(v_enc), Some(w_dec), Some(v_dec), Some(centring)) =
        (row::<N>(latent.w_enc), row::<N>(latent.v_enc), row::<N>(latent.w_dec), row::<N>(latent.v_dec), row::<N>(centring))
    else {
        return None;
    };
    let (mut by_row, mut by_gradient) = ([_mm512_setzero_ps(); N], [_mm512_setzero_ps(); N]);
    let mut slope = 0.0;
    for share in shares {
        slope += share.slope;
        let (x, g) = (&centred[share.row as usize], &gradients[share.gradient_row as usize]);
        let (share_slope, value) = (_mm512_set1_ps(share.slope), _mm512_set1_ps(share.value));
        for at in 0..N {
            by_row[at] = _mm512_fmadd_ps(share_slope, load(&x[at]), by_row[at]);
            by_gradient[at] = _mm512_fmadd_ps(value, load(&g[at]), by_gradient[at]);
        }
    }
    let less = _mm512_set1_ps(-slope);
    let factors = Factors::of(adam);
    for at in 0..N {
        let w = load(&w_enc[at]);
        let sum = _mm512_fmadd_ps(less, w, load(&centring[at]));
        store(&mut centring[at], sum);
        let moved = factors.moved(w, by_row[at], &mut v_enc[at]);
        store(&mut w_enc[at], moved);
    }
    let (mut w, mut along) = ([_mm512_setzero_ps(); N], _mm512_setzero_ps());
    for at in 0..N {
        w[at] = load(&w_dec[at]);
        along = _mm512_fmadd_ps(w[at], by_gradient[at], along);
    }
    let along = _mm512_set1_ps(total(along));
    let mut square = _mm512_setzero_ps();
    for at in 0..N {
        let g = _mm512_fnmadd_ps(along, w[at], by_gradient[at]);
        w[at] = factors.moved(w[at], g, &mut v_dec[at]);
        square = _mm512_fmadd_ps(w[at], w[at], square);
    }
    let norm = total(square).sqrt();
    let scale = _mm512_set1_ps(if norm > 0.0 { 1.0 / norm } else { 1.0 });
    for at in 0..N {
        store(&mut w_dec[at], _mm512_mul_ps(w[at], scale));
    }
    Some(slope)
}

/// A step's factors, each in a register.
#[derive(Clone, Copy)]
struct Factors {
    rate: __m512,
    epsilon: __m512,
    kept: __m512,
    new: __m512,
}

impl Factors {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn of(adam: AdamStep) -> Self {
        let [rate, epsilon, kept, new] = adam.factors().map(|factor| _mm512_set1_ps(factor));
        Self { rate, epsilon, kept, new }
    }

    /// `AdamStep::update` of sixteen values.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn moved(self, w: __m512, g: __m512, v: &mut [f32; LANES]) -> __m512 {
        let square = _mm512_fmadd_ps(_mm512_mul_ps(self.new, g), g, _mm512_mul_ps(self.kept, load(v)));
        store(v, square);
        let value = _mm512_add_ps(square, self.epsilon);
        let half = _mm512_srli_epi32::<1>(_mm512_castps_si512(value));
        let guess = _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_set1_epi32(FIRST_GUESS.cast_signed()), half));
        let square = _mm512_mul_ps(_mm512_mul_ps(value, guess), guess);
        let [a, b, c] = ROOT_TERMS.map(|term| _mm512_set1_ps(term));
        let slope = _mm512_fmadd_ps(c, square, b);
        let root = _mm512_mul_ps(guess, _mm512_fmadd_ps(slope, square, a));
        _mm512_fnmadd_ps(_mm512_mul_ps(self.rate, g), root, w)
    }
}

/// A row as registers; none where it is of another width.
#[inline]
fn row<const N: usize>(values: &mut [f32]) -> Option<&mut [[f32; LANES]; N]> {
    values.as_chunks_mut::<LANES>().0.try_into().ok()
}
