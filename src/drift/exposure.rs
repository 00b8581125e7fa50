//! Exposure: how many entities would show each concept, had nothing but the number and the length of
//! sessions changed.
//!
//! Presence alone moves with session length: who looks longer shows more. Dividing by records or by
//! entities over- and under-corrects; the curve measured in the reference does neither.

use serde::{Deserialize, Serialize};

use crate::drift::counts::N_BUCKETS;
use crate::drift::observed::Observed;
use crate::drift::packed;
use crate::drift::settings::{CountingUnit, StreamLayout};

/// Entities' worth of the common curve that each (bucket, concept) cell is drawn to.
const PRIOR: f64 = 5.0;

/// `q_bj`: probability that an entity with a session of bucket `b` shows stream `j` at least once
/// (families: expected number of members shown).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PresenceCurve {
    n_streams: usize,
    /// `[12 * n_streams]`, bucket-major.
    #[serde(with = "packed")]
    q: Vec<f64>,
    /// Sum of `q` over latents by bucket.
    weight: [f64; N_BUCKETS],
    /// Shares of `N_b weight_b` in the reference, `_all`.
    mix: [f64; N_BUCKETS],
}

impl PresenceCurve {
    /// From the reference's table `by_bucket` `[12 * counted]` (entities of bucket b that show latent j) and
    /// `entities` `[12]`, both summed over its windows.
    ///
    /// `growth_b = sum_j D_bj / N_b`, `level_j = max(sum_b D_bj, 1/2) / sum_b N_b growth_b`,
    /// `q0 = growth level`, `q_bj = q0 (D_bj + 5)/(N_b q0 + 5)`. A concept never seen has the level of half
    /// an entity, so that it can be born. The growth is that of latents, families only use it.
    #[must_use]
    pub fn fit(by_bucket: &[f64], entities: &[f64; N_BUCKETS], layout: &StreamLayout) -> Self {
        let (m, n) = (layout.n_latents, layout.n_concepts());
        // A file's table ends at the largest latent it names; the SAE may have more.
        let counted = by_bucket.len() / N_BUCKETS;
        let mut shown = vec![0.0; N_BUCKETS * n];
        for b in 0..N_BUCKETS {
            let row = &mut shown[b * n..(b + 1) * n];
            let given = by_bucket.get(b * counted..(b + 1) * counted).unwrap_or(&[]);
            row.iter_mut().take(m).zip(given).for_each(|(mine, theirs)| *mine = *theirs);
            for (f, family) in layout.families.iter().enumerate() {
                row[m + f] = family.iter().filter_map(|member| given.get(member.index())).sum();
            }
        }
        let growth: Vec<f64> = (0..N_BUCKETS).map(|b| shown[b * n..b * n + m].iter().sum::<f64>() / entities[b].max(1.0) + 1e-12).collect();
        let opportunity: f64 = entities.iter().zip(&growth).map(|(n, g)| n * g).sum();
        let mut q = vec![0.0; N_BUCKETS * n];
        for j in 0..n {
            let level = (0..N_BUCKETS).map(|b| shown[b * n + j]).sum::<f64>().max(0.5) / opportunity;
            for b in 0..N_BUCKETS {
                let common = growth[b] * level;
                q[b * n + j] = common * (shown[b * n + j] + PRIOR) / (entities[b] * common + PRIOR);
            }
        }
        let mut weight = [0.0; N_BUCKETS];
        weight.iter_mut().enumerate().for_each(|(b, w)| *w = q[b * n..b * n + m].iter().sum());
        Self { n_streams: n, q, weight, mix: shares(entities, &weight) }
    }

    /// `E_j = sum_b N_b q_bj` of the first `out.len()` streams, into `out`.
    pub fn exposure(&self, entities: &[f64; N_BUCKETS], out: &mut [f64]) {
        out.fill(0.0);
        for (b, &n) in entities.iter().enumerate().filter(|(_, n)| **n > 0.0) {
            out.iter_mut().zip(&self.q[b * self.n_streams..]).for_each(|(e, q)| *e += n * q);
        }
    }

