//! Consuming, committing and dead letters against the in-process broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::config::settings::{KafkaSettings, RecordSettings};
use recsae::decode::Decoder;
use recsae::kafka::consumer::{ReadOptions, WorkerConsumer};
use recsae::kafka::dead_letter::{self, DeadLetters};
use recsae::kafka::embedded::EmbeddedBroker;
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::kafka::rebalance::{Position, RebalanceEvent};
use recsae::record::{Record, TopicPartition};

const OPTIONS: ReadOptions = ReadOptions { batch: 64, linger: Duration::from_millis(5), headers: true };

fn settings(broker: &EmbeddedBroker, topic: &str) -> KafkaSettings {
    KafkaSettings { brokers: broker.brokers(), topics: vec![topic.into()], group: format!("group-{topic}"), ..KafkaSettings::default() }
}

fn produce(settings: &KafkaSettings, topic: &str, payloads: &[&str]) {
    let producer = ReliableProducer::new(settings).unwrap();
    let receipts = Arc::new(Receipts::default());
    for payload in payloads {
        let record = Outgoing { topic, key: Some(b"u1"), payload: Some(payload.as_bytes()), ..Outgoing::default() };
        producer.send(&record, &[], &receipts, Duration::from_secs(5)).unwrap();
    }
    producer.settle(&receipts, Instant::now() + Duration::from_secs(10)).unwrap();
    assert_eq!(receipts.acked(), payloads.len() as u64);
}

/// Polls until `enough`, starting every assigned partition where the group says.
fn read_until(
    consumer: &mut WorkerConsumer,
    mut each: impl FnMut(recsae::record::RawMessage<'_>),
    mut enough: impl FnMut(usize) -> bool,
) -> Vec<RebalanceEvent> {
    let (deadline, mut count, mut events) = (Instant::now() + Duration::from_secs(20), 0, Vec::new());
    while !enough(count) {
        assert!(Instant::now() < deadline, "only {count} messages");
        let outcome = consumer.poll(Duration::from_millis(100), &mut each).unwrap();
        count += outcome.messages;
        for event in outcome.rebalances {
            match &event {
                RebalanceEvent::Assigned(partitions) => {
                    consumer.start(&partitions.iter().map(|p| (p.partition.clone(), p.start)).collect::<Vec<_>>()).unwrap();
                }
                RebalanceEvent::Revoked { partitions, .. } => consumer.release(partitions).unwrap(),
            }
            events.push(event);
        }
    }
    events
}

#[test]
fn a_worker_starts_where_the_group_committed_and_finds_its_metadata() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("views", 2).unwrap();
    let settings = settings(&broker, "views");
    produce(&settings, "views", &["a", "b", "c", "d"]);

    let mut first = WorkerConsumer::new(&settings, 0, OPTIONS).unwrap();
    let mut seen: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    let mut payloads = Vec::new();
    read_until(
        &mut first,
        |message| {
            seen.insert(message.partition.clone(), message.offset + 1);
            payloads.push(String::from_utf8(message.payload.unwrap().to_vec()).unwrap());
        },
        |count| count == 4,
    );
    assert_eq!(payloads, ["a", "b", "c", "d"], "one key, one partition, in order");
    let (at, next) = seen.into_iter().next().unwrap();
    assert_eq!(first.lag(&at, next - 1), Some(1));
    let position = Position { partition: at.clone(), offset: next - 1, metadata: "1;0;1790000000000;0".into() };
    first.commit_and_wait(&[position], Instant::now() + Duration::from_secs(5)).unwrap();
    first.close();

    let mut second = WorkerConsumer::new(&settings, 0, OPTIONS).unwrap();
    let mut again = Vec::new();
    let events = read_until(&mut second, |message| again.push(message.offset), |count| count == 1);
    assert_eq!(again, [next - 1]);
    let assigned: Vec<_> =
        events.iter().flat_map(|event| if let RebalanceEvent::Assigned(all) = event { all.clone() } else { vec![] }).collect();
    let ours = assigned.iter().find(|partition| partition.partition == at).unwrap();
    assert_eq!(ours.committed.as_ref().unwrap().metadata, "1;0;1790000000000;0");
    assert_eq!((ours.start, ours.low, ours.high), (next - 1, 0, next));
    assert_eq!(assigned.iter().filter(|partition| partition.committed.is_none()).count(), 1);
    assert_eq!(second.topic_partitions(Duration::from_secs(5)).unwrap().len(), 2);
}

#[test]
fn a_bad_record_becomes_a_dead_letter_and_its_neighbours_are_read() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("views", 1).unwrap();
    broker.create_topic("dead", 1).unwrap();
    let settings = settings(&broker, "views");
    produce(&settings, "views", &[r#"{"embedding":[1,2]}"#, r#"{"embedding":[1,"#, r#"{"embedding":[3,4]}"#]);

    let mut consumer = WorkerConsumer::new(&settings, 0, OPTIONS).unwrap();
    let dead = DeadLetters::new(Arc::new(ReliableProducer::new(&settings).unwrap()), "dead");
    let mut decoder = Decoder::new(&RecordSettings::default(), &[], &[0; 16]).unwrap();
    let (mut record, mut embeddings) = (Record::default(), Vec::new());
    read_until(
        &mut consumer,
        |message| match decoder.decode(&message, &mut record) {
            Ok(()) => embeddings.push(record.embedding.clone()),
            Err(reject) => dead.send(&message, &reject, Duration::from_secs(5)).unwrap(),
        },
        |count| count == 3,
    );
    assert_eq!(embeddings, [[1.0, 2.0], [3.0, 4.0]]);
    dead.settle(Instant::now() + Duration::from_secs(5)).unwrap();

    let reader = KafkaSettings { topics: vec!["dead".into()], group: "reader".into(), ..settings };
    let mut consumer = WorkerConsumer::new(&reader, 0, OPTIONS).unwrap();
    let mut letters = Vec::new();
    read_until(
        &mut consumer,
        |message| {
            let header = |name: &str| {
                let value = message.headers.iter().find(|(header, _)| *header == name).and_then(|(_, value)| *value);
                String::from_utf8(value.unwrap_or_default().to_vec()).unwrap()
            };
            letters.push((
                message.payload.unwrap().to_vec(),
                message.key.unwrap().to_vec(),
                header(dead_letter::REASON),
                header(dead_letter::OFFSET),
                header(dead_letter::KEY),
            ));
        },
        |count| count == 1,
    );
    let expected = (br#"{"embedding":[1,"#.to_vec(), b"views|0|1".to_vec(), "malformed_json".into(), "1".into(), "u1".into());
    assert_eq!(letters, [expected]);
}

#[test]
fn closing_with_an_unanswered_commit_ends_quietly() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("views", 1).unwrap();
    let settings = settings(&broker, "views");
    produce(&settings, "views", &["a"]);
    let mut consumer = WorkerConsumer::new(&settings, 0, OPTIONS).unwrap();
    let mut at = None;
    read_until(&mut consumer, |message| at = Some(message.partition.clone()), |count| count == 1);
    let position = Position { partition: at.unwrap(), offset: 1, metadata: String::new() };
    assert!(consumer.commit(std::slice::from_ref(&position)).unwrap());
    assert!(!consumer.commit(&[position]).unwrap(), "one in flight");
    // Long enough for the reply to lie in the queue, unread.
    assert_eq!(consumer.keep_alive().unwrap().messages, 0);
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    consumer.close();
}
