//! The items table: what an item is called, and its tags from any column.
//!
//! Which way a column is read follows from what stands in it, unless the user says: lists are values; a
//! year gives itself and its decade; text that repeats (artist, category) is a value, text that does not
//! (title, description) gives words; numbers that are no years name nothing.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::workshop::dataset::table::{Table, key_of};
use crate::workshop::label::tags::{TagTable, decade, words};

/// Columns that hold the id, where none is named; the first that exists.
const ID_COLUMNS: [&str; 4] = ["item_id", "item", "id", "asin"];
/// Columns that hold the title.
const TITLE_COLUMNS: [&str; 3] = ["title", "name", "item_name"];
/// Text whose distinct values are at most this share of the items repeats: it is a value, not a title.
const REPEATS: f64 = 0.5;
/// Share of years that makes a column one of years: real tables have an "unknown" among them.
const YEARS: f64 = 0.9;
/// Most words of one text that are looked at; descriptions beyond it only cost time.
const MOST_WORDS: usize = 64;

/// How a column becomes tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Values,
    Decade,
    Words,
}

/// Items by number: id, title, tags.
#[derive(Debug)]
pub struct Items {
    ids: Vec<String>,
    titles: Vec<String>,
    number: HashMap<String, u32>,
    tags: TagTable,
    sources: Vec<String>,
}

/// Which columns of the table are what; what is `None` is found.
#[derive(Clone, Debug, Default)]
pub struct ItemColumns {
    /// Column of the id.
    pub id: Option<String>,
    /// Column of the title.
    pub title: Option<String>,
    /// Tag sources, `COLUMN` or `COLUMN:values|words|decade`, in order of preference; empty: every column
    /// that can be one. `popularity` stands for the bands.
    pub tags: Vec<String>,
}

impl Items {
    /// Reads a table.
    ///
    /// # Errors
    /// A column is missing, an id is missing or stands there twice, or no column gives tags.
    pub fn read(table: &Table, columns: &ItemColumns) -> anyhow::Result<Self> {
        let id = find(table, columns.id.as_deref(), &ID_COLUMNS)
            .with_context(|| format!("no column of item ids; there are {}: name it with --item-id", table.names().join(", ")))?;
        let title = find(table, columns.title.as_deref(), &TITLE_COLUMNS);
        if let (Some(wanted), None) = (&columns.title, &title) {
            bail!("no column {wanted:?}; there are {}", table.names().join(", "));
        }
        let mut number = HashMap::new();
        let mut ids = Vec::new();
        for (row, value) in table.column(&id).unwrap_or(&[]).iter().enumerate() {
            let key = key_of(value).with_context(|| format!("row {row} of the items table: expected an id, found {value}"))?;
            let at = u32::try_from(row).context("more items than 2^32")?;
            ensure!(number.insert(key.clone(), at).is_none(), "row {row} of the items table: id {key:?} stands there twice");
            ids.push(key);
        }
        ensure!(!ids.is_empty(), "the items table has no rows");
        let titles = match title.as_deref().and_then(|title| table.column(title)) {
            Some(column) => column.iter().zip(&ids).map(|(value, id)| key_of(value).unwrap_or_else(|| id.clone())).collect(),
            None => ids.clone(),
        };
        let wanted = if columns.tags.is_empty() { every_source(table, &id) } else { named_sources(table, &columns.tags)? };
        let mut sources = Vec::new();
        for (name, column, reading) in &wanted {
            let column = table.column(column).unwrap_or(&[]);
            sources.push((name.clone(), column.iter().map(|value| read_value(value, *reading)).collect::<Vec<_>>()));
        }
        let tags = TagTable::collect(ids.len(), &sources);
        let mut sources: Vec<String> = sources.into_iter().map(|(name, _)| name).collect();
        if columns.tags.is_empty() || columns.tags.iter().any(|tag| tag == "popularity") {
            sources.push("popularity".into());
        }
        ensure!(!sources.is_empty(), "no column of the items table gives tags: name one with --tags");
        Ok(Self { ids, titles, number, tags, sources })
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none; never, by [`Self::read`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// An item's number by its id.
    #[must_use]
    pub fn number(&self, id: &str) -> Option<u32> {
        self.number.get(id).copied()
    }

    /// An item's id; `item < len()`.
    #[must_use]
    pub fn id(&self, item: u32) -> &str {
        &self.ids[item as usize]
    }

    /// An item's title, or its id; `item < len()`.
    #[must_use]
    pub fn title(&self, item: u32) -> &str {
        &self.titles[item as usize]
    }

    /// Sources in order of preference.
    #[must_use]
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// The tags, with popularity bands by these counts where they are a source.
    #[must_use]
    pub fn tags(&self, counts: &[u32]) -> TagTable {
        let mut tags = self.tags.clone();
        if self.sources.iter().any(|source| source == "popularity") {
            tags.add_popularity(counts);
        }
        tags
    }
}

fn find(table: &Table, named: Option<&str>, usual: &[&str]) -> Option<String> {
    match named {
        Some(name) => table.column(name).map(|_| name.to_owned()),
        None => usual.iter().find(|name| table.column(name).is_some()).map(|name| (*name).to_owned()),
    }
}

/// Every column that can be a source, those with values first: name, column, reading.
fn every_source(table: &Table, id: &str) -> Vec<(String, String, Reading)> {
    let mut sources = Vec::new();
    for name in table.names().iter().filter(|name| *name != id) {
        let column = table.column(name).unwrap_or(&[]);
        let filled: Vec<&Value> = column.iter().filter(|value| !value.is_null()).collect();
        let n_years = filled.iter().filter(|value| key_of(value).is_some_and(|key| key.len() == 4 && decade(&key).is_some())).count();
        if filled.is_empty() {
        } else if n_years as f64 >= YEARS * filled.len() as f64 {
            sources.push((format!("{name}:decade"), name.clone(), Reading::Decade));
            sources.push((name.clone(), name.clone(), Reading::Values));
        } else if filled.iter().all(|value| value.is_array()) {
            sources.push((name.clone(), name.clone(), Reading::Values));
        } else if filled.iter().all(|value| value.is_string()) {
            let distinct: BTreeSet<&str> = filled.iter().filter_map(|value| value.as_str()).collect();
            if distinct.len() as f64 <= REPEATS * filled.len() as f64 {
                sources.push((name.clone(), name.clone(), Reading::Values));
            } else {
                sources.push((format!("{name}:words"), name.clone(), Reading::Words));
            }
        }
    }
    sources.sort_by_key(|(_, _, reading)| match reading {
        Reading::Values => 0,
        Reading::Decade => 1,
        Reading::Words => 2,
    });
    sources
}

fn named_sources(table: &Table, wanted: &[String]) -> anyhow::Result<Vec<(String, String, Reading)>> {
    let mut sources = Vec::new();
    for source in wanted.iter().filter(|source| *source != "popularity") {
        let (column, reading) = match source.rsplit_once(':') {
            None => (source.as_str(), Reading::Values),
            Some((column, "values")) => (column, Reading::Values),
            Some((column, "words")) => (column, Reading::Words),
            Some((column, "decade")) => (column, Reading::Decade),
            Some((_, other)) => {
                bail!("tag source {source:?}: expected COLUMN, COLUMN:words, COLUMN:decade or COLUMN:values, found {other:?}")
            }
        };
        ensure!(table.column(column).is_some(), "tag source {source:?}: no column {column:?}; there are {}", table.names().join(", "));
        sources.push((source.trim_end_matches(":values").to_owned(), column.to_owned(), reading));
    }
    Ok(sources)
}

fn read_value(value: &Value, reading: Reading) -> Vec<String> {
    let texts: Vec<String> = match value {
        Value::Array(values) => values.iter().filter_map(key_of).collect(),
        other => key_of(other).into_iter().collect(),
    };
    match reading {
        Reading::Values => texts,
        Reading::Decade => texts.iter().filter_map(|text| decade(text)).collect(),
        Reading::Words => texts.iter().flat_map(|text| words(text)).take(MOST_WORDS).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    use super::*;

    fn table(columns: Vec<(&str, ArrayRef)>) -> Table {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.parquet");
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        Table::read(&path).unwrap()
    }

    fn films() -> Table {
        let text = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
        table(vec![
            ("item_id", Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5, 6]))),
            ("title", text(vec!["Star Wars", "Star Trek", "Star Fall", "Heat", "Heat Two", "Heat Three"])),
            ("studio", text(vec!["Fox", "Fox", "Fox", "Fox", "WB", "WB"])),
            ("year", text(vec!["1977", "1979", "1978", "1995", "1996", "1997"])),
            ("price", Arc::new(Int64Array::from(vec![10, 20, 30, 40, 50, 60]))),
        ])
    }

