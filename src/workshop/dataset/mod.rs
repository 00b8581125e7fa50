//! Recorded embeddings with their fields, as files: what every offline step reads.
//!
//! Vectors come from `.npy` or from the column `embedding` of a Parquet file; the other fields of a
//! record are columns, row by row. A vector that is shared by many rows (one a user) is kept once and
//! looked up. A row that cannot be used is refused with its number in the file: leaving it out in
//! silence would make every count behind it wrong.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::sae::embedding::EmbeddingBatch;
use crate::workshop::dataset::table::{Table, key_of};
use crate::workshop::dataset::vectors::Vectors;

pub mod table;
pub mod vectors;

/// Columns that hold the entity, where none is named; the first that exists.
const ENTITY_COLUMNS: [&str; 4] = ["entity", "user_id", "user", "session_id"];

/// Which rows of which files.
#[derive(Clone, Debug, Default)]
pub struct DatasetRequest {
    /// `.npy [n, d]`, or `.parquet` with a column `embedding`.
    pub embeddings: PathBuf,
    /// The rows' other fields (`.parquet`), row by row.
    pub fields: Option<PathBuf>,
    /// More fields: file, and the column that both have.
    pub join: Vec<(PathBuf, String)>,
    /// Column by which a row's vector is looked up, where a vector is shared.
    pub by: Option<String>,
    /// Rows that are kept: column and the values it may have.
    pub filters: Vec<(String, Vec<String>)>,
}

/// The kept rows, all of one width and finite.
#[derive(Debug)]
pub struct Dataset {
    vectors: Vectors,
    table: Table,
    /// Row in the file, by kept row.
    source: Vec<usize>,
    /// Row of `vectors`, by kept row.
    vector: Vec<usize>,
}

impl Dataset {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, a column is missing, files disagree about the number of rows, no row is
    /// left, or a row's vector is missing, of another width, or not finite: then with its row.
    pub fn open(request: &DatasetRequest) -> anyhow::Result<Self> {
        let (vectors, table) = read(request)?;
        let source = kept(&table, &request.filters)?;
        let by = request.by.as_deref().map(|name| column_of(&table, name).with_context(|| format!("--by {name}"))).transpose()?;
        let mut vector = Vec::with_capacity(source.len());
        let mut checked = vec![false; vectors.n_rows()];
        for row in &source {
            let at = match by {
                None => *row,
                Some(keys) => vectors.position(&keys[*row]).with_context(|| format!("row {row}"))?,
            };
            if !std::mem::replace(&mut checked[at], true)
                && let Some(position) = vectors.row(at).iter().position(|value| !value.is_finite())
            {
                let found = vectors.row(at)[position];
                bail!("row {row} of {}: embedding value {position} is {found}, expected a finite number", request.embeddings.display());
            }
            vector.push(at);
        }
        Ok(Self { vectors, table, source, vector })
    }

    /// Kept rows, at least one.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.source.len()
    }

    /// Values in a vector.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.vectors.width()
    }

    /// Vector of a kept row. `row < n_rows()`.
    ///
    /// # Panics
    /// When `row` is out of range, as indexing a slice does.
    #[must_use]
    pub fn embedding(&self, row: usize) -> &[f32] {
        self.vectors.row(self.vector[row])
    }

    /// The row's number in the file.
    ///
    /// # Panics
    /// When `row` is out of range, as indexing a slice does.
    #[must_use]
    pub fn source_row(&self, row: usize) -> usize {
        self.source[row]
    }

    /// The fields of all rows of the file, kept or not.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// One field of the kept rows.
    ///
    /// # Errors
    /// There is no such field: the error names those that are there.
    pub fn column(&self, name: &str) -> anyhow::Result<Column<'_>> {
        Ok(Column { values: column_of(&self.table, name)?, source: &self.source })
    }

    /// The column of the entity under one of its usual names.
    #[must_use]
    pub fn usual_entity(&self) -> Option<(&'static str, Column<'_>)> {
        ENTITY_COLUMNS.iter().find_map(|name| Some((*name, self.column(name).ok()?)))
    }

    /// Fills a batch with the vectors of the given kept rows.
    ///
    /// # Errors
    /// The batch reads another width.
    pub fn fill(&self, rows: std::ops::Range<usize>, batch: &mut EmbeddingBatch) -> anyhow::Result<()> {
        batch.clear();
        for row in rows {
            batch.push(self.embedding(row)).with_context(|| format!("row {}", self.source[row]))?;
        }
        Ok(())
    }
}

