//! How well the active latents explain an embedding, from the few of them instead of a dense decode.
//!
//! `x_hat = sum_j z_j W_dec[j] + b_dec` costs `k d_in` multiply-adds a row; a dense decode in ONNX
//! Runtime makes the whole encode 1.4 to 3.4 times slower (measured). The products are f32, the sums
//! over a row f64, because a fraction of variance unexplained may be as small as 0.003.

use crate::sae::aligned::Aligned;
use crate::sae::latent::LatentId;
#[cfg(target_arch = "x86_64")]
use crate::sae::reconstruction_avx512::Avx512;
use crate::sae::reconstruction_row::{LANES, Row, Sums};
use crate::sae::weights::SaeWeights;
use crate::sae::wide::{Wide, Work};

/// Dimensions reconstructed at once: half of the registers AVX2 has hold them while all latents pass by.
const BLOCK: usize = 64;

/// Reconstruction quality of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowError {
    /// `||x - x_hat||^2`, the numerator of FVU.
    pub squared_error: f64,
    /// `x . x_hat / (||x|| ||x_hat||)`; 0 where either is a zero vector.
    pub cosine: f64,
    /// `||x_hat|| / ||x||`; 0 where `x` is a zero vector.
    pub norm_ratio: f64,
    /// `||x||^2`.
    pub squared_norm: f64,
}

/// The decoder's weights, laid out for reading one latent's row at a time.
#[derive(Clone, Debug)]
pub struct Decoder {
    wide: Wide,
    #[cfg(target_arch = "x86_64")]
    avx512: Option<Avx512>,
    d_in: usize,
    w_dec: Aligned<f32>,
    b_dec: Vec<f32>,
}

impl Decoder {
    /// The decoder of `weights`; `None` where only the encoder is known.
    #[must_use]
    pub fn new(weights: &SaeWeights) -> Option<Self> {
        let w_dec: Vec<f32> = weights.w_dec()?.iter().copied().collect();
        Some(Self {
            wide: Wide::detect(),
            #[cfg(target_arch = "x86_64")]
            avx512: Avx512::detect(),
            d_in: weights.spec().d_in.get(),
            w_dec: Aligned::from(&*w_dec),
            b_dec: weights.b_dec().to_vec(),
        })
    }

    /// Width of an embedding.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.d_in
    }

    /// Error of one row `x [d_in]` against its active latents and their values (both `[n_active]`).
    /// `scratch` holds the reconstruction `[d_in]` afterwards; its memory is kept.
    ///
    /// # Panics
    /// When a latent lies outside the dictionary or `x` is shorter than `d_in`, as indexing a slice does.
    pub fn row_error(&self, x: &[f32], latents: &[LatentId], values: &[f32], scratch: &mut Vec<f32>) -> RowError {
        let row = Row { w_dec: &self.w_dec, b_dec: &self.b_dec, x: &x[..self.d_in], latents, values };
        scratch.resize(self.d_in, 0.0);
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = self.avx512 {
            return row_error(avx512.sums(row, scratch));
        }
        row_error(self.wide.run(RowWork { row, x_hat: scratch }))
    }
}

struct RowWork<'a> {
    row: Row<'a>,
    x_hat: &'a mut [f32],
}

impl Work for RowWork<'_> {
    type Done = Sums;

    #[inline(always)]
    fn run(self) -> Sums {
        reconstruct(self.row, self.x_hat);
        sums(self.row.x, self.x_hat)
    }
}

#[inline(always)]
fn reconstruct(row: Row<'_>, x_hat: &mut [f32]) {
    let d_in = row.b_dec.len();
    x_hat.copy_from_slice(row.b_dec);
    let (blocks, rest) = x_hat.as_chunks_mut::<BLOCK>();
    let n_in_blocks = blocks.len() * BLOCK;
    for (block, start) in blocks.iter_mut().zip((0..).step_by(BLOCK)) {
        let mut sums = *block;
        for (latent, value) in row.latents.iter().zip(row.values) {
            let weights = &row.w_dec[latent.index() * d_in + start..];
            let Some(weights) = weights.first_chunk::<BLOCK>() else { continue };
            for at in 0..BLOCK {
                sums[at] += value * weights[at];
            }
        }
        *block = sums;
    }
    for (latent, value) in row.latents.iter().zip(row.values) {
        let weights = &row.w_dec[latent.index() * d_in..][n_in_blocks..d_in];
        for (out, w) in rest.iter_mut().zip(weights) {
            *out += value * w;
        }
    }
}

