//! The rows a run trains on, and those it never sees.
//!
//! Held out is by entity: rows of one user are alike, and a static vector (one a user) is the same in
//! every row, so that a split by row would measure nothing (FVU .0045 for .21, seen on BPR-MF). Where
//! items are known, rows whose first item is a held-out item are kept apart too.

use std::hash::Hasher;

use anyhow::{Context, bail, ensure};
use siphasher::sip::SipHasher13;

use crate::workshop::dataset::Dataset;
use crate::workshop::dataset::table::key_of;

/// Rows behind the geometric median.
const MEDIAN_ROWS: usize = 20_000;
/// Most steps of Weiszfeld's iteration: each shrinks what is left by far more than half on real vectors.
const MEDIAN_STEPS: usize = 40;
/// A step shorter than this share of the rows' mean distance is the last: far below what f32 and a gradient step tell apart.
const MEDIAN_PRECISION: f64 = 1e-7;

/// How rows are held out.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct HeldOut {
    /// Share of entities, and of items; 0 holds nothing out.
    pub share: f64,
    /// Field of the entity. Absent: every row is its own entity.
    pub entity: Option<String>,
    /// Field of the item, or of items of which the first counts.
    pub item: Option<String>,
}

/// Kept rows by what they are for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    /// Trained on.
    pub train: Vec<usize>,
    /// Rows of entities never trained on.
    pub by_entity: Vec<usize>,
    /// Rows of known entities and items never trained on.
    pub by_item: Vec<usize>,
}

/// Splits the rows of `dataset`. The same key is on the same side in every run.
///
/// # Errors
/// A column is missing, or a row has no entity.
pub fn split(dataset: &Dataset, held_out: &HeldOut) -> anyhow::Result<Split> {
    let entities =
        held_out.entity.as_deref().map(|name| dataset.column(name)?.keys().with_context(|| format!("--entity {name}"))).transpose()?;
    let items = held_out.item.as_deref().map(|name| dataset.column(name)).transpose()?;
    let mut split = Split::default();
    for row in 0..dataset.n_rows() {
        let entity = match &entities {
            Some(keys) => is_held_out("entity", &keys[row], held_out.share),
            None => is_held_out("row", &dataset.source_row(row).to_string(), held_out.share),
        };
        let item = items.and_then(|column| {
            let value = column.value(row);
            key_of(value.as_array().and_then(|list| list.first()).unwrap_or(value))
        });
        match () {
            () if entity => split.by_entity.push(row),
            () if item.is_some_and(|item| is_held_out("item", &item, held_out.share)) => split.by_item.push(row),
            () => split.train.push(row),
        }
    }
    Ok(split)
}

#[expect(clippy::cast_precision_loss, reason = "a share, to 53 bits")]
fn is_held_out(kind: &str, key: &str, share: f64) -> bool {
    let mut hasher = SipHasher13::new_with_keys(0x7265_6373, 0x6165_0001);
    hasher.write(kind.as_bytes());
    hasher.write_u8(0);
    hasher.write(key.as_bytes());
    (hasher.finish() as f64 / u64::MAX as f64) < share
}

/// The training rows, scaled to unit variance a dimension: the recipe's learning rate then fits any model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// `[n, d_in]`, times `scale`.
    pub values: Vec<f32>,
    /// Values in a row.
    pub d_in: usize,
    /// Factor.
    pub scale: f32,
    /// Geometric median of the scaled rows, `[d_in]`.
    pub centre: Vec<f32>,
    /// Mean `||x - mean||^2` of the scaled rows: `d_in`, but for rounding.
    pub variance: f64,
}

impl Rows {
    /// The rows of `dataset` that are trained on; at least `least` of them.
    ///
    /// # Errors
    /// There are too few rows, or they do not vary.
    #[expect(clippy::cast_possible_truncation, reason = "a factor of f32 values")]
    pub fn of(dataset: &Dataset, rows: &[usize], least: usize) -> anyhow::Result<Self> {
        let d_in = dataset.d_in();
        ensure!(rows.len() >= least, "{} rows to train on, expected at least {least}: record more, or hold out less", rows.len());
        let n = rows.len() as f64;
        let mut mean = vec![0f64; d_in];
        rows.iter().for_each(|row| mean.iter_mut().zip(dataset.embedding(*row)).for_each(|(m, x)| *m += f64::from(*x) / n));
        let deviation = |row: &usize| dataset.embedding(*row).iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m).powi(2)).sum::<f64>();
        let variance = rows.iter().map(deviation).sum::<f64>() / n;
        if variance.is_nan() || variance <= 0.0 {
            bail!("the {} rows to train on are all the same vector: nothing can be learnt from them", rows.len());
        }
        let scale = (d_in as f64 / variance).sqrt() as f32;
        ensure!(scale.is_normal(), "the vectors vary by {variance:e}: scale them first");
        let values: Vec<f32> = rows.iter().flat_map(|row| dataset.embedding(*row)).map(|x| x * scale).collect();
        let centre = geometric_median(&values, d_in);
        Ok(Self { values, d_in, scale, centre, variance: variance * f64::from(scale).powi(2) })
    }

    /// Number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.values.len() / self.d_in
    }

    /// One row. `row < n_rows()`.
    ///
    /// # Panics
    /// When `row` is out of range, as indexing a slice does.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.d_in..(row + 1) * self.d_in]
    }
}

