//! Which segments are followed apart, and which of them a record belongs to.
//!
//! A payload can name any value, so admission is bounded and never depends on the order in which
//! records happen to arrive: a name is followed from the first window that starts at or after its
//! admission edge, and everything else is counted in `_other`. Configured values are admitted from
//! the start, others by the judge, whose edges are stored; a replay therefore decides alike.
//!
//! Rejected: admitting a value when it is first seen. Two instances, or one instance before and
//! after a restart, would then follow different segments.

use std::collections::BTreeMap;

use ahash::AHashMap;

use crate::drift::closed::{ALL, OTHER};

/// Most segments a table can hold, `_all` and `_other` included: one bit each in a [`SegmentMask`].
pub const MAX_SEGMENTS: usize = 128;

/// Position of a segment in its table: 0 = `_all`, 1 = `_other`.
pub type SegmentIndex = u8;

/// The set of segments a record belongs to, bit `i` for segment `i`.
pub type SegmentMask = u128;

/// Position of `_all`.
pub const ALL_AT: usize = 0;
/// The mask of `_all` alone.
pub const MASK_ALL: SegmentMask = 1 << ALL_AT;

/// Positions of the segments in a mask, ascending.
pub fn bits(mut mask: SegmentMask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let bit = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            bit
        })
    })
}
/// The mask of `_other` alone.
pub const MASK_OTHER: SegmentMask = 2;

/// Which fields make segments: each alone, and named pairs of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentFields {
    /// Names as they appear in a segment's name, in the order of `Record::fields`.
    pub names: Vec<String>,
    /// Pairs, as positions in `names`.
    pub pairs: Vec<(usize, usize)>,
}

/// A bounded, append-only table of admitted segments.
#[derive(Clone, Debug)]
pub struct SegmentTable {
    fields: SegmentFields,
    max: usize,
    names: Vec<String>,
    from_ms: Vec<i64>,
    by_value: Vec<AHashMap<String, SegmentIndex>>,
    by_pair: Vec<AHashMap<(String, String), SegmentIndex>>,
    /// A record's field values to its mask and the newest admission edge it depends on.
    cache: AHashMap<Vec<String>, (SegmentMask, i64)>,
}

/// Distinct combinations of values the cache holds; a payload cannot grow it further.
const MAX_CACHED: usize = 4096;

impl SegmentTable {
    /// A table with `_all` and `_other`. `max` counts both and is held to `2..=128`.
    #[must_use]
    pub fn new(fields: SegmentFields, max: usize) -> Self {
        let n_fields = fields.names.len();
        let n_pairs = fields.pairs.len();
        Self {
            fields,
            max: max.clamp(2, MAX_SEGMENTS),
            names: vec![ALL.to_owned(), OTHER.to_owned()],
            from_ms: vec![i64::MIN, i64::MIN],
            by_value: vec![AHashMap::new(); n_fields],
            by_pair: vec![AHashMap::new(); n_pairs],
            cache: AHashMap::new(),
        }
    }

    /// Admits a segment by name (`field=value`, or a pair joined by `&`) for windows that start at or
    /// after `from_ms`. `false` where the table is full, the name is no segment of the configured
    /// fields, or it is admitted already.
    pub fn admit(&mut self, name: &str, from_ms: i64) -> bool {
        let Ok(index) = SegmentIndex::try_from(self.names.len()) else { return false };
        if self.names.len() >= self.max {
            return false;
        }
        let Some(parts) = parse_name(name) else { return false };
        let position = |field: &str| self.fields.names.iter().position(|f| f == field);
        let fresh = match parts.as_slice() {
            [(field, value)] => match position(field) {
                Some(f) if !self.by_value[f].contains_key(value) => self.by_value[f].insert(value.clone(), index).is_none(),
                _ => false,
            },
            [(a, value_a), (b, value_b)] => {
                let pair = position(a).zip(position(b)).and_then(|pair| self.fields.pairs.iter().position(|p| *p == pair));
                let key = (value_a.clone(), value_b.clone());
                match pair {
                    Some(p) if !self.by_pair[p].contains_key(&key) => self.by_pair[p].insert(key, index).is_none(),
                    _ => false,
                }
            }
            _ => false,
        };
        if fresh {
            self.names.push(name.to_owned());
            self.from_ms.push(from_ms);
            self.cache.clear();
        }
        fresh
    }

