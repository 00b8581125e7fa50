//! How an SAE's latents are used: how often each fires, which never do, which are alike.

use ndarray::Axis;
use serde::Serialize;

use crate::sae::latent::LatentId;
use crate::sae::weights::SaeWeights;

/// Decades of the density histogram, from 1e-6 to 1; four bins each.
const DECADES: usize = 6;
const BINS_PER_DECADE: usize = 4;
/// Pairs of alike latents that are listed.
const PAIRS: usize = 20;
/// Cosine of two decoder rows above which they say the same.
const ALIKE: f32 = 0.9;

/// Use of the latents over the evaluated rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LatentUse {
    /// Rows behind every number here: with few rows a rare latent looks dead.
    pub rows: u64,
    /// Share of latents that fired in no row.
    pub dead: f64,
    /// Latents that fired in no row.
    pub n_dead: usize,
    /// Share of latents that fired in more than 1 % of the rows.
    pub above_1_percent: f64,
    /// Share of latents that fired in more than 10 % of the rows.
    pub above_10_percent: f64,
    /// Latents by the share of rows they fired in.
    pub histogram: Vec<DensityBin>,
    /// Pairs of live latents whose decoder rows point the same way, most alike first.
    pub alike: Vec<AlikePair>,
    /// Live latents whose decoder row has a cosine above 0.9 with that of another.
    pub n_alike: usize,
    /// Mean over live latents of the largest cosine with another's decoder row.
    pub mean_max_cosine: f64,
}

/// A bin of the density histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DensityBin {
    /// Smallest share of rows, inclusive.
    pub from: f64,
    /// Largest share of rows, exclusive (the last bin holds 1).
    pub to: f64,
    /// Latents.
    pub latents: usize,
}

/// Two latents and the cosine of their decoder rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AlikePair {
    /// The lower latent.
    pub a: LatentId,
    /// The higher latent.
    pub b: LatentId,
    /// Cosine of `W_dec[a]` and `W_dec[b]`.
    pub cosine: f32,
}

/// `n_fired [d_sae]`: rows of `n_rows` each latent fired in (value > 0).
#[must_use]
pub fn latent_use(sae: &SaeWeights, n_fired: &[u64], n_rows: u64) -> LatentUse {
    let d_sae = n_fired.len().max(1) as f64;
    let density = |fired: u64| fired as f64 / n_rows.max(1) as f64;
    let share = |is: &dyn Fn(u64) -> bool| n_fired.iter().filter(|fired| is(**fired)).count() as f64 / d_sae;
    let live: Vec<usize> = (0..n_fired.len()).filter(|latent| n_fired[*latent] > 0).collect();
    let (alike, n_alike, mean_max_cosine) = alike(sae, &live);
    LatentUse {
        rows: n_rows,
        dead: share(&|fired| fired == 0),
        n_dead: n_fired.len() - live.len(),
        above_1_percent: share(&|fired| density(fired) > 0.01),
        above_10_percent: share(&|fired| density(fired) > 0.1),
        histogram: histogram(n_fired.iter().filter(|fired| **fired > 0).map(|fired| density(*fired))),
        alike,
        n_alike,
        mean_max_cosine,
    }
}

fn histogram(densities: impl Iterator<Item = f64>) -> Vec<DensityBin> {
    let n_bins = DECADES * BINS_PER_DECADE;
    let edge = |bin: usize| 10f64.powf(bin as f64 / BINS_PER_DECADE as f64 - DECADES as f64);
    let mut bins: Vec<DensityBin> = (0..n_bins).map(|bin| DensityBin { from: edge(bin), to: edge(bin + 1), latents: 0 }).collect();
    for density in densities {
        let bin = bins.iter().position(|bin| density < bin.to).unwrap_or(n_bins - 1);
        bins[bin].latents += 1;
    }
    let first = bins.iter().position(|bin| bin.latents > 0).unwrap_or(n_bins);
    bins.split_off(first)
}

/// The most alike pairs among `live`, how many have a twin, and the mean of each one's largest cosine.
fn alike(sae: &SaeWeights, live: &[usize]) -> (Vec<AlikePair>, usize, f64) {
    let Some(w_dec) = sae.w_dec() else { return (Vec::new(), 0, 0.0) };
    let mut rows = w_dec.select(Axis(0), live);
    for mut row in rows.rows_mut() {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row /= norm;
        }
    }
    let (mut pairs, mut best): (Vec<AlikePair>, Vec<f32>) = (Vec::new(), Vec::new());
    // A block of rows at a time: all cosines of 16,384 latents would be a gigabyte.
    const BLOCK: usize = 256;
    let id = |at: usize| LatentId(u32::try_from(live[at]).unwrap_or(u32::MAX));
    for start in (0..live.len()).step_by(BLOCK) {
        let end = (start + BLOCK).min(live.len());
        let cosines = rows.slice(ndarray::s![start..end, ..]).dot(&rows.t());
        for (own, cosines) in (start..end).zip(cosines.rows()) {
            let others = || cosines.iter().enumerate().filter(|(other, _)| *other != own);
            best.push(others().fold(0.0f32, |best, (_, cosine)| best.max(*cosine)));
            let floor = if pairs.len() < PAIRS { f32::MIN } else { pairs[PAIRS - 1].cosine };
            pairs.extend(others().filter(|(other, c)| *other > own && **c > floor).map(|(other, c)| AlikePair {
                a: id(own),
                b: id(other),
                cosine: *c,
            }));
            pairs.sort_by(|x, y| y.cosine.total_cmp(&x.cosine).then(x.a.cmp(&y.a)).then(x.b.cmp(&y.b)));
            pairs.truncate(PAIRS);
        }
    }
    let n_alike = best.iter().filter(|cosine| **cosine > ALIKE).count();
    let mean = best.iter().map(|cosine| f64::from(*cosine)).sum::<f64>() / best.len().max(1) as f64;
    (pairs, n_alike, mean)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::{Array1, array};

    use super::*;
    use crate::sae::weights::{SaeSpec, Selection};

    fn four_latents() -> SaeWeights {
        let size = |n| NonZeroUsize::new(n).unwrap();
        let spec = SaeSpec { d_in: size(2), d_sae: size(4), selection: Selection::TopK(size(1)), centring: true };
        let w = array![[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-1.0, 0.0]];
        SaeWeights::new(spec, w.clone(), Array1::zeros(4), Some(w), Array1::zeros(2)).unwrap()
    }

    #[test]
    fn use_is_counted_over_the_rows_it_states() {
        let used = latent_use(&four_latents(), &[1000, 5, 50, 0], 1000);
        assert_eq!((used.dead, used.n_dead, used.above_1_percent, used.above_10_percent), (0.25, 1, 0.5, 0.25));
        assert_eq!(used.histogram.iter().map(|bin| bin.latents).sum::<usize>(), 3, "the dead are in no bin");
        assert!(used.histogram[0].from <= 0.005 && used.histogram[0].to > 0.005);
    }

    #[test]
    fn alike_latents_are_pairs_of_live_ones_by_direction_alone() {
        let used = latent_use(&four_latents(), &[1, 1, 1, 1], 10);
        assert_eq!(used.alike[0], AlikePair { a: LatentId(0), b: LatentId(2), cosine: 1.0 });
        assert_eq!((used.alike.len(), used.n_alike), (6, 2), "opposite directions are not alike");
        assert_eq!(latent_use(&four_latents(), &[1, 1, 0, 1], 10).n_alike, 0);
    }
}
