//! Whether a case carries a tag: at least so many of its items have it.
//!
//! One item in ten is enough for a rare tag and says nothing of a common one: with ten films served,
//! nearly every case has a drama. So the number asked for is the tag's own: the smallest that at most
//! half of all cases reach. It depends on the tag alone, never on a latent, so that tests stay honest.

use crate::workshop::label::cases::Cases;
use crate::workshop::label::tags::TagTable;

/// For each tag, which cases carry it.
#[derive(Clone, Debug)]
pub struct Presence {
    at_least: Vec<u32>,
    n_tagged: Vec<u64>,
    /// By tag, one bit a case.
    bits: Vec<Vec<u64>>,
}

impl Presence {
    /// Looks at every case. `at_least` of another presence is kept, so that held-out cases are judged by
    /// the rule that the label was made with.
    #[must_use]
    pub fn new(cases: &Cases, tags: &TagTable, at_least: Option<&[u32]>) -> Self {
        let n_tags = tags.tags().len();
        let mut counter = Counter::new(n_tags);
        let at_least = at_least.map_or_else(|| smallest_halving(cases, tags, &mut counter), <[u32]>::to_vec);
        let mut bits = vec![vec![0_u64; cases.len().div_ceil(64)]; n_tags];
        let mut n_tagged = vec![0; n_tags];
        for case in 0..cases.len() {
            for (tag, count) in counter.count(cases.items(case), tags) {
                if count >= at_least.get(tag).copied().unwrap_or(1) {
                    bits[tag][case / 64] |= 1 << (case % 64);
                    n_tagged[tag] += 1;
                }
            }
        }
        Self { at_least, n_tagged, bits }
    }

    /// Items a case needs, by tag.
    #[must_use]
    pub fn at_least(&self) -> &[u32] {
        &self.at_least
    }

    /// Cases that carry the tag.
    #[must_use]
    pub fn n_tagged(&self, tag: usize) -> u64 {
        self.n_tagged[tag]
    }

    /// Whether this case does.
    #[must_use]
    pub fn has(&self, tag: usize, case: usize) -> bool {
        self.bits[tag][case / 64] >> (case % 64) & 1 == 1
    }
}

/// Counts a case's items by tag without a map.
struct Counter {
    counts: Vec<u32>,
    touched: Vec<u32>,
}

impl Counter {
    fn new(n_tags: usize) -> Self {
        Self { counts: vec![0; n_tags], touched: Vec::new() }
    }

    fn count<'a>(&'a mut self, items: &[u32], tags: &TagTable) -> impl Iterator<Item = (usize, u32)> + use<'a> {
        self.touched.drain(..).for_each(|tag| self.counts[tag as usize] = 0);
        for tag in items.iter().flat_map(|item| tags.of_item(*item)) {
            if self.counts[*tag as usize] == 0 {
                self.touched.push(*tag);
            }
            self.counts[*tag as usize] += 1;
        }
        self.touched.iter().map(|tag| (*tag as usize, self.counts[*tag as usize]))
    }
}

fn smallest_halving(cases: &Cases, tags: &TagTable, counter: &mut Counter) -> Vec<u32> {
    // reached[tag][c]: cases with exactly c + 1 items of the tag.
    let mut reached: Vec<Vec<usize>> = vec![Vec::new(); tags.tags().len()];
    for case in 0..cases.len() {
        for (tag, count) in counter.count(cases.items(case), tags) {
            let of_tag = &mut reached[tag];
            of_tag.resize(of_tag.len().max(count as usize), 0);
            of_tag[count as usize - 1] += 1;
        }
    }
    let halving = |of_tag: &Vec<usize>| {
        let mut above: usize = of_tag.iter().sum();
        let mut at_least = 1;
        for exactly in of_tag {
            // A number that no case reaches would leave the tag without cases.
            if 2 * above <= cases.len() || above == *exactly {
                break;
            }
            above -= exactly;
            at_least += 1;
        }
        at_least
    };
    reached.iter().map(halving).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags() -> TagTable {
        // Items 0..6 are dramas, 6..9 are horror, 9 is neither.
        let genre = |item| match item {
            0..6 => vec!["drama".to_owned()],
            6..9 => vec!["horror".to_owned()],
            _ => vec![],
        };
        TagTable::collect(10, &[("genres".into(), (0..10).map(genre).collect())])
    }

    #[test]
    fn a_common_tag_needs_more_items_than_a_rare_one() {
        let mut cases = Cases::new(1);
        for (entity, items) in [vec![0, 1, 2, 6], vec![0, 9], vec![3, 9], vec![9]].into_iter().enumerate() {
            cases.push(entity as u64, items, &[], &[]);
        }
        let presence = Presence::new(&cases, &tags(), None);
        assert_eq!(presence.at_least(), [2, 1]);
        assert_eq!((presence.n_tagged(0), presence.n_tagged(1)), (1, 1));
        assert!(presence.has(0, 0) && !presence.has(0, 1) && presence.has(1, 0) && !presence.has(1, 3));
    }

    #[test]
    fn a_tag_that_all_cases_carry_alike_keeps_its_cases() {
        let mut cases = Cases::new(1);
        (0..4).for_each(|entity| assert!(cases.push(entity, vec![0], &[], &[])));
        let presence = Presence::new(&cases, &tags(), None);
        assert_eq!((presence.at_least()[0], presence.n_tagged(0)), (1, 4));
        assert_eq!(Presence::new(&cases, &tags(), Some(&[2, 1])).n_tagged(0), 0);
    }
}
