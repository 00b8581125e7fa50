//! Writes counted windows as a windows file: what `history export` gives to DuckDB, pandas and `backtest`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{Float64Builder, Int32Builder, StringBuilder, TimestampMillisecondBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::drift::closed::{ALL, ClosedWindow};
use crate::drift::counts::{BUCKET_EDGES, SegmentCounts};
use crate::drift::observed::Observed;
use crate::drift::settings::CountingUnit;
use crate::sae::latent::LatentId;
use crate::workshop::windows_columns::WindowsFileError;

/// Rows gathered before they are handed to Parquet.
const BATCH_ROWS: usize = 65_536;

/// Writes windows one after another; [`WindowsWriter::finish`] completes the file.
pub struct WindowsWriter {
    path: PathBuf,
    writer: ArrowWriter<File>,
    schema: SchemaRef,
    unit: CountingUnit,
    residual_from_bin: Option<usize>,
    families: BTreeMap<String, Vec<Vec<LatentId>>>,
    rows: Rows,
}

impl WindowsWriter {
    /// Creates the file. `residual_from_bin`: from the reference the windows were judged against;
    /// without one the file holds no `residual_outlier`.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path, unit: CountingUnit, residual_from_bin: Option<usize>) -> Result<Self, WindowsFileError> {
        let time = || DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let schema = Arc::new(Schema::new(vec![
            Field::new("window_start", time(), false),
            Field::new("window_end", time(), false),
            Field::new("model_version", DataType::Utf8, false),
            Field::new("segment", DataType::Utf8, false),
            Field::new("stream", DataType::Utf8, false),
            Field::new("bucket", DataType::Int32, true),
            Field::new("value", DataType::Float64, false),
        ]));
        let open = |source| WindowsFileError::Open { path: path.to_owned(), source };
        let file = File::create(path).map_err(open)?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).map_err(|source| write_error(path, source))?;
        Ok(Self { path: path.to_owned(), writer, schema, unit, residual_from_bin, families: BTreeMap::new(), rows: Rows::default() })
    }

    /// The same with the families that were judged, by model version: an absent row is a zero, and a family that was
    /// shown is none.
    #[must_use]
    pub fn with_families(self, families: BTreeMap<String, Vec<Vec<LatentId>>>) -> Self {
        Self { families, ..self }
    }

    /// Adds a window. Zeros are left out, but for the totals and pseudo-streams, whose presence says
    /// that they were counted.
    ///
    /// # Errors
    /// The disk is full.
    pub fn write(&mut self, window: &ClosedWindow) -> Result<(), WindowsFileError> {
        for (segment, counts) in &window.segments {
            self.rows.place =
                Place { start: window.start_ms, end: window.end_ms, model: window.model_version.clone(), segment: segment.clone() };
            self.write_segment(segment, counts);
        }
        if self.rows.n >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Writes what is left and the file's footer.
    ///
    /// # Errors
    /// The disk is full.
    pub fn finish(mut self) -> Result<(), WindowsFileError> {
        self.flush()?;
        self.writer.close().map(|_| ()).map_err(|source| write_error(&self.path, source))
    }

    fn write_segment(&mut self, segment: &str, counts: &SegmentCounts) {
        let observed = Observed::of(counts, self.unit, self.residual_from_bin, segment == ALL);
        let m = observed.latents.len().max(1);
        if self.unit == CountingUnit::Presence && !observed.by_bucket.is_empty() {
            for (edge, of) in BUCKET_EDGES.iter().zip(observed.by_bucket.chunks_exact(m)) {
                self.rows.latents(of, Some(*edge));
            }
        } else {
            self.rows.latents(&observed.latents, None);
        }
        for (family, members) in self.families.get(&self.rows.place.model).into_iter().flatten().enumerate() {
            let shown: f64 = members.iter().filter_map(|member| observed.latents.get(member.index())).sum();
            if shown > 0.0 {
                self.rows.push(&format!("family:{family}"), None, shown);
            }
        }
        for (edge, &n) in BUCKET_EDGES.iter().zip(&observed.entities).filter(|(_, n)| **n > 0.0) {
            self.rows.push("entities", Some(*edge), n);
        }
        self.rows.push("records", None, observed.records);
        self.rows.push("kish_exposure", None, observed.kish_exposure);
        if let Some(outliers) = observed.residual_outlier {
            self.rows.push("residual_outlier", None, outliers);
        }
        if let Some(dead) = observed.dead_record {
            self.rows.push("dead_record", None, dead);
        }
    }

    fn flush(&mut self) -> Result<(), WindowsFileError> {
        let columns = self.rows.take();
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(ParquetError::from)
            .and_then(|batch| self.writer.write(&batch))
            .map_err(|source| write_error(&self.path, source))
    }
}

fn write_error(path: &Path, source: ParquetError) -> WindowsFileError {
    WindowsFileError::Write { path: path.to_owned(), source }
}

#[derive(Default)]
struct Place {
    start: i64,
    end: i64,
    model: String,
    segment: String,
}

#[derive(Default)]
struct Rows {
    n: usize,
    place: Place,
    start: TimestampMillisecondBuilder,
    end: TimestampMillisecondBuilder,
    model: StringBuilder,
    segment: StringBuilder,
    stream: StringBuilder,
    bucket: Int32Builder,
    value: Float64Builder,
}

impl Rows {
    fn latents(&mut self, counts: &[f64], edge: Option<u32>) {
        for (latent, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            self.push(&format!("latent:{latent}"), edge, count);
        }
    }

    fn push(&mut self, stream: &str, edge: Option<u32>, value: f64) {
        self.n += 1;
        self.start.append_value(self.place.start);
        self.end.append_value(self.place.end);
        self.model.append_value(&self.place.model);
        self.segment.append_value(&self.place.segment);
        self.stream.append_value(stream);
        self.bucket.append_option(edge.and_then(|edge| i32::try_from(edge).ok()));
        self.value.append_value(value);
    }

    fn take(&mut self) -> Vec<ArrayRef> {
        self.n = 0;
        vec![
            Arc::new(self.start.finish().with_timezone("UTC")),
            Arc::new(self.end.finish().with_timezone("UTC")),
            Arc::new(self.model.finish()),
            Arc::new(self.segment.finish()),
            Arc::new(self.stream.finish()),
            Arc::new(self.bucket.finish()),
            Arc::new(self.value.finish()),
        ]
    }
}
