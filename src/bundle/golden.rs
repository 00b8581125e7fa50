//! Golden rows: embeddings whose activations are known, checked at every start.
//!
//! An SAE that was exported, copied or loaded wrongly still gives plausible numbers (a TopK SAE loaded
//! as ReLU has 600 active latents instead of 80 and nobody notices), so an encoder must first answer
//! these rows. Rows made by recsae itself only show that nothing changed since the build; they are
//! marked and count as unverified.

use std::io::{Read, Seek};
use std::path::Path;

use ndarray::{Array2, ArrayView1, Axis, Ix2, OwnedRepr};
use ndarray_npy::NpzReader;
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::bundle::error::BundleError;
use crate::bundle::tensors::{F32Tensor, TensorFile};
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::reconstruction::Decoder;
use crate::sae::weights::{SaeSpec, SaeWeights};

/// Producer of rows that recsae made itself.
pub const SELF_MADE: &str = "self-made";
/// Rows recsae makes where none are given: enough to touch a few thousand latents, checked in a blink.
const SELF_MADE_ROWS: usize = 256;
/// Accepted difference of a value, relative to the row's largest: f32 engines sum in different orders
/// (2e-6 seen); a wrong weight or bias shows far above.
const VALUE_TOLERANCE: f32 = 1e-4;
/// Accepted distance of a latent from the selection's edge, relative to the row's largest value, where
/// two engines may choose differently.
const TIE_TOLERANCE: f32 = 1e-5;
/// One row in this many may differ by such a near tie.
const ROWS_PER_TIE: usize = 100;

/// Embeddings with their activations as another program computed them.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenRows {
    /// Embeddings `[n, d_in]`.
    pub embedding: Array2<f32>,
    /// Values `[n, k]`; places that are not > 0 hold no activation.
    pub values: Array2<f32>,
    /// Latents of the values `[n, k]`, in any order.
    pub indices: Array2<i64>,
    /// Reconstructions `[n, d_in]`, if known.
    pub reconstruction: Option<Array2<f32>>,
    /// Who computed them.
    pub producer: String,
}

/// Outcome of a passed check.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GoldenReport {
    /// Rows compared.
    pub n_rows: usize,
    /// Rows whose active sets differ by a near tie at the selection's edge.
    pub n_near_ties: usize,
    /// Largest difference of a value, relative to its row's largest value.
    pub max_difference: f32,
    /// Whether reconstructions were compared too.
    pub reconstruction_compared: bool,
}

/// A failed check: what the first wrong row showed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("golden row {row}: {detail}; the encoder is not the SAE these rows were made with: export both again from the same checkpoint")]
pub struct GoldenMismatch {
    /// The row.
    pub row: usize,
    /// Expected and found.
    pub detail: String,
}

impl GoldenRows {
    /// Rows made from the weights by the f64 yardstick; the same weights give the same rows.
    #[must_use]
    pub fn self_made(weights: &SaeWeights) -> Self {
        let mut golden = Self::of_rows(weights, random_rows(weights.spec(), Some(weights)));
        golden.producer = SELF_MADE.to_owned();
        golden
    }

    /// Random rows `[n, d_in]` for an SAE: around its centre where that is known.
    #[must_use]
    pub fn random_embeddings(spec: &SaeSpec) -> Array2<f32> {
        random_rows(spec, None)
    }

    /// What the f64 yardstick says of the given rows.
    #[must_use]
    pub fn of_rows(weights: &SaeWeights, embedding: Array2<f32>) -> Self {
        let mut activations = SparseActivations::default();
        for row in embedding.axis_iter(Axis(0)) {
            for (latent, value) in weights.encode(&row.to_vec()) {
                activations.push(latent, to_f32(value));
            }
            activations.end_row();
        }
        Self::of_activations(embedding, &activations, "the f64 yardstick of recsae")
    }

    /// Rows as an engine answered them.
    #[must_use]
    pub fn of_activations(embedding: Array2<f32>, activations: &SparseActivations, producer: &str) -> Self {
        let n_rows = activations.n_rows();
        let widest = (0..n_rows).map(|row| activations.row(row).0.len()).max().unwrap_or(0).max(1);
        let mut values = Array2::zeros((n_rows, widest));
        let mut indices = Array2::zeros((n_rows, widest));
        for row in 0..n_rows {
            let (latents, active) = activations.row(row);
            for (place, (latent, value)) in latents.iter().zip(active).enumerate() {
                values[[row, place]] = *value;
                indices[[row, place]] = i64::from(latent.0);
            }
        }
        Self { embedding, values, indices, reconstruction: None, producer: producer.to_owned() }
    }

