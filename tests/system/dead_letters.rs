//! Poison of each kind on Apache Kafka: each in the dead letters once, its neighbours unharmed.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::config::settings::{KafkaSettings, RecordFormat, RecordSettings};
use recsae::decode::Decoder;
use recsae::kafka::consumer::{ReadOptions, WorkerConsumer};
use recsae::kafka::dead_letter::{DeadLetter, DeadLetters};
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::kafka::rebalance::RebalanceEvent;
use recsae::kafka::scan::scan;
use recsae::record::Record;

use crate::kafka_server::{self, Kafka};

type Sent = Vec<(Option<Vec<u8>>, Option<&'static str>)>;

/// Produces to partition 0 in order; `Some(reason)` marks poison.
fn produce(settings: &KafkaSettings, topic: &str, records: &Sent) {
    let producer = ReliableProducer::new(settings).unwrap();
    let receipts = Arc::new(Receipts::default());
    for (number, (payload, _)) in records.iter().enumerate() {
        let key = format!("u{number}");
        let record = Outgoing {
            topic,
            partition: Some(0),
            key: Some(key.as_bytes()),
            payload: payload.as_deref(),
            timestamp_ms: Some(1_790_000_000_000 + i64::try_from(number).unwrap()),
        };
        producer.send(&record, &[("surface", b"home")], &receipts, Duration::from_secs(10)).unwrap();
    }
    producer.settle(&receipts, Instant::now() + Duration::from_secs(30)).unwrap();
}

/// Reads all of `records` and sends what cannot be decoded to `dead`; returns the offsets that were decoded.
fn consume(settings: &KafkaSettings, record_settings: &RecordSettings, n_records: usize, dead: &DeadLetters) -> Vec<i64> {
    let mut decoder = Decoder::new(record_settings, &["surface".into()], &[0; 16]).unwrap();
    let options = ReadOptions { batch: 512, linger: Duration::from_millis(5), headers: true };
    let mut consumer = WorkerConsumer::new(settings, 0, options).unwrap();
    let (mut decoded, mut count, mut record, deadline) = (Vec::new(), 0, Record::default(), Instant::now() + Duration::from_secs(60));
    while count < n_records {
        assert!(Instant::now() < deadline, "{count} of {n_records}");
        let outcome = consumer
            .poll(Duration::from_millis(100), |message| match decoder.decode(&message, &mut record) {
                Ok(()) => decoded.push(message.offset),
                Err(reject) => dead.send(&message, &reject, Duration::from_secs(10)).unwrap(),
            })
            .unwrap();
        count += outcome.messages;
        for event in outcome.rebalances {
            match event {
                RebalanceEvent::Assigned(list) => {
                    consumer.start(&list.iter().map(|p| (p.partition.clone(), p.start)).collect::<Vec<_>>()).unwrap();
                }
                RebalanceEvent::Revoked { partitions, .. } => consumer.release(&partitions).unwrap(),
            }
        }
    }
    dead.settle(Instant::now() + Duration::from_secs(30)).unwrap();
    assert!(dead.settled().unwrap());
    decoded
}

fn list(kafka: &Kafka, topic: &str) -> Vec<serde_json::Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_recsae"))
        .args(["dead-letters", "list", "--brokers", &kafka.brokers, "--topic", topic, "--json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks that exactly the poison is in the dead letters, with place, time, key, reason and bytes.
fn check(kafka: &Kafka, record_settings: &RecordSettings, records: &Sent) {
    let (topic, dead_topic) = (kafka.topic("views", 1), kafka.topic("dead", 2));
    let settings = kafka.settings(&[&topic]);
    produce(&settings, &topic, records);
    let dead = DeadLetters::new(Arc::new(ReliableProducer::new(&settings).unwrap()), &dead_topic);
    let decoded = consume(&settings, record_settings, records.len(), &dead);
    // Read again from the start, as after a kill before the commit: every letter is sent twice.
    let again = consume(&KafkaSettings { group: kafka_server::unique("again"), ..settings.clone() }, record_settings, records.len(), &dead);
    let number = |index: usize| i64::try_from(index).unwrap();
    let good: Vec<i64> = records.iter().enumerate().filter(|(_, (_, reason))| reason.is_none()).map(|(index, _)| number(index)).collect();
    assert_eq!((&decoded, &again), (&good, &good));

    let expected: Vec<_> = records.iter().enumerate().filter_map(|(index, (payload, reason))| Some((index, payload, (*reason)?))).collect();
    let listed = list(kafka, &dead_topic);
    assert_eq!(listed.len(), expected.len(), "each once");
    for (letter, (index, payload, reason)) in listed.iter().zip(&expected) {
        assert_eq!(letter["topic"], topic);
        assert_eq!((&letter["partition"], &letter["offset"]), (&0.into(), &number(*index).into()));
        assert_eq!(letter["timestamp"], 1_790_000_000_000 + number(*index));
        assert_eq!(letter["reason"], *reason, "{letter}");
        assert_eq!(letter["key"], format!("u{index}"));
        assert_eq!(letter["bytes"], payload.as_ref().map(Vec::len).map_or(serde_json::Value::Null, Into::into));
        assert!(!letter["error"].as_str().unwrap().is_empty());
    }

    let mut letters = BTreeMap::new();
    let mut delivered = 0;
    scan(&settings, &dead_topic, Duration::from_secs(20), |message| {
        let letter = DeadLetter::read(&message).unwrap();
        assert_eq!(message.key.unwrap(), format!("{topic}|0|{}", letter.offset).as_bytes());
        delivered += 1;
        letters.insert(letter.offset, letter);
    })
    .unwrap();
    assert_eq!(delivered, 2 * expected.len());
    for (index, payload, _) in &expected {
        let letter = &letters[&number(*index)];
        assert_eq!(&letter.payload, *payload, "the original bytes");
        assert_eq!(letter.headers, [("surface".to_owned(), b"home".to_vec())]);
    }

    let replayed = kafka.topic("replayed", 1);
    let output = Command::new(env!("CARGO_BIN_EXE_recsae"))
        .args(["dead-letters", "replay", "--brokers", &kafka.brokers, "--topic", &dead_topic, "--to", &replayed])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut back = Vec::new();
    scan(&settings, &replayed, Duration::from_secs(20), |message| {
        assert_eq!(message.headers[0], ("surface", Some(&b"home"[..])));
        back.push((message.key.map(<[u8]>::to_vec), message.payload.map(<[u8]>::to_vec), message.timestamp_ms));
    })
    .unwrap();
    let originals: Vec<_> = expected
        .iter()
        .map(|(index, payload, _)| (Some(format!("u{index}").into_bytes()), (*payload).clone(), Some(1_790_000_000_000 + number(*index))))
        .collect();
    assert_eq!(back, originals);
}

#[test]
fn json_poison_first_middle_last_and_a_hundred_in_a_row() {
    let Some(kafka) = kafka_server::shared() else { return };
    let good = || (Some(br#"{"embedding":[0.5,-1],"surface":"home"}"#.to_vec()), None);
    let bad = |payload: &[u8], reason| (Some(payload.to_vec()), Some(reason));
    let mut records: Sent = vec![bad(br#"{"embedding":[0.5,"#, "malformed_json"), good(), (None, Some("tombstone")), good()];
    for (payload, reason) in [
        (&b""[..], "empty_payload"),
        (b"\x00\x01\x02\x03", "malformed_json"),
        (br#"{"surface":"home"}"#, "missing_embedding"),
        (br#"{"embedding":[1,NaN]}"#, "not_finite"),
        (br#"{"embedding":"no base64"}"#, "bad_embedding"),
        (br#"{"embedding":"AAAA"}"#, "bad_length"),
        (br#"{"embedding":[[1]]}"#, "bad_embedding"),
        (br#"{"embedding":[1],"timestamp":"noon"}"#, "bad_timestamp"),
        (br#"{"embedding":[1],"surface":[1]}"#, "bad_field"),
    ] {
        records.push(bad(payload, reason));
        records.push(good());
    }
    records.pop();
    records.push(bad(&vec![b' '; 900_000], "too_large"));
    records.push(good());
    records.extend((0..100).map(|_| bad(b"{", "malformed_json")));
    records.push(good());
    records.push(bad(b"]", "malformed_json"));
    check(kafka, &RecordSettings { max_bytes: 100_000, ..RecordSettings::default() }, &records);
}

#[test]
fn raw_poison_and_a_topic_of_nothing_else() {
    let Some(kafka) = kafka_server::shared() else { return };
    let raw = RecordSettings { format: RecordFormat::Raw, ..RecordSettings::default() };
    let good = || (Some([0.5_f32, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect()), None);
    let mixed: Sent = vec![
        (Some(vec![1, 2, 3]), Some("bad_length")),
        good(),
        (Some(vec![]), Some("empty_payload")),
        good(),
        (Some(vec![0; 5]), Some("bad_length")),
    ];
    check(kafka, &raw, &mixed);
    check(kafka, &raw, &(0..50).map(|_| (Some(vec![1_u8]), Some("bad_length"))).collect());
}

#[test]
fn a_dead_letter_topic_with_a_smaller_limit_gets_the_beginning_and_the_worker_goes_on() {
    let Some(kafka) = kafka_server::shared() else { return };
    let (topic, dead_topic) = (kafka.topic("views", 1), kafka.topic("dead", 1));
    kafka.configure(&dead_topic, "max.message.bytes", "3000");
    let settings = kafka.settings(&[&topic]);
    let good = || (Some(br#"{"embedding":[0.5,-1],"surface":"home"}"#.to_vec()), None);
    let mut records: Sent = vec![good(), (Some(vec![b'x'; 40_000]), Some("malformed_json"))];
    // Each fits alone, and a batch of them does not.
    records.extend((0..40).map(|_| (Some(vec![b'y'; 400]), Some("malformed_json"))));
    records.push((Some(vec![b'z'; 900_000]), Some("malformed_json")));
    records.push(good());
    produce(&settings, &topic, &records);
    let dead = DeadLetters::new(Arc::new(ReliableProducer::new(&settings).unwrap()), &dead_topic);
    let decoded = consume(&settings, &RecordSettings::default(), records.len(), &dead);
    assert_eq!(decoded, [0, 43]);
    assert_eq!((dead.acked(), dead.truncated(), dead.undeliverable()), (42, 2, 0));

    let listed = list(kafka, &dead_topic);
    let offsets: Vec<i64> = listed.iter().map(|letter| letter["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, (1..43).collect::<Vec<_>>(), "each once, none lost");
    for (letter, whole) in [(&listed[0], 40_000), (&listed[41], 900_000)] {
        assert_eq!(letter["truncated_from"], whole);
        assert!((1..3000).contains(&letter["bytes"].as_i64().unwrap()), "{letter}");
        assert_eq!(letter["key"].as_str().unwrap(), format!("u{}", letter["offset"]));
    }
    assert!(listed[1..41].iter().all(|letter| letter["bytes"] == 400 && letter["truncated_from"].is_null()));
    let output = Command::new(env!("CARGO_BIN_EXE_recsae"))
        .args(["dead-letters", "replay", "--brokers", &kafka.brokers, "--topic", &dead_topic, "--to", &kafka.topic("replayed", 1)])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("40 records replayed, 2 left out: they are truncated"), "{output:?}");

    // So small that not even the place of a record fits: counted, and no reason to stop.
    let tiny = kafka.topic("dead", 1);
    kafka.configure(&tiny, "max.message.bytes", "100");
    let dead = DeadLetters::new(Arc::new(ReliableProducer::new(&settings).unwrap()), &tiny);
    let again = KafkaSettings { group: kafka_server::unique("again"), ..settings };
    assert_eq!(consume(&again, &RecordSettings::default(), records.len(), &dead), [0, 43]);
    assert_eq!((dead.acked(), dead.undeliverable()), (0, 42));
}
