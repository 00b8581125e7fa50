//! Tags of items: the words a latent may be named with, from several sources at once.
//!
//! A source is a column of the items table read one way: its values (genres, artist, year), the decade of
//! a year, the words of a text, or bands of popularity, which are computed from the cases. A tag that
//! fewer than three items carry names those items rather than a concept and is left out.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Items that must carry a tag. Fewer would name single items; more lose rare concepts.
pub const MIN_ITEMS: usize = 3;
/// Words of titles that say nothing.
const STOP_WORDS: [&str; 40] = [
    "the", "and", "for", "with", "from", "that", "this", "you", "your", "his", "her", "its", "are", "was", "not", "but", "all", "one",
    "two", "les", "der", "die", "das", "und", "des", "une", "del", "los", "las", "can", "out", "who", "what", "when", "how", "our",
    "their", "into", "over", "pack",
];
/// Upper edges of the popularity bands, as shares of all items from the most popular down, and their names.
const BANDS: [(f64, &str); 4] = [(0.01, "top 1 %"), (0.1, "top 10 %"), (0.5, "middle"), (1.0, "bottom half")];

/// Where a tag comes from and what it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tag {
    /// The source: `genres`, `year`, `year:decade`, `title:words`, `popularity`.
    pub source: String,
    /// The value as it stands there.
    pub value: String,
}

impl std::fmt::Display for Tag {
    /// The name of a latent: a bare value where it explains itself, else with its source.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (column, kind) = self.source.split_once(':').unwrap_or((&self.source, ""));
        match kind {
            "decade" => write!(f, "{}s", self.value),
            "words" => write!(f, "“{}” in the {column}", self.value),
            _ if self.source == "popularity" => write!(f, "popularity {}", self.value),
            _ if self.value.chars().all(|c| c.is_ascii_digit() || c == '.') => write!(f, "{column} {}", self.value),
            _ => f.write_str(&self.value),
        }
    }
}

/// Tags, and which of them each item carries.
#[derive(Clone, Debug, Default)]
pub struct TagTable {
    tags: Vec<Tag>,
    /// By item, ascending.
    of_item: Vec<Vec<u32>>,
}

impl TagTable {
    /// Collects tags: for each item its values, source by source in the order of preference. Tags of
    /// fewer than [`MIN_ITEMS`] items are left out.
    #[must_use]
    pub fn collect(n_items: usize, sources: &[(String, Vec<Vec<String>>)]) -> Self {
        let mut table = Self { tags: Vec::new(), of_item: vec![Vec::new(); n_items] };
        for (source, values) in sources {
            table.add(source, values);
        }
        table
    }

    fn add(&mut self, source: &str, values: &[Vec<String>]) {
        let mut items_of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (item, values) in values.iter().enumerate().take(self.of_item.len()) {
            for value in values.iter().map(|value| value.trim()).filter(|value| !value.is_empty()).collect::<BTreeSet<_>>() {
                items_of.entry(value).or_default().push(item);
            }
        }
        for (value, items) in items_of.into_iter().filter(|(_, items)| items.len() >= MIN_ITEMS) {
            let Ok(tag) = u32::try_from(self.tags.len()) else { return };
            self.tags.push(Tag { source: source.to_owned(), value: value.to_owned() });
            items.into_iter().for_each(|item| self.of_item[item].push(tag));
        }
    }

    /// Adds bands of popularity, from the number of cases each item stands in; items of none have no band.
    pub fn add_popularity(&mut self, counts: &[u32]) {
        let mut order: Vec<usize> = (0..counts.len()).filter(|item| counts[*item] > 0).collect();
        order.sort_by_key(|item| (std::cmp::Reverse(counts[*item]), *item));
        let mut bands = vec![Vec::new(); counts.len()];
        for (rank, item) in order.iter().enumerate() {
            let share = (rank + 1) as f64 / order.len() as f64;
            let band = BANDS.iter().find(|(edge, _)| share <= *edge + 1e-12).map_or("bottom half", |(_, name)| *name);
            bands[*item].push(band.to_owned());
        }
        self.add("popularity", &bands);
    }