    /// Reads rows a user gives: `.npz` or `.safetensors` with `embedding`, `values`, `indices` and, if known, `reconstruction`.
    ///
    /// # Errors
    /// The file cannot be read, or an array is missing or of another shape or type.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let producer = format!("given as {}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.extension().is_some_and(|extension| extension == "npz") {
            let file = std::fs::File::open(path).map_err(BundleError::io(path))?;
            return Self::from_npz(file, producer).map_err(|message| BundleError::part(path, message)).and_then(|rows| rows.checked(path));
        }
        let bytes = std::fs::read(path).map_err(BundleError::io(path))?;
        let mut golden = Self::from_safetensors(path, &bytes)?;
        if golden.producer.is_empty() {
            golden.producer = producer;
        }
        Ok(golden)
    }

    /// Reads rows from the bytes of a safetensors file; `path` is for messages.
    pub(crate) fn from_safetensors(path: &Path, bytes: &[u8]) -> Result<Self, BundleError> {
        let file = TensorFile::read(path, bytes)?;
        let golden = Self {
            embedding: file.matrix("embedding")?,
            values: file.matrix("values")?,
            indices: file.integers("indices")?,
            reconstruction: if file.contains("reconstruction") { Some(file.matrix("reconstruction")?) } else { None },
            producer: file.metadata("producer").unwrap_or_default(),
        };
        golden.checked(path)
    }

    fn from_npz(file: impl Read + Seek, producer: String) -> Result<Self, String> {
        let mut npz = NpzReader::new(file).map_err(|error| format!("not an .npz file: {error}"))?;
        let mut floats =
            |name: &str| npz.by_name::<OwnedRepr<f32>, Ix2>(name).map_err(|error| format!("expected a f32 matrix {name:?}: {error}"));
        let (embedding, values, reconstruction) = (floats("embedding")?, floats("values")?, floats("reconstruction").ok());
        let indices = match npz.by_name::<OwnedRepr<i64>, Ix2>("indices") {
            Ok(indices) => indices,
            Err(_) => npz
                .by_name::<OwnedRepr<i32>, Ix2>("indices")
                .map_err(|error| format!("expected an int32 or int64 matrix \"indices\": {error}"))?
                .mapv(i64::from),
        };
        Ok(Self { embedding, values, indices, reconstruction, producer })
    }

    fn checked(self, path: &Path) -> Result<Self, BundleError> {
        let n = self.embedding.nrows();
        let same_rows = self.values.nrows() == n && self.reconstruction.as_ref().is_none_or(|rows| rows.dim() == self.embedding.dim());
        if n == 0 || !same_rows || self.values.dim() != self.indices.dim() {
            let message = format!(
                "expected embedding [n, d_in], values and indices [n, k], reconstruction [n, d_in] with n > 0, found {:?}, {:?}, {:?}, {:?}",
                self.embedding.dim(),
                self.values.dim(),
                self.indices.dim(),
                self.reconstruction.as_ref().map(ndarray::ArrayBase::dim)
            );
            return Err(BundleError::part(path, message));
        }
        Ok(self)
    }

    /// Bytes of `golden.safetensors`.
    pub(crate) fn to_safetensors(&self) -> Result<Vec<u8>, String> {
        let mut tensors = vec![F32Tensor::matrix("embedding", &self.embedding), F32Tensor::matrix("values", &self.values)];
        tensors.extend(self.reconstruction.as_ref().map(|rows| F32Tensor::matrix("reconstruction", rows)));
        crate::bundle::tensors::write(&tensors, Some(("indices", &self.indices)), &[("producer", &self.producer)])
    }

    /// Whether another program than recsae computed the rows.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        !self.producer.starts_with(SELF_MADE)
    }

    /// The embeddings as a batch.
    ///
    /// # Errors
    /// The SAE reads another width, or a value is not finite.
    pub fn batch(&self, spec: &SaeSpec) -> Result<EmbeddingBatch, GoldenMismatch> {
        let mut batch = EmbeddingBatch::new(spec.d_in);
        for (row, embedding) in self.embedding.axis_iter(Axis(0)).enumerate() {
            batch.push(&embedding.to_vec()).map_err(|error| GoldenMismatch { row, detail: error.to_string() })?;
        }
        Ok(batch)
    }

    /// Compares an engine's answer to all rows, and the reconstructions where a decoder and they are known.
    ///
    /// # Errors
    /// The first row that differs by more than rounding, or more near ties than rounding explains.
    pub fn compare(&self, activations: &SparseActivations, decoder: Option<&Decoder>) -> Result<GoldenReport, GoldenMismatch> {
        let n_rows = self.embedding.nrows();
        if activations.n_rows() != n_rows {
            return Err(GoldenMismatch { row: 0, detail: format!("expected {n_rows} rows, found {}", activations.n_rows()) });
        }
        let mut report = GoldenReport { n_rows, ..GoldenReport::default() };
        for row in 0..n_rows {
            let difference = self.compare_row(row, activations).map_err(|detail| GoldenMismatch { row, detail })?;
            report.max_difference = report.max_difference.max(difference.value);
            report.n_near_ties += usize::from(difference.near_tie);
            if report.n_near_ties > n_rows.div_ceil(ROWS_PER_TIE) {
                return Err(GoldenMismatch { row, detail: format!("the active sets of {} rows differ", report.n_near_ties) });
            }
            if let (Some(decoder), Some(expected), false) = (decoder, &self.reconstruction, difference.near_tie) {
                compare_reconstruction(expected.row(row), self.embedding.row(row), row, activations, decoder)
                    .map_err(|detail| GoldenMismatch { row, detail })?;
                report.reconstruction_compared = true;
            }
        }
        Ok(report)
    }

    fn compare_row(&self, row: usize, activations: &SparseActivations) -> Result<RowDifference, String> {
        let mut expected: Vec<(i64, f32)> =
            self.indices.row(row).iter().copied().zip(self.values.row(row).iter().copied()).filter(|(_, value)| *value > 0.0).collect();
        expected.sort_by_key(|(latent, _)| *latent);
        let (latents, values) = activations.row(row);
        let found: Vec<(i64, f32)> = latents.iter().map(|latent| i64::from(latent.0)).zip(values.iter().copied()).collect();
        let largest = |active: &[(i64, f32)]| active.iter().map(|(_, value)| *value).fold(0.0, f32::max);
        let smallest = |active: &[(i64, f32)]| active.iter().map(|(_, value)| *value).fold(f32::INFINITY, f32::min);
        let scale = largest(&expected).max(largest(&found)).max(f32::MIN_POSITIVE);
        let edge = smallest(&expected).min(smallest(&found));
        let mut difference = RowDifference::default();
        for (this, other) in [(&expected, &found), (&found, &expected)] {
            for (latent, value) in this {
                match other.binary_search_by_key(latent, |(latent, _)| *latent) {
                    Ok(place) => difference.value = difference.value.max((value - other[place].1).abs() / scale),
                    Err(_) if (value - edge) <= TIE_TOLERANCE * scale => difference.near_tie = true,
                    Err(_) => return Err(format!("expected latents {}, found {}", list(&expected), list(&found))),
                }
            }
        }
        if difference.value > VALUE_TOLERANCE {
            return Err(format!("expected values {}, found {}", list(&expected), list(&found)));
        }
        Ok(difference)
    }
}

