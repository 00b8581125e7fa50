//! An SAE's weights, and encoding and decoding as they are written in the paper: the slow yardstick.
//!
//! `pre = ReLU((x - b_dec) W_enc^T + b_enc)`, `z = select(pre)`, `x_hat = z W_dec + b_dec`
//! (RecSAE, arXiv 2411.06112, section 3.2). Sums are taken in f64, so that a difference to a fast
//! engine is the engine's rounding. Nothing here is on the hot path.

use std::num::NonZeroUsize;

use ndarray::{Array1, Array2, ArrayView1, Axis};
use serde::{Deserialize, Serialize};

use crate::sae::latent::LatentId;

/// Which latents of a row count as active. Values <= 0 never do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// The k largest; of equal values the lower index.
    TopK(NonZeroUsize),
    /// Every value above this one (0 = a plain ReLU SAE).
    Threshold(f32),
}

impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TopK(k) => write!(f, "k = {k}"),
            Self::Threshold(threshold) => write!(f, "threshold = {threshold}"),
        }
    }
}

/// Shape of an SAE.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaeSpec {
    /// Width of an embedding.
    pub d_in: NonZeroUsize,
    /// Number of latents.
    pub d_sae: NonZeroUsize,
    /// Which of them are active.
    pub selection: Selection,
    /// Whether `b_dec` is subtracted from the embedding before it is encoded.
    pub centring: bool,
}

/// Shapes that do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tensor}: expected shape {expected:?}, found {found:?}")]
pub struct ShapeError {
    /// Name of the tensor in the formulas above.
    pub tensor: &'static str,
    /// Shape the others ask for.
    pub expected: Vec<usize>,
    /// Shape it has.
    pub found: Vec<usize>,
}

/// Weights of an SAE, every matrix with one row a latent.
#[derive(Clone, Debug, PartialEq)]
pub struct SaeWeights {
    spec: SaeSpec,
    w_enc: Array2<f32>,
    b_enc: Array1<f32>,
    w_dec: Option<Array2<f32>>,
    b_dec: Array1<f32>,
    thresholds: Option<Array1<f32>>,
}

impl SaeWeights {
    /// Weights whose shapes agree with `spec`; `w_dec` is absent where only the encoder is known.
    ///
    /// # Errors
    /// A tensor has another shape than `w_enc [d_sae, d_in]`, `b_enc [d_sae]`, `w_dec [d_sae, d_in]`, `b_dec [d_in]`.
    pub fn new(
        spec: SaeSpec,
        w_enc: Array2<f32>,
        b_enc: Array1<f32>,
        w_dec: Option<Array2<f32>>,
        b_dec: Array1<f32>,
    ) -> Result<Self, ShapeError> {
        let (d_in, d_sae) = (spec.d_in.get(), spec.d_sae.get());
        let check = |tensor, expected: &[usize], found: &[usize]| {
            if expected == found { Ok(()) } else { Err(ShapeError { tensor, expected: expected.to_vec(), found: found.to_vec() }) }
        };
        check("W_enc", &[d_sae, d_in], w_enc.shape())?;
        check("b_enc", &[d_sae], b_enc.shape())?;
        check("b_dec", &[d_in], b_dec.shape())?;
        if let Some(w_dec) = &w_dec {
            check("W_dec", &[d_sae, d_in], w_dec.shape())?;
        }
        Ok(Self { spec, w_enc, b_enc, w_dec, b_dec, thresholds: None })
    }

    /// The same with a threshold a latent, `[d_sae]`, beside the selection: a value that is not above its own counts
    /// as 0 before the selection (JumpReLU, Rajamanoharan et al., arXiv 2407.14435, section 3).
    ///
    /// # Errors
    /// There are more or fewer than latents.
    pub fn with_thresholds(self, thresholds: Array1<f32>) -> Result<Self, ShapeError> {
        if thresholds.len() != self.spec.d_sae.get() {
            let (expected, found) = (vec![self.spec.d_sae.get()], vec![thresholds.len()]);
            return Err(ShapeError { tensor: "thresholds", expected, found });
        }
        Ok(Self { thresholds: Some(thresholds), ..self })
    }

    /// Shape and selection.
    #[must_use]
    pub fn spec(&self) -> &SaeSpec {
        &self.spec
    }

    /// Encoder matrix `[d_sae, d_in]`.
    #[must_use]
    pub fn w_enc(&self) -> &Array2<f32> {
        &self.w_enc
    }

    /// Encoder bias `[d_sae]`.
    #[must_use]
    pub fn b_enc(&self) -> &Array1<f32> {
        &self.b_enc
    }

    /// Decoder matrix `[d_sae, d_in]`.
    #[must_use]
    pub fn w_dec(&self) -> Option<&Array2<f32>> {
        self.w_dec.as_ref()
    }

    /// Decoder bias `[d_in]`, subtracted before encoding where the spec says `centring`.
    #[must_use]
    pub fn b_dec(&self) -> &Array1<f32> {
        &self.b_dec
    }

