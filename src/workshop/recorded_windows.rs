//! Windows from recorded embeddings: encoded and counted as live ones are, all at once.
//!
//! For a reference before the first record is served live, or of a time that Kafka does not hold any more.

use std::collections::BTreeMap;
use std::ops::Range;

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
use crate::workshop::encoding::{in_order, n_threads};

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

/// Counts all rows, each thread's with an encoder of its own; windows in order of time. The first and the last may hold less than a whole window's records:
/// exclude them where the record begins or ends within one.
///
/// # Errors
/// A column is missing, a time cannot be read, the embeddings are of another width, or the engine fails.
pub fn recorded_windows(
    dataset: &Dataset,
    counting: &RecordedCounting<'_>,
    encoder: impl Fn() -> anyhow::Result<Box<dyn Encoder>> + Sync,
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
    let mut open: BTreeMap<i64, OpenCounts> = BTreeMap::new();
    let encode = |(encoder, scratch): &mut (Box<dyn Encoder>, Vec<f32>), batch: Range<usize>| {
        let (mut encoded, rows) = (Encoded::new(spec), &order[batch]);
        for &row in rows {
            let source = || dataset.source_row(row);
            encoded.embeddings.push(dataset.embedding(row)).with_context(|| format!("row {} of the embeddings", source()))?;
            let name = entity
                .as_ref()
                .map(|column| column.key(row).with_context(|| format!("row {}: column {:?} names no entity", source(), counting.entity)));
            encoded.entities.push(name.transpose()?.map(|name| hasher.hash(name.as_bytes())));
            encoded.fields.push(values(row));
        }
        encoder.encode(&encoded.embeddings, &mut encoded.activations)?;
        for at in 0..rows.len() {
            let (latents, active) = encoded.activations.row(at);
            let error = counting.bundle.decoder().map(|decoder| decoder.row_error(encoded.embeddings.row(at), latents, active, scratch));
            encoded.fits.push(error.map(narrowed));
        }
        Ok(encoded)
    };
    in_order(
        order.len(),
        n_threads(),
        || Ok((encoder()?, Vec::new())),
        encode,
        |batch, encoded| {
            let n_rows = batch.len();
            for (at, &row) in order[batch].iter().enumerate() {
                let (latents, values) = encoded.activations.row(at);
                let counted = CountedRow {
                    entity: encoded.entities[at],
                    segments: table.mask(&encoded.fields[at], starts[row]),
                    embedding: encoded.embeddings.row(at),
                    latents,
                    values,
                    fit: encoded.fits[at],
                };
                open.entry(starts[row]).or_insert_with(|| OpenCounts::new(spec)).add(spec, &counted);
            }
            progress(n_rows);
            Ok(())
        },
    )?;
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

/// Rows on their way to being counted.
struct Encoded {
    embeddings: EmbeddingBatch,
    activations: SparseActivations,
    entities: Vec<Option<u64>>,
    fields: Vec<Vec<String>>,
    fits: Vec<Option<Fit>>,
}

impl Encoded {
    fn new(spec: &CountingSpec) -> Self {
        Self {
            embeddings: EmbeddingBatch::new(spec.d_in),
            activations: SparseActivations::default(),
            entities: Vec::new(),
            fields: Vec::new(),
            fits: Vec::new(),
        }
    }
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
