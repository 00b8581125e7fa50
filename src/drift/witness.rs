//! What one alert takes from the records it is shown: bounded, whatever the number of records.
//!
//! A side of the change point holds two lists of heavy keys of 2,048 entries, three examples, and two counts for
//! each latent: with 2,048 latents some 0.5 MB an alert. Examples are drawn by the smallest entity hash, so they are
//! a fair draw of entities, the same whenever the records are read; not the strongest activations, which show a
//! concept at its clearest and a change hardly ever.

use std::collections::BTreeMap;

use crate::drift::carriers::Carriers;
use crate::drift::explanation::{Example, RecordEvidence, ShownWith, Stretch};
use crate::drift::heavy::HeavyHitters;
use crate::drift::report::Direction;
use crate::drift::segment::SegmentMask;
use crate::drift::stream::StreamId;
use crate::record::TopicPartition;
use crate::sae::latent::LatentId;

/// Keys kept of each side: a contributor with more than one part in 2,048 is among them.
const CAPACITY: usize = 2048;
/// Examples a side.
const EXAMPLES: usize = 3;
/// Items of an example, and characters of an item's name: names are the payload's.
const MAX_ITEMS: usize = 10;
const MAX_NAME: usize = 120;
/// Latents named as shown with the stream, how often they must be, and by how much more than by chance.
const MAX_SHOWN_WITH: usize = 6;
const MIN_TOGETHER: u32 = 5;
const MIN_LIFT: f64 = 1.5;

/// Before the change point, or since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before.
    Before,
    /// Since.
    After,
}

/// A record, as it was counted.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Where it lies.
    pub partition: &'a TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// Its entity's salted hash.
    pub entity: Option<u64>,
    /// Recommended items.
    pub items: &'a [String],
    /// Its segments.
    pub segments: SegmentMask,
    /// Active latents, ascending.
    pub latents: &'a [LatentId],
    /// Their values.
    pub values: &'a [f32],
    /// Bin of its residual; `None` without a decoder.
    pub residual_bin: Option<usize>,
}

/// Gathers what explains one alert.
#[derive(Clone, Debug)]
pub struct Witness {
    stream: StreamId,
    direction: Direction,
    /// Latents that make the stream: one, a family's, or none.
    members: Vec<LatentId>,
    residual_from_bin: Option<usize>,
    before: Gathered,
    after: Gathered,
}

#[derive(Clone, Debug)]
struct Gathered {
    records: u64,
    shown: u64,
    entities: HeavyHitters<u64>,
    items: HeavyHitters<String>,
    examples: BTreeMap<u64, Example>,
    /// Records that show each latent: all, and those that show the stream.
    latents: Vec<[u32; 2]>,
    records_with: u32,
}

impl Gathered {
    fn new(d_sae: usize) -> Self {
        Self {
            records: 0,
            shown: 0,
            entities: HeavyHitters::new(CAPACITY),
            items: HeavyHitters::new(CAPACITY),
            examples: BTreeMap::new(),
            latents: vec![[0; 2]; d_sae],
            records_with: 0,
        }
    }
}

impl Witness {
    /// Of a stream's alert. `members`: the latents that make the stream.
    #[must_use]
    pub fn new(
        (stream, direction): (StreamId, Direction),
        mut members: Vec<LatentId>,
        residual_from_bin: Option<usize>,
        d_sae: usize,
    ) -> Self {
        members.sort_unstable();
        let (before, after) = (Gathered::new(0), Gathered::new(d_sae));
        Self { stream, direction, members, residual_from_bin, before, after }
    }

    /// A record of that side; `segment` is the position of the alert's segment in its mask. Records of other segments
    /// change nothing.
    pub fn see(&mut self, side: Side, segment: usize, seen: &Seen<'_>) {
        if seen.segments >> segment & 1 == 0 {
            return;
        }
        let (shown, activation) = self.shown(seen);
        let gathered = if side == Side::Before { &mut self.before } else { &mut self.after };
        gathered.records += 1;
        for latent in seen.latents {
            if let Some([all, together]) = gathered.latents.get_mut(latent.index()) {
                *all += 1;
                *together += u32::from(shown > 0);
            }
        }
        if shown == 0 {
            return;
        }
        gathered.shown += shown;
        gathered.records_with += 1;
        if let Some(entity) = seen.entity {
            gathered.entities.add(entity, shown);
        }
        seen.items.iter().for_each(|item| gathered.items.add(short(item), 1));
        let rank = seen.entity.unwrap_or_else(|| rank_of(seen.partition.partition, seen.offset));
        gathered.examples.entry(rank).or_insert_with(|| example(seen, activation));
        if gathered.examples.len() > EXAMPLES {
            gathered.examples.pop_last();
        }
    }

