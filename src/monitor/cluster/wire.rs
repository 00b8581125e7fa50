//! Records of the windows topic: parts of windows in pieces that the broker takes, and where a partition stands.
//!
//! | record   | key                                                                     | value                                |
//! |----------|-------------------------------------------------------------------------|--------------------------------------|
//! | piece    | counting hash, topic, partition, window start, digest, piece i of n      | a line of JSON, then bytes of the part |
//! | standing | counting hash, topic, partition                                          | a line of JSON                       |
//!
//! The digest is in the key, so that compaction takes away what was counted again with the same result and nothing else:
//! of two results both stay, and the judge's log says which was used.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::drift::closed::PartialWindow;
use crate::drift::partition::PartitionPosition;
use crate::record::TopicPartition;
use crate::store::StoreError;
use crate::store::shared_log::{part_from_bytes, part_to_bytes};

/// Room in a record for its key, its line, and the batch around it.
const AROUND: usize = 8 << 10;

/// A record to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
}

/// What a record, or the last piece of several, tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A closed part of a window.
    Part(Box<PartialWindow>),
    /// Where a partition stands.
    Standing {
        /// Which.
        partition: TopicPartition,
        /// Where.
        position: PartitionPosition,
        /// Its owner had read all that the log held.
        at_end: bool,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Piece { digest: String, piece: usize, of: usize },
    Standing { partition: TopicPartition, position: PartitionPosition, at_end: bool },
}

/// The records of a closed part, each at most `max_message_bytes` long.
///
/// # Errors
/// Never in practice: counts always serialise.
pub fn publish_part(counting_hash: &str, part: &PartialWindow, max_message_bytes: usize) -> Result<Vec<Published>, StoreError> {
    let (bytes, digest) = part_to_bytes(part)?;
    let TopicPartition { topic, partition } = &part.partition;
    let most = max_message_bytes.saturating_sub(AROUND).max(1024);
    let of = bytes.len().div_ceil(most).max(1);
    let record = |(piece, bytes): (usize, &[u8])| Published {
        key: format!("{counting_hash}|{topic}|{partition}|{}|{}|{piece}/{of}", part.start_ms, digest.get(..16).unwrap_or(&digest)),
        value: value(&Line::Piece { digest: digest.clone(), piece, of }, bytes),
    };
    Ok(bytes.chunks(most).enumerate().map(record).collect())
}

/// The record that says where a partition stands.
#[must_use]
pub fn publish_standing(counting_hash: &str, partition: &TopicPartition, position: &PartitionPosition, at_end: bool) -> Published {
    let key = format!("{counting_hash}|{}|{}", partition.topic, partition.partition);
    Published { key, value: value(&Line::Standing { partition: partition.clone(), position: position.clone(), at_end }, &[]) }
}

fn value(line: &Line, bytes: &[u8]) -> Vec<u8> {
    // Text, numbers and maps by name always serialise.
    let mut value = serde_json::to_vec(line).unwrap_or_default();
    value.push(b'\n');
    value.extend_from_slice(bytes);
    value
}

/// Puts pieces together. What one producer sends of a part is contiguous; several producers may lie between each other.
#[derive(Debug, Default)]
pub struct Joiner {
    open: BTreeMap<(i32, String), Open>,
}

#[derive(Debug)]
struct Open {
    first_offset: i64,
    pieces: Vec<Option<Vec<u8>>>,
}

impl Joiner {
    /// Takes the next record of a partition of the topic; `None` for a piece of what is not whole, and for what counts in
    /// another way.
    ///
    /// # Errors
    /// The record is none of ours, or damaged; in words.
    pub fn take(&mut self, counting_hash: &str, at: (i32, i64), key: &[u8], value: &[u8]) -> Result<Option<Told>, String> {
        let is_ours = key.strip_prefix(counting_hash.as_bytes()).is_some_and(|rest| rest.starts_with(b"|"));
        if !is_ours {
            return Ok(None);
        }
        let end = value.iter().position(|byte| *byte == b'\n').ok_or("expected a line of JSON, found none")?;
        let bytes = &value[end + 1..];
        match serde_json::from_slice(&value[..end]).map_err(|error| error.to_string())? {
            Line::Standing { partition, position, at_end } => Ok(Some(Told::Standing { partition, position, at_end })),
            Line::Piece { digest, piece, of } => self.piece(at, digest, (piece, of), bytes),
        }
    }

