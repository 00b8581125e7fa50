//! Cases: what was served, to whom, and which latents were active in it.
//!
//! A case that says the same as an earlier one of its entity (same items, same activations) is no new
//! evidence and is left out: models with one vector a user serve it again and again. Items stand in a
//! case once, however often it lists them.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};

use crate::sae::latent::LatentId;

/// Cases, and by latent where it is active.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    items: Vec<Vec<u32>>,
    entities: Vec<u64>,
    /// By case, a hash of entity and activations: alike where an entity's vector is served again.
    vectors: Vec<u64>,
    /// By latent: case and value, cases ascending.
    active: Vec<Vec<(u32, f32)>>,
    seen: HashSet<u64, FixedHash>,
    n_repeated: usize,
}

/// The same hash of a case on every run: what is left out must not depend on a random state.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedHash;

impl BuildHasher for FixedHash {
    type Hasher = siphasher::sip::SipHasher13;

    fn build_hasher(&self) -> Self::Hasher {
        siphasher::sip::SipHasher13::new()
    }
}

impl Cases {
    /// No cases yet, of an SAE of `n_latents`.
    #[must_use]
    pub fn new(n_latents: usize) -> Self {
        Self { active: vec![Vec::new(); n_latents], ..Self::default() }
    }

    /// Adds a case; false where it repeats an earlier one, has no item, or there are 2^32 cases already.
    /// Latents outside the SAE are ignored.
    pub fn push(&mut self, entity: u64, mut items: Vec<u32>, latents: &[LatentId], values: &[f32]) -> bool {
        items.sort_unstable();
        items.dedup();
        let Ok(case) = u32::try_from(self.items.len()) else { return false };
        let mut hasher = FixedHash.build_hasher();
        (entity, latents).hash(&mut hasher);
        values.iter().for_each(|value| value.to_bits().hash(&mut hasher));
        let vector = hasher.finish();
        items.hash(&mut hasher);
        if items.is_empty() || !self.seen.insert(hasher.finish()) {
            self.n_repeated += 1;
            return false;
        }
        for (latent, value) in latents.iter().zip(values) {
            if let Some(rows) = self.active.get_mut(latent.index()) {
                rows.push((case, *value));
            }
        }
        self.items.push(items);
        self.entities.push(entity);
        self.vectors.push(vector);
        true
    }

    /// Number of cases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Cases that were left out: repeated, or without an item.
    #[must_use]
    pub fn n_repeated(&self) -> usize {
        self.n_repeated
    }

    /// Latents of the SAE.
    #[must_use]
    pub fn n_latents(&self) -> usize {
        self.active.len()
    }

    /// Items of a case, ascending; `case < len()`.
    #[must_use]
    pub fn items(&self, case: usize) -> &[u32] {
        &self.items[case]
    }

    /// Whose case it is; `case < len()`.
    #[must_use]
    pub fn entity(&self, case: usize) -> u64 {
        self.entities[case]
    }

    /// A number that two cases have in common where they are of one entity and one vector; `case < len()`.
    #[must_use]
    pub fn vector(&self, case: usize) -> u64 {
        self.vectors[case]
    }

    /// Cases a latent is active in, ascending, with its value; `latent < n_latents()`.
    #[must_use]
    pub fn active(&self, latent: usize) -> &[(u32, f32)] {
        &self.active[latent]
    }

    /// Whose cases a latent is active in: distinct entities.
    #[must_use]
    pub fn n_entities(&self, latent: usize) -> usize {
        self.active[latent].iter().map(|(case, _)| self.entities[*case as usize]).collect::<HashSet<_, FixedHash>>().len()
    }

    /// In how many cases each of `n_items` items stands.
    #[must_use]
    pub fn item_counts(&self, n_items: usize) -> Vec<u32> {
        let mut counts = vec![0; n_items];
        for item in self.items.iter().flatten() {
            counts[*item as usize] += 1;
        }
        counts
    }

    /// The cases of the entities kept, with the items kept; a case that loses all its items goes.
    #[must_use]
    pub fn only(&self, keep_entity: impl Fn(u64) -> bool, keep_item: impl Fn(u32) -> bool) -> Self {
        let mut kept = Self::new(self.n_latents());
        let mut place = vec![None; self.len()];
        for (case, items) in self.items.iter().enumerate().filter(|(case, _)| keep_entity(self.entities[*case])) {
            let items: Vec<u32> = items.iter().copied().filter(|item| keep_item(*item)).collect();
            if !items.is_empty() {
                place[case] = u32::try_from(kept.items.len()).ok();
                kept.items.push(items);
                kept.entities.push(self.entities[case]);
                kept.vectors.push(self.vectors[case]);
            }
        }
        for (latent, rows) in self.active.iter().enumerate() {
            kept.active[latent] = rows.iter().filter_map(|(case, value)| Some((place[*case as usize]?, *value))).collect();
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_case_and_a_repeated_item_count_once() {
        let mut cases = Cases::new(3);
        let latents = [LatentId(0), LatentId(2)];
        assert!(cases.push(7, vec![5, 1, 5], &latents, &[1.0, 2.0]));
        assert!(!cases.push(7, vec![1, 5], &latents, &[1.0, 2.0]));
        assert!(cases.push(8, vec![1, 5], &latents, &[1.0, 2.0]), "another user's");
        assert!(cases.push(7, vec![1, 5], &latents, &[1.0, 3.0]), "another activation");
        assert!(!cases.push(9, vec![], &latents, &[1.0, 2.0]), "no evidence");
        assert_eq!((cases.len(), cases.n_repeated()), (3, 2));
        assert_eq!(cases.items(0), [1, 5]);
        assert_eq!(cases.active(2), [(0, 2.0), (1, 2.0), (2, 3.0)]);
        assert!(cases.active(1).is_empty());
        assert_eq!((cases.n_entities(0), cases.item_counts(6)), (2, vec![0, 3, 0, 0, 0, 3]));
    }

    #[test]
    fn a_part_has_only_its_entities_and_items() {
        let mut cases = Cases::new(1);
        cases.push(1, vec![0, 1], &[LatentId(0)], &[1.0]);
        cases.push(2, vec![0, 1], &[LatentId(0)], &[2.0]);
        cases.push(2, vec![0], &[LatentId(0)], &[3.0]);
        let part = cases.only(|entity| entity == 2, |item| item == 1);
        assert_eq!((part.len(), part.items(0), part.active(0)), (1, &[1][..], &[(0, 2.0)][..]));
    }
}
