//! Arguments by which a command is given recorded embeddings.

use std::path::PathBuf;

use anyhow::Context;

use crate::workshop::dataset::DatasetRequest;

/// Recorded embeddings and their fields.
#[derive(Clone, Debug, clap::Args)]
pub struct DatasetArgs {
    /// Vectors: .npy [n, d], or .parquet with a column `embedding` and the record's other fields
    #[arg(long, value_name = "FILE", required = false)] // else `reference build`, which takes this group as optional, would ask for it
    pub embeddings: PathBuf,
    /// The record's other fields, row by row (.parquet)
    #[arg(long, value_name = "FILE")]
    pub fields: Option<PathBuf>,
    /// More fields, looked up by a column that both files have; may be repeated
    #[arg(long, value_name = "FILE:COLUMN")]
    pub join: Vec<String>,
    /// Look the vector up by this column (static user vectors): its row number in .npy, the row of equal value in .parquet
    #[arg(long, value_name = "COLUMN")]
    pub by: Option<String>,
    /// Only rows whose column has one of these values; may be repeated
    #[arg(long = "where", value_name = "COLUMN=V,V")]
    pub filters: Vec<String>,
}

impl DatasetArgs {
    /// What the workshop reads.
    ///
    /// # Errors
    /// An argument is not of its form.
    pub fn request(&self) -> anyhow::Result<DatasetRequest> {
        let join = |text: &String| {
            let (file, column) = text.rsplit_once(':').with_context(|| format!("--join {text}: expected FILE:COLUMN"))?;
            Ok((PathBuf::from(file), column.to_owned()))
        };
        let filter = |text: &String| {
            let (column, values) = text.split_once('=').with_context(|| format!("--where {text}: expected COLUMN=VALUE,VALUE"))?;
            Ok((column.to_owned(), values.split(',').map(|value| value.trim().to_owned()).collect()))
        };
        Ok(DatasetRequest {
            embeddings: self.embeddings.clone(),
            fields: self.fields.clone(),
            join: self.join.iter().map(join).collect::<anyhow::Result<_>>()?,
            by: self.by.clone(),
            filters: self.filters.iter().map(filter).collect::<anyhow::Result<_>>()?,
        })
    }

    /// The rows in words.
    #[must_use]
    pub fn described(&self) -> String {
        let file = |path: &PathBuf| path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        let mut text = file(&self.embeddings);
        if let Some(fields) = &self.fields {
            text += &format!(" with {}", file(fields));
        }
        if let Some(by) = &self.by {
            text += &format!(", vectors by {by}");
        }
        for join in &self.join {
            let (path, column) = join.rsplit_once(':').unwrap_or((join, ""));
            text += &format!(", joined {} by {column}", file(&PathBuf::from(path)));
        }
        for filter in &self.filters {
            text += &format!(", {filter}");
        }
        text
    }
}
