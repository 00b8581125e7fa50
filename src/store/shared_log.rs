//! What a store keeps as a follower: closed windows and positions that any instance of a cluster published, how far the
//! shared topics are followed, and who judges as of the log.
//!
//! | what comes            | the store holds       | outcome                                                              |
//! |-----------------------|-----------------------|----------------------------------------------------------------------|
//! | a part of a window    | none of that name     | kept; `unequal` where the window is judged already                   |
//! | a part of a window    | the same              | nothing changes                                                      |
//! | a part of a window    | another               | the first stays, `unequal`: it was counted twice, with two results    |
//! | a position            | an earlier one, none  | kept                                                                 |
//! | a position            | a later one           | nothing changes: a member that was frozen told where it once was      |
//!
//! The first part in the topic's order is the one that every instance keeps, so all of them judge from the same.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use crate::drift::closed::PartialWindow;
use crate::drift::partition::PartitionPosition;
use crate::record::TopicPartition;
use crate::store::codec;
use crate::store::error::{StoreError, StoreResult};
use crate::store::reader::StoreReader;
use crate::store::step::{store_partial, store_position};
use crate::store::writer::Store;

/// What was read of the shared topics, to be kept at once with how far they were read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// Parts of windows, in the topic's order.
    pub parts: Vec<PartialWindow>,
    /// Positions of partitions, in the topic's order.
    pub positions: Vec<(TopicPartition, PartitionPosition)>,
    /// Next offset to read of each partition of the windows topic.
    pub next: Vec<(TopicPartition, i64)>,
}

/// A part of a window that is not the one the store keeps under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unequal {
    /// Partition it was counted from.
    pub partition: TopicPartition,
    /// Start of its window.
    pub start_ms: i64,
    /// The window is judged without it; else another result of counting the same is kept.
    pub is_late: bool,
}

/// Where a store stands in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Digest of what the cluster's log begins with.
    pub founding: String,
    /// Epoch of the judge.
    pub epoch: i64,
    /// The instance that judges.
    pub judge: String,
}

/// A part of a window by name and digest.
pub type NamedPart = (TopicPartition, String);

/// Bytes of a closed part, the same on every instance that counted the same, and their digest in hexadecimal.
///
/// # Errors
/// Never in practice: counts always serialise.
pub fn part_to_bytes(part: &PartialWindow) -> StoreResult<(Vec<u8>, String)> {
    let bytes = codec::partial_bytes(part)?;
    let digest = codec::hex(&codec::digest(&bytes));
    Ok((codec::compress_quickly(&bytes)?, digest))
}

/// The part from [`part_to_bytes`], if it is the one of that digest.
///
/// # Errors
/// The bytes are damaged.
pub fn part_from_bytes(bytes: &[u8], digest: &str) -> StoreResult<PartialWindow> {
    let bytes = codec::decompress(bytes)?;
    let found = codec::hex(&codec::digest(&bytes));
    if found != digest {
        return Err(StoreError::damaged("a part of a window that was published", format!("digest {found}, not {digest}")));
    }
    codec::read_partial(&bytes)
}

/// Hexadecimal sha256 of `bytes`.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    codec::hex(&codec::digest(bytes))
}

impl Store {
    /// Keeps news in one transaction, as the table says; what was not equal.
    ///
    /// # Errors
    /// No lineage, or the database refuses.
    pub fn follow(&mut self, news: &News) -> StoreResult<Vec<Unequal>> {
        let lineage = self.lineage();
        if lineage == 0 {
            return Err(StoreError::NoLineage);
        }
        let transaction = self.transaction()?;
        let mut unequal = Vec::new();
        for part in &news.parts {
            let at = |is_late| Unequal { partition: part.partition.clone(), start_ms: part.start_ms, is_late };
            match store_partial(&transaction, lineage, part) {
                Ok(true) if is_judged(&transaction, lineage, part.start_ms)? => unequal.push(at(true)),
                Ok(_) => {}
                Err(StoreError::UnequalPartial { .. }) => unequal.push(at(false)),
                Err(error) => return Err(error),
            }
        }
        for (partition, position) in &news.positions {
            if is_later(&transaction, lineage, partition, position)? {
                store_position(&transaction, lineage, partition, position)?;
            }
        }
        for (at, next) in &news.next {
            store_followed(&transaction, at, *next)?;
        }
        transaction.commit()?;
        Ok(unequal)
    }

