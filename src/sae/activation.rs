//! What an SAE says of a batch: for each row the few latents that are active, and how strongly.
//!
//! Only values > 0 are kept. A TopK encoder with ReLU before the selection pads short rows with
//! zeros; counting those as active is a known defect of published code, so they never get in here.

use crate::sae::latent::LatentId;

/// Sparse activations of `n` rows in compressed-row form; latents ascend inside a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SparseActivations {
    ends: Vec<usize>,
    latents: Vec<LatentId>,
    values: Vec<f32>,
}

impl SparseActivations {
    /// Removes all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.latents.clear();
        self.values.clear();
    }

    /// Adds one active latent to the row being built; values <= 0 are left out.
    pub fn push(&mut self, latent: LatentId, value: f32) {
        if value > 0.0 {
            self.latents.push(latent);
            self.values.push(value);
        }
    }

    /// Adds a whole row at once: latents ascending, every value > 0.
    pub(crate) fn push_row(&mut self, latents: &[LatentId], values: &[f32]) {
        debug_assert!(latents.len() == values.len() && values.iter().all(|value| *value > 0.0));
        self.latents.extend_from_slice(latents);
        self.values.extend_from_slice(values);
        self.end_row();
    }

    /// Ends the row being built.
    pub fn end_row(&mut self) {
        self.ends.push(self.latents.len());
    }

    /// Rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.ends.len()
    }

    /// Active latents of one row and their values, latents ascending. `row < n_rows()`.
    ///
    /// # Panics
    /// When `row` is out of range, as indexing a slice does.
    #[must_use]
    #[inline]
    pub fn row(&self, row: usize) -> (&[LatentId], &[f32]) {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        let end = self.ends[row];
        (&self.latents[start..end], &self.values[start..end])
    }

    /// Active latents over all rows.
    #[must_use]
    pub fn n_active(&self) -> usize {
        self.latents.len()
    }
}
