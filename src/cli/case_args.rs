//! Arguments by which a command is given cases: recorded embeddings with the items that go with them.

use std::path::PathBuf;

use anyhow::Context;

use crate::cli::dataset_args::DatasetArgs;
use crate::workshop::dataset::Dataset;
use crate::workshop::dataset::table::Table;
use crate::workshop::label::gather::{EvidenceKind, GatherRequest};
use crate::workshop::label::items::{ItemColumns, Items};

/// Rows, their evidence, and the items table.
#[derive(Clone, Debug, clap::Args)]
pub struct CaseArgs {
    #[command(flatten)]
    data: DatasetArgs,
    /// Items (.parquet), one a row: id, title, and any columns that can be tags
    #[arg(long, value_name = "FILE")]
    items: PathBuf,
    /// Column of the item's id [default: item_id, item, id or asin]
    #[arg(long, value_name = "COLUMN")]
    item_id: Option<String>,
    /// Column of the item's title [default: title, name or item_name]
    #[arg(long, value_name = "COLUMN")]
    title: Option<String>,
    /// Tag sources, best first: COLUMN, COLUMN:words, COLUMN:decade, or popularity [default: every column that can be one]
    #[arg(long, value_name = "SOURCE,...", value_delimiter = ',')]
    tags: Vec<String>,
    /// Which items speak for a row
    #[arg(long, value_enum, default_value_t = EvidenceKind::Served)]
    pub evidence: EvidenceKind,
    /// Column of those items [default: items, recommended or served; history; item_id]
    #[arg(long, value_name = "COLUMN")]
    evidence_column: Option<String>,
    /// Column of the user or session [default: entity, user_id, user or session_id, else each row is one]
    #[arg(long, value_name = "COLUMN")]
    entity: Option<String>,
}

impl CaseArgs {
    /// Reads the items and the rows.
    ///
    /// # Errors
    /// A file cannot be read or lacks a column.
    pub fn read(&self) -> anyhow::Result<(Items, Dataset)> {
        let columns = ItemColumns { id: self.item_id.clone(), title: self.title.clone(), tags: self.tags.clone() };
        let items = Items::read(&Table::read(&self.items)?, &columns).with_context(|| self.items.display().to_string())?;
        Ok((items, Dataset::open(&self.data.request()?)?))
    }

    /// What counts as evidence.
    #[must_use]
    pub fn request(&self) -> GatherRequest {
        GatherRequest { evidence: self.evidence, column: self.evidence_column.clone(), entity: self.entity.clone() }
    }
}
