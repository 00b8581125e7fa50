//! Parts of a window from every partition become the window of each model.
//!
//! Parts are merged in the order of topic and partition, so the sums are the same bytes whichever
//! worker was first.

use std::collections::{BTreeMap, BTreeSet};

use crate::drift::closed::{ClosedWindow, ENTITY_SKETCH, OffsetRange, PartialWindow};

/// More entities than this share on several partitions: the topic is not keyed by the entity, and
/// presence would count them more than once.
pub const MAX_SPLIT: f64 = 0.01;

/// A window with all its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Assembled {
    /// Model by model, in the order asked for.
    pub windows: Vec<ClosedWindow>,
    /// Share of entities seen on more than one partition.
    pub split_ratio: f64,
    /// Segment names that were seen and are not followed, with their records.
    pub seen: BTreeMap<String, u64>,
}

/// A window in the making: parts are added one at a time, in the order of topic and partition.
#[derive(Debug)]
pub struct Assembly {
    windows: Vec<ClosedWindow>,
    seen: BTreeMap<String, u64>,
    sketches: Vec<Vec<u64>>,
}

impl Assembly {
    /// No part yet. Every version in `versions` gets a window, also without records, so that each judge sees every window.
    #[must_use]
    pub fn new(start_ms: i64, end_ms: i64, versions: &[String]) -> Self {
        let window = |version: &String| ClosedWindow {
            start_ms,
            end_ms,
            model_version: version.clone(),
            segments: BTreeMap::new(),
            rejected: BTreeMap::new(),
            offsets: Vec::new(),
            incomplete: None,
        };
        Self { windows: versions.iter().map(window).collect(), seen: BTreeMap::new(), sketches: Vec::new() }
    }

    /// Adds a partition's part.
    pub fn add(&mut self, part: &PartialWindow) {
        for (name, n) in &part.seen {
            *self.seen.entry(name.clone()).or_insert(0) += n;
        }
        self.sketches.push(part.entity_sketch.clone());
        for window in &mut self.windows {
            for (reason, n) in &part.rejected {
                *window.rejected.entry(*reason).or_insert(0) += n;
            }
            window.offsets.push(OffsetRange { partition: part.partition.clone(), from: part.offsets.start, to: part.offsets.end });
            window.incomplete = window.incomplete.take().or_else(|| part.incomplete.clone());
            for (name, counts) in part.models.get(&window.model_version).into_iter().flatten() {
                window.segments.entry(name.clone()).or_default().merge(counts);
            }
        }
    }

    /// The whole; `by_entity`: a topic that is not keyed by the entity makes it incomplete.
    #[must_use]
    pub fn finish(mut self, by_entity: bool) -> Assembled {
        let split_ratio = split_ratio(&self.sketches);
        if by_entity && split_ratio > MAX_SPLIT {
            let why = format!(
                "{:.1} % of entities were seen on more than one partition: key the topic by the entity, or set counting.unit = \"records\"",
                100.0 * split_ratio
            );
            self.windows.iter_mut().for_each(|window| window.incomplete = Some(why.clone()));
        }
        Assembled { windows: self.windows, split_ratio, seen: self.seen }
    }
}

/// All parts at once, sorted by partition: see [`Assembly`].
#[must_use]
pub fn assemble(start_ms: i64, end_ms: i64, parts: &[PartialWindow], versions: &[String], by_entity: bool) -> Assembled {
    let mut assembly = Assembly::new(start_ms, end_ms, versions);
    parts.iter().for_each(|part| assembly.add(part));
    assembly.finish(by_entity)
}

/// Share of entities on more than one partition, from the parts' smallest hashes, each ascending.
///
/// Below the smallest "largest kept hash" of the full sketches every part names all its entities, so
/// counting there is exact for a random sample of entities. 0 with one part or no entities.
#[must_use]
pub fn split_ratio(sketches: &[Vec<u64>]) -> f64 {
    let full = sketches.iter().filter(|sketch| sketch.len() >= ENTITY_SKETCH);
    let complete_below = full.filter_map(|sketch| sketch.last().copied()).min().unwrap_or(u64::MAX);
    let (mut once, mut more) = (BTreeSet::new(), BTreeSet::new());
    for hash in sketches.iter().flatten().filter(|hash| **hash <= complete_below) {
        if !once.insert(*hash) {
            more.insert(*hash);
        }
    }
    if once.is_empty() { 0.0 } else { more.len() as f64 / once.len() as f64 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::TopicPartition;

    fn part(partition: i32, sketch: Vec<u64>) -> PartialWindow {
        PartialWindow {
            partition: TopicPartition { topic: Arc::from("t"), partition },
            start_ms: 0,
            end_ms: 1,
            models: BTreeMap::new(),
            rejected: BTreeMap::new(),
            offsets: 0..1,
            seen: BTreeMap::new(),
            entity_sketch: sketch,
            incomplete: None,
        }
    }

    /// A hash with every bit mixed, for entity `i`.
    fn hash(i: u64) -> u64 {
        (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }

    fn sketch(entities: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut hashes: Vec<u64> = entities.map(hash).collect();
        hashes.sort_unstable();
        hashes.truncate(ENTITY_SKETCH);
        hashes
    }

    #[test]
    fn a_keyed_topic_has_no_split_entities() {
        assert_eq!(split_ratio(&[sketch(0..5000), sketch(5000..9000)]), 0.0);
    }

    #[test]
    fn the_split_share_is_measured_from_the_sketch() {
        // 10,000 entities, the last 2,000 of the first part are in the second too: 20 %.
        let parts = [part(0, sketch(0..6000)), part(1, sketch(4000..10_000))];
        let found = assemble(0, 1, &parts, &[], true).split_ratio;
        assert!((found - 0.2).abs() < 0.08, "{found}");
        assert!(assemble(0, 1, &parts, &["v".into()], true).windows[0].incomplete.is_some());
        assert!(assemble(0, 1, &parts, &["v".into()], false).windows[0].incomplete.is_none());
    }
}