/// A field of the kept rows.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    values: &'a [Value],
    source: &'a [usize],
}

impl<'a> Column<'a> {
    /// Value of a kept row.
    ///
    /// # Panics
    /// When `row` is out of range, as indexing a slice does.
    #[must_use]
    pub fn value(&self, row: usize) -> &'a Value {
        &self.values[self.source[row]]
    }

    /// The value as a key: text, or a whole number's digits.
    #[must_use]
    pub fn key(&self, row: usize) -> Option<String> {
        key_of(self.value(row))
    }

    /// Keys of all kept rows.
    ///
    /// # Errors
    /// A row has none: the error names it.
    pub fn keys(&self) -> anyhow::Result<Vec<String>> {
        let key = |row: usize| {
            self.key(row).with_context(|| format!("row {}: expected text or a number, found {}", self.source[row], self.value(row)))
        };
        (0..self.source.len()).map(key).collect()
    }
}

fn read(request: &DatasetRequest) -> anyhow::Result<(Vectors, Table)> {
    let (vectors, own) = Vectors::with_fields(&request.embeddings, request.by.as_deref())?;
    let mut table = match &request.fields {
        None => {
            ensure!(request.by.is_none(), "--by looks vectors up for the rows of --fields: give both");
            own
        }
        Some(fields) => {
            let mut table = Table::read(fields)?;
            if request.by.is_none() {
                ensure!(
                    table.n_rows() == vectors.n_rows(),
                    "--fields has {} rows, --embeddings {}: one a record is expected (or --by COLUMN)",
                    table.n_rows(),
                    vectors.n_rows()
                );
                table.append(own)?;
            }
            table
        }
    };
    for (path, column) in &request.join {
        table.join(Table::read(path)?, column).with_context(|| format!("--join {}:{column}", path.display()))?;
    }
    Ok((vectors, table))
}

/// Rows that every filter lets through.
fn kept(table: &Table, filters: &[(String, Vec<String>)]) -> anyhow::Result<Vec<usize>> {
    let mut rows: Vec<usize> = (0..table.n_rows()).collect();
    for (name, values) in filters {
        let column = column_of(table, name).with_context(|| format!("--where {name}"))?;
        rows.retain(|row| key_of(&column[*row]).is_some_and(|key| values.contains(&key)));
    }
    ensure!(!rows.is_empty(), "no row is left of {}: see --where", table.n_rows());
    Ok(rows)
}

fn column_of<'a>(table: &'a Table, name: &str) -> anyhow::Result<&'a [Value]> {
    table.column(name).with_context(|| format!("no column {name:?}; there are {}", table.names().join(", ")))
}