#[derive(Default)]
struct RowDifference {
    value: f32,
    near_tie: bool,
}

fn compare_reconstruction(
    expected: ArrayView1<'_, f32>,
    embedding: ArrayView1<'_, f32>,
    row: usize,
    activations: &SparseActivations,
    decoder: &Decoder,
) -> Result<(), String> {
    let (latents, values) = activations.row(row);
    let mut found = Vec::new();
    decoder.row_error(&embedding.to_vec(), latents, values, &mut found);
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |scale, value| scale.max(value.abs()));
    match expected.iter().zip(&found).position(|(a, b)| (a - b).abs() > VALUE_TOLERANCE * scale) {
        Some(i) => Err(format!("reconstruction[{i}]: expected {}, found {}", expected[i], found[i])),
        None => Ok(()),
    }
}

/// The first few latents and values, for a message.
fn list(active: &[(i64, f32)]) -> String {
    let shown: Vec<String> = active.iter().take(8).map(|(latent, value)| format!("{latent}={value:.5}")).collect();
    format!("[{}{}] ({})", shown.join(" "), if active.len() > 8 { " ..." } else { "" }, active.len())
}

fn random_rows(spec: &SaeSpec, weights: Option<&SaeWeights>) -> Array2<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    Array2::from_shape_fn((SELF_MADE_ROWS, spec.d_in.get()), |(_, column)| {
        let value: f32 = StandardNormal.sample(&mut rng);
        value + weights.map_or(0.0, |weights| weights.b_dec()[column])
    })
}

#[expect(clippy::cast_possible_truncation, reason = "a value of an f32 SAE, rounded to f32")]
fn to_f32(value: f64) -> f32 {
    value as f32
}
