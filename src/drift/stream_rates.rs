//! Rates of streams as fitted: seasonal for `_all`, a level on top of it for each segment.

use serde::{Deserialize, Serialize};

use crate::drift::alternatives::StreamModel;
use crate::drift::counts::N_BUCKETS;
use crate::drift::packed;
use crate::drift::season::Season;

/// A seasonal rate never falls below this share of the stream's mean rate: a fitted wave may dip below 0.
const MIN_SHARE: f64 = 0.05;

/// Streams of `_all`, every vector `[n]` in the layout's order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamRates {
    /// Coefficients, `[K * n]`, column-major: all streams of the constant first. Where weekends are a factor f, their
    /// column holds f - 1.
    #[serde(with = "packed")]
    pub beta: Vec<f64>,
    /// Mean rate `p = max(sum Y, 1/2)/sum E`.
    #[serde(with = "packed")]
    pub mean_rate: Vec<f64>,
    /// Counts over the reference, C.
    #[serde(with = "packed")]
    pub count: Vec<f64>,
    /// phi.
    #[serde(with = "packed")]
    pub dispersion: Vec<f64>,
    /// C' = C/(phi K).
    #[serde(with = "packed")]
    pub effective_count: Vec<f64>,
    /// Mean mu over its windows.
    #[serde(with = "packed")]
    pub mean_expected: Vec<f64>,
    /// Activations a record of each latent, `[m]`; empty where they are not counted apart.
    #[serde(with = "packed", default)]
    pub fired_rate: Vec<f64>,
    /// Overdispersion of the activations of each latent over its windows, at least 1, `[m]`.
    #[serde(with = "packed", default)]
    pub fired_dispersion: Vec<f64>,
}

impl StreamRates {
    /// Rates `max(x' beta, .05 p)` of all streams for the season's row `x` `[K]`, into `out` `[n]`; where weekends are
    /// a factor f, `max(f x' beta, .05 p)` with x without that column: the floor comes last.
    pub fn rates(&self, season: Season, x: &[f64], out: &mut Vec<f64>) {
        let n = self.mean_rate.len();
        out.clear();
        out.resize(n, 0.0);
        let factor = season.factor_column();
        let columns = || x.iter().zip(self.beta.chunks_exact(n.max(1))).enumerate();
        for (_, (x, beta)) in columns().filter(|(k, _)| Some(*k) != factor) {
            out.iter_mut().zip(beta).for_each(|(rate, beta)| *rate += x * beta);
        }
        for (_, (x, beta)) in columns().filter(|(k, _)| Some(*k) == factor) {
            out.iter_mut().zip(beta).for_each(|(rate, beta)| *rate *= 1.0 + x * beta);
        }
        out.iter_mut().zip(&self.mean_rate).for_each(|(rate, mean)| *rate = rate.max(MIN_SHARE * mean));
    }

    /// What the test needs to know of each stream.
    #[must_use]
    pub fn models(&self) -> Vec<StreamModel> {
        models(&self.mean_expected, &self.dispersion, &self.effective_count)
    }
}

/// A segment: the global seasonal shape times its own shrunken level; every vector `[n]` in the order of
/// the layout without families.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SegmentLevels {
    /// `(sum Y + 10)/(sum mu + 10)`.
    #[serde(with = "packed")]
    pub level: Vec<f64>,
    /// phi.
    #[serde(with = "packed")]
    pub dispersion: Vec<f64>,
    /// `1/C' = phi/(C + 10) + 1/C'_global`.
    #[serde(with = "packed")]
    pub effective_count: Vec<f64>,
    /// Mean mu over the reference's windows.
    #[serde(with = "packed")]
    pub mean_expected: Vec<f64>,
    /// Counts over the reference.
    #[serde(with = "packed")]
    pub count: Vec<f64>,
    /// Activations a record of each latent, `[m]`; empty where they are not counted apart.
    #[serde(with = "packed", default)]
    pub fired_rate: Vec<f64>,
    /// Entities by bucket over its windows.
    pub entities: [f64; N_BUCKETS],
    /// Share of the volume of `_all`.
    pub volume_share: f64,
}

impl SegmentLevels {
    /// What the test needs to know of each stream.
    #[must_use]
    pub fn models(&self) -> Vec<StreamModel> {
        models(&self.mean_expected, &self.dispersion, &self.effective_count)
    }
}

fn models(mean_expected: &[f64], dispersion: &[f64], effective_count: &[f64]) -> Vec<StreamModel> {
    mean_expected
        .iter()
        .zip(dispersion)
        .zip(effective_count)
        .map(|((&mean_expected, &dispersion), &effective_count)| StreamModel { mean_expected, dispersion, effective_count })
        .collect()
}
