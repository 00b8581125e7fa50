//! Whether the recommender still recommends the same from the reconstruction.
//!
//! All items are ranked by `embedding . item`; all that the user met earlier is masked, but never the
//! target. The target's rank is the number of items that score higher. `NDCG@k = 1 / log2(rank + 2)`
//! where `rank < k`, else 0; `HR@k` is whether `rank < k`.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, ensure};
use ndarray::Array2;
use serde_json::Value;

use crate::workshop::dataset::Dataset;

/// The items, and which of them a row's user met before.
#[derive(Debug)]
pub struct Catalogue {
    items: Array2<f32>,
    padding: Option<usize>,
}

impl Catalogue {
    /// Items `[n, d_in]` by their number; `padding` is no item.
    ///
    /// # Errors
    /// Items have another width than the embeddings, or no such row of padding.
    pub fn new(items: Array2<f32>, padding: Option<usize>, d_in: usize) -> anyhow::Result<Self> {
        ensure!(items.ncols() == d_in, "item vectors have {} values, embeddings {d_in}: they must be of one model", items.ncols());
        if let Some(row) = padding {
            ensure!(row < items.nrows(), "--padding {row}: --items has {} rows", items.nrows());
        }
        Ok(Self { items, padding })
    }

    /// Rows of the item file.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.items.nrows()
    }

    /// Scores of every item, those in `masked` and the padding at minus infinity.
    pub fn scores(&self, embedding: &[f32], masked: &[usize], into: &mut Vec<f32>) {
        into.clear();
        into.extend(self.items.rows().into_iter().map(|item| dot(item.as_slice().unwrap_or(&[]), embedding)));
        for item in masked.iter().copied().chain(self.padding) {
            if let Some(score) = into.get_mut(item) {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// A sum in eight strands, which the compiler turns into vector code.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// The `k` items of highest score, best first; of equal ones the lower number. Masked items never.
#[must_use]
pub fn top_k(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).filter(|item| scores[*item] > f32::NEG_INFINITY).collect();
    let better = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    if order.len() > k && k > 0 {
        order.select_nth_unstable_by(k - 1, better);
        order.truncate(k);
    }
    order.sort_by(better);
    order
}

/// Items that score higher than the target.
#[must_use]
pub fn rank(scores: &[f32], target: usize) -> usize {
    scores.iter().filter(|score| **score > scores[target]).count()
}

/// `1 / log2(rank + 2)` where `rank < k`, else 0.
#[must_use]
pub fn ndcg(rank: usize, k: usize) -> f64 {
    if rank < k { 1.0 / (rank as f64 + 2.0).log2() } else { 0.0 }
}

/// Share of `k` places that hold an item of both lists.
#[must_use]
pub fn overlap(a: &[usize], b: &[usize]) -> f64 {
    let common = a.iter().filter(|item| b.contains(item)).count();
    if a.is_empty() { 1.0 } else { common as f64 / a.len() as f64 }
}

/// Names of the columns that ranking needs.
#[derive(Clone, Debug)]
pub struct RankingColumns {
    /// User.
    pub entity: String,
    /// Item the user chose next.
    pub target: String,
    /// Items the user met before, as far as the row knows them; optional.
    pub history: Option<String>,
    /// Order of a user's rows; absent, the file's.
    pub order: Option<String>,
}

/// What ranking needs of one kept row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The next item.
    pub target: usize,
    /// Items met earlier, in any row of the file, ascending; without the target.
    pub earlier: Vec<usize>,
}

/// The cases of all kept rows. Earlier items are those of **all** rows of the file, kept or not.
///
/// # Errors
/// A column is missing, or holds something that is no item: then with its row.
pub fn cases(dataset: &Dataset, columns: &RankingColumns, n_items: usize) -> anyhow::Result<Vec<Case>> {
    let table = dataset.table();
    let of = |name: &str| table.column(name).with_context(|| format!("no column {name:?}; there are {}", table.names().join(", ")));
    let (entities, targets) = (of(&columns.entity)?, of(&columns.target)?);
    let histories = columns.history.as_deref().map(of).transpose()?;
    let mut order: Vec<usize> = (0..table.n_rows()).collect();
    if let Some(name) = &columns.order {
        let keys = of(name)?;
        let number = |row: &usize| keys[*row].as_f64().unwrap_or(f64::NEG_INFINITY);
        order.sort_by(|a, b| number(a).total_cmp(&number(b)));
    }
    let item = |row: usize, value: &Value| {
        let number = value.as_u64().and_then(|item| usize::try_from(item).ok()).filter(|item| *item < n_items);
        number.with_context(|| format!("row {row}: expected an item below {n_items}, found {value}"))
    };
    let mut wanted: HashMap<usize, usize> = (0..dataset.n_rows()).map(|row| (dataset.source_row(row), row)).collect();
    let mut found: Vec<Option<Case>> = vec![None; dataset.n_rows()];
    let mut met: HashMap<String, BTreeSet<usize>> = HashMap::new();
    for row in order {
        let user = crate::workshop::dataset::table::key_of(&entities[row]).with_context(|| format!("row {row}: no {}", columns.entity))?;
        let earlier = met.entry(user).or_default();
        for value in histories.and_then(|histories| histories[row].as_array()).into_iter().flatten() {
            earlier.insert(item(row, value)?);
        }
        let target = item(row, &targets[row])?;
        if let Some(kept) = wanted.remove(&row) {
            found[kept] = Some(Case { target, earlier: earlier.iter().copied().filter(|item| *item != target).collect() });
        }
        earlier.insert(target);
    }
    found.into_iter().map(|case| case.context("a kept row that is not in the file")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_top_k_and_the_rank_equal_sorting(scores in prop::collection::vec(prop_oneof![-3i32..4, Just(i32::MIN)], 1..60), k in 1usize..12, target in 0usize..60) {
            let scores: Vec<f32> = scores.iter().map(|s| if *s == i32::MIN { f32::NEG_INFINITY } else { *s as f32 }).collect();
            let mut all: Vec<usize> = (0..scores.len()).filter(|i| scores[*i] > f32::NEG_INFINITY).collect();
            all.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
            all.truncate(k);
            prop_assert_eq!(top_k(&scores, k), all);
            let target = target % scores.len();
            prop_assert_eq!(rank(&scores, target), scores.iter().filter(|s| **s > scores[target]).count());
        }
    }

    #[test]
    fn masked_items_and_padding_are_never_recommended() {
        let items = Array2::from_shape_fn((5, 3), |(item, _)| item as f32);
        let catalogue = Catalogue::new(items, Some(0), 3).unwrap();
        let mut scores = Vec::new();
        catalogue.scores(&[1.0, 1.0, 1.0], &[4], &mut scores);
        assert_eq!(top_k(&scores, 10), [3, 2, 1]);
        assert_eq!((rank(&scores, 2), ndcg(0, 10), ndcg(10, 10)), (1, 1.0, 0.0));
        assert_eq!((overlap(&[1, 2], &[2, 3]), overlap(&[], &[])), (0.5, 1.0));
        assert!(Catalogue::new(Array2::zeros((5, 4)), None, 3).is_err() && Catalogue::new(Array2::zeros((5, 3)), Some(5), 3).is_err());
    }
}
