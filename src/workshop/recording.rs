//! The live topic as Parquet files: rolling, bounded, whole entities, no record twice.
//!
//! Each file carries, in its metadata, the offset behind its last record of every partition. That is
//! where a recording goes on after any end: a file is there whole or not at all, and the group's
//! committed positions are only a help for other tools.
//!
//! What is kept is what the monitor would read, rejects left out. A recording has one width of vectors:
//! that of most rows of its first file, so that one record of poison does not decide it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use crate::config::settings::{RecordFormat, RecordSettings};
use crate::decode::Decoder;
use crate::record::{RawMessage, Record};
use crate::workshop::dataset::table::key_of;
use crate::workshop::follow::{Positions, Sink};
use crate::workshop::recording::about::About;
use crate::workshop::recording::files::{files, number_of};
use crate::workshop::recording::rows::{Row, batch, usual_width};

pub mod about;
pub mod files;
pub mod rows;

/// Entities are sampled by this salt, so that every recording keeps the same ones.
const SALT: [u8; 16] = *b"recsae recording";
/// Age of a file's first row at which it is closed although it is not full.
const OLDEST: std::time::Duration = std::time::Duration::from_secs(300);

/// Limits of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Share of the entities that are kept.
    pub entities: f64,
    /// Rows of a file.
    pub rows: usize,
    /// Bytes of all files: beyond it the oldest go.
    pub bytes: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Recorded {
    /// Records kept.
    pub records: u64,
    /// Records of entities that are not sampled.
    pub not_sampled: u64,
    /// Records the monitor would reject.
    pub rejected: u64,
    /// Files written.
    pub files: u64,
    /// Files removed because of the limit.
    pub removed: u64,
}

/// A recording into a folder.
pub struct Recording {
    folder: PathBuf,
    about: About,
    limits: Limits,
    settings: RecordSettings,
    decoder: Decoder,
    record: Record,
    rows: Vec<Row>,
    /// Values of a vector, once a file says so.
    width: Option<usize>,
    durable: Positions,
    next_file: u64,
    opened: std::time::Instant,
    done: Recorded,
}

impl Recording {
    /// Goes on in `folder`, which is made when it is not there.
    ///
    /// # Errors
    /// A setting or the folder is refused, or a file of it is damaged.
    pub fn open(folder: &Path, settings: &RecordSettings, fields: &[String], limits: Limits) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let (mut durable, mut width) = (Positions::new(), None);
        let files = files(folder)?;
        for file in &files {
            let (found, positions) = files::read(file)?;
            width.get_or_insert(found);
            for (partition, offset) in positions {
                durable.entry(partition).and_modify(|known| *known = (*known).max(offset)).or_insert(offset);
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            about: About::of(folder, limits.entities, fields)?,
            limits,
            settings: settings.clone(),
            decoder: Decoder::new(settings, fields, &SALT)?,
            record: Record::default(),
            rows: Vec::new(),
            width,
            durable,
            next_file: files.last().and_then(|file| number_of(file)).map_or(1, |last| last + 1),
            opened: std::time::Instant::now(),
            done: Recorded::default(),
        })
    }

    /// Name of this recording, which no other has.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.about.id
    }

    /// What was done so far.
    #[must_use]
    pub fn done(&self) -> Recorded {
        self.done
    }

    fn is_sampled(&self, entity: Option<u64>) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a share, to 53 bits")]
        let within = |hash: u64| self.limits.entities >= 1.0 || (hash as f64 / u64::MAX as f64) < self.limits.entities;
        entity.is_none_or(within)
    }

    /// The entity in words: the monitor keeps only its hash, a recording is played back.
    fn entity(&self, message: &RawMessage<'_>) -> Option<String> {
        let place = self.settings.entity.as_str();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let header = |name: &str| message.headers.iter().rev().find(|(known, _)| *known == name).and_then(|(_, value)| value.map(text));
        let found = match (place, place.strip_prefix("header:")) {
            ("key", _) => None,
            (_, Some(name)) => header(name),
            _ if self.settings.format == RecordFormat::Raw => header(place),
            _ => {
                let json: Option<Value> = message.payload.and_then(|payload| serde_json::from_slice(payload).ok());
                json.as_ref().and_then(|json| place.split('.').try_fold(json, |at, part| at.get(part))).and_then(key_of)
            }
        };
        found.filter(|entity| !entity.is_empty()).or_else(|| message.key.filter(|key| !key.is_empty()).map(text))
    }

    fn write(&mut self, positions: &Positions) -> anyhow::Result<()> {
        let mut rows = std::mem::take(&mut self.rows);
        let Some(width) = self.width.or_else(|| usual_width(&rows)) else { return Ok(()) };
        let n_read = rows.len();
        rows.retain(|row| row.embedding.len() == width);
        self.done.rejected += (n_read - rows.len()) as u64;
        // Partitions that went to another member keep theirs: this folder's files end there.
        let mut durable = self.durable.clone();
        durable.extend(positions.iter().map(|(partition, offset)| (partition.clone(), *offset)));
        files::write(&self.folder, self.next_file, &batch(&rows, width, &self.about.fields)?, &durable)?;
        self.width = Some(width);
        self.next_file += 1;
        self.done.files += 1;
        self.done.records += rows.len() as u64;
        self.durable = durable;
        self.remove_oldest()
    }

    /// Keeps the folder within its limit; the newest file stays, for it knows the positions.
    fn remove_oldest(&mut self) -> anyhow::Result<()> {
        let mut sizes = Vec::new();
        for file in files(&self.folder)? {
            sizes.push((std::fs::metadata(&file)?.len(), file));
        }
        let mut total: u64 = sizes.iter().map(|(size, _)| size).sum();
        for (size, file) in sizes.iter().take(sizes.len().saturating_sub(1)) {
            if total <= self.limits.bytes {
                break;
            }
            std::fs::remove_file(file).with_context(|| file.display().to_string())?;
            total -= size;
            self.done.removed += 1;
        }
        Ok(())
    }
}