/// Reads a matrix of item vectors and the like: `.npy [n, d]` of f32 or f64, every value finite.
///
/// # Errors
/// The file is no such matrix, or row and position of a value that is not finite.
pub fn matrix(path: &Path) -> anyhow::Result<ndarray::Array2<f32>> {
    let matrix = vectors::matrix(path)?;
    if let Some(((row, position), value)) = matrix.indexed_iter().find(|(_, value)| !value.is_finite()) {
        bail!("row {row} of {}: value {position} is {value}, expected a finite number", path.display());
    }
    Ok(matrix)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    fn npy(folder: &Path, matrix: &Array2<f32>) -> DatasetRequest {
        let path = folder.join("vectors.npy");
        ndarray_npy::write_npy(&path, matrix).unwrap();
        DatasetRequest { embeddings: path, ..DatasetRequest::default() }
    }

    fn parquet(folder: &Path, names: &[&str], columns: Vec<arrow_array::ArrayRef>) -> PathBuf {
        let path = folder.join("fields.parquet");
        let batch = arrow_array::RecordBatch::try_from_iter(names.iter().copied().zip(columns)).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        path
    }

    #[test]
    fn a_row_that_is_not_finite_is_refused_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let request = npy(folder.path(), &array![[1.0, 2.0], [3.0, 4.0], [5.0, f32::NAN]]);
        let error = format!("{:#}", Dataset::open(&request).unwrap_err());
        assert!(error.contains("row 2 of") && error.contains("value 1 is NaN"), "{error}");
    }

    #[test]
    fn filters_keep_rows_and_their_numbers_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut request = npy(folder.path(), &array![[1.0], [2.0], [3.0], [4.0]]);
        let split = arrow_array::StringArray::from(vec!["train", "dev", "train", "test"]);
        request.fields = Some(parquet(folder.path(), &["split"], vec![std::sync::Arc::new(split)]));
        request.filters = vec![("split".into(), vec!["dev".into(), "test".into()])];
        let dataset = Dataset::open(&request).unwrap();
        assert_eq!((dataset.n_rows(), dataset.source_row(1), dataset.embedding(1)), (2, 3, &[4.0][..]));
        assert_eq!(dataset.column("split").unwrap().keys().unwrap(), ["dev", "test"]);
        assert!(format!("{:#}", dataset.column("surface").unwrap_err()).contains("there are split"));
        request.filters[0].1 = vec!["none".into()];
        assert!(format!("{:#}", Dataset::open(&request).unwrap_err()).contains("no row is left of 4"));
    }

    #[test]
    fn static_vectors_are_looked_up_and_a_missing_one_names_the_row() {
        let folder = tempfile::tempdir().unwrap();
        let mut request = npy(folder.path(), &array![[f32::NAN], [10.0], [20.0]]);
        let user = arrow_array::Int32Array::from(vec![2, 1, 2]);
        request.fields = Some(parquet(folder.path(), &["user"], vec![std::sync::Arc::new(user)]));
        request.by = Some("user".into());
        // The vector nobody uses (row 0 is padding) may be anything.
        let dataset = Dataset::open(&request).unwrap();
        assert_eq!([dataset.embedding(0), dataset.embedding(1), dataset.embedding(2)], [[20.0], [10.0], [20.0]]);
        let user = arrow_array::Int32Array::from(vec![2, 7]);
        request.fields = Some(parquet(folder.path(), &["user"], vec![std::sync::Arc::new(user)]));
        assert!(format!("{:#}", Dataset::open(&request).unwrap_err()).contains("row 1: no vector for 7"));
    }

    #[test]
    fn a_matrix_is_read_in_either_order_and_a_size_that_is_only_claimed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let rows = array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
        let path = folder.path().join("m.npy");
        // Stored by columns, as f64, and both.
        let by_columns = rows.t().as_standard_layout().into_owned().reversed_axes();
        ndarray_npy::write_npy(&path, &by_columns).unwrap();
        let read = matrix(&path).unwrap();
        assert!(read == rows && read.row(1).as_slice() == Some(&[4.0, 5.0, 6.0]));
        ndarray_npy::write_npy(&path, &by_columns.mapv(f64::from)).unwrap();
        assert!(matrix(&path).unwrap() == rows && matrix(&path).unwrap().is_standard_layout());
        let whole = std::fs::read(&path).unwrap();
        let claim = "{'descr': '<f8', 'fortran_order': False, 'shape': (900000000000, 3), }";
        // Magic, version and length are 10 bytes; the header ends in a line break at a multiple of 64.
        let claims = [b"\x93NUMPY\x01\x00\x76\x00".as_slice(), format!("{claim:<117}\n").as_bytes(), &[0; 48]].concat();
        std::fs::write(&path, claims).unwrap();
        assert!(format!("{:#}", matrix(&path).unwrap_err()).contains("expected a matrix of f32 or f64"));
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(format!("{:#}", matrix(&path).unwrap_err()).contains("expected a matrix of f32 or f64"));
    }

    #[test]
    fn files_of_different_lengths_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut request = npy(folder.path(), &array![[1.0], [2.0]]);
        request.fields = Some(parquet(folder.path(), &["user"], vec![std::sync::Arc::new(arrow_array::Int32Array::from(vec![2]))]));
        assert!(format!("{:#}", Dataset::open(&request).unwrap_err()).contains("--fields has 1 rows, --embeddings 2"));
    }
}
