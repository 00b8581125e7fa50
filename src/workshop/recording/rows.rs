//! Rows of a recording that are not in a file yet, and the columns they become.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow_schema::{DataType, Field};

/// One record, with the place it was read from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The vector.
    pub embedding: Vec<f32>,
    /// User or session, in words.
    pub entity: Option<String>,
    /// Event time, ms since 1970 UTC.
    pub timestamp_ms: i64,
    /// Version of the recommender.
    pub model_version: Option<String>,
    /// Recommended items.
    pub items: Vec<String>,
    /// Segment fields, as configured.
    pub fields: Vec<Option<String>>,
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Kafka's own timestamp, ms since 1970 UTC.
    pub kafka_ms: Option<i64>,
}

/// The width that most of the rows have; of equally many the larger. `None` without rows.
#[must_use]
pub fn usual_width(rows: &[Row]) -> Option<usize> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    rows.iter().for_each(|row| *counts.entry(row.embedding.len()).or_default() += 1);
    counts.into_iter().max_by_key(|(width, count)| (*count, *width)).map(|(width, _)| width)
}

/// The rows as columns; every vector has `width` values. Columns whose names begin with `recsae.` are the
/// record's place on the topic.
///
/// # Errors
/// A vector has another width.
pub fn batch(rows: &[Row], width: usize, fields: &[String]) -> anyhow::Result<RecordBatch> {
    let value = Arc::new(Field::new("item", DataType::Float32, false));
    let values: Vec<f32> = rows.iter().flat_map(|row| row.embedding.iter().copied()).collect();
    let embedding = FixedSizeListArray::try_new(value, i32::try_from(width)?, Arc::new(Float32Array::from(values)), None)?;
    let mut items = ListBuilder::new(StringBuilder::new());
    for row in rows {
        row.items.iter().for_each(|item| items.values().append_value(item));
        items.append(true);
    }
    let texts = |of: &dyn Fn(&Row) -> Option<String>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<StringArray>()) };
    let times = |of: &dyn Fn(&Row) -> Option<i64>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<TimestampMillisecondArray>().with_timezone("UTC"))
    };
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("embedding".into(), Arc::new(embedding)),
        ("entity".into(), texts(&|row| row.entity.clone())),
        ("timestamp".into(), times(&|row| Some(row.timestamp_ms))),
        ("model_version".into(), texts(&|row| row.model_version.clone())),
        ("items".into(), Arc::new(items.finish())),
    ];
    for (number, name) in fields.iter().enumerate() {
        columns.push((name.clone(), texts(&|row| row.fields.get(number).cloned().flatten())));
    }
    columns.push(("recsae.topic".into(), texts(&|row| Some(row.topic.to_string()))));
    columns.push(("recsae.partition".into(), Arc::new(rows.iter().map(|row| row.partition).collect::<Int32Array>())));
    columns.push(("recsae.offset".into(), Arc::new(rows.iter().map(|row| row.offset).collect::<Int64Array>())));
    columns.push(("recsae.timestamp".into(), times(&|row| row.kafka_ms)));
    Ok(RecordBatch::try_from_iter(columns)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_of_poison_does_not_decide_the_width_of_a_recording() {
        let rows = |widths: &[usize]| -> Vec<Row> { widths.iter().map(|n| Row { embedding: vec![0.5; *n], ..Row::default() }).collect() };
        assert_eq!(usual_width(&rows(&[1, 64, 64, 3])), Some(64));
        assert_eq!(usual_width(&rows(&[1, 64])), Some(64));
        assert_eq!(usual_width(&[]), None);
    }
}