    /// Segment names, `_all` and `_other` first; a [`SegmentIndex`] is a position in it.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether another segment can be admitted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.names.len() >= self.max
    }

    /// The segments of a record with these field values (empty = absent) in a window that starts at
    /// `window_start_ms`. `_all` always; each present value's own segment, or `_other`.
    pub fn mask(&mut self, values: &[String], window_start_ms: i64) -> SegmentMask {
        if self.fields.names.is_empty() {
            return MASK_ALL;
        }
        if let Some(&(mask, newest_edge)) = self.cache.get(values)
            && newest_edge <= window_start_ms
        {
            return mask;
        }
        let (mask, newest_edge) = self.look_up(values, window_start_ms);
        if self.cache.len() < MAX_CACHED && newest_edge <= window_start_ms {
            self.cache.insert(values.to_vec(), (mask, newest_edge));
        }
        mask
    }

    /// Names of the record's segments that are not admitted in the window: what the judge may admit.
    #[must_use]
    pub fn unadmitted(&self, values: &[String], window_start_ms: i64) -> Vec<String> {
        let mut names = Vec::new();
        self.visit(values, |parts, index| {
            if !self.holds(index, window_start_ms) {
                names.push(segment_name(parts));
            }
        });
        names
    }

    fn look_up(&self, values: &[String], window_start_ms: i64) -> (SegmentMask, i64) {
        let mut mask = MASK_ALL;
        let mut newest_edge = i64::MIN;
        self.visit(values, |_, index| {
            if let Some(index) = index {
                newest_edge = newest_edge.max(self.from_ms[usize::from(index)]);
            }
            mask |= match index {
                Some(index) if self.holds(Some(index), window_start_ms) => 1 << index,
                _ => MASK_OTHER,
            };
        });
        (mask, newest_edge)
    }

    fn holds(&self, index: Option<SegmentIndex>, window_start_ms: i64) -> bool {
        index.is_some_and(|index| self.from_ms[usize::from(index)] <= window_start_ms)
    }

    fn visit(&self, values: &[String], mut each: impl FnMut(&[(&str, &str)], Option<SegmentIndex>)) {
        let present = |f: usize| values.get(f).filter(|value| !value.is_empty());
        for (f, name) in self.fields.names.iter().enumerate() {
            if let Some(value) = present(f) {
                each(&[(name, value)], self.by_value[f].get(value).copied());
            }
        }
        for (p, &(a, b)) in self.fields.pairs.iter().enumerate() {
            if let Some((value_a, value_b)) = present(a).zip(present(b)) {
                let index = self.by_pair[p].get(&(value_a.clone(), value_b.clone())).copied();
                each(&[(&self.fields.names[a], value_a), (&self.fields.names[b], value_b)], index);
            }
        }
    }
}

/// Counts names that are not admitted, bounded: the most frequent survive (space-saving), so that a
/// million distinct values cost `max` entries. Deterministic for an order of records.
#[derive(Clone, Debug, Default)]
pub struct SeenSegments {
    counts: BTreeMap<String, u64>,
}

impl SeenSegments {
    /// Names kept.
    pub const MAX: usize = 256;

    /// Counts one record of the name.
    pub fn add(&mut self, name: String) {
        if let Some(n) = self.counts.get_mut(&name) {
            *n += 1;
        } else if self.counts.len() < Self::MAX {
            self.counts.insert(name, 1);
        } else if let Some((least, n)) = self.counts.iter().min_by_key(|(_, n)| **n).map(|(name, n)| (name.clone(), *n)) {
            self.counts.remove(&least);
            self.counts.insert(name, n + 1);
        }
    }

