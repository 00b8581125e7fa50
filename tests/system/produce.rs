//! `recsae produce` on Apache Kafka: the recorded stream arrives in event order, bit by bit.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::time::{Duration, Instant};

use ndarray::Array2;
use recsae::config::settings::RecordSettings;
use recsae::decode::Decoder;
use recsae::kafka::consumer::{ReadOptions, WorkerConsumer};
use recsae::kafka::rebalance::RebalanceEvent;
use recsae::record::Record;

use crate::kafka_server::{self, Kafka, unique};
use crate::support;

fn recsae(kafka: &Kafka, arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).args(["--brokers", &kafka.brokers]).output().unwrap()
}

/// Everything in the topic, decoded, each partition in order.
fn read_back(kafka: &Kafka, topic: &str, expected: usize) -> Vec<(i32, Record)> {
    let fields = ["gender".to_owned(), "split".into(), "position".into()];
    let mut decoder = Decoder::new(&RecordSettings::default(), &fields, &[0; 16]).unwrap();
    let options = ReadOptions { batch: 512, linger: Duration::from_millis(5), headers: decoder.needs_headers() };
    let mut consumer = WorkerConsumer::new(&kafka.settings(&[topic]), 0, options).unwrap();
    let (mut records, mut record, deadline) = (Vec::new(), Record::default(), Instant::now() + Duration::from_secs(60));
    while records.len() < expected {
        assert!(Instant::now() < deadline, "{} of {expected}", records.len());
        let outcome = consumer
            .poll(Duration::from_millis(100), |message| {
                decoder.decode(&message, &mut record).unwrap();
                records.push((message.partition.partition, record.clone()));
            })
            .unwrap();
        for event in outcome.rebalances {
            match event {
                RebalanceEvent::Assigned(list) => {
                    consumer.start(&list.iter().map(|p| (p.partition.clone(), p.start)).collect::<Vec<_>>()).unwrap();
                }
                RebalanceEvent::Revoked { partitions, .. } => consumer.release(&partitions).unwrap(),
            }
        }
    }
    records
}

#[test]
fn the_sequential_stream_arrives_whole_in_order_with_its_users_gender() {
    let (Some(kafka), Some(data)) = (kafka_server::shared(), support::data()) else { return };
    let folder = data.join("ml100k");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let topic = unique("sasrec");
    let output = recsae(
        kafka,
        &[
            "produce",
            "--embeddings",
            &path("sasrec.embeddings.npy"),
            "--fields",
            &path("sasrec.events.parquet"),
            "--join",
            &format!("{}:user_id", path("users.parquet")),
            "--entity",
            "user_id",
            "--timestamp",
            "ts",
            "--items",
            "recommended",
            "--topic",
            &topic,
            "--partitions",
            "3",
            "--json",
        ],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["records"], 53_475);
    println!("{result}");

    let embeddings: Array2<f32> = ndarray_npy::read_npy(folder.join("sasrec.embeddings.npy")).unwrap();
    let records = read_back(kafka, &topic, embeddings.nrows());
    let mut rows: HashMap<Vec<u32>, Vec<usize>> = HashMap::new();
    for (row, vector) in embeddings.rows().into_iter().enumerate() {
        rows.entry(vector.iter().map(|value| value.to_bits()).collect()).or_default().push(row);
    }
    let (mut last, mut entities): (BTreeMap<i32, i64>, HashMap<u64, i32>) = (BTreeMap::new(), HashMap::new());
    for (partition, record) in &records {
        let bits: Vec<u32> = record.embedding.iter().map(|value| value.to_bits()).collect();
        assert!(rows.get_mut(&bits).and_then(Vec::pop).is_some(), "a vector that was not recorded, or too often");
        let before = last.insert(*partition, record.event_time_ms).unwrap_or(i64::MIN);
        assert!(before <= record.event_time_ms, "out of order in partition {partition}");
        assert_eq!(*entities.entry(record.entity.unwrap()).or_insert(*partition), *partition, "an entity on two partitions");
        assert!(["F", "M"].contains(&record.fields[0].as_str()) && !record.fields[1].is_empty() && record.items.len() == 10);
    }
    assert!(rows.values().all(Vec::is_empty));
    assert_eq!(entities.len(), 938);
    assert_eq!(last.len(), 3);
}

#[test]
fn static_vectors_are_looked_up_by_a_column() {
    let (Some(kafka), Some(data)) = (kafka_server::shared(), support::data()) else { return };
    let folder = data.join("ml100k");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let topic = unique("bprmf");
    let output = recsae(
        kafka,
        &[
            "produce",
            "--embeddings",
            &path("bprmf.user_embeddings.npy"),
            "--by",
            "user_id",
            "--fields",
            &path("sasrec.events.parquet"),
            "--entity",
            "user_id",
            "--timestamp",
            "ts",
            "--topic",
            &topic,
        ],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let users: Array2<f32> = ndarray_npy::read_npy(folder.join("bprmf.user_embeddings.npy")).unwrap();
    let hasher = recsae::decode::entity::EntityHasher::new(&[0; 16]);
    let user_of: HashMap<u64, usize> = (0..users.nrows()).map(|user| (hasher.hash(user.to_string().as_bytes()), user)).collect();
    for (_, record) in read_back(kafka, &topic, 53_475) {
        let user = user_of[&record.entity.unwrap()];
        assert_eq!(record.embedding, users.row(user).to_vec());
    }
}

#[test]
fn what_does_not_fit_together_is_told_before_anything_is_written() {
    let (Some(kafka), Some(data)) = (kafka_server::shared(), support::data()) else { return };
    let folder = data.join("ml100k");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (users, events) = (path("bprmf.user_embeddings.npy"), path("sasrec.events.parquet"));
    for (arguments, words) in [
        (vec!["--fields", &events], "53475 rows"),
        (vec!["--fields", &events, "--by", "user_id", "--timestamp", "when"], "no column \"when\""),
        (vec!["--fields", &events, "--by", "target_item"], "no vector for"),
        (vec!["--by", "user_id"], "--fields"),
        (vec!["--rate", "0"], "--rate"),
        (vec!["--fields", &users], "no Parquet file"),
    ] {
        let topic = unique("nothing");
        let output = recsae(kafka, &[&["produce", "--embeddings", &users, "--topic", &topic], &arguments[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{arguments:?}: {said}");
    }
}
