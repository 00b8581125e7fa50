//! The ids of the topics that were counted: what tells a topic from another of the same name.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};

use crate::store::error::StoreResult;
use crate::store::reader::StoreReader;
use crate::store::writer::Store;

/// A topic that is not the one that was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnotherTopic {
    /// Its name.
    pub topic: String,
    /// Id of the one that was counted.
    pub stored: String,
    /// Id of the one that is there.
    pub found: String,
}

impl StoreReader {
    /// The ids that topics had, by name.
    ///
    /// # Errors
    /// The database refuses.
    pub fn topic_ids(&self) -> StoreResult<BTreeMap<String, String>> {
        let mut statement = self.connection.prepare("SELECT topic, id FROM topics")?;
        let ids = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }
}

impl Store {
    /// Keeps the ids of topics, by name; the first that is another than the one of which records were counted is given
    /// back, and keeps the id it had. A topic of which nothing was counted may be made anew.
    ///
    /// # Errors
    /// The database refuses.
    pub fn know_topics(&mut self, ids: &BTreeMap<String, String>) -> StoreResult<Option<AnotherTopic>> {
        let counted = self.read().positions()?;
        let is_counted = |topic: &str| counted.iter().any(|(at, position)| &*at.topic == topic && position.next_offset > 0);
        // A savepoint: the lineage may be proposed only, in a transaction that is still open.
        let savepoint = self.reader.connection.savepoint()?;
        for (topic, found) in ids {
            let stored: Option<String> =
                savepoint.query_row("SELECT id FROM topics WHERE topic = ?1", [topic], |row| row.get(0)).optional()?;
            if let Some(stored) = stored.filter(|stored| stored != found && is_counted(topic)) {
                return Ok(Some(AnotherTopic { topic: topic.clone(), stored, found: found.clone() }));
            }
            savepoint.execute("INSERT INTO topics VALUES (?1, ?2) ON CONFLICT (topic) DO UPDATE SET id = ?2", params![topic, found])?;
        }
        savepoint.commit()?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::partition::PartitionPosition;
    use crate::drift::window::WindowSpec;
    use crate::record::TopicPartition;

    #[test]
    fn a_topic_is_known_again_by_its_id_once_records_of_it_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("recsae.db")).unwrap();
        let window = WindowSpec { length_ms: 100, origin_ms: 0, lateness_ms: 0 };
        store.begin_lineage("a", "", &window, 1).unwrap();
        assert!(store.read().topic_ids().unwrap().is_empty());
        let ids = |ids: &[(&str, &str)]| ids.iter().map(|(topic, id)| ((*topic).to_owned(), (*id).to_owned())).collect();
        assert_eq!(store.know_topics(&ids(&[("t", "first"), ("u", "other")])).unwrap(), None);
        assert_eq!(store.know_topics(&ids(&[("t", "second")])).unwrap(), None, "nothing of it was counted");

        let at = TopicPartition { topic: "t".into(), partition: 0 };
        store.take_positions(&[(at, PartitionPosition::starting_at(7))].into()).unwrap();
        assert_eq!(store.know_topics(&ids(&[("t", "second")])).unwrap(), None);
        assert_eq!(store.know_topics(&ids(&[])).unwrap(), None, "a broker that gives no ids says nothing");
        assert_eq!(store.read().topic_ids().unwrap(), ids(&[("t", "second"), ("u", "other")]));
        let another = AnotherTopic { topic: "t".into(), stored: "second".into(), found: "third".into() };
        assert_eq!(store.know_topics(&ids(&[("t", "third")])).unwrap(), Some(another.clone()));
        assert_eq!(store.know_topics(&ids(&[("t", "third")])).unwrap(), Some(another), "it is not taken for known by then");
    }
}