impl Sink for Recording {
    fn headers(&self) -> bool {
        self.decoder.needs_headers()
    }

    fn durable(&self) -> Positions {
        self.durable.clone()
    }

    fn take(&mut self, message: &RawMessage<'_>) -> anyhow::Result<()> {
        let is_row = self.decoder.decode(message, &mut self.record).is_ok()
            && !self.record.embedding.is_empty()
            && self.record.embedding.iter().all(|value| value.is_finite())
            && self.width.is_none_or(|width| width == self.record.embedding.len());
        if !is_row {
            self.done.rejected += 1;
            return Ok(());
        }
        if !self.is_sampled(self.record.entity) {
            self.done.not_sampled += 1;
            return Ok(());
        }
        if self.rows.is_empty() {
            self.opened = std::time::Instant::now();
        }
        let present = |text: &String| (!text.is_empty()).then(|| text.clone());
        let row = Row {
            embedding: self.record.embedding.clone(),
            entity: self.entity(message),
            timestamp_ms: self.record.event_time_ms,
            model_version: present(&self.record.model_version),
            items: self.record.items.clone(),
            fields: self.record.fields.iter().map(present).collect(),
            topic: message.partition.topic.clone(),
            partition: message.partition.partition,
            offset: message.offset,
            kafka_ms: message.timestamp_ms,
        };
        self.rows.push(row);
        Ok(())
    }

    fn settle(&mut self, positions: &Positions, must: bool) -> anyhow::Result<bool> {
        if self.rows.is_empty() {
            // Nothing is waiting: what was read was not to be kept.
            return Ok(must);
        }
        if must || self.rows.len() >= self.limits.rows || self.opened.elapsed() >= OLDEST {
            self.write(positions)?;
            return Ok(true);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::{Header, TopicPartition};
    use crate::workshop::dataset::{Dataset, DatasetRequest};

    /// What a recording of one message holds, column by column, and its vector.
    fn recorded(settings: &RecordSettings, payload: &[u8], key: Option<&[u8]>, headers: &[Header<'_>]) -> (Vec<f32>, Value) {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { entities: 1.0, rows: 10, bytes: u64::MAX };
        let mut recording = Recording::open(folder.path(), settings, &["surface".into(), "country".into()], limits).unwrap();
        let partition = TopicPartition { topic: "served".into(), partition: 3 };
        let message =
            RawMessage { partition: &partition, offset: 17, timestamp_ms: Some(1_790_000_000_999), key, payload: Some(payload), headers };
        recording.take(&message).unwrap();
        assert!(recording.settle(&Positions::from([(partition.clone(), 18)]), true).unwrap());
        assert_eq!((recording.done().records, recording.done().rejected), (1, 0));
        let rows = Dataset::open(&DatasetRequest { embeddings: folder.path().to_owned(), ..DatasetRequest::default() }).unwrap();
        let column = |name: &str| (name.to_owned(), rows.column(name).unwrap().value(0).clone());
        let names = ["entity", "timestamp", "model_version", "items", "surface", "country"];
        let places = ["recsae.topic", "recsae.partition", "recsae.offset", "recsae.timestamp"];
        (rows.embedding(0).to_vec(), names.into_iter().chain(places).map(column).collect::<serde_json::Map<_, _>>().into())
    }

    #[test]
    fn every_field_of_a_record_is_a_column_wherever_it_lies() {
        let expected = |entity: &str| {
            json!({
                "entity": entity, "timestamp": 1_790_000_000_123_i64, "model_version": "v12", "items": ["i1", "i2"],
                "surface": "home", "country": null,
                "recsae.topic": "served", "recsae.partition": 3, "recsae.offset": 17, "recsae.timestamp": 1_790_000_000_999_i64,
            })
        };
        let flat = json!({
            "embedding": [0.1, -0.3], "entity": "u42", "timestamp": 1_790_000_000_123_i64, "model_version": "v12", "surface": "home",
            "items": ["i1", "i2"], "more": {"which": "nobody asked for"},
        });
        let plain = RecordSettings::default();
        assert_eq!(recorded(&plain, flat.to_string().as_bytes(), Some(b"k"), &[]), (vec![0.1, -0.3], expected("u42")));

        // Nested, a number as entity, a version in a header.
        let places = RecordSettings {
            embedding: "of.vector".into(),
            entity: "who.id".into(),
            timestamp: "at".into(),
            model_version: "header:version".into(),
            items: "of.shown".into(),
            ..RecordSettings::default()
        };
        let nested = json!({
            "of": {"vector": [0.1, -0.3], "shown": ["i1", "i2"]}, "who": {"id": 42}, "at": 1_790_000_000_123_i64, "surface": "home",
        });
        let headers: [Header<'_>; 1] = [("version", Some(b"v12"))];
        assert_eq!(recorded(&places, nested.to_string().as_bytes(), Some(b"k"), &headers), (vec![0.1, -0.3], expected("42")));

        // A raw vector with everything else in headers; the key stands for an entity that is not there.
        let raw = RecordSettings { format: RecordFormat::Raw, ..RecordSettings::default() };
        let payload = [0.1f32, -0.3].map(f32::to_le_bytes).concat();
        let headers: [Header<'_>; 4] = [
            ("timestamp", Some(b"1790000000123")),
            ("model_version", Some(b"v12")),
            ("items", Some(b"i1, i2")),
            ("surface", Some(b"home")),
        ];
        assert_eq!(recorded(&raw, &payload, Some(b"u42"), &headers), (vec![0.1, -0.3], expected("u42")));
    }
}