/// The four sums of a row in one pass.
#[inline(always)]
fn sums(x: &[f32], x_hat: &[f32]) -> Sums {
    let mut sums = [[0f64; LANES]; 4];
    let ((chunks, rest), (hat_chunks, hat_rest)) = (x.as_chunks::<LANES>(), x_hat.as_chunks::<LANES>());
    for (xs, hats) in chunks.iter().zip(hat_chunks) {
        add(&mut sums, xs, hats);
    }
    // Filled up with zeros, which add nothing: a lane of a variable number would keep the sums out of registers.
    let (mut xs, mut hats) = ([0.0; LANES], [0.0; LANES]);
    xs.iter_mut().zip(rest).for_each(|(place, value)| *place = *value);
    hats.iter_mut().zip(hat_rest).for_each(|(place, value)| *place = *value);
    add(&mut sums, &xs, &hats);
    sums
}

fn row_error([error, product, norm_hat, norm]: Sums) -> RowError {
    let sum = |lanes: [f64; LANES]| lanes.iter().sum::<f64>();
    let (product, squared_norm_hat, squared_norm) = (sum(product), sum(norm_hat), sum(norm));
    let scale = (squared_norm * squared_norm_hat).sqrt();
    RowError {
        squared_error: sum(error),
        cosine: if scale > 0.0 { product / scale } else { 0.0 },
        norm_ratio: if squared_norm > 0.0 { (squared_norm_hat / squared_norm).sqrt() } else { 0.0 },
        squared_norm,
    }
}

// No closure, which would be compiled on its own and for no CPU in particular.
#[inline(always)]
fn add([error, product, norm_hat, norm]: &mut Sums, xs: &[f32; LANES], hats: &[f32; LANES]) {
    for lane in 0..LANES {
        let (a, b) = (f64::from(xs[lane]), f64::from(hats[lane]));
        error[lane] += (a - b) * (a - b);
        product[lane] += a * b;
        norm_hat[lane] += b * b;
        norm[lane] += a * a;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::{Array1, Array2};
    use proptest::prelude::*;

    use super::*;
    use crate::sae::weights::{SaeSpec, Selection};

    fn weights(d_in: usize, d_sae: usize, numbers: &[f32]) -> SaeWeights {
        let size = |n| NonZeroUsize::new(n).unwrap();
        let mut cycle = numbers.iter().copied().cycle();
        let mut matrix = || Array2::from_shape_fn((d_sae, d_in), |_| cycle.next().unwrap());
        let (w_enc, w_dec) = (matrix(), matrix());
        let spec = SaeSpec { d_in: size(d_in), d_sae: size(d_sae), selection: Selection::TopK(size(3)), centring: true };
        SaeWeights::new(spec, w_enc, Array1::zeros(d_sae), Some(w_dec), Array1::from_elem(d_in, 0.1)).unwrap()
    }

    proptest! {
        #[test]
        #[expect(clippy::cast_possible_truncation, reason = "what an engine would give")]
        fn the_sparse_error_equals_the_dense_decode_in_f64(
            numbers in prop::collection::vec(-1.0f32..1.0, 300), x in prop::collection::vec(-2.0f32..2.0, 1..150),
        ) {
            let sae = weights(x.len(), 20, &numbers);
            let active = sae.encode(&x);
            let x_hat = sae.decode(&active).unwrap();
            let latents: Vec<LatentId> = active.iter().map(|(latent, _)| *latent).collect();
            let values: Vec<f32> = active.iter().map(|(_, value)| *value as f32).collect();
            let mut decoder = Decoder::new(&sae).unwrap();
            let got = decoder.row_error(&x, &latents, &values, &mut Vec::new());
            #[cfg(target_arch = "x86_64")]
            let _: Option<Avx512> = decoder.avx512.take();
            for wide in Wide::all() {
                decoder.wide = wide;
                prop_assert_eq!(got, decoder.row_error(&x, &latents, &values, &mut Vec::new()), "the same bits on every machine: {:?}", wide);
            }
            let expected: f64 = x.iter().zip(&x_hat).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
            let norm: f64 = x.iter().map(|a| f64::from(*a).powi(2)).sum();
            let norm_hat: f64 = x_hat.iter().map(|b| b * b).sum();
            let product: f64 = x.iter().zip(&x_hat).map(|(a, b)| f64::from(*a) * b).sum();
            prop_assert!((got.squared_error - expected).abs() < 1e-5 * (1.0 + expected));
            prop_assert!((got.squared_norm - norm).abs() < 1e-9 * (1.0 + norm));
            prop_assert!((got.cosine - product / (norm * norm_hat).sqrt()).abs() < 1e-5);
            prop_assert!((got.norm_ratio - (norm_hat / norm).sqrt()).abs() < 1e-5 * (1.0 + got.norm_ratio));
        }
    }

    #[test]
    fn a_zero_vector_has_an_error_but_no_direction() {
        let sae = weights(4, 5, &[0.5]);
        let got = Decoder::new(&sae).unwrap().row_error(&[0.0; 4], &[], &[], &mut Vec::new());
        assert!((got.squared_error - 0.04).abs() < 1e-8);
        assert_eq!((got.cosine, got.norm_ratio, got.squared_norm), (0.0, 0.0, 0.0));
    }
}
