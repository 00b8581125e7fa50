//! A set of latents, one bit each.
//!
//! Fifty records of an entity show the same latents again and again. Sorting them all to find out which
//! they are takes ten times as long as setting bits and reading them in order.

use crate::sae::latent::LatentId;

/// The latents that some records show.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    words: Vec<u64>,
}

impl Distinct {
    /// Adds a record's latents, ascending.
    pub(super) fn add(&mut self, latents: &[LatentId]) {
        // They ascend, so the last is the largest.
        let n_words = latents.last().map_or(0, |last| last.index() / 64 + 1);
        if self.words.len() < n_words {
            self.words.resize(n_words, 0);
        }
        for latent in latents {
            self.words[latent.index() / 64] |= 1 << (latent.index() % 64);
        }
    }

    /// Appends all to `into`, ascending, and is empty afterwards.
    pub(super) fn take(&mut self, into: &mut Vec<LatentId>) {
        for (word, start) in self.words.iter_mut().zip((0u32..).step_by(64)) {
            let mut left = std::mem::take(word);
            while left != 0 {
                into.push(LatentId(start + left.trailing_zeros()));
                left &= left - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_comes_out_is_what_went_in_once_and_in_order(records in prop::collection::vec(prop::collection::btree_set(0u32..300, 0..40), 0..9)) {
            let mut distinct = Distinct::default();
            let mut expected = BTreeSet::new();
            for record in &records {
                distinct.add(&record.iter().copied().map(LatentId).collect::<Vec<_>>());
                expected.extend(record.iter().copied().map(LatentId));
            }
            let mut found = Vec::new();
            distinct.take(&mut found);
            prop_assert_eq!(&found, &expected.into_iter().collect::<Vec<_>>());
            distinct.take(&mut found);
            prop_assert_eq!(found.len(), found.iter().collect::<BTreeSet<_>>().len(), "the second time it was empty");
        }
    }
}