/// The point of least summed distance to the rows `[n, d]` (Weiszfeld), of at most 20,000 of them. Outliers
/// pull the mean, and a decoder bias that sits among them costs latents.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the answer is f32 as the rows are")]
pub fn geometric_median(values: &[f32], d: usize) -> Vec<f32> {
    let n = values.len() / d.max(1);
    let stride = n.div_ceil(MEDIAN_ROWS).max(1);
    let rows = || values.chunks_exact(d).step_by(stride);
    let n_used = n.div_ceil(stride) as f64;
    let mut centre = vec![0f64; d];
    for step in 0..=MEDIAN_STEPS {
        let (mut next, mut weights) = (vec![0f64; d], 0.0);
        for row in rows() {
            let distance = row.iter().zip(&centre).map(|(x, c)| (f64::from(*x) - c).powi(2)).sum::<f64>().sqrt();
            // The first step is the mean. A row at the centre itself has no direction.
            let weight = if step == 0 { 1.0 } else { 1.0 / distance.max(1e-9) };
            weights += weight;
            next.iter_mut().zip(row).for_each(|(sum, x)| *sum += weight * f64::from(*x));
        }
        next.iter_mut().for_each(|sum| *sum /= weights);
        let moved = next.iter().zip(&centre).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        centre = next;
        // `n_used / weights` is the harmonic mean of the distances.
        if step > 0 && moved < MEDIAN_PRECISION * n_used / weights {
            break;
        }
    }
    centre.into_iter().map(|value| value as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometric_median_is_where_no_step_shortens_the_way() {
        let mut rows: Vec<f32> = (0..200u32).flat_map(|i| [(i % 17) as f32 * 0.3, (i % 5) as f32 - 2.0, (i * i % 11) as f32]).collect();
        rows.extend([1e4, 1e4, 1e4]);
        let centre = geometric_median(&rows, 3);
        let way = |at: &[f32]| -> f64 {
            rows.chunks_exact(3).map(|row| row.iter().zip(at).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()).sum()
        };
        let best = way(&centre);
        for axis in 0..3 {
            for step in [-0.05, 0.05] {
                let mut moved = centre.clone();
                moved[axis] += step;
                assert!(way(&moved) > best);
            }
        }
        assert!(centre.iter().all(|value| *value < 20.0), "one far row does not pull it: {centre:?}");
    }

    #[test]
    fn a_key_is_on_the_same_side_in_every_run_and_shares_are_kept() {
        let held = (0..20_000).filter(|i| is_held_out("entity", &i.to_string(), 0.05)).count();
        assert!((850..1150).contains(&held), "{held}");
        assert!(!is_held_out("entity", "u1", 0.0));
        assert_eq!(is_held_out("entity", "u42", 0.5), is_held_out("entity", "u42", 0.5));
    }

    #[test]
    fn no_held_out_user_or_item_is_trained_on_and_each_row_has_one_part() {
        let folder = tempfile::tempdir().unwrap();
        let (npy, fields) = (folder.path().join("v.npy"), folder.path().join("f.parquet"));
        // 6,000 rows of 300 users and lists that begin with one of 400 items.
        let n = 6_000u32;
        let users: Vec<String> = (0..n).map(|row| format!("u{}", row * 7919 % 300)).collect();
        let lists: Vec<String> = (0..n).map(|row| format!("i{}", row * 104_729 % 401 % 400)).collect();
        ndarray_npy::write_npy(&npy, &ndarray::Array2::<f32>::zeros((n as usize, 2))).unwrap();
        let mut items = arrow_array::builder::ListBuilder::new(arrow_array::builder::StringBuilder::new());
        for first in &lists {
            // What stands behind the first is another row's first.
            [first.as_str(), "i0", "i1"].into_iter().for_each(|item| items.values().append_value(item));
            items.append(true);
        }
        let columns: [(&str, arrow_array::ArrayRef); 2] =
            [("user", std::sync::Arc::new(arrow_array::StringArray::from(users.clone()))), ("items", std::sync::Arc::new(items.finish()))];
        let batch = arrow_array::RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&fields).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let request = crate::workshop::dataset::DatasetRequest { embeddings: npy, fields: Some(fields), ..Default::default() };
        let dataset = Dataset::open(&request).unwrap();
        let of = |share: f64| split(&dataset, &HeldOut { share, entity: Some("user".into()), item: Some("items".into()) }).unwrap();
        let parts = of(0.2);
        let keys = |rows: &[usize], of: &[String]| rows.iter().map(|row| of[*row].clone()).collect::<std::collections::BTreeSet<_>>();
        let mut all = [parts.train.clone(), parts.by_entity.clone(), parts.by_item.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..n as usize).collect::<Vec<_>>());
        assert!(keys(&parts.by_entity, &users).is_disjoint(&keys(&[parts.train.clone(), parts.by_item.clone()].concat(), &users)));
        assert!(keys(&parts.by_item, &lists).is_disjoint(&keys(&parts.train, &lists)));
        // Six standard deviations of a share of 300 users, and of 400 items among the other rows.
        let (by_entity, by_item) = (keys(&parts.by_entity, &users).len() as f64, keys(&parts.by_item, &lists).len() as f64);
        assert!((by_entity / 300.0 - 0.2).abs() < 0.14 && (by_item / 400.0 - 0.2).abs() < 0.12, "{by_entity} users, {by_item} items");
        assert_eq!(of(0.0), Split { train: (0..n as usize).collect(), ..Split::default() }, "nothing held out: all is trained on");
    }
}
