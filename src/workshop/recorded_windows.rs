//! Windows from recorded embeddings: encoded and counted as live ones are, all at once.
//!
//! For a reference before the first record is served live, or of a time that Kafka does not hold any more.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::bundle::Bundle;
use crate::decode::entity::EntityHasher;
use crate::decode::timestamp;
use crate::drift::closed::ClosedWindow;
use crate::drift::segment::{SegmentFields, SegmentTable};
use crate::drift::window::{CountedRow, CountingSpec, Fit, OpenCounts, WindowSpec};
use crate::encode::Encoder;
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::workshop::dataset::{Column, Dataset};

/// Rows encoded at a time.
const BATCH: usize = 512;

/// How recorded rows become windows.
pub struct RecordedCounting<'a> {
    /// Label of the model version.
    pub model_version: &'a str,
    /// Its bundle.
    pub bundle: &'a Bundle,
    /// What is counted.
    pub spec: &'a CountingSpec,
    /// Windows.
    pub window: WindowSpec,
    /// Column of the entity.
    pub entity: &'a str,
    /// Column of the event time.
    pub timestamp: &'a str,
    /// Fields that make segments, columns of the same names.
    pub segments: SegmentFields,
    /// Most segments.
    pub max_segments: usize,
}

/// Counts all rows; windows in order of time. The first and the last may hold less than a whole window's records:
/// exclude them where the record begins or ends within one.
///
/// # Errors
/// A column is missing, a time cannot be read, the embeddings are of another width, or the engine fails.
pub fn recorded_windows(
    dataset: &Dataset,
    counting: &RecordedCounting<'_>,
    encoder: &mut dyn Encoder,
    mut progress: impl FnMut(usize),
) -> anyhow::Result<Vec<ClosedWindow>> {
    let spec = counting.spec;
    anyhow::ensure!(
        dataset.d_in() == spec.d_in.get(),
        "the embeddings have {} values, the SAE expects {}: another model's vectors?",
        dataset.d_in(),
        spec.d_in
    );
    let starts = window_starts(dataset, counting)?;
    let entity = if spec.by_entity { Some(dataset.column(counting.entity)?) } else { None };
    let fields: Vec<Column<'_>> = counting.segments.names.iter().map(|name| dataset.column(name)).collect::<anyhow::Result<_>>()?;
    let values = |row: usize| fields.iter().map(|column| column.key(row).unwrap_or_default()).collect::<Vec<String>>();
    let mut table = admitted(counting, (0..dataset.n_rows()).map(values));

    let mut order: Vec<usize> = (0..dataset.n_rows()).collect();
    order.sort_by_key(|&row| (starts[row], row));
    // Entities are only told apart, within this run: no salt is needed, and none is kept.
    let hasher = EntityHasher::new(&[0; 16]);
    let (mut batch, mut activations, mut scratch) = (EmbeddingBatch::new(spec.d_in), SparseActivations::default(), Vec::new());
    let mut open: BTreeMap<i64, OpenCounts> = BTreeMap::new();
    for rows in order.chunks(BATCH) {
        batch.clear();
        for &row in rows {
            batch.push(dataset.embedding(row)).with_context(|| format!("row {} of the embeddings", dataset.source_row(row)))?;
        }
        encoder.encode(&batch, &mut activations)?;
        for (i, &row) in rows.iter().enumerate() {
            let embedding = batch.row(i);
            let (latents, activation) = activations.row(i);
            let fit = counting.bundle.decoder().map(|decoder| narrowed(decoder.row_error(embedding, latents, activation, &mut scratch)));
            let name = entity.as_ref().map(|column| {
                column.key(row).with_context(|| format!("row {}: column {:?} names no entity", dataset.source_row(row), counting.entity))
            });
            let counted = CountedRow {
                entity: name.transpose()?.map(|name| hasher.hash(name.as_bytes())),
                segments: table.mask(&values(row), starts[row]),
                embedding,
                latents,
                values: activation,
                fit,
            };
            open.entry(starts[row]).or_insert_with(|| OpenCounts::new(spec)).add(spec, &counted);
        }
        progress(rows.len());
    }
    let close = |(start_ms, counts): (i64, OpenCounts)| ClosedWindow {
        start_ms,
        end_ms: counting.window.end_of(start_ms),
        model_version: counting.model_version.to_owned(),
        incomplete: counts.incomplete(),
        segments: counts.close(spec, &table),
        rejected: BTreeMap::new(),
        offsets: Vec::new(),
    };
    Ok(open.into_iter().map(close).collect())
}

fn window_starts(dataset: &Dataset, counting: &RecordedCounting<'_>) -> anyhow::Result<Vec<i64>> {
    let column = dataset.column(counting.timestamp)?;
    let start = |row: usize| {
        let value = column.value(row);
        let read = match value.as_f64() {
            Some(number) => timestamp::from_number(number),
            None => timestamp::from_text(value.as_str().unwrap_or_default()),
        };
        read.map(|time_ms| counting.window.start_of(time_ms))
            .map_err(|why| anyhow::anyhow!("row {}, column {:?}: {why}", dataset.source_row(row), counting.timestamp))
    };
    (0..dataset.n_rows()).map(start).collect()
}

/// A table of the most frequent segments.
fn admitted(counting: &RecordedCounting<'_>, rows: impl Iterator<Item = Vec<String>>) -> SegmentTable {
    let mut table = SegmentTable::new(counting.segments.clone(), counting.max_segments);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for values in rows {
        for name in table.unadmitted(&values, i64::MAX) {
            *seen.entry(name).or_insert(0) += 1;
        }
    }
    let mut names: Vec<(String, u64)> = seen.into_iter().collect();
    names.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    for (name, _) in names {
        if table.is_full() {
            break;
        }
        table.admit(&name, i64::MIN);
    }
    table
}

#[expect(clippy::cast_possible_truncation, reason = "sums over rows are f64; a row's own error needs no more than f32")]
fn narrowed(error: crate::sae::reconstruction::RowError) -> Fit {
    Fit {
        squared_error: error.squared_error as f32,
        cosine: error.cosine as f32,
        norm_ratio: error.norm_ratio as f32,
        squared_norm: error.squared_norm as f32,
    }
}
