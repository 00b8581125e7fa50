//! Items that are characteristic of a latent: those that stand in its cases clearly more often than in others.
//!
//! They are the sample in which tags are counted item by item. One popular item can carry a tag into
//! every case of a latent; counted by items it is one item. And because tags dealt anew among items leave
//! this set as it is, the enrichment in it is calibrated exactly, whatever cases depend on each other.

use crate::workshop::label::cases::Cases;
use crate::workshop::label::hypergeometric::Overlap;

/// An item belongs to a latent when a share of cases as uneven as its own has at most this probability.
/// Larger: chance items dilute the set; smaller: rare latents have no items.
const LN_P_AT_MOST: f64 = -6.907_755_278_982_137; // ln 0.001
/// And when it stands there at least so many times as often as elsewhere.
const LIFT_AT_LEAST: f64 = 2.0;
/// And in so many of its cases: one case is an accident.
const CASES_AT_LEAST: u64 = 2;
/// Most items of a set, the surest first: a broad latent's fiftieth item still tells, its five hundredth not.
const MOST_ITEMS: usize = 50;

/// How often each item stands in all cases; what is rare or common is measured against it.
#[derive(Clone, Debug)]
pub struct ItemCounts {
    counts: Vec<u32>,
    n_cases: u64,
    /// Each item stands in one case only: cases are items, encoded themselves.
    cases_are_items: bool,
}

impl ItemCounts {
    /// Counts over all cases.
    #[must_use]
    pub fn new(cases: &Cases, n_items: usize) -> Self {
        let counts = cases.item_counts(n_items);
        let cases_are_items = (0..cases.len()).all(|case| cases.items(case).len() == 1) && counts.iter().all(|count| *count <= 1);
        Self { counts, n_cases: cases.len() as u64, cases_are_items }
    }

    /// Items that stand in any case, ascending: the population of the test by items.
    #[must_use]
    pub fn seen(&self) -> Vec<u32> {
        (0u32..).zip(&self.counts).filter(|(_, count)| **count > 0).map(|(item, _)| item).collect()
    }

    /// Cases an item stands in; none for an item outside the table.
    #[must_use]
    pub fn of(&self, item: u32) -> u32 {
        self.counts.get(item as usize).copied().unwrap_or(0)
    }
}

/// Characteristic items of a latent, the surest first; for encoded item vectors the items it is active in,
/// the strongest first.
#[must_use]
pub fn characteristic_items(cases: &Cases, counts: &ItemCounts, latent: usize) -> Vec<u32> {
    let active = cases.active(latent);
    if counts.cases_are_items {
        let mut by_value: Vec<(u32, f32)> = active.to_vec();
        by_value.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        return by_value.into_iter().flat_map(|(case, _)| cases.items(case as usize)).copied().collect();
    }
    let mut here: Vec<u32> = active.iter().flat_map(|(case, _)| cases.items(*case as usize)).copied().collect();
    here.sort_unstable();
    let mut sure: Vec<(f64, u32)> = here
        .chunk_by(|a, b| a == b)
        .filter_map(|same| {
            let (item, n_both) = (same[0], same.len() as u64);
            let overlap = Overlap { n_cases: counts.n_cases, n_tagged: u64::from(counts.of(item)), n_active: active.len() as u64, n_both };
            if n_both < CASES_AT_LEAST || overlap.lift() < LIFT_AT_LEAST {
                return None;
            }
            let ln_p = overlap.ln_p_value();
            (ln_p <= LN_P_AT_MOST).then_some((ln_p, item))
        })
        .collect();
    sure.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    sure.truncate(MOST_ITEMS);
    sure.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::latent::LatentId;

    #[test]
    fn a_popular_item_is_not_characteristic_and_a_shared_one_is() {
        let mut cases = Cases::new(1);
        for entity in 0..200_u64 {
            let active: &[LatentId] = if entity < 20 { &[LatentId(0)] } else { &[] };
            // Item 0 is everywhere, item 1 goes with the latent, the others are noise.
            let mut items = vec![0, 2 + u32::try_from(entity % 50).unwrap()];
            if entity < 20 {
                items.push(1);
            }
            assert!(cases.push(entity, items, active, &[1.0][..active.len()]));
        }
        let counts = ItemCounts::new(&cases, 60);
        assert_eq!(characteristic_items(&cases, &counts, 0), [1]);
        assert_eq!(counts.seen().len(), 52);
    }

    #[test]
    fn encoded_items_are_their_own_set_strongest_first() {
        let mut cases = Cases::new(1);
        for (item, value) in [(0_u32, 1.0_f32), (1, 3.0), (2, 2.0)] {
            cases.push(u64::from(item), vec![item], &[LatentId(0)], &[value]);
        }
        assert_eq!(characteristic_items(&cases, &ItemCounts::new(&cases, 3), 0), [1, 2, 0]);
    }
}
