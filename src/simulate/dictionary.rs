//! An SAE whose weights are known, because the embeddings are built from them.
//!
//! 128 directions in 64 dimensions: the unit vectors and the rows of the normalised Hadamard matrix,
//! turned together by a random rotation. Two directions of one half are orthogonal, two of different
//! halves have cosine 1/8. So with at most three concepts of strength 1 to 1.3 in an embedding, a
//! concept that is there projects to at least 1 - 2 * 1.3 / 8 = 0.675, one that is not to at most
//! 3 * 1.3 / 8 = 0.4875: a threshold between the two tells them apart exactly.
//! Random directions were tried on paper and rejected: their largest cosines make errors.

use std::num::NonZeroUsize;

use ndarray::{Array1, Array2};
use rand::Rng;
use rand_distr::StandardNormal;

use crate::sae::weights::{SaeSpec, SaeWeights, Selection, ShapeError};

/// Width of an embedding.
pub const D_IN: usize = 64;
/// Concepts, one a latent.
pub const N_CONCEPTS: usize = 2 * D_IN;
/// The SAE keeps at most this many; embeddings hold at most three, the rest must come out as zero.
pub const K: usize = 4;
/// Most concepts in one embedding; more would break the separation above.
pub const MOST_CONCEPTS: usize = 3;
/// Projection above which a concept is there: the middle of 0.4875 and 0.675.
const THRESHOLD: f32 = 0.58125;
/// Encoder and decoder rows are the directions times this, so that encoding and decoding together
/// double what lies above the threshold: 2 (1.15 - 0.58) is the mean strength again.
const ROW_NORM: f32 = std::f32::consts::SQRT_2;

/// The directions and the mean embedding.
#[derive(Clone, Debug)]
pub struct Dictionary {
    directions: Array2<f32>,
    mean: Array1<f32>,
}

impl Dictionary {
    /// A dictionary in a random rotation, about a random mean.
    pub fn draw(rng: &mut impl Rng) -> Self {
        let rotation = random_rotation(rng);
        let mut directions = Array2::zeros((N_CONCEPTS, D_IN));
        let scale = 1.0 / (D_IN as f32).sqrt();
        for row in 0..D_IN {
            directions.row_mut(row).assign(&rotation.row(row));
            let mut sum = Array1::<f32>::zeros(D_IN);
            for column in 0..D_IN {
                // Entry of the Hadamard matrix: the parity of the common bits.
                let sign = if (row & column).count_ones().is_multiple_of(2) { scale } else { -scale };
                sum.scaled_add(sign, &rotation.row(column));
            }
            directions.row_mut(D_IN + row).assign(&sum);
        }
        let mean = (0..D_IN).map(|_| 0.3 * rng.sample::<f32, _>(StandardNormal)).collect();
        Self { directions, mean }
    }

    /// Direction of a concept, `[d_in]`, unit length.
    #[must_use]
    pub fn direction(&self, concept: usize) -> ndarray::ArrayView1<'_, f32> {
        self.directions.row(concept)
    }

    /// Mean of all embeddings, `[d_in]`: the SAE's `b_dec`.
    #[must_use]
    pub fn mean(&self) -> &Array1<f32> {
        &self.mean
    }

    /// The SAE that reads it: encoder and decoder rows are the directions times sqrt 2, the encoder's
    /// bias takes the threshold away, so that TopK and ReLU leave exactly the concepts that are there.
    ///
    /// # Errors
    /// Never with the shapes of this file.
    pub fn sae(&self) -> Result<SaeWeights, ShapeError> {
        let rows = &self.directions * ROW_NORM;
        let bias = Array1::from_elem(N_CONCEPTS, -THRESHOLD * ROW_NORM);
        SaeWeights::new(spec(), rows.clone(), bias, Some(rows), self.mean.clone())
    }
}

/// Shape of the world's SAE.
#[must_use]
pub fn spec() -> SaeSpec {
    let size = |n: usize| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
    SaeSpec { d_in: size(D_IN), d_sae: size(N_CONCEPTS), selection: Selection::TopK(size(K)), centring: true }
}

/// Rows of a random orthogonal matrix: Gram-Schmidt on Gaussian rows, in f64.
fn random_rotation(rng: &mut impl Rng) -> Array2<f32> {
    let mut rows: Vec<Array1<f64>> = Vec::with_capacity(D_IN);
    while rows.len() < D_IN {
        let mut row: Array1<f64> = (0..D_IN).map(|_| rng.sample::<f64, _>(StandardNormal)).collect();
        // Twice, because once leaves rounding errors of the size of what was taken away.
        for _ in 0..2 {
            for earlier in &rows {
                let along = row.dot(earlier);
                row.scaled_add(-along, earlier);
            }
        }
        let norm = row.dot(&row).sqrt();
        if norm > 1e-3 {
            rows.push(row / norm);
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "a unit vector's values are rounded to f32")]
    Array2::from_shape_fn((D_IN, D_IN), |(row, column)| rows[row][column] as f32)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn directions_are_unit_and_hardly_alike() {
        let dictionary = Dictionary::draw(&mut ChaCha8Rng::seed_from_u64(3));
        for a in 0..N_CONCEPTS {
            for b in 0..N_CONCEPTS {
                let cosine = dictionary.direction(a).dot(&dictionary.direction(b));
                let expected = if a == b {
                    1.0
                } else if a / D_IN == b / D_IN {
                    0.0
                } else {
                    0.125
                };
                assert!((cosine.abs() - expected).abs() < 1e-5, "{a} {b} {cosine}");
            }
        }
    }
}
