//! A record's payload with another vector in the old one's place, every other byte as it was.
//!
//! Writing the whole JSON anew would be shorter here and change what others wrote: the order of keys,
//! how numbers are written, numbers beyond f64. So the vector's bytes are found and cut out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use half::{bf16, f16};

use crate::config::settings::{Dtype, RecordFormat, RecordSettings};

/// The payload with `vector` where `settings` say that the vector lies: an array, or base64 where it was base64.
/// `None` where it is not there, which a payload that was decoded by the same settings excludes.
#[must_use]
pub fn with_vector(payload: &[u8], settings: &RecordSettings, vector: &[f32]) -> Option<Vec<u8>> {
    if settings.format == RecordFormat::Raw {
        return Some(bytes(vector, settings.dtype));
    }
    let mut at = space(payload, 0);
    for name in settings.embedding.split('.') {
        at = member(payload, at, name)?;
    }
    let end = end_of(payload, at)?;
    let written = match payload.get(at)? {
        b'"' => format!("\"{}\"", STANDARD.encode(bytes(vector, settings.dtype))).into_bytes(),
        _ => serde_json::to_vec(vector).ok()?,
    };
    Some([payload.get(..at)?, &written, payload.get(end..)?].concat())
}

/// Little-endian values of the configured type; halves are rounded to the nearest.
fn bytes(vector: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => vector.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::F16 => vector.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        Dtype::Bf16 => vector.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
    }
}

fn space(json: &[u8], at: usize) -> usize {
    at + json.iter().skip(at).take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// Start of the value of key `name` in the object that starts at `at`. The JSON is known to be sound.
fn member(json: &[u8], at: usize, name: &str) -> Option<usize> {
    if *json.get(at)? != b'{' {
        return None;
    }
    let mut at = space(json, at + 1);
    while *json.get(at)? == b'"' {
        let end = end_of(json, at)?;
        let key: String = serde_json::from_slice(json.get(at..end)?).ok()?;
        let colon = space(json, end);
        let value = space(json, colon + 1);
        if key == name {
            return Some(value);
        }
        // Behind the value a comma, or the object's end.
        at = space(json, space(json, end_of(json, value)?) + 1);
    }
    None
}

/// One past the last byte of the value that starts at `at`.
fn end_of(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' => {
            let mut at = at + 1;
            loop {
                match json.get(at)? {
                    b'"' => return Some(at + 1),
                    b'\\' => at += 2,
                    _ => at += 1,
                }
            }
        }
        b'{' | b'[' => {
            let (mut at, mut depth) = (at, 0usize);
            loop {
                match json.get(at)? {
                    b'"' => {
                        at = end_of(json, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => Some(at + json.iter().skip(at).take_while(|byte| !byte.is_ascii_whitespace() && !b",]}".contains(byte)).count()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn settings(place: &str) -> RecordSettings {
        RecordSettings { embedding: place.into(), ..RecordSettings::default() }
    }

    #[test]
    fn only_the_vectors_bytes_change() {
        let payload = br#" { "z\"embedding" : [ "embedding" ], "n":1e400,"a": {"b}" :"]", "v"  : [1.0, 2] , "w":null } ,"k":00 } "#;
        let changed = with_vector(payload, &settings("a.v"), &[0.5, -1.5]).unwrap();
        let expected = br#" { "z\"embedding" : [ "embedding" ], "n":1e400,"a": {"b}" :"]", "v"  : [0.5,-1.5] , "w":null } ,"k":00 } "#;
        assert_eq!(String::from_utf8_lossy(&changed), String::from_utf8_lossy(expected));
        assert_eq!(with_vector(payload, &settings("a.x"), &[0.5]), None);
        assert_eq!(with_vector(payload, &settings("n.v"), &[0.5]), None);
    }

    #[test]
    fn base64_stays_base64_and_raw_stays_raw_in_their_own_type() {
        let vector = [0.5, -2.0];
        for (dtype, expected) in [(Dtype::F32, vec![0, 0, 0, 63, 0, 0, 0, 192]), (Dtype::F16, vec![0, 56, 0, 192])] {
            let json = RecordSettings { dtype, ..settings("embedding") };
            let changed: Value = serde_json::from_slice(&with_vector(br#"{"embedding":"AAAA"}"#, &json, &vector).unwrap()).unwrap();
            assert_eq!(STANDARD.decode(changed["embedding"].as_str().unwrap()).unwrap(), expected);
            let raw = RecordSettings { format: RecordFormat::Raw, ..json };
            assert_eq!(with_vector(b"1234", &raw, &vector).unwrap(), expected);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9f64..1e9).prop_map(Value::from),
            "[a-c\"\\\\{}\\[\\],: ]{0,6}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"\\\\{}\\[\\],: ]{0,4}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect()))
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_what_a_tree_of_values_would_give(mut record in prop::collection::btree_map("[a-c\"\\\\{}]{1,4}", any_json(), 0..6), pretty: bool) {
            record.insert("v".into(), json!({ "w": [1.0, 2.0], "x": { "w": 3 } }));
            let write = |value: &Value| if pretty { serde_json::to_vec_pretty(value).unwrap() } else { serde_json::to_vec(value).unwrap() };
            let mut tree = Value::Object(record.into_iter().collect());
            let changed: Value = serde_json::from_slice(&with_vector(&write(&tree), &settings("v.w"), &[9.5]).unwrap()).unwrap();
            tree["v"]["w"] = json!([9.5]);
            prop_assert_eq!(changed, tree);
        }
    }
}
