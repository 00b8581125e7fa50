//! One record's bytes, as `interface.md` names its parts.

use serde_json::{Map, Value};

use crate::cli::produce::Format;
use crate::workshop::dataset::table::key_of;

/// A record's payload and headers, filled again for each.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub(super) payload: Vec<u8>,
    pub(super) headers: Vec<(String, String)>,
}

/// Writes row `row`; null fields are left out. Floats are written shortest, so that they read back to the same bits.
///
/// A name is the place that the configuration gives a field: `context.surface` lies below `context`, and
/// `header:surface` in a header.
pub(super) fn encode(format: Format, vector: &[f32], fields: &[(&str, &[Value])], row: usize, into: &mut Encoded) {
    into.payload.clear();
    into.headers.clear();
    let present = || fields.iter().map(|(name, column)| (*name, &column[row])).filter(|(_, value)| !value.is_null());
    let named = |name: &str| name.strip_prefix("header:").map(str::to_owned);
    match format {
        Format::Raw => {
            into.payload.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
            into.headers.extend(present().map(|(name, value)| (named(name).unwrap_or_else(|| name.to_owned()), header(value))));
        }
        Format::Json => {
            into.headers.extend(present().filter_map(|(name, value)| Some((named(name)?, header(value)))));
            let payload = &mut into.payload;
            payload.extend_from_slice(b"{\"embedding\":");
            append(payload, vector);
            let mut below = Map::new();
            for (name, value) in present().filter(|(name, _)| !name.starts_with("header:")) {
                match name.split_once('.') {
                    Some(_) => put(&mut below, name, value),
                    None => write_field(payload, name, value),
                }
            }
            below.iter().for_each(|(name, value)| write_field(payload, name, value));
            payload.push(b'}');
        }
    }
}

fn write_field(payload: &mut Vec<u8>, name: &str, value: &Value) {
    payload.push(b',');
    append(payload, name);
    payload.push(b':');
    append(payload, value);
}

/// Puts a value at a dotted path, making the objects on the way. A path through a value that is no object is left out:
/// the configuration's places exclude it.
fn put(into: &mut Map<String, Value>, path: &str, value: &Value) {
    match path.split_once('.') {
        None => drop(into.insert(path.to_owned(), value.clone())),
        Some((first, rest)) => {
            if let Value::Object(below) = into.entry(first).or_insert_with(|| Value::Object(Map::new())) {
                put(below, rest, value);
            }
        }
    }
}

/// Memory takes everything, and these types are always JSON.
fn append<T: serde::Serialize + ?Sized>(payload: &mut Vec<u8>, value: &T) {
    if let Err(error) = serde_json::to_writer(payload, value) {
        tracing::error!(%error, "a field is not JSON");
    }
}

fn header(value: &Value) -> String {
    match value {
        Value::Array(list) => list.iter().filter_map(key_of).collect::<Vec<_>>().join(","),
        other => key_of(other).unwrap_or_else(|| other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::settings::{RecordFormat, RecordSettings};
    use crate::decode::Decoder;
    use crate::record::{RawMessage, Record, TopicPartition};

    #[test]
    fn what_is_written_is_read_back_bit_by_bit_in_both_formats() {
        let vector = [0.1_f32, -1.5e-42, f32::MAX, 16_777_217.0, f32::MIN_POSITIVE];
        let columns: [(&str, Vec<Value>); 7] = [
            ("entity", vec![Value::from(7)]),
            ("timestamp", vec![Value::from(874_724_727)]),
            ("items", vec![Value::from(vec![3, 4])]),
            ("gender", vec![Value::from("F")]),
            ("absent", vec![Value::Null]),
            ("context.page.surface", vec![Value::from("home")]),
            ("header:country", vec![Value::from("NO")]),
        ];
        let fields: Vec<(&str, &[Value])> = columns.iter().map(|(name, column)| (*name, column.as_slice())).collect();
        for (format, wanted) in [(Format::Json, RecordFormat::Json), (Format::Raw, RecordFormat::Raw)] {
            let mut encoded = Encoded::default();
            encode(format, &vector, &fields, 0, &mut encoded);
            let settings = RecordSettings { format: wanted, ..RecordSettings::default() };
            let places = ["gender", "absent", "context.page.surface", "header:country"].map(str::to_owned);
            let mut decoder = Decoder::new(&settings, &places, &[3; 16]).unwrap();
            let headers: Vec<_> = encoded.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes()))).collect();
            let at = TopicPartition { topic: Arc::from("t"), partition: 0 };
            let message =
                RawMessage { partition: &at, offset: 0, timestamp_ms: None, key: None, payload: Some(&encoded.payload), headers: &headers };
            let mut record = Record::default();
            decoder.decode(&message, &mut record).unwrap();
            assert_eq!(record.embedding.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), vector.map(f32::to_bits));
            assert_eq!(
                (record.event_time_ms, &record.items[..], &record.fields[..]),
                (874_724_727_000, &["3".to_owned(), "4".into()][..], &["F".to_owned(), String::new(), "home".into(), "NO".into()][..])
            );
            assert!(record.entity.is_some());
        }
    }
}