    /// The names and their counts (upper bounds once more than [`Self::MAX`] were seen).
    #[must_use]
    pub fn into_counts(self) -> BTreeMap<String, u64> {
        self.counts
    }
}

/// `field=value`, pairs joined by `&`; bytes outside letters, digits and `-._~` are percent-encoded,
/// so that a name can be taken apart again whatever a payload holds.
#[must_use]
pub fn segment_name(parts: &[(&str, &str)]) -> String {
    let mut name = String::new();
    for (i, (field, value)) in parts.iter().enumerate() {
        if i > 0 {
            name.push('&');
        }
        encode(&mut name, field);
        name.push('=');
        encode(&mut name, value);
    }
    name
}

/// The inverse of [`segment_name`]; `None` for anything it did not write.
#[must_use]
pub fn parse_name(name: &str) -> Option<Vec<(String, String)>> {
    name.split('&').map(|part| part.split_once('=').and_then(|(field, value)| Some((decode(field)?, decode(value)?)))).collect()
}

fn encode(out: &mut String, text: &str) {
    use std::fmt::Write;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(max: usize) -> SegmentTable {
        SegmentTable::new(SegmentFields { names: vec!["surface".into(), "country".into()], pairs: vec![(0, 1)] }, max)
    }

    fn values(surface: &str, country: &str) -> Vec<String> {
        vec![surface.into(), country.into()]
    }

    #[test]
    fn a_value_counts_as_other_until_its_edge() {
        let mut t = table(8);
        assert!(t.admit("surface=home", 100));
        assert_eq!(t.mask(&values("home", ""), 99), MASK_ALL | MASK_OTHER);
        assert_eq!(t.mask(&values("home", ""), 100), MASK_ALL | 1 << 2);
        assert_eq!(t.mask(&values("home", ""), 99), MASK_ALL | MASK_OTHER, "also after a later window was asked for");
        assert_eq!(t.mask(&values("", ""), 100), MASK_ALL);
    }

    #[test]
    fn pairs_are_followed_by_name() {
        let mut t = table(8);
        assert!(t.admit("surface=home&country=DE", 0));
        assert!(t.admit("surface=home", 0));
        assert!(t.admit("country=DE", 0));
        assert!(!t.admit("country=DE", 5), "admitted once");
        assert_eq!(t.mask(&values("home", "DE"), 0), 0b11101);
        assert_eq!(t.unadmitted(&values("home", "FR"), 0), ["country=FR", "surface=home&country=FR"]);
    }

    #[test]
    fn the_table_is_bounded_and_refuses_what_it_does_not_know() {
        let mut t = table(3);
        assert!(!t.admit("browser=x", 0));
        assert!(!t.admit("nonsense", 0));
        assert!(!t.admit("surface=%", 0));
        assert!(t.admit("surface=home", 0));
        assert!(!t.admit("surface=mail", 0));
        assert_eq!(t.mask(&values("mail", ""), 0), MASK_ALL | MASK_OTHER);
    }

    #[test]
    fn seen_names_stay_bounded_and_keep_the_frequent_one() {
        let mut seen = SeenSegments::default();
        for i in 0..10_000 {
            seen.add(format!("surface={i}"));
            seen.add("surface=home".into());
        }
        let counts = seen.into_counts();
        assert_eq!(counts.len(), SeenSegments::MAX);
        assert!(counts["surface=home"] >= 10_000);
    }

    proptest! {
        #[test]
        fn names_round_trip(parts in proptest::collection::vec((".{1,8}", ".{0,8}"), 1..3)) {
            let borrowed: Vec<(&str, &str)> = parts.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            let name = segment_name(&borrowed);
            prop_assert!(name.is_ascii() && !name.contains('"') && !name.contains('\n'));
            prop_assert_eq!(parse_name(&name), Some(parts));
        }
    }
}
