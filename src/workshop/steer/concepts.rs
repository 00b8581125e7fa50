//! Which latents stand for a tag of the items, and which items carry it.
//!
//! Where no reviewed catalogue says so, a latent stands for a tag by lift: the share of the tag in what
//! is recommended to the rows it is active in, over the share in all rows.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::sae::activation::SparseActivations;
use crate::sae::latent::LatentId;
use crate::workshop::dataset::table::Table;

/// Fewest rows a latent must be active in to stand for anything.
const LEAST_ROWS: u32 = 20;
/// Least lift.
const LEAST_LIFT: f64 = 1.3;

/// Tags of the items.
#[derive(Clone, Debug, Default)]
pub struct Tags {
    /// Whether each item has the tag.
    pub items: BTreeMap<String, Vec<bool>>,
}

impl Tags {
    /// Reads column `column` of an items table, whose column `item` numbers the rows of the item vectors.
    ///
    /// # Errors
    /// A column is missing, or an item has no number below `n_items`.
    pub fn read(table: &Table, item: &str, column: &str, n_items: usize) -> anyhow::Result<Self> {
        let of = |name: &str| table.column(name).with_context(|| format!("no column {name:?}; there are {}", table.names().join(", ")));
        let (numbers, values) = (of(item)?, of(column)?);
        let mut tags = Self::default();
        for (row, (number, value)) in numbers.iter().zip(values).enumerate() {
            let number = number.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n < n_items);
            let number = number.with_context(|| format!("row {row}: expected an item below {n_items}, found {}", numbers[row]))?;
            let words: Vec<&Value> = value.as_array().map_or_else(|| vec![value], |list| list.iter().collect());
            for word in words.into_iter().filter_map(crate::workshop::dataset::table::key_of) {
                tags.items.entry(word).or_insert_with(|| vec![false; n_items])[number] = true;
            }
        }
        ensure!(!tags.items.is_empty(), "column {column:?} names no tag");
        Ok(tags)
    }
}

/// A latent that stands for a tag.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct TagLatent {
    /// The latent.
    pub latent: LatentId,
    /// Rows it was active in.
    pub rows: u32,
    /// Share of the tag there over the share in all rows.
    pub lift: f64,
}

/// The latents that stand for a tag, best first, at most `most`. `shares` holds the tag's share in what
/// each row is recommended; ranked by the standard score of the difference, which a latent of three rows
/// cannot win by chance.
#[must_use]
pub fn latents_of(shares: &[f64], activations: &SparseActivations, d_sae: usize, most: usize) -> Vec<TagLatent> {
    let n = shares.len().max(1) as f64;
    let mean = shares.iter().sum::<f64>() / n;
    let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / n;
    let (mut rows, mut sums) = (vec![0u32; d_sae], vec![0f64; d_sae]);
    for (row, share) in shares.iter().enumerate() {
        for latent in activations.row(row).0 {
            rows[latent.index()] += 1;
            sums[latent.index()] += share;
        }
    }
    let mut found: Vec<(f64, TagLatent)> = (0u32..)
        .zip(rows.iter().zip(&sums))
        .filter(|(_, (rows, _))| **rows >= LEAST_ROWS)
        .map(|(latent, (rows, sum))| {
            let share = sum / f64::from(*rows);
            let score = (share - mean) / (variance / f64::from(*rows)).sqrt().max(1e-12);
            (score, TagLatent { latent: LatentId(latent), rows: *rows, lift: if mean > 0.0 { share / mean } else { 0.0 } })
        })
        .filter(|(_, latent)| latent.lift >= LEAST_LIFT)
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.latent.cmp(&b.1.latent)));
    found.into_iter().take(most).map(|(_, latent)| latent).collect()
}

/// Cohen's d of each latent's activation between rows with `high` and the others: how far it leans to
/// them, in pooled standard deviations. 0 where it does not vary.
#[must_use]
pub fn cohens_d(high: &[bool], activations: &SparseActivations, d_sae: usize) -> Vec<f64> {
    let n_high = high.iter().filter(|high| **high).count() as f64;
    let sizes = [high.len() as f64 - n_high, n_high];
    let mut sums = [vec![(0f64, 0f64); d_sae], vec![(0f64, 0f64); d_sae]];
    for (row, high) in high.iter().enumerate() {
        let (latents, values) = activations.row(row);
        for (latent, value) in latents.iter().zip(values) {
            let sum = &mut sums[usize::from(*high)][latent.index()];
            *sum = (sum.0 + f64::from(*value), sum.1 + f64::from(*value).powi(2));
        }
    }
    let moments = |side: usize, latent: usize| {
        let (sum, squares) = sums[side][latent];
        let n = sizes[side].max(1.0);
        (sum / n, (squares / n - (sum / n).powi(2)).max(0.0))
    };
    let d = |latent: usize| {
        let ((low_mean, low_variance), (high_mean, high_variance)) = (moments(0, latent), moments(1, latent));
        let pooled = (sizes[0] * low_variance + sizes[1] * high_variance) / (sizes[0] + sizes[1]).max(1.0);
        if pooled > 0.0 { (high_mean - low_mean) / pooled.sqrt() } else { 0.0 }
    };
    (0..d_sae).map(d).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activations() -> SparseActivations {
        let mut of = SparseActivations::default();
        for row in 0..200u32 {
            // Latent 0 in the first half, latent 1 in every other row, latent 2 in three rows.
            if row < 100 {
                of.push(LatentId(0), 1.0 + (row % 3) as f32);
            }
            if row % 2 == 0 {
                of.push(LatentId(1), 2.0);
            }
            if row < 3 {
                of.push(LatentId(2), 9.0);
            }
            of.end_row();
        }
        of
    }

    #[test]
    fn a_latent_stands_for_a_tag_by_lift_over_enough_rows() {
        let shares: Vec<f64> = (0..200).map(|row| if row < 100 { 0.6 } else { 0.2 }).collect();
        let found = latents_of(&shares, &activations(), 4, 9);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].latent, found[0].rows), (LatentId(0), 100));
        assert!((found[0].lift - 1.5).abs() < 1e-12);
    }

    #[test]
    fn cohens_d_equals_its_formula() {
        let high: Vec<bool> = (0..200).map(|row| row < 100).collect();
        let d = cohens_d(&high, &activations(), 4);
        // Latent 0 among the high: 34 ones, 33 twos, 33 threes; nothing among the others.
        let mean = (34.0 + 66.0 + 99.0) / 100.0;
        let variance = (34.0 + 33.0 * 4.0 + 33.0 * 9.0) / 100.0 - mean * mean;
        assert!((d[0] - mean / f64::sqrt(variance / 2.0)).abs() < 1e-9);
        assert!(d[1].abs() < 1e-9 && d[3] == 0.0);
    }
}
