//! The columns of a windows file: typed access that names row and column of what is wrong.

use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, TimeUnit};

/// What is wrong with a windows file.
#[derive(Debug, thiserror::Error)]
pub enum WindowsFileError {
    /// The file cannot be opened.
    #[error("cannot open the windows file {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// It is no Parquet file, or a damaged one.
    #[error("cannot read the windows file {} as Parquet", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Parquet's words.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A page cannot be decoded.
    #[error("cannot read the windows file {} behind row {row}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Rows read before, from 0.
        row: usize,
        /// Arrow's words.
        #[source]
        source: ArrowError,
    },
    /// A column is missing or has another type.
    #[error("windows file {}, column `{column}`: expected {expected}, found {found}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// In words.
        expected: &'static str,
        /// In words.
        found: String,
    },
    /// A value is wrong.
    #[error("windows file {}, row {row}, column `{column}`: expected {expected}, found {found}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Row of the file, from 0.
        row: usize,
        /// The column.
        column: &'static str,
        /// In words.
        expected: String,
        /// In words.
        found: String,
    },
    /// The file holds no row.
    #[error("windows file {}: expected at least one row, found none", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write the windows file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Parquet's words.
        #[source]
        source: parquet::errors::ParquetError,
    },
}

impl WindowsFileError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Parquet { .. } => "parquet",
            Self::Decode { .. } => "decode",
            Self::Column { .. } => "column",
            Self::Value { .. } => "value",
            Self::Empty { .. } => "empty",
            Self::Write { .. } => "write",
        }
    }
}

/// One batch's columns.
pub(super) struct Columns<'a> {
    path: &'a Path,
    first_row: usize,
    start: ArrayRef,
    end: ArrayRef,
    model_version: ArrayRef,
    segment: ArrayRef,
    stream: ArrayRef,
    bucket: ArrayRef,
    value: ArrayRef,
}

/// What says to which window a row belongs.
pub(super) const KEYS: [&str; 2] = ["window_start", "model_version"];
const TIME: &str = "a timestamp";
const TEXT: &str = "utf8";
const INTEGER: &str = "int32 or int64";
const NUMBER: &str = "float64 or an integer";
/// Counts beyond are no counts: a float tells them no longer from their neighbours.
const MAX_VALUE: f64 = 9_007_199_254_740_992.0;

impl<'a> Columns<'a> {
    /// Finds the columns and checks their types. `first_row`: the batch's first row in the file.
    pub(super) fn of(path: &'a Path, first_row: usize, batch: &RecordBatch) -> Result<Self, WindowsFileError> {
        let column = |name, expected, fits| find(path, batch, name, expected, fits);
        Ok(Self {
            path,
            first_row,
            start: column(KEYS[0], TIME, time)?,
            end: column("window_end", TIME, time)?,
            model_version: column(KEYS[1], TEXT, text)?,
            segment: column("segment", TEXT, text)?,
            stream: column("stream", TEXT, text)?,
            bucket: column("bucket", INTEGER, |found| integer(found) || float(found) || *found == DataType::Null)?,
            value: column("value", NUMBER, |found| integer(found) || float(found))?,
        })
    }

    /// A batch that was read with [`KEYS`] alone: only these may be asked for.
    pub(super) fn keys_of(path: &'a Path, first_row: usize, batch: &RecordBatch) -> Result<Self, WindowsFileError> {
        let nothing: ArrayRef = arrow_array::new_empty_array(&DataType::Null);
        let start = find(path, batch, KEYS[0], TIME, time)?;
        let model_version = find(path, batch, KEYS[1], TEXT, text)?;
        let [end, segment, stream, bucket, value] = std::array::from_fn(|_| nothing.clone());
        Ok(Self { path, first_row, start, end, model_version, segment, stream, bucket, value })
    }

    pub(super) fn start_ms(&self, i: usize) -> Result<i64, WindowsFileError> {
        self.time("window_start", &self.start, i)
    }

    pub(super) fn end_ms(&self, i: usize) -> Result<i64, WindowsFileError> {
        self.time("window_end", &self.end, i)
    }

    pub(super) fn model_version(&self, i: usize) -> Result<&str, WindowsFileError> {
        self.text("model_version", &self.model_version, i)
    }

    pub(super) fn segment(&self, i: usize) -> Result<&str, WindowsFileError> {
        self.text("segment", &self.segment, i)
    }

    pub(super) fn stream(&self, i: usize) -> Result<&str, WindowsFileError> {
        self.text("stream", &self.stream, i)
    }

