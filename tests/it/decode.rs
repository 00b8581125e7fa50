//! Payloads of every kind: what is read, what is refused and with which words, and that nothing panics.

use std::sync::Arc;

use proptest::prelude::*;
use recsae::config::settings::{Dtype, RecordFormat, RecordSettings};
use recsae::decode::Decoder;
use recsae::decode::entity::EntityHasher;
use recsae::record::{Header, RawMessage, Record, Reject, RejectReason, TopicPartition};
use serde_json::{Value, json};

const SALT: [u8; 16] = [7; 16];

fn settings(change: impl FnOnce(&mut RecordSettings)) -> RecordSettings {
    let mut settings = RecordSettings::default();
    change(&mut settings);
    settings
}

fn decoder(settings: &RecordSettings) -> Decoder {
    Decoder::new(settings, &["surface".into(), "user.country".into()], &SALT).unwrap()
}

fn decode_with(decoder: &mut Decoder, payload: Option<&[u8]>, key: Option<&[u8]>, headers: &[Header<'_>]) -> Result<Record, Reject> {
    let at = TopicPartition { topic: Arc::from("views"), partition: 3 };
    let message = RawMessage { partition: &at, offset: 9, timestamp_ms: Some(1_790_000_000_000), key, payload, headers };
    let mut record = Record::default();
    decoder.decode(&message, &mut record).map(|()| record)
}

fn decode(payload: &str) -> Result<Record, Reject> {
    decode_with(&mut decoder(&RecordSettings::default()), Some(payload.as_bytes()), None, &[])
}

fn reason(payload: &str) -> RejectReason {
    let reject = decode(payload).unwrap_err();
    assert!(!reject.detail.is_empty() && !reject.detail.contains('\n'), "{reject}");
    reject.reason
}

#[test]
fn the_record_of_the_interface_is_read_whole() {
    let record = decode(
        r#"{"embedding": [0.1, -2, 3e-1], "entity": "u42", "timestamp": 1790000000123, "model_version": "v12",
            "surface": "home", "items": ["i1", 2], "user": {"age": 3, "country": "AT"}, "other": {"deep": [1, {"x": null}]}}"#,
    )
    .unwrap();
    assert_eq!(record.embedding, [0.1, -2.0, 0.3]);
    assert_eq!(record.entity, Some(EntityHasher::new(&SALT).hash(b"u42")));
    assert_eq!(record.event_time_ms, 1_790_000_000_123);
    assert_eq!((record.model_version.as_str(), &record.fields[..]), ("v12", &["home".to_owned(), "AT".into()][..]));
    assert_eq!(record.items, ["i1", "2"]);
}