    fn piece(
        &mut self,
        (partition, offset): (i32, i64),
        digest: String,
        (piece, of): (usize, usize),
        bytes: &[u8],
    ) -> Result<Option<Told>, String> {
        if piece >= of || of > bytes.len().max(1).saturating_mul(1 << 20) {
            return Err(format!("piece {piece} of {of}"));
        }
        let open = self.open.entry((partition, digest.clone())).or_insert_with(|| Open { first_offset: offset, pieces: Vec::new() });
        if open.pieces.len() != of {
            open.pieces = vec![None; of];
        }
        open.pieces[piece] = Some(bytes.to_vec());
        if open.pieces.iter().any(Option::is_none) {
            return Ok(None);
        }
        let whole = self.open.remove(&(partition, digest.clone()));
        let whole: Vec<u8> = whole.into_iter().flat_map(|open| open.pieces).flatten().flatten().collect();
        let part = part_from_bytes(&whole, &digest).map_err(|error| error.to_string())?;
        Ok(Some(Told::Part(Box::new(part))))
    }

    /// From where a partition of the topic must be read again, that was read up to `next`, for nothing to be missing.
    #[must_use]
    pub fn holds_from(&self, partition: i32, next: i64) -> i64 {
        let of_it = self.open.iter().filter(|((of, _), _)| *of == partition);
        of_it.map(|(_, open)| open.first_offset).chain([next]).min().unwrap_or(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(partition: i32, start_ms: i64, sketch: Vec<u64>) -> PartialWindow {
        PartialWindow {
            partition: TopicPartition { topic: "views|a".into(), partition },
            start_ms,
            end_ms: start_ms + 100,
            models: BTreeMap::new(),
            rejected: BTreeMap::new(),
            offsets: 4..9,
            seen: BTreeMap::new(),
            entity_sketch: sketch,
            incomplete: None,
        }
    }

    proptest! {
        /// Two producers of different parts, and one that sends the first part again, in any interleaving.
        #[test]
        fn parts_come_back_however_producers_lie_between_each_other(
            n in 1_usize..4_000,
            most in AROUND + 1024..AROUND + 3_000,
            order in prop::collection::vec(0_usize..3, 0..60),
        ) {
            // Numbers that no compression makes short.
            let noise = |seed: u64| (0..n as u64).map(|i| (i ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)).collect::<Vec<u64>>();
            let parts = [part(0, 100, noise(1)), part(1, 100, noise(2)), part(0, 100, noise(1))];
            let mut senders: Vec<_> = parts.iter().map(|part| publish_part("abc", part, most).unwrap().into_iter()).collect();
            let mut joiner = Joiner::default();
            let (mut told, mut offset) = (Vec::new(), 0);
            for at in order.into_iter().chain((0..3).flat_map(|at| std::iter::repeat_n(at, 200))) {
                let Some(record) = senders[at].next() else { continue };
                prop_assert!(record.value.len() + record.key.len() <= most);
                told.extend(joiner.take("abc", (0, offset), record.key.as_bytes(), &record.value).unwrap());
                offset += 1;
            }
            for part in &parts {
                prop_assert!(told.contains(&Told::Part(Box::new(part.clone()))));
            }
            prop_assert!(joiner.holds_from(0, offset) <= offset);
        }

        #[test]
        fn what_is_none_of_ours_is_an_error_and_never_a_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut joiner = Joiner::default();
            let _in_words = joiner.take("abc", (0, 0), b"abc|t|0", &value);
            prop_assert_eq!(joiner.take("abc", (0, 0), b"xyz|t|0", &value), Ok(None), "counted in another way");
        }
    }

    #[test]
    fn a_standing_comes_back_and_an_open_part_is_read_again_from_its_first_piece() {
        let mut joiner = Joiner::default();
        let (partition, position) =
            (part(3, 0, vec![]).partition, PartitionPosition { watermark_ms: 7, ..PartitionPosition::starting_at(5) });
        let standing = publish_standing("abc", &partition, &position, true);
        let told = joiner.take("abc", (1, 40), standing.key.as_bytes(), &standing.value).unwrap();
        assert_eq!(told, Some(Told::Standing { partition, position, at_end: true }));
        let noise: Vec<u64> = (0..3_000_u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)).collect();
        let pieces = publish_part("abc", &part(0, 1, noise), AROUND + 4_000).unwrap();
        assert!(pieces.len() > 3, "{}", pieces.len());
        for (offset, piece) in (41..).zip(&pieces[..2]) {
            assert_eq!(joiner.take("abc", (1, offset), piece.key.as_bytes(), &piece.value), Ok(None));
        }
        assert_eq!((joiner.holds_from(1, 43), joiner.holds_from(0, 9)), (41, 9));
        let mut damaged = pieces[2].value.clone();
        *damaged.last_mut().unwrap() ^= 1;
        joiner.take("abc", (1, 43), pieces[2].key.as_bytes(), &damaged).unwrap();
        let last: Vec<_> = pieces[3..].iter().map(|piece| joiner.take("abc", (1, 44), piece.key.as_bytes(), &piece.value)).collect();
        assert!(last.last().unwrap().is_err(), "{last:?}");
    }
}
