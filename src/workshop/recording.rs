//! The live topic as Parquet files: rolling, bounded, whole entities, no record twice.
//!
//! Each file carries, in its metadata, the offset behind its last record of every partition. That is
//! where a recording goes on after any end: a file is there whole or not at all, and the group's
//! committed positions are only a help for other tools.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use crate::config::settings::{RecordFormat, RecordSettings};
use crate::decode::Decoder;
use crate::record::{RawMessage, Record, TopicPartition};
use crate::workshop::dataset::table::key_of;
use crate::workshop::follow::Sink;

/// Key of the positions in a file's metadata.
const POSITIONS: &str = "recsae.positions";
/// Entities are sampled by this salt, so that every recording keeps the same ones.
const SALT: [u8; 16] = *b"recsae recording";
/// Times of a file's rows until it is closed although it is not full.
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
    limits: Limits,
    settings: RecordSettings,
    fields: Vec<String>,
    decoder: Decoder,
    record: Record,
    rows: Rows,
    durable: BTreeMap<TopicPartition, i64>,
    next_file: u64,
    opened: std::time::Instant,
    done: Recorded,
}

/// Rows that are not in a file yet, by column.
#[derive(Default)]
struct Rows {
    d_in: usize,
    embedding: Vec<f32>,
    entity: Vec<Option<String>>,
    timestamp: Vec<i64>,
    model_version: Vec<Option<String>>,
    items: Vec<Vec<String>>,
    fields: Vec<Vec<Option<String>>>,
    topic: Vec<String>,
    partition: Vec<i32>,
    offset: Vec<i64>,
}

impl Recording {
    /// Goes on in `folder`, which is made when it is not there.
    ///
    /// # Errors
    /// A setting or the folder is refused, or a file of it is damaged.
    pub fn open(folder: &Path, settings: &RecordSettings, fields: &[String], limits: Limits) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut durable: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        let files = files(folder)?;
        for file in &files {
            for (partition, offset) in positions_in(file)? {
                durable.entry(partition).and_modify(|known| *known = (*known).max(offset)).or_insert(offset);
            }
        }
        let next_file = files.last().and_then(|file| number_of(file)).map_or(1, |last| last + 1);
        Ok(Self {
            folder: folder.to_owned(),
            limits,
            settings: settings.clone(),
            fields: fields.to_vec(),
            decoder: Decoder::new(settings, fields, &SALT)?,
            record: Record::default(),
            rows: Rows::default(),
            durable,
            next_file,
            opened: std::time::Instant::now(),
            done: Recorded::default(),
        })
    }

    /// What was done so far.
    #[must_use]
    pub fn done(&self) -> Recorded {
        self.done
    }

    /// The entity in words: the monitor keeps only its hash, a recording is played back.
    fn entity(&self, message: &RawMessage<'_>) -> Option<String> {
        let place = self.settings.entity.as_str();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let header = |name: &str| message.headers.iter().find(|(known, _)| *known == name).and_then(|(_, value)| value.map(text));
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

    fn write(&mut self, positions: &BTreeMap<TopicPartition, i64>) -> anyhow::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        let n_rows = rows.timestamp.len() as u64;
        let batch = rows.batch(&self.fields)?;
        let known: Vec<(&str, i32, i64)> = positions.iter().map(|(at, offset)| (&*at.topic, at.partition, *offset)).collect();
        let metadata = vec![KeyValue::new(POSITIONS.to_owned(), serde_json::to_string(&known)?)];
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_key_value_metadata(Some(metadata))
            .build();
        let path = self.folder.join(format!("part-{:08}.parquet", self.next_file));
        let staging = path.with_extension("tmp");
        let file = File::create(&staging).with_context(|| staging.display().to_string())?;
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        writer.into_inner()?.sync_all()?;
        std::fs::rename(&staging, &path).with_context(|| path.display().to_string())?;
        self.next_file += 1;
        self.done.files += 1;
        self.done.records += n_rows;
        self.durable.clone_from(positions);
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

    fn durable(&self) -> BTreeMap<TopicPartition, i64> {
        self.durable.clone()
    }

    fn take(&mut self, message: &RawMessage<'_>) -> anyhow::Result<()> {
        if self.decoder.decode(message, &mut self.record).is_err() || self.record.embedding.iter().any(|value| !value.is_finite()) {
            self.done.rejected += 1;
            return Ok(());
        }
        #[expect(clippy::cast_precision_loss, reason = "a share, to 53 bits")]
        let sampled = self.record.entity.is_none_or(|hash| (hash as f64 / u64::MAX as f64) < self.limits.entities);
        if !sampled {
            self.done.not_sampled += 1;
            return Ok(());
        }
        let rows = &mut self.rows;
        if rows.timestamp.is_empty() {
            self.opened = std::time::Instant::now();
            rows.d_in = self.record.embedding.len();
            rows.fields = vec![Vec::new(); self.fields.len()];
        }
        if self.record.embedding.len() != rows.d_in || rows.d_in == 0 {
            self.done.rejected += 1;
            return Ok(());
        }
        let entity = self.entity(message);
        let (rows, record) = (&mut self.rows, &self.record);
        let present = |text: &String| (!text.is_empty()).then(|| text.clone());
        rows.embedding.extend_from_slice(&record.embedding);
        rows.entity.push(entity);
        rows.timestamp.push(record.event_time_ms);
        rows.model_version.push(present(&record.model_version));
        rows.items.push(record.items.clone());
        rows.fields.iter_mut().zip(&record.fields).for_each(|(column, value)| column.push(present(value)));
        rows.topic.push(message.partition.topic.to_string());
        rows.partition.push(message.partition.partition);
        rows.offset.push(message.offset);
        Ok(())
    }

    fn settle(&mut self, positions: &BTreeMap<TopicPartition, i64>, must: bool) -> anyhow::Result<bool> {
        let n_rows = self.rows.timestamp.len();
        if n_rows == 0 {
            // Nothing is waiting: what was read was not to be kept.
            return Ok(must);
        }
        if must || n_rows >= self.limits.rows || self.opened.elapsed() >= OLDEST {
            self.write(positions)?;
            return Ok(true);
        }
        Ok(false)
    }
}

