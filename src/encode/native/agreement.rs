//! Whether two engines agree on a batch: the same latents and values, but for what rounding may do.
//!
//! Any order of summing a product of `d` terms in f32 stays within `d u sum |w_i x_i|` of its value
//! (`u = 2^-24`; Higham, Accuracy and Stability of Numerical Algorithms, 3.1), centring and bias add a few
//! more roundings, and `sum |w_i x_i| <= ||w|| ||x||`. Two engines therefore differ by at most
//!
//! ```text
//! tolerance_j = 2 u (d + 8) (||w_j|| ||x - c|| + |b_j|)
//! ```
//!
//! A latent that only one of them selects is a near tie where its value lies within that of the other's
//! smallest selected value: the other engine may have seen it below. Anything else is a mismatch: no
//! rounding explains it, so one engine is wrong.

use crate::encode::native::model::NativeModel;
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::latent::LatentId;
use crate::sae::weights::Selection;

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Rows compared.
    pub n_rows: usize,
    /// Rows whose active sets differ at the selection's edge, where rounding may decide.
    pub n_near_ties: usize,
    /// Rows that differ by more than rounding explains.
    pub n_mismatches: usize,
    /// The first of those, in words.
    pub first_mismatch: Option<String>,
}

/// Compares `found` with `expected`, row by row.
#[must_use]
pub fn compare(model: &NativeModel, batch: &EmbeddingBatch, found: &SparseActivations, expected: &SparseActivations) -> Agreement {
    let mut agreement = Agreement { n_rows: batch.n_rows(), ..Agreement::default() };
    if found.n_rows() != batch.n_rows() || expected.n_rows() != batch.n_rows() {
        agreement.n_mismatches = batch.n_rows().max(1);
        agreement.first_mismatch = Some(format!("{} rows, answers of {} and {}", batch.n_rows(), found.n_rows(), expected.n_rows()));
        return agreement;
    }
    for row in 0..batch.n_rows() {
        if found.row(row) == expected.row(row) {
            continue;
        }
        let norm = model.centred_norm(batch.row(row));
        match (Sides { model, norm, found: found.row(row), expected: expected.row(row) }).differ() {
            Ok(near_tie) => agreement.n_near_ties += usize::from(near_tie),
            Err(why) => {
                agreement.n_mismatches += 1;
                agreement.first_mismatch.get_or_insert_with(|| format!("row {row}: {why}"));
            }
        }
    }
    agreement
}

type Row<'a> = (&'a [LatentId], &'a [f32]);

struct Sides<'a> {
    model: &'a NativeModel,
    norm: f64,
    found: Row<'a>,
    expected: Row<'a>,
}

impl Sides<'_> {
    /// Whether the sets differ by near ties; the error says what no rounding explains.
    fn differ(&self) -> Result<bool, String> {
        let mut near_tie = false;
        for (ours, theirs, name) in [(self.found, self.expected, "expected"), (self.expected, self.found, "found")] {
            for (latent, value) in ours.0.iter().zip(ours.1) {
                let (value, tolerance) = (f64::from(*value), self.tolerance(*latent));
                let difference = match theirs.0.binary_search(latent) {
                    Ok(at) => (value - f64::from(theirs.1[at])).abs(),
                    Err(_) => {
                        near_tie = true;
                        value - self.edge(*latent, theirs)
                    }
                };
                if difference > tolerance {
                    let other = theirs.0.binary_search(latent).map_or("absent".to_owned(), |at| theirs.1[at].to_string());
                    return Err(format!("{latent} is {value}, {name} {other}; rounding explains {tolerance:.1e}"));
                }
            }
        }
        Ok(near_tie)
    }

    /// What a value had to reach to be selected.
    fn edge(&self, latent: LatentId, (_, values): Row<'_>) -> f64 {
        let floor = f64::from(self.model.floor_of(latent.index()));
        match self.model.spec().selection {
            Selection::TopK(k) if values.len() >= k.get() => values.iter().fold(f64::INFINITY, |least, value| least.min(f64::from(*value))),
            _ => floor,
        }
    }

    fn tolerance(&self, latent: LatentId) -> f64 {
        let unit = f64::from(f32::EPSILON) / 2.0;
        let d_in = self.model.spec().d_in.get() as f64;
        let bias = f64::from(self.model.bias()[latent.index()]).abs();
        // Products below the smallest f32 are rounded to a fixed step instead of a share.
        let underflow = d_in * f64::from(f32::MIN_POSITIVE);
        2.0 * unit * (d_in + 8.0) * (self.model.norms()[latent.index()] * self.norm + bias) + underflow
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::{Array1, Array2};

    use super::*;
    use crate::sae::weights::{SaeSpec, SaeWeights};

    fn size(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).unwrap()
    }

    fn model() -> NativeModel {
        let spec = SaeSpec { d_in: size(2), d_sae: size(4), selection: Selection::TopK(size(2)), centring: false };
        NativeModel::new(&SaeWeights::new(spec, Array2::ones((4, 2)), Array1::zeros(4), None, Array1::zeros(2)).unwrap())
    }

    fn row(active: &[(u32, f32)]) -> SparseActivations {
        let mut activations = SparseActivations::default();
        active.iter().for_each(|(latent, value)| activations.push(LatentId(*latent), *value));
        activations.end_row();
        activations
    }

    fn compared(found: &[(u32, f32)], expected: &[(u32, f32)]) -> Agreement {
        let mut batch = EmbeddingBatch::new(size(2));
        batch.push(&[0.5, 0.5]).unwrap();
        compare(&model(), &batch, &row(found), &row(expected))
    }

    #[test]
    fn rounding_is_agreement_and_a_tie_at_the_edge_is_near() {
        let one = 1.0f32;
        assert_eq!(compared(&[(0, one.next_up()), (3, 0.5)], &[(0, one), (3, 0.5)]), Agreement { n_rows: 1, ..Agreement::default() });
        assert_eq!(compared(&[(0, 2.0), (1, 1.0)], &[(0, 2.0), (2, one.next_up())]).n_near_ties, 1);
        assert_eq!(compared(&[(0, 1e-9)], &[]).n_near_ties, 1, "around zero, too");
    }

    #[test]
    fn what_no_rounding_explains_is_a_mismatch() {
        let agreement = compared(&[(0, 1.001)], &[(0, 1.0)]);
        assert_eq!((agreement.n_mismatches, agreement.n_near_ties), (1, 0));
        assert!(agreement.first_mismatch.unwrap().starts_with("row 0: latent 0 is 1.00"));
        assert_eq!(compared(&[(0, 2.0), (1, 1.0)], &[(0, 2.0), (2, 1.1)]).n_mismatches, 1);
        assert_eq!(compared(&[(0, 0.1)], &[]).n_mismatches, 1);
    }
}