    /// `q` of one family's or latent's column over buckets: `sum_b N_b q_bj`.
    #[must_use]
    pub fn exposure_of(&self, entities: &[f64; N_BUCKETS], stream: usize) -> f64 {
        entities.iter().enumerate().map(|(b, n)| n * self.q[b * self.n_streams + stream]).sum()
    }

    /// Mix distance `kappa = sum_b a_b^2 / r_b >= 1` of the shares `a` of `N_b weight_b` now against
    /// those of `reference` entities: how much worse the reference is known at this mix of session
    /// lengths. 0 for no entities.
    #[must_use]
    pub fn mix_distance(&self, entities: &[f64; N_BUCKETS], reference: &[f64; N_BUCKETS]) -> f64 {
        let now = shares(entities, &self.weight);
        let then = shares(reference, &self.weight);
        now.iter().zip(then).map(|(a, r)| a * a / r.max(1e-6)).sum()
    }
}

/// Exposure by stream: sessions through the presence curve for concepts (or records, or Kish-weighted
/// records), Kish-weighted records for pseudo-streams.
pub(super) fn stream_exposure(
    unit: CountingUnit,
    curve: Option<&PresenceCurve>,
    layout: &StreamLayout,
    observed: &Observed,
    out: &mut Vec<f64>,
) {
    out.clear();
    let flat = if unit == CountingUnit::Records { observed.records } else { observed.kish_exposure };
    out.resize(layout.n_concepts(), flat);
    if let Some(curve) = curve {
        curve.exposure(&observed.entities, out);
    } else {
        let sizes = layout.families.iter().map(|family| flat * family.len() as f64);
        out.iter_mut().skip(layout.n_latents).zip(sizes).for_each(|(e, size)| *e = size);
    }
    out.resize(layout.len(), observed.kish_exposure);
}

fn shares(entities: &[f64; N_BUCKETS], weight: &[f64; N_BUCKETS]) -> [f64; N_BUCKETS] {
    let mut of = [0.0; N_BUCKETS];
    of.iter_mut().zip(entities.iter().zip(weight)).for_each(|(s, (n, w))| *s = n * w);
    let total = of.iter().sum::<f64>().max(1e-12);
    of.map(|s| s / total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::latent::LatentId;

    fn layout(families: Vec<Vec<LatentId>>) -> StreamLayout {
        StreamLayout { n_latents: 2, families, residual_outlier: false, dead_record: false }
    }

    #[test]
    fn latents_beyond_the_tables_last_are_never_seen_and_change_nothing_else() {
        let mut entities = [0.0; N_BUCKETS];
        (entities[0], entities[3]) = (1000.0, 500.0);
        let table: Vec<f64> = (0..N_BUCKETS).flat_map(|b| [10.0 * entities[b] / 100.0, entities[b] / 100.0]).collect();
        let more = StreamLayout { n_latents: 5, ..layout(Vec::new()) };
        let (mut exposure, mut with_more) = ([0.0; 2], [0.0; 5]);
        PresenceCurve::fit(&table, &entities, &layout(Vec::new())).exposure(&entities, &mut exposure);
        PresenceCurve::fit(&table, &entities, &more).exposure(&entities, &mut with_more);
        assert_eq!(exposure, with_more[..2]);
        assert!(with_more[4] > 0.0 && with_more[4] < 1.0);
    }

    #[test]
    fn the_references_own_mix_expects_about_what_was_seen() {
        let mut entities = [0.0; N_BUCKETS];
        entities[0] = 1000.0;
        entities[3] = 1000.0;
        let mut table = vec![0.0; 2 * N_BUCKETS];
        (table[0], table[1], table[6], table[7]) = (100.0, 50.0, 400.0, 200.0);
        let curve = PresenceCurve::fit(&table, &entities, &layout(vec![vec![LatentId(0), LatentId(1)]]));
        let mut exposure = [0.0; 3];
        curve.exposure(&entities, &mut exposure);
        assert!((exposure[0] - 500.0).abs() < 1e-9 && (exposure[1] - 250.0).abs() < 1e-9 && (exposure[2] - 750.0).abs() < 1e-9);
        assert!((curve.mix_distance(&entities, &entities) - 1.0).abs() < 1e-12);
        let mut longer = entities;
        longer[0] = 0.0;
        assert!(curve.mix_distance(&longer, &entities) > 1.2);
    }
}