impl Rows {
    fn batch(self, names: &[String]) -> anyhow::Result<RecordBatch> {
        let width = i32::try_from(self.d_in)?;
        let value = Arc::new(Field::new("item", DataType::Float32, false));
        let embedding = FixedSizeListArray::try_new(value, width, Arc::new(Float32Array::from(self.embedding)), None)?;
        let mut items = ListBuilder::new(StringBuilder::new());
        for row in &self.items {
            row.iter().for_each(|item| items.values().append_value(item));
            items.append(true);
        }
        let mut columns: Vec<(String, ArrayRef)> = vec![
            ("embedding".into(), Arc::new(embedding)),
            ("entity".into(), Arc::new(StringArray::from(self.entity))),
            ("timestamp".into(), Arc::new(TimestampMillisecondArray::from(self.timestamp).with_timezone("UTC"))),
            ("model_version".into(), Arc::new(StringArray::from(self.model_version))),
            ("items".into(), Arc::new(items.finish())),
        ];
        for (name, column) in names.iter().zip(self.fields) {
            columns.push((name.clone(), Arc::new(StringArray::from(column))));
        }
        columns.push(("recsae.topic".into(), Arc::new(StringArray::from(self.topic))));
        columns.push(("recsae.partition".into(), Arc::new(Int32Array::from(self.partition))));
        columns.push(("recsae.offset".into(), Arc::new(Int64Array::from(self.offset))));
        Ok(RecordBatch::try_from_iter(columns)?)
    }
}

/// The files of a recording, oldest first.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| number_of(path).is_some());
    files.sort();
    Ok(files)
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok()
}

fn positions_in(path: &Path) -> anyhow::Result<Vec<(TopicPartition, i64)>> {
    let damaged = || format!("{} is no file of a recording: move it away", path.display());
    let reader = SerializedFileReader::new(File::open(path)?).with_context(damaged)?;
    let metadata = reader.metadata().file_metadata().key_value_metadata();
    let text = metadata.and_then(|all| all.iter().find(|entry| entry.key == POSITIONS)).and_then(|entry| entry.value.clone());
    let known: Vec<(String, i32, i64)> = serde_json::from_str(&text.with_context(damaged)?).with_context(damaged)?;
    ensure!(known.iter().all(|(_, _, offset)| *offset >= 0), damaged());
    Ok(known.into_iter().map(|(topic, partition, offset)| (TopicPartition { topic: topic.into(), partition }, offset)).collect())
}