    /// How often the record shows the stream, and its strongest activation.
    fn shown(&self, seen: &Seen<'_>) -> (u64, Option<f32>) {
        match self.stream {
            StreamId::Latent(_) | StreamId::Family(_) => {
                let values = seen.latents.iter().zip(seen.values).filter(|(latent, _)| self.members.binary_search(latent).is_ok());
                values.fold((0, None), |(n, most), (_, value)| (n + 1, Some(most.map_or(*value, |most: f32| most.max(*value)))))
            }
            StreamId::ResidualOutlier => {
                let is_outlier = self.residual_from_bin.zip(seen.residual_bin).is_some_and(|(from, bin)| bin >= from);
                (u64::from(is_outlier), None)
            }
            StreamId::DeadRecord => (u64::from(seen.latents.is_empty()), None),
        }
    }

    /// What the records say. `spans`: first and last instant of the windows read before and after, and whether only a
    /// part of their records was.
    #[must_use]
    pub fn evidence(self, spans: [(i64, i64, bool); 2]) -> RecordEvidence {
        let (before, after) = (self.before, self.after);
        let scale = if before.records > 0 { after.records as f64 / before.records as f64 } else { 0.0 };
        let of_entities = before.entities.total() + after.entities.total() > 0;
        let of_items = before.items.total() + after.items.total() > 0;
        let entities =
            of_entities.then(|| Carriers::of(&before.entities, &after.entities, scale, self.direction, |hash| hexadecimal(*hash)));
        let items = of_items.then(|| Carriers::of(&before.items, &after.items, scale, self.direction, Clone::clone));
        let shown_with = shown_with(&after, &self.members);
        let stretch = |gathered: Gathered, (from, to, is_part): (i64, i64, bool)| Stretch {
            from,
            to,
            records: gathered.records,
            shown: gathered.shown,
            is_part,
            examples: gathered.examples.into_values().collect(),
        };
        RecordEvidence { before: stretch(before, spans[0]), after: stretch(after, spans[1]), entities, items, shown_with }
    }
}

/// Latents by `n ln lift`, n = records that show both: what speaks for more than chance.
fn shown_with(gathered: &Gathered, members: &[LatentId]) -> Vec<ShownWith> {
    let (records, with) = (gathered.records as f64, f64::from(gathered.records_with));
    let mut found: Vec<(f64, ShownWith)> = (0..)
        .zip(&gathered.latents)
        .filter(|(latent, [_, together])| *together >= MIN_TOGETHER && members.binary_search(&LatentId(*latent)).is_err())
        .map(|(latent, [all, together])| {
            let share = f64::from(*together) / with;
            let lift = share / (f64::from(*all) / records);
            (f64::from(*together) * lift.ln(), ShownWith { latent: LatentId(latent), share, lift })
        })
        .filter(|(_, shown)| shown.lift >= MIN_LIFT)
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.latent.cmp(&b.1.latent)));
    found.truncate(MAX_SHOWN_WITH);
    found.into_iter().map(|(_, shown)| shown).collect()
}

fn example(seen: &Seen<'_>, activation: Option<f32>) -> Example {
    Example {
        partition: seen.partition.clone(),
        offset: seen.offset,
        entity: seen.entity.map(hexadecimal),
        items: seen.items.iter().take(MAX_ITEMS).map(|item| short(item)).collect(),
        activation,
    }
}

fn hexadecimal(hash: u64) -> String {
    format!("{hash:016x}")
}

fn short(item: &str) -> String {
    item.chars().take(MAX_NAME).collect()
}