    #[test]
    fn columns_are_read_by_what_stands_in_them() {
        let items = Items::read(&films(), &ItemColumns::default()).unwrap();
        assert_eq!(items.sources(), ["studio", "year", "year:decade", "title:words", "popularity"]);
        let names: Vec<String> = items.tags(&[0; 6]).tags().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["Fox", "1970s", "1990s", "“heat” in the title", "“star” in the title"]);
        assert_eq!((items.number("4"), items.title(3), items.number("9")), (Some(3), "Heat", None));
    }

    #[test]
    fn named_sources_are_taken_in_their_order() {
        let columns = ItemColumns { tags: vec!["title:words".into(), "studio".into()], ..ItemColumns::default() };
        assert_eq!(Items::read(&films(), &columns).unwrap().sources(), ["title:words", "studio"]);
        for (tag, says) in [("genre", "there are item_id"), ("title:letters", "expected COLUMN")] {
            let columns = ItemColumns { tags: vec![tag.into()], ..ItemColumns::default() };
            assert!(Items::read(&films(), &columns).unwrap_err().to_string().contains(says));
        }
    }

    #[test]
    fn a_table_that_cannot_be_one_is_refused_with_its_row() {
        let twice = table(vec![("id", Arc::new(Int64Array::from(vec![1, 2, 1])))]);
        assert!(Items::read(&twice, &ItemColumns::default()).unwrap_err().to_string().contains("row 2 of the items table: id \"1\""));
        let missing = table(vec![("id", Arc::new(Int64Array::from(vec![Some(1), None])))]);
        assert!(Items::read(&missing, &ItemColumns::default()).unwrap_err().to_string().contains("row 1"));
        let nameless = table(vec![("x", Arc::new(Int64Array::from(vec![1])))]);
        assert!(Items::read(&nameless, &ItemColumns::default()).unwrap_err().to_string().contains("--item-id"));
    }
}