#[test]
fn what_is_absent_comes_from_the_message_or_stays_empty() {
    let bare = br#"{"embedding":[1],"entity":null,"timestamp":null,"surface":null,"user":null}"#;
    let record = decode_with(&mut decoder(&RecordSettings::default()), Some(bare), Some(b"u42"), &[]).unwrap();
    assert_eq!(record.entity, Some(EntityHasher::new(&SALT).hash(b"u42")), "the key's entity is the field's entity");
    assert_eq!(record.event_time_ms, 1_790_000_000_000);
    assert_eq!((record.model_version.as_str(), &record.fields[..]), ("", &[String::new(), String::new()][..]));
    assert_eq!(decode(r#"{"embedding":[1]}"#).unwrap().entity, None);
    assert_eq!(decode(r#"{"embedding":[1],"entity":42}"#).unwrap().entity, Some(EntityHasher::new(&SALT).hash(b"42")));
}

#[test]
fn every_kind_of_bad_json_has_its_reason() {
    use RejectReason as R;
    for (payload, expected) in [
        (r#"{"embedding":[1,2"#, R::MalformedJson),
        (r#"{"embedding":[1,2]} trailing"#, R::MalformedJson),
        (r#"{"embedding":[1,2],}"#, R::MalformedJson),
        (r#"{"embedding":[1 2]}"#, R::MalformedJson),
        (r#"{"embedding":[01]}"#, R::MalformedJson),
        ("[1,2]", R::MalformedJson),
        ("7", R::MalformedJson),
        ("\u{0}\u{1}", R::MalformedJson),
        (r#"{"embedding":[1],"embedding":[2]}"#, R::MalformedJson),
        (r#"{"embedding":[1],"user":{"country":"AT"},"user":{}}"#, R::MalformedJson),
        (r#"{"surface":[1],"embedding":[1"#, R::MalformedJson),
        (r#"{"surface":NaN,"embedding":[1]}"#, R::MalformedJson),
        ("{}", R::MissingEmbedding),
        (r#"{"embedding":null}"#, R::MissingEmbedding),
        (r#"{"Embedding":[1]}"#, R::MissingEmbedding),
        (r#"{"embedding":7}"#, R::BadEmbedding),
        (r#"{"embedding":{"a":[1]}}"#, R::BadEmbedding),
        (r#"{"embedding":true}"#, R::BadEmbedding),
        (r#"{"embedding":[[1,2]]}"#, R::BadEmbedding),
        (r#"{"embedding":[1,null]}"#, R::BadEmbedding),
        (r#"{"embedding":[1,"2"]}"#, R::BadEmbedding),
        (r#"{"embedding":[1,{"a":2}]}"#, R::BadEmbedding),
        (r#"{"embedding":"not base64!"}"#, R::BadEmbedding),
        (r#"{"embedding":"AAAA"}"#, R::BadLength),
        (r#"{"embedding":[1,NaN]}"#, R::NotFinite),
        (r#"{"embedding":[1,-Infinity]}"#, R::NotFinite),
        (r#"{"embedding":[1,nan]}"#, R::NotFinite),
        (r#"{"embedding":[1,1e400]}"#, R::NotFinite),
        (r#"{"embedding":[1],"timestamp":"noon"}"#, R::BadTimestamp),
        (r#"{"embedding":[1],"timestamp":-5}"#, R::BadTimestamp),
        (r#"{"embedding":[1],"timestamp":1790000000123456}"#, R::BadTimestamp),
        (r#"{"embedding":[1],"timestamp":1e400}"#, R::BadTimestamp),
        (r#"{"embedding":[1],"timestamp":{}}"#, R::BadTimestamp),
        (r#"{"embedding":[1],"timestamp":true}"#, R::BadTimestamp),
        (r#"{"embedding":[1],"entity":["u"]}"#, R::BadField),
        (r#"{"embedding":[1],"entity":1.5}"#, R::BadField),
        (r#"{"embedding":[1],"surface":{"a":1}}"#, R::BadField),
        (r#"{"embedding":[1],"surface":"a\nb"}"#, R::BadField),
        (r#"{"embedding":[1],"model_version":"\u0000"}"#, R::BadField),
        (r#"{"embedding":[1],"items":"i1"}"#, R::BadField),
        (r#"{"embedding":[1],"items":[["i1"]]}"#, R::BadField),
    ] {
        assert_eq!(reason(payload), expected, "{payload}");
    }
    let long = "x".repeat(257);
    assert_eq!(reason(&json!({"embedding": [1], "surface": long}).to_string()), R::BadField);
    assert_eq!(reason(&json!({"embedding": [1], "entity": "x".repeat(1025)}).to_string()), R::BadField);
    let deep = format!("{{\"embedding\":[1],\"other\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(decode(&deep).unwrap().embedding, [1.0], "what is skipped may nest without end");
    let deep = format!("{{\"embedding\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(reason(&deep), R::BadEmbedding);
}

#[test]
fn nothing_empty_and_too_much_have_their_reasons() {
    let mut decoder = decoder(&settings(|s| s.max_bytes = 20));
    assert_eq!(decode_with(&mut decoder, None, None, &[]).unwrap_err().reason, RejectReason::Tombstone);
    assert_eq!(decode_with(&mut decoder, Some(b""), None, &[]).unwrap_err().reason, RejectReason::EmptyPayload);
    assert_eq!(decode_with(&mut decoder, Some(&[b' '; 21]), None, &[]).unwrap_err().reason, RejectReason::TooLarge);
    let at = TopicPartition { topic: Arc::from("views"), partition: 3 };
    let timeless =
        RawMessage { partition: &at, offset: 0, timestamp_ms: None, key: None, payload: Some(br#"{"embedding":[1]}"#), headers: &[] };
    assert_eq!(decoder.decode(&timeless, &mut Record::default()).unwrap_err().reason, RejectReason::MissingTimestamp);
}

#[test]
fn a_vector_beyond_f32_reaches_the_batch_as_infinity() {
    assert_eq!(decode(r#"{"embedding":[1e39,-1e300,1e-50]}"#).unwrap().embedding, [f32::INFINITY, f32::NEG_INFINITY, 0.0]);
}

#[test]
fn base64_vectors_are_read_in_every_dtype_padded_or_not() {
    use base64::Engine;
    use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
    let values = [1.5_f32, -0.25];
    let bytes = |dtype| match dtype {
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        Dtype::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
    };
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        for text in [BASE64_STANDARD.encode(bytes(dtype)), BASE64_STANDARD_NO_PAD.encode(bytes(dtype))] {
            let payload = json!({ "embedding": text }).to_string();
            let record = decode_with(&mut decoder(&settings(|s| s.dtype = dtype)), Some(payload.as_bytes()), None, &[]).unwrap();
            assert_eq!(record.embedding, values, "{dtype:?} {text}");
        }
        let raw = settings(|s| (s.dtype, s.format) = (dtype, RecordFormat::Raw));
        assert_eq!(decode_with(&mut decoder(&raw), Some(&bytes(dtype)), None, &[]).unwrap().embedding, values);
    }
}

#[test]
fn headers_and_the_key_fill_what_the_configuration_says() {
    let raw = settings(|s| s.format = RecordFormat::Raw);
    let headers: [Header<'_>; 7] = [
        ("entity", Some(b"u1")),
        ("timestamp", Some(b"1970-01-01T00:00:05Z")),
        ("model_version", Some(b"v1")),
        ("surface", Some(b"old")),
        ("surface", Some(b"home")),
        ("user.country", None),
        ("items", Some(b"a, b,")),
    ];
    let record = decode_with(&mut decoder(&raw), Some(&1f32.to_le_bytes()), Some(b"another"), &headers).unwrap();
    assert_eq!((record.event_time_ms, record.model_version.as_str()), (5_000, "v1"));
    assert_eq!(record.entity, Some(EntityHasher::new(&SALT).hash(b"u1")));
    assert_eq!((&record.fields[..], &record.items[..]), (&["home".to_owned(), String::new()][..], &["a".to_owned(), "b".into()][..]));
    let bad = decode_with(&mut decoder(&raw), Some(&1f32.to_le_bytes()), None, &[("surface", Some(&[0xff]))]).unwrap_err();
    assert_eq!(bad.reason, RejectReason::BadField);

    let mixed = settings(|s| (s.entity, s.timestamp) = ("key".into(), "header:time".into()));
    let mut decoder = decoder(&mixed);
    assert!(decoder.needs_headers());
    let record = decode_with(&mut decoder, Some(br#"{"embedding":[1],"entity":"no"}"#), Some(b"k"), &[("time", Some(b"12"))]).unwrap();
    assert_eq!((record.entity, record.event_time_ms), (Some(EntityHasher::new(&SALT).hash(b"k")), 12_000));
}

#[test]
fn a_bad_record_leaves_nothing_behind_for_the_next() {
    let mut decoder = decoder(&RecordSettings::default());
    let at = TopicPartition { topic: Arc::from("views"), partition: 3 };
    let mut record = Record::default();
    let message = |payload: &'static [u8]| RawMessage {
        partition: &at,
        offset: 0,
        timestamp_ms: Some(5),
        key: None,
        payload: Some(payload),
        headers: &[],
    };
    let full =
        br#"{"embedding":[1,2,3],"entity":"u","timestamp":9,"model_version":"v","surface":"s","items":["i"],"user":{"country":[1]}}"#;
    assert!(decoder.decode(&message(full), &mut record).is_err());
    decoder.decode(&message(br#"{"embedding":[7]}"#), &mut record).unwrap();
    assert_eq!((&record.embedding[..], record.entity, record.event_time_ms), (&[7.0][..], None, 5));
    assert!(record.model_version.is_empty() && record.items.is_empty() && record.fields.iter().all(String::is_empty));
}

/// The slow twin: a tree of values.
fn by_tree(payload: &[u8]) -> Option<Vec<f32>> {
    let Value::Object(object) = serde_json::from_slice(payload).ok()? else { return None };
    #[expect(clippy::cast_possible_truncation, reason = "as the decoder rounds")]
    object.get("embedding")?.as_array()?.iter().map(|value| value.as_f64().map(|value| value as f32)).collect()
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z\u{0}\u{7f}é\"\\\\]{0,12}".prop_map(Value::from),
        prop::collection::vec(any::<f32>(), 0..6).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        let name = prop_oneof!["embedding", "entity", "timestamp", "surface", "user", "country", "items", "[a-z]{0,3}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

#[test]
fn text_that_nobody_wants_is_utf8_too() {
    let payload = b"{\"embedding\":[0.5],\"other\":\"ho\x80me\"}";
    let reject = decode_with(&mut decoder(&RecordSettings::default()), Some(payload), None, &[]).unwrap_err();
    assert_eq!((reject.reason, reject.detail.as_str()), (RejectReason::MalformedJson, "expected UTF-8, found other bytes at 30"));
}

proptest! {
    #[test]
    fn any_json_gives_the_twins_vector_or_a_reject(value in json_value()) {
        let payload = value.to_string();
        match decode(&payload) {
            Ok(record) => match by_tree(payload.as_bytes()) {
                Some(embedding) => prop_assert_eq!(record.embedding, embedding),
                // Base64 is the one other form of a vector.
                None => prop_assert!(value["embedding"].is_string()),
            },
            Err(reject) => prop_assert!(RejectReason::ALL.contains(&reject.reason) && reject.reason != RejectReason::MalformedJson || !value.is_object()),
        }
    }

    #[test]
    fn any_bytes_give_a_record_or_a_reject(payload in prop::collection::vec(any::<u8>(), 0..200), raw in any::<bool>()) {
        let settings = settings(|s| if raw { s.format = RecordFormat::Raw });
        let result = decode_with(&mut decoder(&settings), Some(&payload), Some(&payload), &[("surface", Some(&payload))]);
        prop_assert!(result.is_err() || raw);
    }

    #[test]
    fn a_good_record_with_bytes_changed_gives_the_twins_vector_or_a_reject(changes in prop::collection::vec((0_usize..90, any::<u8>()), 1..4), cut in 0_usize..120) {
        let mut payload = br#"{"embedding":[0.5,-1.25,3e-2],"entity":"u42","timestamp":1790000000123,"surface":"home"}"#.to_vec();
        for (at, byte) in changes {
            if let Some(place) = payload.get_mut(at) { *place = byte; }
        }
        payload.truncate(cut);
        if let Ok(record) = decode_with(&mut decoder(&RecordSettings::default()), Some(&payload), None, &[]) {
            prop_assert_eq!(Some(record.embedding), by_tree(&payload));
        }
    }
}
