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
//! Error against exact arithmetic: each `a[l]` takes n = ceil(d / 8) roundings, the tree three, the bias
//! one, so `|v - (w.x + b)| <= u (n + 4) (sum |w_i x_i| + |b|) (1 + small)`, `u = 2^-24`.

/// Partial sums of a dot product.
pub(super) const LANES: usize = 8;

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
