//! Reading a catalogue of concepts: our own `concepts.json`, or a Parquet table with one row a latent.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::bundle::error::BundleError;
use crate::bundle::manifest::{CONCEPTS_FILE, MANIFEST_FILE, Manifest, sha256};
use crate::sae::concept::{Concept, ConceptCatalog};
use crate::sae::latent::LatentId;

/// Largest catalogue read.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a catalogue by its extension; latents must lie in a dictionary of `d_sae`.
///
/// # Errors
/// The file is neither, lacks a column, or names a latent outside the dictionary or twice.
pub fn read(path: &Path, d_sae: usize) -> Result<ConceptCatalog, BundleError> {
    let catalogue = match path.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => from_parquet(path)?,
        Some("json") => {
            let bytes = std::fs::read(path).map_err(BundleError::io(path))?;
            from_json(path, &bytes, d_sae)?
        }
        _ => return Err(BundleError::part(path, "expected a catalogue as .json or .parquet")),
    };
    check(path, &catalogue, d_sae)?;
    Ok(catalogue)
}

/// Parses `concepts.json`; `path` is for messages.
pub(crate) fn from_json(path: &Path, bytes: &[u8], d_sae: usize) -> Result<ConceptCatalog, BundleError> {
    let catalogue = serde_json::from_slice(bytes).map_err(|error| BundleError::part(path, format!("not a catalogue: {error}")))?;
    check(path, &catalogue, d_sae)?;
    Ok(catalogue)
}

/// Writes another catalogue into the bundle in `dir`: `concepts.json`, then the manifest with its hash. The
/// fingerprint, and with it references and windows, stay as they are.
///
/// # Errors
/// The catalogue names another SAE or latents outside it, or the folder cannot be written. A crash between
/// the two files leaves a bundle that `bundle verify` refuses; writing again mends it.
pub fn replace(dir: &Path, catalogue: &ConceptCatalog) -> Result<(), BundleError> {
    let mut manifest = Manifest::read(dir)?;
    let path = dir.join(CONCEPTS_FILE);
    if catalogue.fingerprint != manifest.fingerprint {
        let message =
            format!("it names SAE {}, the bundle is {}: its labels belong to another SAE", catalogue.fingerprint, manifest.fingerprint);
        return Err(BundleError::part(&path, message));
    }
    check(&path, catalogue, manifest.sae.d_sae.get())?;
    let json = |error: serde_json::Error| BundleError::part(&path, error.to_string());
    let bytes = serde_json::to_vec_pretty(catalogue).map_err(json)?;
    manifest.files.insert(CONCEPTS_FILE.to_owned(), sha256(&bytes));
    let manifest_bytes = serde_json::to_vec_pretty(&manifest).map_err(json)?;
    for (name, bytes) in [(CONCEPTS_FILE, bytes), (MANIFEST_FILE, manifest_bytes)] {
        let staged = dir.join(format!(".{name}.{}", std::process::id()));
        std::fs::write(&staged, bytes).map_err(BundleError::io(&staged))?;
        std::fs::rename(&staged, dir.join(name)).map_err(BundleError::io(&staged))?;
    }
    Ok(())
}

fn check(path: &Path, catalogue: &ConceptCatalog, d_sae: usize) -> Result<(), BundleError> {
    let in_families = catalogue.families.iter().flat_map(|family| &family.latents);
    match catalogue.concepts.keys().chain(in_families).find(|latent| latent.index() >= d_sae) {
        Some(latent) => {
            Err(BundleError::part(path, format!("expected latents below {d_sae}, found {}: it belongs to another SAE", latent.0)))
        }
        None => Ok(()),
    }
}

/// Columns `latent`, `top_titles` (or `top_items`), and where they exist `rate`, `label`, `genre`.
fn from_parquet(path: &Path) -> Result<ConceptCatalog, BundleError> {
    let invalid = |message: String| BundleError::part(path, message);
    let file = std::fs::File::open(path).map_err(BundleError::io(path))?;
    if file.metadata().map_err(BundleError::io(path))?.len() > MAX_BYTES {
        return Err(invalid(format!("expected at most {MAX_BYTES} bytes")));
    }
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| invalid(format!("not a Parquet file: {error}")))?;
    let mut concepts = BTreeMap::new();
    for batch in reader {
        let batch = batch.map_err(|error| invalid(error.to_string()))?;
        let latents = latents(&batch).map_err(&invalid)?;
        let titles = batch.column_by_name("top_titles").or_else(|| batch.column_by_name("top_items"));
        let rates = batch.column_by_name("rate").and_then(|column| column.as_primitive_opt::<Float64Type>());
        for (row, latent) in latents.into_iter().enumerate() {
            let concept = Concept {
                label: batch.column_by_name("label").and_then(|column| text(column, row)),
                top_items: titles.map(|column| texts(column, row)).unwrap_or_default(),
                rate: rates.filter(|rates| rates.is_valid(row)).map(|rates| rates.value(row)),
                tag: batch.column_by_name("genre").and_then(|column| text(column, row)),
                ..Concept::default()
            };
            if concepts.insert(latent, concept).is_some() {
                return Err(invalid(format!("latent {} stands there twice", latent.0)));
            }
        }
    }
    Ok(ConceptCatalog { concepts, ..ConceptCatalog::default() })
}

fn latents(batch: &RecordBatch) -> Result<Vec<LatentId>, String> {
    let expected = || "expected an integer column \"latent\" without nulls, of numbers from 0".to_owned();
    let column = batch.column_by_name("latent").filter(|column| column.null_count() == 0).ok_or_else(expected)?;
    let values: Vec<i64> = match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().values().to_vec(),
        DataType::Int32 => column.as_primitive::<Int32Type>().values().iter().map(|value| i64::from(*value)).collect(),
        _ => return Err(expected()),
    };
    values.into_iter().map(|value| u32::try_from(value).map(LatentId).map_err(|_| expected())).collect()
}

fn text(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Utf8 => Some(column.as_string::<i32>().value(row).to_owned()),
        DataType::LargeUtf8 => Some(column.as_string::<i64>().value(row).to_owned()),
        DataType::Utf8View => Some(column.as_string_view().value(row).to_owned()),
        _ => None,
    }
}

fn texts(column: &ArrayRef, row: usize) -> Vec<String> {
    if column.is_null(row) {
        return Vec::new();
    }
    let items = match column.data_type() {
        DataType::List(_) => column.as_list::<i32>().value(row),
        DataType::LargeList(_) => column.as_list::<i64>().value(row),
        _ => return Vec::new(),
    };
    (0..items.len()).filter_map(|i| text(&items, i)).collect()
}
