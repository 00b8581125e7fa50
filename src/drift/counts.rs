//! What a window knows of a segment: plain sums, so that partitions and instances merge by adding.
//!
//! Weighted sums (Kish) are kept as integers of 2^-32, because a sum of integers is the same in any
//! order while a sum of floats is not: the judge's evidence must not depend on which partition came first.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// Lower edges of the session-length buckets (records of an entity in the window).
pub const BUCKET_EDGES: [u32; N_BUCKETS] = [1, 2, 3, 4, 5, 7, 9, 13, 19, 28, 45, 80];
/// Number of session-length buckets.
pub const N_BUCKETS: usize = 12;
/// Bins of the residual histogram, see [`residual_bin`].
pub const N_RESIDUAL_BINS: usize = 128;
/// Unit of weighted sums: 2^32 is one record.
pub const WEIGHT_ONE: u64 = 1 << 32;

/// Bucket of an entity with `n_records >= 1` records in the window.
#[must_use]
pub fn bucket_of(n_records: u32) -> usize {
    BUCKET_EDGES.partition_point(|&edge| edge <= n_records).saturating_sub(1)
}

/// Kish weight of one record of an entity with `n_records`: `1 / (1 + 0.1 (n - 1))`, in units of 2^-32.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the quotient lies in (0, 2^32]")]
pub fn kish_weight(n_records: u32) -> u64 {
    (WEIGHT_ONE as f64 / (1.0 + 0.1 * (f64::from(n_records.max(1)) - 1.0))).round() as u64
}

/// Bin of a record's relative squared reconstruction error `||x - x_hat||^2 / ||x||^2`:
/// 8 bins an octave, `bin = floor(112 + 8 log2(error))` clipped to `0..128`, so errors in 2^-14..2^2.
/// Edge values: zero and negative errors fall into bin 0, NaN (a zero vector) into the last.
///
/// A histogram instead of a count above a threshold: the threshold is the reference's 95th
/// percentile, which is not known while the reference is still being gathered.
///
/// The formula is worked out once for each bin's lower edge: a logarithm takes longer than all else that is counted of a record
/// but its latents. The octave is in a float's bits, and within it eight edges are compared.
#[must_use]
pub fn residual_bin(relative_error: f32) -> usize {
    if relative_error.is_nan() || relative_error >= 4.0 {
        return N_RESIDUAL_BINS - 1;
    }
    let octave = (relative_error.max(0.0).abs().to_bits() >> (f32::MANTISSA_DIGITS - 1)).saturating_sub(LOWEST_OCTAVE) as usize;
    let edges = &RESIDUAL_EDGES[octave * BINS_AN_OCTAVE + 1..][..BINS_AN_OCTAVE];
    octave * BINS_AN_OCTAVE + edges.iter().map(|edge| usize::from(*edge <= relative_error)).sum::<usize>()
}

const BINS_AN_OCTAVE: usize = 8;
/// Exponent of 2^-14 as the bits of a float hold it.
const LOWEST_OCTAVE: u32 = 127 - 14;
/// Least error of each bin; of the bin after the last none.
static RESIDUAL_EDGES: LazyLock<[f32; N_RESIDUAL_BINS + 1]> = LazyLock::new(|| {
    std::array::from_fn(|bin| match bin {
        0 => f32::NEG_INFINITY,
        N_RESIDUAL_BINS => f32::INFINITY,
        _ => {
            // Floats that are not negative are ordered as their bits are.
            let (mut below, mut above) = (0_u32, 4_f32.to_bits());
            while above - below > 1 {
                let middle = below.midpoint(above);
                if formula(f32::from_bits(middle)) >= bin { above = middle } else { below = middle }
            }
            f32::from_bits(above)
        }
    })
});

/// What the bins are: of errors that are not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=127")]
fn formula(relative_error: f32) -> usize {
    (112.0 + 8.0 * relative_error.log2()).floor().clamp(0.0, 127.0) as usize
}

/// Sums that say whether the SAE still fits its input.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContractSums {
    /// Records with a reconstruction.
    pub n: u64,
    /// Sum of `||x - x_hat||^2`.
    pub squared_error: f64,
    /// Sum of `cos(x, x_hat)`.
    pub cosine: f64,
    /// Sum of `||x_hat|| / ||x||`.
    pub norm_ratio: f64,
    /// Sum of active latents.
    pub n_active: u64,
    /// Sum of `||x||^2`.
    pub squared_norm: f64,
    /// Sum of `x`, `[d_in]`; `_all` only, else empty. With `squared_norm` it gives the variance.
    pub sum: Vec<f64>,
}

