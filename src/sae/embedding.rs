//! A batch of embeddings, checked once at the edge: one width, every value finite.
//!
//! Everything behind this type may rely on both, so that NaN and Inf never reach an encoder or a
//! sum. The rows are kept in one flat buffer because that is what a matrix product reads.

use std::num::NonZeroUsize;

use ndarray::ArrayView2;

/// Why a row cannot enter a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddingError {
    /// The row's length is not the batch's width.
    #[error("embedding has {found} values, the SAE reads {expected}")]
    Width {
        /// Width the SAE reads.
        expected: usize,
        /// Values in the row.
        found: usize,
    },
    /// A value is NaN or infinite.
    #[error("embedding value {index} is not finite")]
    NotFinite {
        /// First such position in the row.
        index: usize,
    },
}

/// Embeddings `[n, d_in]`, row-major f32, all finite.
#[derive(Clone, Debug)]
pub struct EmbeddingBatch {
    d_in: NonZeroUsize,
    values: Vec<f32>,
}

impl EmbeddingBatch {
    /// An empty batch of rows of `d_in` values.
    #[must_use]
    pub fn new(d_in: NonZeroUsize) -> Self {
        Self { d_in, values: Vec::new() }
    }

    /// Whether a row can be added.
    ///
    /// # Errors
    /// The row has another width, or holds NaN or Inf.
    pub fn check(&self, row: &[f32]) -> Result<(), EmbeddingError> {
        if row.len() != self.d_in.get() {
            return Err(EmbeddingError::Width { expected: self.d_in.get(), found: row.len() });
        }
        // Without a way out in the middle the compiler looks at many values at once.
        if !row.iter().fold(true, |all, value| all & value.is_finite())
            && let Some(index) = row.iter().position(|value| !value.is_finite())
        {
            return Err(EmbeddingError::NotFinite { index });
        }
        Ok(())
    }

    /// Adds one row.
    ///
    /// # Errors
    /// As [`Self::check`]; the batch is then unchanged.
    pub fn push(&mut self, row: &[f32]) -> Result<(), EmbeddingError> {
        self.check(row)?;
        self.values.extend_from_slice(row);
        Ok(())
    }

    /// Removes all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.values.clear();
    }

    /// Values in a row.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.d_in.get()
    }

    /// Rows in the batch.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.values.len() / self.d_in.get()
    }

    /// Whether the batch holds no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All values, row after row: `n_rows * d_in` of them.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// One row. `row < n_rows()`.
    ///
    /// # Panics
    /// When `row` is out of range, as indexing a slice does.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.d_in.get()..(row + 1) * self.d_in.get()]
    }

    /// The batch as a matrix `[n, d_in]`.
    ///
    /// # Panics
    /// Never: the buffer always holds whole rows.
    #[must_use]
    #[expect(clippy::expect_used, reason = "push adds whole rows only")]
    pub fn view(&self) -> ArrayView2<'_, f32> {
        ArrayView2::from_shape((self.n_rows(), self.d_in.get()), &self.values).expect("whole rows")
    }
}