/// Every bit of a record's place mixed (splitmix64's last step): records without an entity are drawn fairly too.
fn rank_of(partition: i32, offset: i64) -> u64 {
    let mut x = (u64::from(partition.unsigned_abs()) << 48) ^ offset.unsigned_abs();
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::drift::carriers::CarriedBy;

    fn partition() -> TopicPartition {
        TopicPartition { topic: Arc::from("t"), partition: 0 }
    }

    fn see(witness: &mut Witness, side: Side, entity: u64, latents: &[u32], items: &[&str], segments: SegmentMask) {
        let latents: Vec<LatentId> = latents.iter().map(|l| LatentId(*l)).collect();
        let values: Vec<f32> = latents.iter().map(|latent| latent.0 as f32).collect();
        let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
        let (partition, offset) = (partition(), i64::try_from(entity).unwrap());
        let entity = Some(entity);
        let residual_bin = Some(usize::try_from(offset).unwrap() % 100);
        witness.see(
            side,
            0,
            &Seen { partition: &partition, offset, entity, items: &items, segments, latents: &latents, values: &values, residual_bin },
        );
    }

    fn witness(stream: StreamId, members: &[u32]) -> Witness {
        Witness::new((stream, Direction::Up), members.iter().map(|l| LatentId(*l)).collect(), Some(90), 8)
    }

    const SPANS: [(i64, i64, bool); 2] = [(0, 10, false), (10, 20, true)];

    #[test]
    fn a_crowd_that_shows_a_concept_with_a_new_item_is_explained_by_the_item_and_by_no_user() {
        let mut witness = witness(StreamId::Latent(LatentId(3)), &[3]);
        for user in 0..400 {
            see(&mut witness, Side::Before, user, if user % 20 == 0 { &[3, 5] } else { &[4] }, &["old"], 1);
            see(
                &mut witness,
                Side::After,
                user,
                if user % 4 == 0 { &[3, 5] } else { &[4] },
                if user % 4 == 0 { &["new"] } else { &["old"] },
                1,
            );
            see(&mut witness, Side::After, user, &[3], &["elsewhere"], 2);
        }
        let found = witness.evidence(SPANS);
        assert_eq!((found.before.records, found.before.shown, found.after.records, found.after.shown), (400, 20, 400, 100));
        let (entities, items) = (found.entities.unwrap(), found.items.unwrap());
        assert_eq!((entities.carried_by, items.carried_by), (CarriedBy::Crowd, CarriedBy::One));
        assert_eq!((items.top[0].name.as_str(), items.top[0].before, items.top[0].after), ("new", 0, 100));
        assert_eq!(found.shown_with.len(), 1, "latent 4 is never with it, latent 3 is itself: {:?}", found.shown_with);
        assert_eq!((found.shown_with[0].latent, found.shown_with[0].share, found.shown_with[0].lift), (LatentId(5), 1.0, 4.0));
        let examples = &found.after.examples;
        assert_eq!(examples.iter().map(|e| e.offset).collect::<Vec<_>>(), [0, 4, 8], "the smallest hashes, whatever the order");
        assert_eq!((examples[1].entity.as_deref(), examples[1].activation), (Some("0000000000000004"), Some(3.0)));
        assert!(found.after.is_part && !found.before.is_part);
    }

    #[test]
    fn a_family_counts_its_members_and_pseudo_streams_what_they_are() {
        let mut family = witness(StreamId::Family(0), &[5, 2]);
        see(&mut family, Side::After, 1, &[2, 5, 6], &[], 1);
        see(&mut family, Side::After, 2, &[6], &[], 1);
        let found = family.evidence(SPANS);
        assert_eq!((found.after.records, found.after.shown, found.after.examples[0].activation), (2, 2, Some(5.0)));
        assert!(found.items.is_none(), "the records name no items");
        let mut outlier = witness(StreamId::ResidualOutlier, &[]);
        (0..200).for_each(|user| see(&mut outlier, Side::After, user, &[1], &[], 1));
        assert_eq!(outlier.evidence(SPANS).after.shown, 20);
        let mut dead = witness(StreamId::DeadRecord, &[]);
        see(&mut dead, Side::Before, 1, &[], &[], 1);
        see(&mut dead, Side::Before, 1, &[1], &[], 1);
        assert_eq!(dead.evidence(SPANS).before.shown, 1);
    }
}
