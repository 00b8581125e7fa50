//! Where the records of a recording lay on their topic.

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::workshop::dataset::table::Table;

/// Partition and Kafka timestamp of every row.
#[derive(Debug, PartialEq)]
pub(super) struct Places {
    places: Vec<(i32, Option<i64>)>,
}

impl Places {
    /// Reads the columns that `recsae record` writes beside a record's own.
    ///
    /// # Errors
    /// They are not there, or the recording is of several topics, whose partitions cannot be one.
    pub(super) fn of(table: &Table) -> anyhow::Result<Self> {
        let column = |name: &str| {
            table.column(name).with_context(|| format!("--as-recorded: no column {name:?}: this is no recording of `recsae record`"))
        };
        let (topics, partitions, times) = (column("recsae.topic")?, column("recsae.partition")?, column("recsae.timestamp")?);
        let first = topics.first();
        if let Some(other) = topics.iter().find(|topic| Some(*topic) != first) {
            let first = first.unwrap_or(&Value::Null);
            anyhow::bail!("--as-recorded: the recording is of several topics ({first}, {other}): record them apart, or play back by time");
        }
        let mut places = Vec::with_capacity(partitions.len());
        for (row, (partition, time)) in partitions.iter().zip(times).enumerate() {
            let number = partition.as_i64().and_then(|number| i32::try_from(number).ok()).filter(|number| *number >= 0);
            places.push((number.with_context(|| format!("row {row}: expected a partition, found {partition}"))?, time.as_i64()));
        }
        ensure!(!places.is_empty(), "--as-recorded: the recording is empty");
        Ok(Self { places })
    }

    /// Partitions that the topic must have.
    pub(super) fn n_partitions(&self) -> i32 {
        self.places.iter().map(|(partition, _)| partition + 1).max().unwrap_or(1)
    }

    /// Partition and Kafka timestamp of a row.
    pub(super) fn at(&self, row: usize) -> (Option<i32>, Option<i64>) {
        self.places.get(row).map_or((None, None), |(partition, time)| (Some(*partition), *time))
    }
}