    /// The log is applied up to `next` of `at`, and `judge` judges in `epoch`.
    ///
    /// # Errors
    /// The database refuses.
    pub fn put_applied(&mut self, at: &TopicPartition, next: i64, epoch: i64, judge: &str) -> StoreResult<()> {
        let transaction = self.transaction()?;
        store_followed(&transaction, at, next)?;
        transaction.execute("UPDATE cluster SET epoch = ?1, judge = ?2", params![epoch, judge])?;
        transaction.commit()
    }

    /// Binds the store to the cluster whose log begins with what has that digest; once.
    ///
    /// # Errors
    /// It is bound to another, or the database refuses.
    pub fn bind(&mut self, founding: &str) -> StoreResult<()> {
        match self.read().membership()? {
            Some(member) if member.founding == founding => Ok(()),
            Some(_) => Err(StoreError::Refused(
                "the judge topic is not the one this store has followed: it was made anew, or [cluster] judge_topic names another; give \
                 the instance the topic it had, or a [store] path of its own"
                    .to_owned(),
            )),
            None => {
                let sql = "INSERT INTO cluster (id, founding, epoch, judge) VALUES (1, ?1, 0, '')";
                self.reader.connection.execute(sql, [founding])?;
                Ok(())
            }
        }
    }
}

impl StoreReader {
    /// Where the store stands in its cluster; `None` where it is in none.
    ///
    /// # Errors
    /// The database refuses.
    pub fn membership(&self) -> StoreResult<Option<Membership>> {
        let member = |row: &rusqlite::Row<'_>| Ok(Membership { founding: row.get(0)?, epoch: row.get(1)?, judge: row.get(2)? });
        Ok(self.connection.query_row("SELECT founding, epoch, judge FROM cluster", [], member).optional()?)
    }

