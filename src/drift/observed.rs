//! A window as the judge sees it: a few sums per segment, whether they were counted live or read from a file.

use std::collections::BTreeMap;

use crate::drift::closed::{ALL, ClosedWindow};
use crate::drift::counts::{ContractSums, N_BUCKETS, N_RESIDUAL_BINS, SegmentCounts, WEIGHT_ONE};
use crate::drift::least_squares::count;
use crate::drift::settings::{CountingUnit, StreamLayout};

/// Fewest windows of a reference, and of a segment in it.
pub const MIN_WINDOWS: usize = 8;

/// Sums of one segment in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Count of each latent in the unit of counting, `[m]`.
    pub latents: Vec<f64>,
    /// The same by session-length bucket, `[12 * m]`, bucket-major; `_all` of a reference only, else empty.
    pub by_bucket: Vec<f64>,
    /// Records in which each latent fired, `[m]`; empty where only the unit of counting is known (a file), or records are the unit.
    pub fired: Vec<f64>,
    /// Entities by session-length bucket.
    pub entities: [f64; N_BUCKETS],
    /// Records.
    pub records: f64,
    /// Sum over entities of `n / (1 + 0.1 (n - 1))`; records where entities are not told apart.
    pub kish_exposure: f64,
    /// Weighted records above the reference's residual threshold; `None` where none is counted.
    pub residual_outlier: Option<f64>,
    /// Weighted records without an active latent; `None` where none is counted.
    pub dead_record: Option<f64>,
    /// Input contract; zeros where there is no decoder.
    pub contract: ContractSums,
}

/// One window, segment by segment.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedWindow {
    /// First instant, ms since 1970 UTC.
    pub start_ms: i64,
    /// One past the last.
    pub end_ms: i64,
    /// Model version ("" = the only one).
    pub model_version: String,
    /// Why there can be no verdict, if so.
    pub incomplete: Option<String>,
    /// Segment to sums.
    pub segments: BTreeMap<String, Observed>,
}

impl ObservedWindow {
    /// What was counted live. `residual_from_bin`: first bin of the residual histogram above the
    /// reference's threshold. `by_bucket`: whether to keep the table by session length (for a reference).
    #[must_use]
    pub fn of(window: &ClosedWindow, unit: CountingUnit, residual_from_bin: Option<usize>, by_bucket: bool) -> Self {
        let observe = |(name, counts): (&String, &SegmentCounts)| {
            (name.clone(), Observed::of(counts, unit, residual_from_bin, by_bucket && name == ALL))
        };
        Self::holding(window, window.segments.iter().map(observe).collect())
    }

    /// That window with these segments.
    #[must_use]
    pub fn holding(window: &ClosedWindow, segments: BTreeMap<String, Observed>) -> Self {
        Self {
            start_ms: window.start_ms,
            end_ms: window.end_ms,
            model_version: window.model_version.clone(),
            incomplete: window.incomplete.clone(),
            segments,
        }
    }
}

impl Observed {
    /// Sums of one segment as counted live.
    #[must_use]
    pub fn of(counts: &SegmentCounts, unit: CountingUnit, residual_from_bin: Option<usize>, by_bucket: bool) -> Self {
        let latents = match unit {
            CountingUnit::Presence => floats(&counts.presence),
            CountingUnit::Records => floats(&counts.fired),
            CountingUnit::Kish => counts.kish.iter().map(|&weight| weighted(weight)).collect(),
        };
        let records = counts.records as f64;
        Self {
            latents,
            by_bucket: if by_bucket { floats(&counts.presence_by_bucket) } else { Vec::new() },
            fired: if unit == CountingUnit::Records { Vec::new() } else { floats(&counts.fired) },
            entities: counts.entities.map(|n| n as f64),
            records,
            kish_exposure: if counts.kish_exposure == 0 { records } else { weighted(counts.kish_exposure) },
            residual_outlier: outliers(&counts.residual, residual_from_bin),
            dead_record: Some(weighted(counts.dead_record)),
            contract: counts.contract.clone(),
        }
    }

    /// Entities over all buckets.
    #[must_use]
    pub fn n_entities(&self) -> f64 {
        self.entities.iter().sum()
    }

    /// What volume means in the unit of counting: entities, or records when counting records.
    #[must_use]
    pub fn units(&self, unit: CountingUnit) -> f64 {
        if unit == CountingUnit::Records { self.records } else { self.n_entities() }
    }

