//! What a record holds, and which configuration would read it: `recsae check --sample`.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Serialize;
use serde_json::Value as Json;

use crate::kafka::sample::SampledRecord;

/// One record: what the configuration found in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SampledFinding {
    /// `topic[partition]@offset`.
    pub at: String,
    /// What was found where, or why the record would be rejected.
    pub found: String,
    /// Whether it would be counted.
    pub accepted: bool,
}

/// Names under which recommenders keep an entity, most likely first.
const ENTITY_NAMES: [&str; 8] = ["entity", "user_id", "user", "userid", "uid", "session_id", "session", "customer_id"];
/// The same for the event time.
const TIME_NAMES: [&str; 8] = ["timestamp", "event_time", "time", "ts", "served_at", "created_at", "datetime", "date"];
/// What a header's place begins with.
const HEADER: &str = "header:";
/// Arrays shorter than this are no vectors when the SAE's width is not known.
const SHORTEST_VECTOR: usize = 8;

/// Configuration lines that would read the records, by key; empty when nothing vector-like is in them.
/// `d_in` is the SAE's width where a bundle could be opened.
#[must_use]
pub fn suggest(records: &[SampledRecord], d_in: Option<usize>) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let Some(record) = records.iter().find(|record| record.payload.is_some()) else { return lines };
    let payload = record.payload.as_deref().unwrap_or_default();
    let quoted = |text: &str| format!("{text:?}");
    let mut fields = BTreeMap::new();
    let parsed: Option<Json> = serde_json::from_slice(payload).ok().filter(Json::is_object);
    if let Some(json) = &parsed {
        flatten("", json, &mut fields);
        let Some((place, dtype)) = fields.iter().find_map(|(place, value)| Some((place, vector_of(value, d_in)?))) else { return lines };
        lines.insert("record.format".into(), quoted("json"));
        lines.insert("record.embedding".into(), quoted(place));
        if let Some(dtype) = dtype {
            lines.insert("record.dtype".into(), quoted(dtype));
        }
    } else {
        let Some(dtype) = raw_dtype(payload.len(), d_in) else { return lines };
        lines.insert("record.format".into(), quoted("raw"));
        lines.insert("record.dtype".into(), quoted(dtype));
    }
    let headers: Vec<&str> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
    let place_of = |names: &[&str]| {
        let last = |place: &str| place.rsplit('.').next().unwrap_or_default().to_lowercase();
        names.iter().find_map(|name| {
            let field = fields.keys().find(|place| last(place) == *name).cloned();
            field.or_else(|| headers.iter().find(|header| header.to_lowercase() == *name).map(|header| format!("header:{header}")))
        })
    };
    match place_of(&ENTITY_NAMES) {
        Some(place) => drop(lines.insert("record.entity".into(), quoted(&place))),
        None if record.key.is_some() => drop(lines.insert("record.entity".into(), quoted("key"))),
        None => drop(lines.insert("counting.unit".into(), quoted("records"))),
    }
    if let Some(place) = place_of(&TIME_NAMES) {
        lines.insert("record.timestamp".into(), quoted(&place));
    }
    lines
}

/// What to say of a segment field that no record has: with the nearest place that the records do have.
#[must_use]
pub fn absent_field(field: &str, records: &[SampledRecord]) -> String {
    let mut places: Vec<String> = Vec::new();
    for record in records {
        places.extend(record.headers.iter().map(|(name, _)| format!("{HEADER}{name}")));
        let mut fields = BTreeMap::new();
        if let Ok(json) = serde_json::from_slice(record.payload.as_deref().unwrap_or_default()) {
            flatten("", &json, &mut fields);
        }
        places.extend(
            fields.into_iter().filter(|(_, value)| value.is_string() || value.is_number() || value.is_boolean()).map(|(place, _)| place),
        );
    }
    // What all headers share says nothing.
    let own = |place: &str| place.strip_prefix(HEADER).unwrap_or(place).to_owned();
    let likeness = |place: &String| strsim::jaro_winkler(&own(field), &own(place));
    let nearest = places.iter().filter(|place| likeness(place) > 0.7).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let hint = nearest.map_or_else(String::new, |place| format!("; did you mean {place:?}?"));
    format!("segments.fields: {field:?} is in none of the {} records looked at: no record would be in a segment of it{hint}", records.len())
}