    /// Next offset to read of the partitions of a shared topic, as far as any was read.
    ///
    /// # Errors
    /// The database refuses.
    pub fn followed(&self, topic: &str) -> StoreResult<BTreeMap<i32, i64>> {
        let mut statement = self.connection.prepare("SELECT partition, next_offset FROM followed WHERE topic = ?1")?;
        Ok(statement.query_map([topic], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
    }

    /// Parts of a window that are kept, by topic and partition, with their digests.
    ///
    /// # Errors
    /// The database refuses.
    pub fn named_parts(&self, window_start_ms: i64) -> StoreResult<Vec<NamedPart>> {
        let sql = "SELECT topic, partition, digest FROM partials WHERE lineage = (SELECT max(id) FROM lineages) AND window_start = ?1
                   ORDER BY topic, partition";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([window_start_ms], |row| {
            let partition = TopicPartition { topic: row.get::<_, String>(0)?.into(), partition: row.get(1)? };
            Ok((partition, codec::hex(&row.get::<_, Vec<u8>>(2)?)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn store_followed(connection: &Connection, at: &TopicPartition, next: i64) -> StoreResult<()> {
    let sql = "INSERT INTO followed (topic, partition, next_offset) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET next_offset = ?3";
    connection.prepare_cached(sql)?.execute(params![&*at.topic, at.partition, next])?;
    Ok(())
}

fn is_judged(connection: &Connection, lineage: i64, start_ms: i64) -> StoreResult<bool> {
    let sql = "SELECT count(*) FROM windows WHERE lineage = ?1 AND window_start = ?2";
    Ok(connection.prepare_cached(sql)?.query_row(params![lineage, start_ms], |row| row.get::<_, i64>(0))? > 0)
}

fn is_later(connection: &Connection, lineage: i64, partition: &TopicPartition, position: &PartitionPosition) -> StoreResult<bool> {
    let sql = "SELECT next_offset, watermark_ms FROM positions WHERE lineage = ?1 AND topic = ?2 AND partition = ?3";
    let known: Option<(i64, i64)> = connection
        .prepare_cached(sql)?
        .query_row(params![lineage, &*partition.topic, partition.partition], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(known.is_none_or(|known| known <= (position.next_offset, position.watermark_ms)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::drift::window::WindowSpec;

    fn part(seen: u64) -> PartialWindow {
        PartialWindow {
            partition: TopicPartition { topic: "t".into(), partition: 3 },
            start_ms: 100,
            end_ms: 200,
            models: BTreeMap::new(),
            rejected: BTreeMap::new(),
            offsets: 4..9,
            seen: BTreeMap::from([("surface=home".to_owned(), seen)]),
            entity_sketch: vec![1, 2],
            incomplete: None,
        }
    }

    fn at(next: i64, watermark_ms: i64) -> PartitionPosition {
        PartitionPosition { watermark_ms, ..PartitionPosition::starting_at(next) }
    }

    #[test]
    fn the_first_of_two_results_stays_and_a_position_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("recsae.db")).unwrap();
        store.begin_lineage("a", "", &WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 0 }, 1).unwrap();
        let (source, shared) = (part(1).partition, TopicPartition { topic: "windows".into(), partition: 0 });
        let news = |parts, position: (i64, i64), next| News {
            parts,
            positions: vec![(source.clone(), at(position.0, position.1))],
            next: vec![(shared.clone(), next)],
        };
        assert_eq!(store.follow(&news(vec![part(1), part(1)], (9, 250), 2)).unwrap(), []);
        let unequal = store.follow(&news(vec![part(2)], (7, 900), 4)).unwrap();
        assert_eq!(unequal, [Unequal { partition: source.clone(), start_ms: 100, is_late: false }]);
        assert_eq!(store.read().partials_of(100).unwrap(), [part(1)]);
        assert_eq!(store.read().positions().unwrap()[&source], at(9, 250));
        assert_eq!(store.read().followed("windows").unwrap(), BTreeMap::from([(0, 4)]));
        assert_eq!(store.read().named_parts(100).unwrap(), [(source.clone(), part_to_bytes(&part(1)).unwrap().1)]);
        store.reader.connection.execute_batch("INSERT INTO windows VALUES (1, 100, 200, 9)").unwrap();
        let other = PartialWindow { partition: shared, ..part(1) };
        assert!(store.follow(&News { parts: vec![other], ..News::default() }).unwrap()[0].is_late);
    }

    #[test]
    fn a_part_comes_back_from_its_bytes_and_not_under_another_digest() {
        let (bytes, digest) = part_to_bytes(&part(1)).unwrap();
        assert_eq!(part_from_bytes(&bytes, &digest).unwrap(), part(1));
        let (_, other) = part_to_bytes(&part(2)).unwrap();
        assert!(part_from_bytes(&bytes, &other).unwrap_err().to_string().contains(&digest));
    }

    #[test]
    fn a_store_belongs_to_one_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("recsae.db")).unwrap();
        assert_eq!(store.read().membership().unwrap(), None);
        store.bind("abc").unwrap();
        store.bind("abc").unwrap();
        assert!(store.bind("def").unwrap_err().to_string().contains("made anew"));
        let log = TopicPartition { topic: "judge".into(), partition: 0 };
        store.put_applied(&log, 8, 2, "pod-1").unwrap();
        let expected = Membership { founding: "abc".into(), epoch: 2, judge: "pod-1".into() };
        assert_eq!(
            (store.read().membership().unwrap(), store.read().followed("judge").unwrap()),
            (Some(expected), BTreeMap::from([(0, 8)]))
        );
    }
}