    /// The bucket's lower edge; `None` where there is none. Other programs have no integers that may be null: pandas writes
    /// floats, with NaN for none.
    pub(super) fn bucket(&self, i: usize) -> Result<Option<i64>, WindowsFileError> {
        if self.bucket.is_null(i) {
            return Ok(None);
        }
        let float = match self.bucket.data_type() {
            DataType::Null => return Ok(None),
            DataType::Int32 => return Ok(Some(i64::from(self.bucket.as_primitive::<Int32Type>().value(i)))),
            DataType::Int64 => return Ok(Some(self.bucket.as_primitive::<Int64Type>().value(i))),
            DataType::Float32 => f64::from(self.bucket.as_primitive::<Float32Type>().value(i)),
            _ => self.bucket.as_primitive::<Float64Type>().value(i),
        };
        match float {
            none if none.is_nan() => Ok(None),
            // Every edge is below 100.
            #[expect(clippy::cast_possible_truncation, reason = "whole, and small")]
            edge if edge.fract() == 0.0 && edge.abs() < 1e6 => Ok(Some(edge as i64)),
            other => Err(self.wrong(i, "bucket", "null or the lower edge of a session-length bucket", other.to_string())),
        }
    }

    /// A finite number >= 0, at most 2^53.
    pub(super) fn value(&self, i: usize) -> Result<f64, WindowsFileError> {
        let expected = "a finite number >= 0, at most 2^53";
        if self.value.is_null(i) {
            return Err(self.wrong(i, "value", expected, "null"));
        }
        let value = match self.value.data_type() {
            DataType::Float64 => self.value.as_primitive::<Float64Type>().value(i),
            DataType::Float32 => f64::from(self.value.as_primitive::<Float32Type>().value(i)),
            DataType::Int32 => f64::from(self.value.as_primitive::<Int32Type>().value(i)),
            _ => self.value.as_primitive::<Int64Type>().value(i) as f64,
        };
        if (0.0..=MAX_VALUE).contains(&value) { Ok(value) } else { Err(self.wrong(i, "value", expected, value.to_string())) }
    }

    /// Row of the file, from 0.
    pub(super) fn row(&self, i: usize) -> usize {
        self.first_row + i
    }

    /// An error about row `i` of the batch.
    pub(super) fn wrong(&self, i: usize, column: &'static str, expected: impl Into<String>, found: impl Into<String>) -> WindowsFileError {
        WindowsFileError::Value {
            path: self.path.to_owned(),
            row: self.first_row + i,
            column,
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn text<'b>(&self, name: &'static str, array: &'b ArrayRef, i: usize) -> Result<&'b str, WindowsFileError> {
        if array.is_null(i) {
            return Err(self.wrong(i, name, "a text", "null"));
        }
        Ok(array.as_string::<i32>().value(i))
    }

    fn time(&self, name: &'static str, array: &ArrayRef, i: usize) -> Result<i64, WindowsFileError> {
        if array.is_null(i) {
            return Err(self.wrong(i, name, "an instant", "null"));
        }
        let (value, per_ms) = match array.data_type() {
            DataType::Timestamp(TimeUnit::Second, _) => {
                return Ok(array.as_primitive::<TimestampSecondType>().value(i).saturating_mul(1000));
            }
            DataType::Timestamp(TimeUnit::Millisecond, _) => (array.as_primitive::<TimestampMillisecondType>().value(i), 1),
            DataType::Timestamp(TimeUnit::Microsecond, _) => (array.as_primitive::<TimestampMicrosecondType>().value(i), 1000),
            _ => (array.as_primitive::<TimestampNanosecondType>().value(i), 1_000_000),
        };
        Ok(value.div_euclid(per_ms))
    }
}

fn find(
    path: &Path,
    batch: &RecordBatch,
    column: &'static str,
    expected: &'static str,
    fits: fn(&DataType) -> bool,
) -> Result<ArrayRef, WindowsFileError> {
    let wrong = |found: String| WindowsFileError::Column { path: path.to_owned(), column, expected, found };
    let array = batch.column_by_name(column).ok_or_else(|| wrong("no such column".to_owned()))?;
    if fits(array.data_type()) { Ok(array.clone()) } else { Err(wrong(array.data_type().to_string())) }
}

fn time(found: &DataType) -> bool {
    matches!(found, DataType::Timestamp(_, _))
}

fn text(found: &DataType) -> bool {
    *found == DataType::Utf8
}

fn integer(found: &DataType) -> bool {
    matches!(found, DataType::Int32 | DataType::Int64)
}

fn float(found: &DataType) -> bool {
    matches!(found, DataType::Float32 | DataType::Float64)
}
