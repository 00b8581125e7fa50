//! A Parquet file's columns as JSON values: what a record's fields are written from.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::decode::timestamp::{from_number, from_text};

/// Named columns of one length.
#[derive(Debug, Default)]
pub struct Table {
    names: Vec<String>,
    columns: Vec<Vec<Value>>,
    n_rows: usize,
}

impl Table {
    pub(crate) fn new(n_rows: usize) -> Self {
        Self { n_rows, ..Self::default() }
    }

    /// Named columns of one length.
    ///
    /// # Errors
    /// They are not of one length.
    pub fn of(columns: Vec<(String, Vec<Value>)>) -> anyhow::Result<Self> {
        let n_rows = columns.first().map_or(0, |(_, column)| column.len());
        ensure!(columns.iter().all(|(_, column)| column.len() == n_rows), "columns of a table are of one length");
        let (names, columns) = columns.into_iter().unzip();
        Ok(Self { names, columns, n_rows })
    }

    /// All columns of a Parquet file.
    ///
    /// # Errors
    /// It is no Parquet file, or a column is of a type that has no place in a record.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        Self::read_except(path, None, |_| Ok(()))
    }

    /// All columns but one, which is handed over batch by batch.
    pub(crate) fn read_except(
        path: &Path,
        except: Option<&str>,
        mut take: impl FnMut(&dyn Array) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let mut table = Self::default();
        for file in parquet_files(path)? {
            table.append_file(&file, except, &mut take)?;
        }
        Ok(table)
    }

    fn append_file(
        &mut self,
        path: &Path,
        except: Option<&str>,
        take: &mut impl FnMut(&dyn Array) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(ParquetRecordBatchReaderBuilder::build);
        for batch in reader.with_context(|| format!("{} is no Parquet file", path.display()))? {
            let batch: RecordBatch = batch.with_context(|| path.display().to_string())?;
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                if Some(field.name().as_str()) == except {
                    take(column)?;
                    continue;
                }
                let index = self.index(field.name()).unwrap_or_else(|| {
                    self.names.push(field.name().clone());
                    // A column that earlier files do not have is null there.
                    self.columns.push(vec![Value::Null; self.n_rows]);
                    self.columns.len() - 1
                });
                values(column, &mut self.columns[index]).with_context(|| format!("column {:?} of {}", field.name(), path.display()))?;
            }
            self.n_rows += batch.num_rows();
            let n_rows = self.n_rows;
            self.columns.iter_mut().for_each(|column| column.resize(n_rows, Value::Null));
        }
        Ok(())
    }

    /// Rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Names of the columns.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A column, or none of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&[Value]> {
        self.index(name).map(|index| self.columns[index].as_slice())
    }

    /// Adds the columns of a table of as many rows.
    pub(crate) fn append(&mut self, other: Self) -> anyhow::Result<()> {
        for (name, column) in other.names.into_iter().zip(other.columns) {
            ensure!(self.index(&name).is_none(), "two files have a column {name:?}");
            self.names.push(name);
            self.columns.push(column);
        }
        Ok(())
    }

    /// Adds the columns of the row of `other` whose `by` is equal; null where there is none. Columns
    /// that are here already stay as they are.
    pub(crate) fn join(&mut self, other: Self, by: &str) -> anyhow::Result<()> {
        let theirs = other.column(by).with_context(|| format!("no column {by:?} in the joined file"))?;
        let rows: HashMap<String, usize> = theirs.iter().enumerate().filter_map(|(row, value)| Some((key_of(value)?, row))).collect();
        let ours = self.column(by).with_context(|| format!("no column {by:?} in --fields"))?;
        let matches: Vec<Option<usize>> = ours.iter().map(|value| rows.get(&key_of(value)?).copied()).collect();
        for (name, column) in other.names.iter().zip(&other.columns) {
            if self.index(name).is_none() {
                self.names.push(name.clone());
                self.columns.push(matches.iter().map(|row| row.map_or(Value::Null, |row| column[row].clone())).collect());
            }
        }
        Ok(())
    }

    /// All columns with some renamed to what a record calls them.
    pub(crate) fn renamed<'a>(&'a self, renames: &[(&str, &'a str)]) -> anyhow::Result<Vec<(&'a str, &'a [Value])>> {
        for (from, to) in renames {
            ensure!(from == to || self.index(from).is_some(), "no column {from:?} for --{to}; there are {}", self.names.join(", "));
            ensure!(from == to || self.index(to).is_none(), "column {from:?} is to become {to:?}, but there is such a column already");
        }
        let name = |own: &'a str| renames.iter().find(|(from, _)| *from == own).map_or(own, |(_, to)| *to);
        Ok(self.names.iter().zip(&self.columns).map(|(own, column)| (name(own), column.as_slice())).collect())
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }
}

