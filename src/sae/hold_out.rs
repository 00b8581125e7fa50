//! Which users and items a label is made from, and which are kept to test it.
//!
//! The side of an id is a hash of it, so that label and verify agree without a list, and a user or item
//! that is new tomorrow has its side already. Source of the need: in the published code the cases that
//! verify a label repeat those that made it.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// How much is held out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldOut {
    /// Share of entities, in [0, 1).
    pub entities: f64,
    /// Share of items, in [0, 1).
    pub items: f64,
    /// Another number, another split.
    pub seed: u64,
}

impl Default for HoldOut {
    /// 30 % of each: enough cases to test most latents, at the cost of few names.
    fn default() -> Self {
        Self { entities: 0.3, items: 0.3, seed: 0 }
    }
}

impl HoldOut {
    /// Whether an entity is held out.
    #[must_use]
    pub fn has_entity(&self, entity: &str) -> bool {
        share_of(self.seed, b"entity", entity) < self.entities
    }

    /// Whether an item is held out.
    #[must_use]
    pub fn has_item(&self, item: &str) -> bool {
        share_of(self.seed, b"item", item) < self.items
    }
}

/// A number in [0, 1) that is an id's own.
fn share_of(seed: u64, what: &[u8], id: &str) -> f64 {
    let mut hasher = SipHasher13::new_with_keys(seed, 0x7265_6373_6165);
    hasher.write(what);
    hasher.write(id.as_bytes());
    (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_of_the_share_asked_for_and_always_the_same() {
        let split = HoldOut::default();
        let n = (0..10_000).filter(|id| split.has_entity(&id.to_string())).count();
        // Six standard deviations of a binomial of 10,000.
        assert!((n as f64 - 3000.0).abs() < 6.0 * 46.0, "{n}");
        assert_eq!(split.has_item("i7"), split.has_item("i7"));
        let both = (0..10_000).filter(|id| split.has_entity(&id.to_string()) && split.has_item(&id.to_string())).count();
        assert!((both as f64 - 900.0).abs() < 6.0 * 29.0, "entities and items are split independently: {both}");
        let none = HoldOut { entities: 0.0, items: 0.0, seed: 1 };
        assert!((0..1000).all(|id| !none.has_entity(&id.to_string()) && !none.has_item(&id.to_string())));
    }
}