impl ContractSums {
    /// Adds another part's sums. Sums of floats depend on the order: add parts in the order of partitions.
    pub fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.squared_error += other.squared_error;
        self.cosine += other.cosine;
        self.norm_ratio += other.norm_ratio;
        self.n_active += other.n_active;
        self.squared_norm += other.squared_norm;
        merge_dense(&mut self.sum, &other.sum);
    }

    /// Total variance of the records about their own mean: `sum ||x||^2 / n - ||sum x / n||^2`.
    /// `None` with no record or no `sum`.
    #[must_use]
    pub fn variance(&self) -> Option<f64> {
        if self.n == 0 || self.sum.is_empty() {
            return None;
        }
        let n = self.n as f64;
        let mean_sq: f64 = self.sum.iter().map(|s| (s / n) * (s / n)).sum();
        Some((self.squared_norm / n - mean_sq).max(0.0))
    }
}

/// Counts of one segment in one window. `m = d_sae`; every vector is dense over latents or empty (= zeros).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SegmentCounts {
    /// Records counted.
    pub records: u64,
    /// Records in which each latent is active, `[m]`.
    pub fired: Vec<u32>,
    /// Sum of activation values of each latent, `[m]`.
    pub magnitude: Vec<f64>,
    /// Entities by session-length bucket, `[12]`; zeros when counting records.
    pub entities: [u64; N_BUCKETS],
    /// Entities in which each latent is active at least once, `[m]`.
    pub presence: Vec<u32>,
    /// The same by bucket, `[12 * m]`, bucket-major; `_all` only, else empty.
    pub presence_by_bucket: Vec<u32>,
    /// Entities in which any latent of a family is active, `[families]`.
    pub family_presence: Vec<u32>,
    /// Kish-weighted records in which each latent is active, `[m]`, units of 2^-32; unit = kish only, else empty.
    pub kish: Vec<u64>,
    /// Sum over entities of `n / (1 + 0.1 (n - 1))`, units of 2^-32.
    pub kish_exposure: u64,
    /// Kish-weighted records with no active latent, units of 2^-32.
    pub dead_record: u64,
    /// Kish-weighted histogram of the relative reconstruction error, `[128]`, units of 2^-32; empty without a decoder.
    pub residual: Vec<u64>,
    /// Input contract.
    pub contract: ContractSums,
}

impl SegmentCounts {
    /// Adds another partition's counts of the same window and segment.
    pub fn merge(&mut self, other: &Self) {
        self.records += other.records;
        merge_dense(&mut self.fired, &other.fired);
        merge_dense(&mut self.magnitude, &other.magnitude);
        for (mine, theirs) in self.entities.iter_mut().zip(other.entities) {
            *mine += theirs;
        }
        merge_dense(&mut self.presence, &other.presence);
        merge_dense(&mut self.presence_by_bucket, &other.presence_by_bucket);
        merge_dense(&mut self.family_presence, &other.family_presence);
        merge_dense(&mut self.kish, &other.kish);
        self.kish_exposure += other.kish_exposure;
        self.dead_record += other.dead_record;
        merge_dense(&mut self.residual, &other.residual);
        self.contract.merge(&other.contract);
    }

    /// Entities over all buckets.
    #[must_use]
    pub fn n_entities(&self) -> u64 {
        self.entities.iter().sum()
    }
}

fn merge_dense<T: Copy + Default + std::ops::AddAssign>(mine: &mut Vec<T>, theirs: &[T]) {
    if mine.len() < theirs.len() {
        mine.resize(theirs.len(), T::default());
    }
    for (a, b) in mine.iter_mut().zip(theirs) {
        *a += *b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_their_lower_edges() {
        let found: Vec<usize> = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 79, 80, 10_000].into_iter().map(bucket_of).collect();
        assert_eq!(found, [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 10, 11, 11]);
    }

    #[test]
    fn a_bin_is_where_its_formula_says() {
        let edges = RESIDUAL_EDGES.iter().flat_map(|edge| (-300..300).map(|by| f32::from_bits(edge.to_bits().saturating_add_signed(by))));
        let spread = (0..=u32::MAX).step_by(4099).map(f32::from_bits);
        for error in edges.chain(spread) {
            let expected = if error.is_nan() { N_RESIDUAL_BINS - 1 } else { formula(error.max(0.0)) };
            assert_eq!(residual_bin(error), expected, "{error:e}");
        }
    }

    #[test]
    fn kish_weight_of_one_record_is_one() {
        assert_eq!(kish_weight(1), WEIGHT_ONE);
        assert_eq!(kish_weight(11), WEIGHT_ONE / 2);
    }
}