/// Leaves of an object by dotted path; arrays stay whole.
fn flatten(path: &str, value: &Json, into: &mut BTreeMap<String, Json>) {
    match value {
        Json::Object(object) => {
            for (key, value) in object {
                flatten(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, into);
            }
        }
        _ => drop(into.insert(path.to_owned(), value.clone())),
    }
}

/// `Some(None)` for an array of numbers, `Some(Some(dtype))` for base64 of them.
fn vector_of(value: &Json, d_in: Option<usize>) -> Option<Option<&'static str>> {
    match value {
        Json::Array(items) => {
            let fits = d_in.map_or(items.len() >= SHORTEST_VECTOR, |d_in| items.len() == d_in);
            (fits && items.iter().all(Json::is_number)).then_some(None)
        }
        Json::String(text) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
            // Without a width, any short word would pass for a vector.
            raw_dtype(bytes.len(), d_in).filter(|_| d_in.is_some() || bytes.len() >= 4 * SHORTEST_VECTOR).map(Some)
        }
        _ => None,
    }
}

fn raw_dtype(n_bytes: usize, d_in: Option<usize>) -> Option<&'static str> {
    match d_in {
        Some(d_in) if n_bytes == 4 * d_in => Some("f32"),
        Some(d_in) if n_bytes == 2 * d_in => Some("f16"),
        Some(_) => None,
        None => (n_bytes >= 4 * SHORTEST_VECTOR && n_bytes.is_multiple_of(4)).then_some("f32"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicPartition;

    fn record(payload: &[u8], key: Option<&[u8]>, headers: &[(&str, &[u8])]) -> SampledRecord {
        SampledRecord {
            partition: TopicPartition { topic: "t".into(), partition: 0 },
            offset: 0,
            timestamp_ms: None,
            key: key.map(<[u8]>::to_vec),
            payload: Some(payload.to_vec()),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), Some(value.to_vec()))).collect(),
        }
    }

    fn lines(record: SampledRecord, d_in: Option<usize>) -> Vec<String> {
        suggest(&[record], d_in).into_iter().map(|(key, value)| format!("{key} = {value}")).collect()
    }

    #[test]
    fn a_nested_array_is_found_by_its_width() {
        let payload = br#"{"weights": [1, 2, 3], "out": {"state": [0.5, -1, 2, 3e-2]}, "meta": {"user_id": "u", "ts": 17}}"#;
        let expected = [
            r#"record.embedding = "out.state""#,
            r#"record.entity = "meta.user_id""#,
            r#"record.format = "json""#,
            r#"record.timestamp = "meta.ts""#,
        ];
        assert_eq!(lines(record(payload, None, &[]), Some(4)), expected);
    }

    #[test]
    fn base64_tells_its_number_format_by_its_length() {
        let vector = base64::engine::general_purpose::STANDARD.encode([0_u8; 8]);
        let payload = format!("{{\"v\": \"{vector}\"}}");
        let found = lines(record(payload.as_bytes(), Some(b"k"), &[]), Some(4));
        assert_eq!(
            found,
            [r#"record.dtype = "f16""#, r#"record.embedding = "v""#, r#"record.entity = "key""#, r#"record.format = "json""#]
        );
    }

    #[test]
    fn raw_bytes_are_told_by_their_length_and_places_by_headers() {
        let found = lines(record(&[0; 16], None, &[("User_ID", b"u"), ("ts", b"1")]), Some(4));
        let expected = [
            r#"record.dtype = "f32""#,
            r#"record.entity = "header:User_ID""#,
            r#"record.format = "raw""#,
            r#"record.timestamp = "header:ts""#,
        ];
        assert_eq!(found, expected);
        assert_eq!(lines(record(&[0; 16], None, &[]), Some(4))[0], r#"counting.unit = "records""#);
    }

    #[test]
    fn nothing_is_suggested_for_garbage() {
        for payload in [&b""[..], b"{", b"[1,2]", b"null", b"{\"a\": [1, \"x\"]}", b"\xff\xfe"] {
            assert!(suggest(&[record(payload, None, &[])], Some(4)).is_empty(), "{payload:?}");
        }
        assert!(suggest(&[], None).is_empty());
    }
}
