//! The heaviest keys of a stream in bounded memory: Space-Saving.
//!
//! Which users or items carry an alert is asked of up to 100,000 records at a time and of many alerts at once;
//! a map of every key would grow with the crowd. Space-Saving keeps `capacity` keys: each key that holds more than
//! `total / capacity` is among them, and each count is too large by at most its stated error.
//! Source: Metwally, Agrawal, El Abbadi, Efficient computation of frequent and top-k elements (ICDT 2005).

use std::collections::BTreeSet;
use std::hash::Hash;

use ahash::AHashMap;

/// Counts of the heaviest keys. The same keys in the same order give the same counts.
#[derive(Clone, Debug)]
pub struct HeavyHitters<K> {
    capacity: usize,
    total: u64,
    counts: AHashMap<K, Count>,
    /// The same by count, so that the lightest is found without a search.
    order: BTreeSet<(u64, K)>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    n: u64,
    error: u64,
}

impl<K: Clone + Eq + Hash + Ord> HeavyHitters<K> {
    /// Nothing counted; keeps at most `capacity` keys, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), total: 0, counts: AHashMap::new(), order: BTreeSet::new() }
    }

    /// Counts `weight` of a key. Full and not known: it takes the place of the lightest, and its count.
    pub fn add(&mut self, key: K, weight: u64) {
        self.total += weight;
        let known = self.counts.get(&key).copied();
        let before = known.unwrap_or_else(|| self.make_room());
        if known.is_some() {
            self.order.remove(&(before.n, key.clone()));
        }
        let now = Count { n: before.n + weight, error: before.error };
        self.order.insert((now.n, key.clone()));
        self.counts.insert(key, now);
    }

    fn make_room(&mut self) -> Count {
        if self.counts.len() < self.capacity {
            return Count { n: 0, error: 0 };
        }
        let Some((n, lightest)) = self.order.pop_first() else { return Count { n: 0, error: 0 } };
        self.counts.remove(&lightest);
        Count { n, error: n }
    }

    /// Sum of all weights, those of forgotten keys included.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What a key holds at least: its count less its error; 0 where it is not kept.
    #[must_use]
    pub fn at_least(&self, key: &K) -> u64 {
        self.counts.get(key).map_or(0, |count| count.n - count.error)
    }

    /// The kept keys, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<&K> {
        let mut keys: Vec<&K> = self.counts.keys().collect();
        keys.sort_unstable();
        keys
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_that_holds_more_than_its_part_is_kept_and_never_counted_too_high(
            keys in proptest::collection::vec((0_u32..60, 1_u64..4), 1..400), capacity in 1_usize..40,
        ) {
            let (mut heavy, mut exact) = (HeavyHitters::new(capacity), BTreeMap::<u32, u64>::new());
            for &(key, weight) in &keys {
                heavy.add(key, weight);
                *exact.entry(key).or_default() += weight;
            }
            let total: u64 = exact.values().sum();
            prop_assert_eq!(heavy.total(), total);
            prop_assert!(heavy.keys().len() <= capacity && heavy.order.len() == heavy.counts.len());
            for (key, &n) in &exact {
                let least = heavy.at_least(key);
                prop_assert!(least <= n, "key {}: {} of {}", key, least, n);
                if n * capacity as u64 > total {
                    prop_assert!(heavy.counts.contains_key(key), "key {} with {} of {}", key, n, total);
                }
                if exact.len() <= capacity {
                    prop_assert_eq!(least, n, "nothing was forgotten");
                }
            }
        }
    }
}