    /// Counts by stream, `[n]` in the layout's order, into `out`. A family is the sum of its members'
    /// counts: an entity that shows two members counts twice, so that it moves as its members do.
    pub fn stream_counts(&self, layout: &StreamLayout, out: &mut Vec<f64>) {
        let latent = |j: usize| self.latents.get(j).copied().unwrap_or(0.0);
        out.clear();
        out.extend((0..layout.n_latents).map(latent));
        out.extend(layout.families.iter().map(|family| family.iter().map(|member| latent(member.index())).sum::<f64>()));
        out.extend(layout.residual_outlier.then_some(self.residual_outlier.unwrap_or(0.0)));
        out.extend(layout.dead_record.then_some(self.dead_record.unwrap_or(0.0)));
    }
}

/// Weighted records of a residual histogram in `from_bin` and above; `None` without a histogram or a bin.
#[must_use]
pub fn outliers(residual: &[u64], from_bin: Option<usize>) -> Option<f64> {
    let from_bin = from_bin.filter(|_| !residual.is_empty())?;
    Some(weighted(residual.iter().skip(from_bin).fold(0u64, |sum, &weight| sum.saturating_add(weight))))
}

/// First bin of the residual histograms (each of one window's `_all`) whose lower edge is at or above the 95th percentile
/// of all of them: records in it and above are outliers. `None` without a histogram.
#[must_use]
pub fn residual_threshold(histograms: impl Iterator<Item = Vec<u64>>) -> Option<usize> {
    let mut pooled = vec![0.0; N_RESIDUAL_BINS];
    for residual in histograms {
        pooled.iter_mut().zip(&residual).for_each(|(sum, &weight)| *sum += weighted(weight));
    }
    let total: f64 = pooled.iter().sum();
    if total <= 0.0 {
        return None;
    }
    let mut below = 0.0;
    let percentile_bin = pooled.iter().position(|weight| {
        below += weight;
        below >= 0.95 * total
    })?;
    Some(percentile_bin + 1)
}

/// Counts as floats, exact.
#[must_use]
pub fn floats(counts: &[u32]) -> Vec<f64> {
    counts.iter().map(|&n| f64::from(n)).collect()
}

fn weighted(sum: u64) -> f64 {
    sum as f64 / WEIGHT_ONE as f64
}

/// Adds `theirs` to `mine`, which grows where it is shorter.
pub fn add_dense(mine: &mut Vec<f64>, theirs: &[f64]) {
    if mine.len() < theirs.len() {
        mine.resize(theirs.len(), 0.0);
    }
    mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
}

/// Share of `part` in a total of `n` as f64, 0 where `n` is 0.
#[must_use]
pub fn share(part: usize, n: usize) -> f64 {
    if n == 0 { 0.0 } else { count(part) / count(n) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::latent::LatentId;

    #[test]
    fn a_family_is_the_sum_of_its_members() {
        let observed = Observed { latents: vec![3.0, 4.0, 5.0], residual_outlier: Some(0.5), ..Observed::default() };
        let layout =
            StreamLayout { n_latents: 3, families: vec![vec![LatentId(0), LatentId(2)]], residual_outlier: true, dead_record: true };
        let mut counts = Vec::new();
        observed.stream_counts(&layout, &mut counts);
        assert_eq!(counts, [3.0, 4.0, 5.0, 8.0, 0.5, 0.0]);
    }

    #[test]
    fn outliers_are_the_bins_above_the_95th_percentile() {
        let mut counts = SegmentCounts { residual: vec![0; N_RESIDUAL_BINS], ..SegmentCounts::default() };
        counts.residual[10] = 95 * WEIGHT_ONE;
        counts.residual[20] = 5 * WEIGHT_ONE;
        let window = ClosedWindow {
            start_ms: 0,
            end_ms: 1,
            model_version: String::new(),
            segments: [(ALL.to_owned(), counts.clone())].into(),
            rejected: BTreeMap::new(),
            offsets: Vec::new(),
            incomplete: None,
        };
        let bin = residual_threshold([window.segments[ALL].residual.clone()].into_iter());
        assert_eq!(bin, Some(11));
        assert_eq!(Observed::of(&counts, CountingUnit::Records, bin, false).residual_outlier, Some(5.0));
        assert_eq!(residual_threshold(std::iter::empty()), None);
    }
}