    /// Thresholds of the latents, `[d_sae]`, where they have their own.
    #[must_use]
    pub fn thresholds(&self) -> Option<&Array1<f32>> {
        self.thresholds.as_ref()
    }

    /// All values before the selection, `[d_sae]`, without the ReLU: `W_enc (x - b_dec) + b_enc`, summed in f64.
    #[must_use]
    pub fn pre_activations(&self, embedding: &[f32]) -> Vec<f64> {
        let centre = |i: usize| if self.spec.centring { f64::from(self.b_dec[i]) } else { 0.0 };
        let centred: Vec<f64> = embedding.iter().enumerate().map(|(i, x)| f64::from(*x) - centre(i)).collect();
        let dot = |row: ArrayView1<'_, f32>| row.iter().zip(&centred).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
        self.w_enc.axis_iter(Axis(0)).zip(&self.b_enc).map(|(row, bias)| dot(row) + f64::from(*bias)).collect()
    }

    /// Active latents of one embedding and their values, latents ascending.
    #[must_use]
    pub fn encode(&self, embedding: &[f32]) -> Vec<(LatentId, f64)> {
        let mut pre = self.pre_activations(embedding);
        for (value, threshold) in pre.iter_mut().zip(self.thresholds.iter().flatten()) {
            *value = if *value > f64::from(*threshold) { *value } else { 0.0 };
        }
        select(&pre, self.spec.selection)
    }

    /// Reconstruction `[d_in]` from active latents, `sum_j z_j W_dec[j] + b_dec`, summed in f64; `None` without a decoder.
    #[must_use]
    pub fn decode(&self, active: &[(LatentId, f64)]) -> Option<Vec<f64>> {
        let w_dec = self.w_dec.as_ref()?;
        let mut x_hat: Vec<f64> = self.b_dec.iter().map(|b| f64::from(*b)).collect();
        for (latent, value) in active {
            for (out, w) in x_hat.iter_mut().zip(w_dec.row(latent.index())) {
                *out += value * f64::from(*w);
            }
        }
        Some(x_hat)
    }
}

/// The selection by sorting: values > 0, by value descending, then index ascending.
fn select(pre: &[f64], selection: Selection) -> Vec<(LatentId, f64)> {
    let floor = if let Selection::Threshold(threshold) = selection { f64::from(threshold.max(0.0)) } else { 0.0 };
    let mut active: Vec<(LatentId, f64)> =
        (0u32..).zip(pre).filter(|(_, value)| **value > floor).map(|(latent, value)| (LatentId(latent), *value)).collect();
    if let Selection::TopK(k) = selection {
        active.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        active.truncate(k.get());
        active.sort_by_key(|(latent, _)| *latent);
    }
    active
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn weights(selection: Selection, centring: bool) -> SaeWeights {
        let size = |n| NonZeroUsize::new(n).unwrap();
        let spec = SaeSpec { d_in: size(2), d_sae: size(3), selection, centring };
        let w = array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]];
        SaeWeights::new(spec, w.clone(), array![0.0, 0.5, -1.0], Some(w), array![1.0, 1.0]).unwrap()
    }

    #[test]
    fn an_embedding_encodes_and_decodes_as_by_hand() {
        let sae = weights(Selection::TopK(NonZeroUsize::new(2).unwrap()), true);
        // x - b_dec = [2, 1]; pre = [2, 1.5, 2]: latents 0 and 2 tie above 1.
        let active = sae.encode(&[3.0, 2.0]);
        assert_eq!(active, vec![(LatentId(0), 2.0), (LatentId(2), 2.0)]);
        assert_eq!(sae.decode(&active), Some(vec![5.0, 3.0]));
    }

    #[test]
    fn a_threshold_keeps_what_lies_above_it_and_never_a_value_that_is_not_positive() {
        assert_eq!(weights(Selection::Threshold(1.5), true).encode(&[3.0, 2.0]).len(), 2);
        assert_eq!(weights(Selection::Threshold(-5.0), false).encode(&[-3.0, -2.0]), vec![]);
    }

    #[test]
    fn a_latent_with_a_threshold_of_its_own_is_silent_up_to_it() {
        let sae = weights(Selection::Threshold(0.0), true).with_thresholds(array![2.0, 1.4, -1.0]).unwrap();
        // pre = [2, 1.5, 2]: the first is not above its threshold.
        assert_eq!(sae.encode(&[3.0, 2.0]), vec![(LatentId(1), 1.5), (LatentId(2), 2.0)]);
        assert!(sae.with_thresholds(array![0.0]).is_err());
    }

    #[test]
    fn shapes_that_do_not_agree_are_refused_by_name() {
        let sae = weights(Selection::Threshold(0.0), true);
        let error = SaeWeights::new(*sae.spec(), Array2::zeros((2, 2)), array![0.0, 0.0, 0.0], None, array![0.0, 0.0]).unwrap_err();
        assert_eq!(error.to_string(), "W_enc: expected shape [3, 2], found [2, 2]");
    }
}
