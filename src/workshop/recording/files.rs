//! The files of a recording, and what each says of itself.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use arrow_schema::DataType;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use crate::record::TopicPartition;
use crate::workshop::follow::Positions;

/// Key of the positions in a file's metadata.
const POSITIONS: &str = "recsae.positions";

/// The files of a recording, oldest first.
///
/// # Errors
/// The folder cannot be read.
pub fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| number_of(path).is_some());
    files.sort();
    Ok(files)
}

/// A file's number; `None` for other files.
#[must_use]
pub fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok()
}

/// Writes file `number` beside its place and moves it there whole.
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Path, number: u64, batch: &arrow_array::RecordBatch, positions: &Positions) -> anyhow::Result<()> {
    let known: Vec<(&str, i32, i64)> = positions.iter().map(|(at, offset)| (&*at.topic, at.partition, *offset)).collect();
    let metadata = vec![KeyValue::new(POSITIONS.to_owned(), serde_json::to_string(&known)?)];
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_key_value_metadata(Some(metadata))
        .build();
    let path = folder.join(format!("part-{number:08}.parquet"));
    let staging = path.with_extension("tmp");
    let file = File::create(&staging).with_context(|| staging.display().to_string())?;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties))?;
    writer.write(batch)?;
    writer.into_inner()?.sync_all()?;
    std::fs::rename(&staging, &path).with_context(|| path.display().to_string())?;
    // Else a crash of the machine could take the file's name back after its positions were committed.
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| folder.display().to_string())
}

/// Width of a file's vectors, and the next offsets behind its records.
///
/// # Errors
/// It is no file of a recording.
pub fn read(path: &Path) -> anyhow::Result<(usize, Positions)> {
    let damaged = || format!("{} is no file of a recording: move it away", path.display());
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).with_context(damaged)?;
    let width = match builder.schema().field_with_name("embedding").with_context(damaged)?.data_type() {
        DataType::FixedSizeList(_, width) => usize::try_from(*width)?,
        other => anyhow::bail!("{}: column \"embedding\" is a {other}", damaged()),
    };
    let metadata = builder.metadata().file_metadata().key_value_metadata();
    let text = metadata.and_then(|all| all.iter().find(|entry| entry.key == POSITIONS)).and_then(|entry| entry.value.clone());
    let known: Vec<(String, i32, i64)> = serde_json::from_str(&text.with_context(damaged)?).with_context(damaged)?;
    ensure!(known.iter().all(|(_, _, offset)| *offset >= 0), damaged());
    let positions = known.into_iter().map(|(topic, partition, offset)| (TopicPartition { topic: topic.into(), partition }, offset));
    Ok((width, positions.collect()))
}
