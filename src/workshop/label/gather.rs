//! Recorded rows to cases: every vector encoded, its evidence looked up among the items.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::encode::Encoder;
use crate::encode::native::NativeEncoder;
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::weights::SaeWeights;
use crate::workshop::dataset::table::key_of;
use crate::workshop::dataset::{Column, Dataset};
use crate::workshop::encoding::{encoder, in_order, n_threads};
use crate::workshop::label::cases::Cases;
use crate::workshop::label::items::Items;

/// Columns of the served items, where none is named; the first that exists.
const SERVED_COLUMNS: [&str; 3] = ["items", "recommended", "served"];

/// Which items are a row's evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    /// The items recommended in the row
    Served,
    /// The items the entity met before
    History,
    /// The row is an item's own vector
    Vectors,
}

/// Where evidence and entity stand.
#[derive(Clone, Debug)]
pub struct GatherRequest {
    /// What counts as evidence.
    pub evidence: EvidenceKind,
    /// Its column; `None`: the usual names.
    pub column: Option<String>,
    /// Column of the entity; `None`: the usual names, else every row is one.
    pub entity: Option<String>,
}

/// Cases, and what a report says of the rows behind them.
#[derive(Debug)]
pub struct Gathered {
    /// The cases; a case's entity is a position in `entities`.
    pub cases: Cases,
    /// Entities by number.
    pub entities: Vec<String>,
    /// Rows encoded.
    pub n_rows: usize,
    /// Items of rows that the table does not have.
    pub n_unknown_items: usize,
    /// Rows each latent was active in.
    pub active_rows: Vec<usize>,
}

/// Encodes every row. `progress` is told how many are done.
///
/// # Errors
/// The SAE reads another width, a column is missing, or no row has an item of the table.
pub fn gather(
    sae: &SaeWeights,
    dataset: &Dataset,
    items: &Items,
    request: &GatherRequest,
    progress: &dyn Fn(usize),
) -> anyhow::Result<Gathered> {
    let spec = sae.spec();
    ensure!(dataset.d_in() == spec.d_in.get(), "the vectors have {} values, the SAE reads {}", dataset.d_in(), spec.d_in);
    let evidence = EvidenceColumn::find(dataset, request)?;
    let entity = match &request.entity {
        Some(name) => Some(dataset.column(name)?),
        None => dataset.usual_entity().map(|(_, column)| column),
    };
    let mut gathered = Gathered {
        cases: Cases::new(spec.d_sae.get()),
        entities: Vec::new(),
        n_rows: dataset.n_rows(),
        n_unknown_items: 0,
        active_rows: vec![0; spec.d_sae.get()],
    };
    let mut numbers: HashMap<String, u64> = HashMap::new();
    let encode = |(encoder, batch): &mut (NativeEncoder, EmbeddingBatch), rows: Range<usize>| {
        let mut activations = SparseActivations::default();
        dataset.fill(rows, batch)?;
        encoder.encode(batch, &mut activations)?;
        Ok(activations)
    };
    in_order(
        dataset.n_rows(),
        n_threads(),
        || Ok((encoder(sae), EmbeddingBatch::new(spec.d_in))),
        encode,
        |rows, activations| {
            let end = rows.end;
            for (at, row) in rows.enumerate() {
                let (latents, values) = activations.row(at);
                latents.iter().for_each(|latent| gathered.active_rows[latent.index()] += 1);
                let keys = evidence.keys(dataset, row)?;
                let known: Vec<u32> = keys.iter().filter_map(|key| items.number(key)).collect();
                gathered.n_unknown_items += keys.len() - known.len();
                let name = match &entity {
                    Some(column) => column.key(row).with_context(|| format!("row {}: no entity", dataset.source_row(row)))?,
                    None => dataset.source_row(row).to_string(),
                };
                let next = gathered.entities.len() as u64;
                let number = *numbers.entry(name).or_insert_with_key(|name| {
                    gathered.entities.push(name.clone());
                    next
                });
                gathered.cases.push(number, known, latents, values);
            }
            progress(end);
            Ok(())
        },
    )?;
    ensure!(!gathered.cases.is_empty(), "no row has an item of the items table: are the ids of the rows the ids of the table (--item-id)?");
    Ok(gathered)
}

/// Where a row's items stand.
enum EvidenceColumn<'a> {
    Listed(Column<'a>),
    /// An item's id beside its vector.
    Id(Column<'a>),
    /// The row's number in the file is the item's id.
    Row,
}

impl<'a> EvidenceColumn<'a> {
    fn find(dataset: &'a Dataset, request: &GatherRequest) -> anyhow::Result<Self> {
        let column = |usual: &[&str]| match &request.column {
            Some(name) => dataset.column(name),
            None => usual.iter().find_map(|name| dataset.column(name).ok()).with_context(|| {
                format!(
                    "no column {}; there are {}: name it with --evidence-column",
                    usual.join(" or "),
                    dataset.table().names().join(", ")
                )
            }),
        };
        match request.evidence {
            EvidenceKind::Served => Ok(Self::Listed(column(&SERVED_COLUMNS)?)),
            EvidenceKind::History => Ok(Self::Listed(column(&["history"])?)),
            EvidenceKind::Vectors if request.column.is_none() && dataset.column("item_id").is_err() => Ok(Self::Row),
            EvidenceKind::Vectors => Ok(Self::Id(column(&["item_id"])?)),
        }
    }

    fn keys(&self, dataset: &Dataset, row: usize) -> anyhow::Result<Vec<String>> {
        let column = match self {
            Self::Row => return Ok(vec![dataset.source_row(row).to_string()]),
            Self::Id(column) | Self::Listed(column) => column,
        };
        match column.value(row) {
            Value::Array(values) => Ok(values.iter().filter_map(key_of).collect()),
            Value::Null => Ok(Vec::new()),
            other => {
                let key = key_of(other).with_context(|| format!("row {}: expected item ids, found {other}", dataset.source_row(row)))?;
                Ok(vec![key])
            }
        }
    }
}
