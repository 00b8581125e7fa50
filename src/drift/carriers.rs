//! Who carries a change: one, a few, or the crowd.
//!
//! Of the records read before and after the change point, the *change* is what the stream was shown more (or less)
//! often than the records before would have it: `D = a - b s` with `a`, `b` = times shown after and before and `s` = records
//! after over records before. A contributor's part of it is `d_i = a_i - b_i s`. Users come and go between two
//! stretches of time, so the largest parts are large also where nothing changed; but then the largest parts *against* the
//! change are as large. So the share of the top k is their sum less what the k largest against it hold:
//!
//! `share_k = (sum of the k largest d_i + sum of the k smallest, where below 0) / D`, signs turned for a fall, held to `0..=1`.
//!
//! A crowd that shows a concept r times as often gives the share that its k heaviest hold anyway; one bot gives 1.
//! Rejected: the k heaviest of after alone (a heavy user who did not change would carry the change), and the k
//! largest parts alone (of 5,000 users who come and go ten carry half of a change of 10 %).

use std::hash::Hash;

use serde::{Deserialize, Serialize};

use crate::drift::heavy::HeavyHitters;
use crate::drift::report::Direction;

/// Contributors named.
const NAMED: usize = 10;
/// A change of fewer standard deviations than this (Poisson) is not shared out: the quotient would be noise.
const SURE: f64 = 3.0;
/// Share from which one contributor, or ten, carry a change.
const CARRIED: f64 = 0.5;

/// Who carries a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CarriedBy {
    /// One holds half of the change or more.
    One,
    /// Ten hold half or more, no single one does.
    Few,
    /// Neither.
    Crowd,
    /// The records read show no change of that direction beyond three standard deviations.
    Unclear,
}

/// One of the top contributors to a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contributor {
    /// Salted hash of the entity in hexadecimal, or the item as records name it.
    pub name: String,
    /// Records before that show the stream with it.
    pub before: u64,
    /// Records after.
    pub after: u64,
}

/// How a change is shared out over entities, or over items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Carriers {
    /// In a word.
    pub carried_by: CarriedBy,
    /// Share of the change by the one that contributes most; null where it is unclear.
    pub share_top_1: Option<f64>,
    /// Share by the ten that do.
    pub share_top_10: Option<f64>,
    /// The top contributors, most first; at most ten.
    pub top: Vec<Contributor>,
}

impl Carriers {
    /// Shares a change out. `before`, `after`: times each key showed the stream; `scale` = s, records after over records
    /// before (0 without records before: everything after is the change).
    #[must_use]
    pub fn of<K: Clone + Eq + Hash + Ord>(
        before: &HeavyHitters<K>,
        after: &HeavyHitters<K>,
        scale: f64,
        direction: Direction,
        name: impl Fn(&K) -> String,
    ) -> Self {
        let sign = if direction == Direction::Up { 1.0 } else { -1.0 };
        let (a, b) = (after.total() as f64, before.total() as f64);
        let change = sign * (a - b * scale);
        let mut keys = before.keys();
        keys.extend(after.keys());
        keys.sort_unstable();
        keys.dedup();
        let part = |key: &K| sign * (after.at_least(key) as f64 - before.at_least(key) as f64 * scale);
        let mut parts: Vec<(f64, &K)> = keys.into_iter().map(|key| (part(key), key)).collect();
        parts.sort_by(|x, y| y.0.total_cmp(&x.0).then_with(|| x.1.cmp(y.1)));
        let share = |k: usize| {
            let with: f64 = parts.iter().take(k).map(|(part, _)| part.max(0.0)).sum();
            let against: f64 = parts.iter().rev().take(k).map(|(part, _)| part.min(0.0)).sum();
            ((with + against) / change).clamp(0.0, 1.0)
        };
        let is_sure = change > SURE * (a + b * scale * scale).sqrt();
        let (share_top_1, share_top_10) = (is_sure.then(|| share(1)), is_sure.then(|| share(NAMED)));
        let holds = |share: Option<f64>| share.is_some_and(|share| share >= CARRIED);
        let carried_by = match (is_sure, holds(share_top_1), holds(share_top_10)) {
            (false, _, _) => CarriedBy::Unclear,
            (_, true, _) => CarriedBy::One,
            (_, _, true) => CarriedBy::Few,
            _ => CarriedBy::Crowd,
        };
        let contributor = |key: &K| Contributor { name: name(key), before: before.at_least(key), after: after.at_least(key) };
        let top = parts.iter().take(NAMED).filter(|(part, _)| *part > 0.0).map(|(_, key)| contributor(key)).collect();
        Self { carried_by, share_top_1, share_top_10, top }
    }