    /// All tags; a tag's number is its position.
    #[must_use]
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// Number of items.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.of_item.len()
    }

    /// Tags an item carries, ascending; none for an item outside the table.
    #[must_use]
    pub fn of_item(&self, item: u32) -> &[u32] {
        self.of_item.get(item as usize).map_or(&[], Vec::as_slice)
    }

    /// The tags dealt anew among `items`, each item's tags together: what is left is chance. Labels found
    /// in this table are false.
    #[must_use]
    pub fn shuffled(&self, items: &[u32], seed: u64) -> Self {
        let mut dealt: Vec<u32> = items.to_vec();
        dealt.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let mut shuffled = self.clone();
        for (item, from) in items.iter().zip(dealt) {
            shuffled.of_item[*item as usize].clone_from(&self.of_item[from as usize]);
        }
        shuffled
    }
}

/// The words of a text that may name something: lower case, three letters or more, no stop words, no numbers.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
    let telling =
        |word: &String| word.chars().count() >= 3 && !STOP_WORDS.contains(&word.as_str()) && !word.chars().all(|c| c.is_ascii_digit());
    words.filter(telling).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The decade of a year from 1000 to 2999, as its first year.
#[must_use]
pub fn decade(year: &str) -> Option<String> {
    let year: u32 = year.trim().parse().ok()?;
    (1000..3000).contains(&year).then(|| (year / 10 * 10).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(values: &[&[&str]]) -> Vec<Vec<String>> {
        values.iter().map(|values| values.iter().map(|value| (*value).to_owned()).collect()).collect()
    }

    #[test]
    fn a_tag_of_two_items_is_no_tag() {
        let genres = values(&[&["War", "War"], &["War", "Noir"], &["War"], &["Noir"]]);
        let table = TagTable::collect(4, &[("genres".into(), genres)]);
        assert_eq!(table.tags(), [Tag { source: "genres".into(), value: "War".into() }]);
        assert_eq!((table.of_item(0), table.of_item(3), table.of_item(99)), (&[0][..], &[][..], &[][..]));
    }

    #[test]
    fn bands_go_by_rank_and_leave_the_unseen_out() {
        let counts: Vec<u32> = (0..200).map(|item| 300 - item).chain([0]).collect();
        let mut table = TagTable::collect(201, &[]);
        table.add_popularity(&counts);
        let names: Vec<&str> = table.tags().iter().map(|tag| tag.value.as_str()).collect();
        // Two items are the top hundredth, fewer than a tag needs.
        assert_eq!(names, ["bottom half", "middle", "top 10 %"]);
        assert_eq!((table.of_item(2), table.of_item(150), table.of_item(200)), (&[2][..], &[0][..], &[][..]));
    }

    #[test]
    fn shuffling_moves_tags_and_keeps_their_number() {
        let genres = (0..40).map(|item| vec![if item % 4 == 0 { "a".to_owned() } else { "b".to_owned() }]).collect();
        let table = TagTable::collect(40, &[("genres".into(), genres)]);
        let items: Vec<u32> = (0..40).collect();
        let shuffled = table.shuffled(&items, 1);
        let count = |table: &TagTable| items.iter().filter(|item| table.of_item(**item) == [0]).count();
        assert_eq!(count(&table), count(&shuffled));
        assert!(items.iter().any(|item| table.of_item(*item) != shuffled.of_item(*item)));
        assert_eq!(shuffled.of_item, table.shuffled(&items, 1).of_item, "the same seed, the same deal");
    }

    #[test]
    fn names_explain_themselves() {
        let name = |source: &str, value: &str| Tag { source: source.into(), value: value.into() }.to_string();
        assert_eq!(name("genres", "Film-Noir"), "Film-Noir");
        assert_eq!(name("year", "1997"), "year 1997");
        assert_eq!(name("year:decade", "1990"), "1990s");
        assert_eq!(name("title:words", "star"), "“star” in the title");
        assert_eq!(name("popularity", "top 1 %"), "popularity top 1 %");
    }

    #[test]
    fn words_and_decades_are_what_a_reader_expects() {
        assert_eq!(words("Star Trek: The Wrath of Khan (1982)"), ["khan", "star", "trek", "wrath"]);
        assert_eq!(
            (decade("1997"), decade(" 2004 "), decade("97"), decade("unknown")),
            (Some("1990".into()), Some("2000".into()), None, None)
        );
    }
}
