//! Recorded vectors: one flat buffer of f32, by row or by a key.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_schema::DataType;
use ndarray::{Array2, ArrayView2};
use ndarray_npy::{ReadNpyExt, ViewNpyError, ViewNpyExt};
use serde_json::Value;

use crate::workshop::dataset::table::{Table, key_of};

/// Column of the vector in a Parquet file.
const EMBEDDING: &str = "embedding";

/// Vectors `[n, d]`.
#[derive(Debug)]
pub(crate) struct Vectors {
    values: Vec<f32>,
    width: usize,
    /// Row by key, where a Parquet file is looked up by a column; .npy rows are their own keys.
    rows: Option<HashMap<String, usize>>,
}

impl Vectors {
    /// Reads the vectors and the fields that lie beside them (none in .npy).
    pub(crate) fn with_fields(path: &Path, by: Option<&str>) -> anyhow::Result<(Self, Table)> {
        match path.extension().and_then(|extension| extension.to_str()).or_else(|| path.is_dir().then_some("parquet")) {
            Some("npy") => {
                let matrix = matrix(path)?;
                let (n_rows, width) = matrix.dim();
                ensure!(width > 0, "{}: vectors of no values", path.display());
                Ok((Self { values: matrix.iter().copied().collect(), width, rows: None }, Table::new(n_rows)))
            }
            Some("parquet") => {
                let (mut values, mut width) = (Vec::new(), None);
                let table = Table::read_except(path, Some(EMBEDDING), |column| append(column, &mut values, &mut width))?;
                let width = width.with_context(|| format!("{}: no column {EMBEDDING:?}", path.display()))?;
                let rows = match by {
                    None => None,
                    Some(by) => {
                        let keys = table.column(by).with_context(|| format!("{}: no column {by:?} for --by", path.display()))?;
                        Some(keys.iter().enumerate().filter_map(|(row, value)| Some((key_of(value)?, row))).collect())
                    }
                };
                Ok((Self { values, width, rows }, table))
            }
            _ => bail!("{}: expected .npy, .parquet or the folder of a recording", path.display()),
        }
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.values.len() / self.width
    }

    /// One vector; `row < n_rows()`.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// Values in a vector.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Row of the vector of a key.
    pub(crate) fn position(&self, key: &Value) -> anyhow::Result<usize> {
        let row = match &self.rows {
            Some(rows) => key_of(key).and_then(|key| rows.get(&key).copied()),
            None => key.as_u64().and_then(|row| usize::try_from(row).ok()).filter(|row| *row < self.n_rows()),
        };
        row.with_context(|| format!("no vector for {key}; there are {}", self.n_rows()))
    }
}

/// A matrix of f32 or f64 in rows, whichever order the file has. The file's bytes are looked at before anything is made of
/// the size that its header claims: of a file that was cut off, or lies, more may be claimed than there is memory.
#[expect(clippy::cast_possible_truncation, reason = "records carry f32")]
pub(crate) fn matrix(path: &Path) -> anyhow::Result<Array2<f32>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let by_rows = |matrix: Array2<f32>| if matrix.is_standard_layout() { matrix } else { matrix.as_standard_layout().into_owned() };
    let expected = || format!("{}: expected a matrix of f32 or f64", path.display());
    // No view reads the other byte order, or data that lies at an odd address.
    match ArrayView2::<f32>::view_npy(&bytes) {
        Ok(view) => Ok(by_rows(view.to_owned())),
        Err(ViewNpyError::NonNativeEndian | ViewNpyError::MisalignedData) => {
            Array2::<f32>::read_npy(bytes.as_slice()).map(by_rows).with_context(expected)
        }
        Err(ViewNpyError::WrongDescriptor(_)) => match ArrayView2::<f64>::view_npy(&bytes) {
            Ok(view) => Ok(by_rows(view.mapv(|value| value as f32))),
            Err(ViewNpyError::NonNativeEndian | ViewNpyError::MisalignedData) => {
                Array2::<f64>::read_npy(bytes.as_slice()).map(|matrix| by_rows(matrix.mapv(|value| value as f32))).with_context(expected)
            }
            Err(error) => Err(error).with_context(expected),
        },
        Err(error) => Err(error).with_context(expected),
    }
}

/// Appends one batch's vectors, all of one width.
fn append(column: &dyn Array, values: &mut Vec<f32>, width: &mut Option<usize>) -> anyhow::Result<()> {
    for row in 0..column.len() {
        let number = values.len() / width.unwrap_or(1).max(1);
        ensure!(!column.is_null(row), "row {number}: no {EMBEDDING}");
        let vector = match column.data_type() {
            DataType::List(_) => column.as_list::<i32>().value(row),
            DataType::LargeList(_) => column.as_list::<i64>().value(row),
            DataType::FixedSizeList(_, _) => column.as_fixed_size_list().value(row),
            other => bail!("column {EMBEDDING:?}: expected a list of numbers, found {other}"),
        };
        let expected = *width.get_or_insert(vector.len());
        ensure!(
            expected > 0 && vector.len() == expected,
            "row {number}, column {EMBEDDING:?}: expected a vector of {expected} values as in the rows before, found {}",
            vector.len()
        );
        ensure!(vector.null_count() == 0, "row {number}, column {EMBEDDING:?}: expected numbers, found null");
        match vector.data_type() {
            DataType::Float32 => values.extend(vector.as_primitive::<Float32Type>().values()),
            #[expect(clippy::cast_possible_truncation, reason = "records carry f32")]
            DataType::Float64 => values.extend(vector.as_primitive::<Float64Type>().values().iter().map(|value| *value as f32)),
            other => bail!("column {EMBEDDING:?}: expected f32 or f64, found {other}"),
        }
    }
    Ok(())
}