    /// In a sentence, of contributors called `one` and `many`.
    #[must_use]
    pub fn words(&self, one: &str, many: &str) -> String {
        let (first, ten) = (percent(self.share_top_1), percent(self.share_top_10));
        match self.carried_by {
            CarriedBy::One => format!("one {one} carries {first} of the change"),
            CarriedBy::Few => format!("ten {many} carry {ten} of the change, no single one half of it"),
            CarriedBy::Crowd => format!("the crowd: the first {one} carries {first} of the change, the first ten {many} {ten}"),
            CarriedBy::Unclear => "unclear: the records read show no such change beyond chance".to_owned(),
        }
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "an unknown part".to_owned(), |share| format!("{:.0} %", 100.0 * share))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};

    use super::*;

    const CAPACITY: usize = 2048;

    /// Users of `1 + floor(exp(N(1, 1)))`-like sizes that come and go: half of them are met in one side only.
    fn crowd(rng: &mut impl Rng, rate: f64, into: &mut HeavyHitters<u64>) -> u64 {
        let mut records = 0;
        for user in 0..3000_u64 {
            if rng.random_bool(0.5) {
                let size: u32 = 1 + rng.random_range(0..8) * rng.random_range(0..8) / 4;
                records += u64::from(size);
                let shown = (0..size).filter(|_| rng.random_bool(rate)).count() as u64;
                if shown > 0 {
                    into.add(user, shown);
                }
            }
        }
        records
    }

    fn carried(seed: u64, rates: (f64, f64), bot: (u64, u64), direction: Direction) -> Carriers {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let (mut before, mut after) = (HeavyHitters::new(CAPACITY), HeavyHitters::new(CAPACITY));
        let n_before = crowd(&mut rng, rates.0, &mut before) + bot.0;
        let n_after = crowd(&mut rng, rates.1, &mut after) + bot.1;
        for (n, side) in [(bot.0, &mut before), (bot.1, &mut after)] {
            if n > 0 {
                side.add(1_000_000, n);
            }
        }
        Carriers::of(&before, &after, n_after as f64 / n_before as f64, direction, ToString::to_string)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn one_bot_is_told_from_a_shift_of_the_crowd_both_ways(seed in any::<u64>(), ratio in 1.6_f64..3.0) {
            let up = carried(seed, (0.05, 0.05 * ratio), (0, 0), Direction::Up);
            prop_assert_eq!(up.carried_by, CarriedBy::Crowd, "{:?}", up);
            prop_assert!(up.share_top_1.unwrap() < 0.1, "{:?}", up);
            let down = carried(seed, (0.05 * ratio, 0.05), (0, 0), Direction::Down);
            prop_assert_eq!(down.carried_by, CarriedBy::Crowd, "{:?}", down);
            let bot = carried(seed, (0.05, 0.05), (0, 500), Direction::Up);
            prop_assert_eq!(bot.carried_by, CarriedBy::One, "{:?}", bot);
            prop_assert_eq!((bot.top[0].name.as_str(), bot.top[0].before, bot.top[0].after), ("1000000", 0, 500));
            let left = carried(seed, (0.05, 0.05), (500, 0), Direction::Down);
            prop_assert_eq!(left.carried_by, CarriedBy::One, "{:?}", left);
        }
    }

    #[test]
    fn a_user_who_was_always_heavy_does_not_carry_what_the_crowd_does() {
        let heavy = carried(7, (0.05, 0.12), (600, 600), Direction::Up);
        assert_eq!(heavy.carried_by, CarriedBy::Crowd, "{heavy:?}");
    }

    #[test]
    fn where_nothing_changed_nothing_is_shared_out() {
        let still = carried(9, (0.05, 0.05), (0, 0), Direction::Up);
        assert_eq!((still.carried_by, still.share_top_1, still.share_top_10), (CarriedBy::Unclear, None, None));
        let other_way = carried(9, (0.05, 0.12), (0, 0), Direction::Down);
        assert_eq!(other_way.carried_by, CarriedBy::Unclear, "a rise is no fall");
    }

    #[test]
    fn a_new_item_carries_what_it_brings_beside_an_old_one_as_large() {
        let (mut before, mut after) = (HeavyHitters::new(8), HeavyHitters::new(8));
        before.add("old", 500);
        after.add("old", 500);
        after.add("new", 500);
        let items = Carriers::of(&before, &after, 1.0, Direction::Up, |item| (*item).to_owned());
        assert_eq!((items.carried_by, items.share_top_1, items.top[0].name.as_str()), (CarriedBy::One, Some(1.0), "new"));
        assert_eq!(items.top.len(), 1, "what did not move is not named");
    }

    #[test]
    fn without_records_before_all_that_is_shown_is_the_change() {
        let (before, mut after) = (HeavyHitters::new(8), HeavyHitters::new(8));
        (0..100_u64).for_each(|user| after.add(user, 1));
        let found = Carriers::of(&before, &after, 0.0, Direction::Up, ToString::to_string);
        assert_eq!((found.carried_by, found.share_top_10), (CarriedBy::Crowd, Some(0.08)), "eight of a hundred are kept");
    }
}