/// The file, or all `.parquet` files of a folder by name: a recording.
fn parquet_files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "parquet"));
    files.sort();
    ensure!(!files.is_empty(), "{}: no .parquet file in this folder", path.display());
    Ok(files)
}

/// A value as a key, as `recsae` reads an entity: text, or a whole number's digits.
#[must_use]
pub fn key_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A value as an event time, ms, as `recsae` reads it.
pub(crate) fn event_time(value: &Value) -> anyhow::Result<i64> {
    let read = match value {
        Value::Number(number) => from_number(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => from_text(text),
        other => Err(format!("expected a time, found {other}")),
    };
    read.map_err(anyhow::Error::msg)
}

macro_rules! primitive {
    ($array:expr, $type:ty, $into:expr) => {
        $into.extend($array.as_primitive::<$type>().iter().map(|value| value.map_or(Value::Null, Value::from)))
    };
}

fn values(array: &dyn Array, into: &mut Vec<Value>) -> anyhow::Result<()> {
    match array.data_type() {
        DataType::Int8 => primitive!(array, Int8Type, into),
        DataType::Int16 => primitive!(array, Int16Type, into),
        DataType::Int32 => primitive!(array, Int32Type, into),
        DataType::Int64 => primitive!(array, Int64Type, into),
        DataType::UInt8 => primitive!(array, UInt8Type, into),
        DataType::UInt16 => primitive!(array, UInt16Type, into),
        DataType::UInt32 => primitive!(array, UInt32Type, into),
        DataType::UInt64 => primitive!(array, UInt64Type, into),
        DataType::Float32 => primitive!(array, Float32Type, into),
        DataType::Float64 => primitive!(array, Float64Type, into),
        DataType::Boolean => into.extend(array.as_boolean().iter().map(|value| value.map_or(Value::Null, Value::from))),
        DataType::Utf8 => into.extend(array.as_string::<i32>().iter().map(|value| value.map_or(Value::Null, Value::from))),
        DataType::LargeUtf8 => into.extend(array.as_string::<i64>().iter().map(|value| value.map_or(Value::Null, Value::from))),
        DataType::Timestamp(unit, _) => timestamps(array, unit, into),
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let mut words = Vec::new();
            values(dictionary.values(), &mut words)?;
            let keys = dictionary.normalized_keys();
            into.extend((0..array.len()).map(|row| if array.is_null(row) { Value::Null } else { words[keys[row]].clone() }));
        }
        DataType::List(_) => lists(array, |row| array.as_list::<i32>().value(row), into)?,
        DataType::LargeList(_) => lists(array, |row| array.as_list::<i64>().value(row), into)?,
        DataType::FixedSizeList(_, _) => lists(array, |row| array.as_fixed_size_list().value(row), into)?,
        DataType::Null => into.extend(std::iter::repeat_n(Value::Null, array.len())),
        other => bail!("values of type {other} have no place in a record: leave the column out"),
    }
    Ok(())
}

fn timestamps(array: &dyn Array, unit: &TimeUnit, into: &mut Vec<Value>) {
    match unit {
        TimeUnit::Second => {
            into.extend(array.as_primitive::<TimestampSecondType>().iter().map(|v| v.map_or(Value::Null, |v| Value::from(v * 1000))));
        }
        TimeUnit::Millisecond => primitive!(array, TimestampMillisecondType, into),
        TimeUnit::Microsecond => into.extend(
            array.as_primitive::<TimestampMicrosecondType>().iter().map(|v| v.map_or(Value::Null, |v| Value::from(v.div_euclid(1000)))),
        ),
        TimeUnit::Nanosecond => into.extend(
            array.as_primitive::<TimestampNanosecondType>().iter().map(|v| v.map_or(Value::Null, |v| Value::from(v.div_euclid(1_000_000)))),
        ),
    }
}

fn lists(array: &dyn Array, row_of: impl Fn(usize) -> arrow_array::ArrayRef, into: &mut Vec<Value>) -> anyhow::Result<()> {
    for row in 0..array.len() {
        if array.is_null(row) {
            into.push(Value::Null);
            continue;
        }
        let mut list = Vec::new();
        values(&row_of(row), &mut list)?;
        into.push(Value::Array(list));
    }
    Ok(())
}
