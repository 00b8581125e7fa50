//! A batch of embeddings, checked once at the edge: one width, every value finite and of a size that can be.
//!
//! Everything behind this type may rely on both, so that NaN and Inf never reach an encoder or a
//! sum. The rows are kept in one flat buffer because that is what a matrix product reads.

use std::num::NonZeroUsize;

use ndarray::ArrayView2;

/// Why a row cannot enter a batch.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
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
    /// A value is so large that one row would outweigh all others in every mean.
    #[error("embedding value {index} is {value:e}, beyond the {limit:e} that this SAE's input can be")]
    OutOfRange {
        /// First such position in the row.
        index: usize,
        /// The value.
        value: f32,
        /// Largest absolute value that is taken.
        limit: f32,
    },
}

/// Largest value of a batch that sets no other limit: its square, over any width, is finite in f32.
pub const MAX_VALUE: f32 = 1e16;

/// Embeddings `[n, d_in]`, row-major f32, all finite and within the limit.
#[derive(Clone, Debug)]
pub struct EmbeddingBatch {
    d_in: NonZeroUsize,
    max_value: f32,
    values: Vec<f32>,
}

impl EmbeddingBatch {
    /// An empty batch of rows of `d_in` values.
    #[must_use]
    pub fn new(d_in: NonZeroUsize) -> Self {
        Self { d_in, max_value: MAX_VALUE, values: Vec::new() }
    }

    /// The same for values of at most `max_value` in size, itself at most [`MAX_VALUE`].
    #[must_use]
    pub fn within(d_in: NonZeroUsize, max_value: f32) -> Self {
        Self { max_value: max_value.min(MAX_VALUE), ..Self::new(d_in) }
    }

    /// Whether a row can be added.
    ///
    /// # Errors
    /// The row has another width, holds NaN or Inf, or a value beyond the limit.
    pub fn check(&self, row: &[f32]) -> Result<(), EmbeddingError> {
        if row.len() != self.d_in.get() {
            return Err(EmbeddingError::Width { expected: self.d_in.get(), found: row.len() });
        }
        let limit = self.max_value;
        // Without a way out in the middle the compiler looks at many values at once. NaN is not within anything.
        if row.iter().fold(true, |all, value| all & (value.abs() <= limit)) {
            return Ok(());
        }
        if let Some(index) = row.iter().position(|value| !value.is_finite()) {
            return Err(EmbeddingError::NotFinite { index });
        }
        let index = row.iter().position(|value| value.abs() > limit).unwrap_or(0);
        Err(EmbeddingError::OutOfRange { index, value: row[index], limit })
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
    #[inline]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_of_a_row_is_named_and_the_batch_stays_as_it_was() {
        let mut batch = EmbeddingBatch::within(NonZeroUsize::new(3).unwrap(), 100.0);
        batch.push(&[100.0, -100.0, 0.0]).unwrap();
        assert_eq!(batch.push(&[1.0, 2.0]), Err(EmbeddingError::Width { expected: 3, found: 2 }));
        assert_eq!(batch.push(&[1e9, f32::NAN, 0.0]), Err(EmbeddingError::NotFinite { index: 1 }));
        assert_eq!(batch.push(&[f32::NEG_INFINITY, 0.0, 0.0]), Err(EmbeddingError::NotFinite { index: 0 }));
        assert_eq!(batch.push(&[0.0, -100.5, 1e9]), Err(EmbeddingError::OutOfRange { index: 1, value: -100.5, limit: 100.0 }));
        assert_eq!(batch.n_rows(), 1);
    }

    #[test]
    fn without_another_limit_the_squares_of_a_row_have_a_finite_sum() {
        let width = 100_000;
        let mut batch = EmbeddingBatch::new(NonZeroUsize::new(width).unwrap());
        let row = vec![MAX_VALUE; width];
        batch.push(&row).unwrap();
        assert!(row.iter().map(|value| value * value).sum::<f32>().is_finite());
        assert!(batch.push(&vec![1.01 * MAX_VALUE; width]).is_err());
    }
}
