//! Consuming from Apache Kafka.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::config::settings::KafkaSettings;
use recsae::kafka::admin;
use recsae::kafka::consumer::{ReadOptions, WorkerConsumer};
use recsae::kafka::error::KafkaError;
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::kafka::rebalance::{AssignedPartition, Position, RebalanceEvent};
use recsae::record::{RawMessage, TopicPartition};

use crate::kafka_server::{self, unique};

const OPTIONS: ReadOptions = ReadOptions { batch: 512, linger: Duration::from_millis(5), headers: true };

/// A worker that starts where it is told and commits what it has read.
struct Worker {
    consumer: WorkerConsumer,
    next: BTreeMap<TopicPartition, i64>,
    assigned: Vec<AssignedPartition>,
    read: Vec<(TopicPartition, i64, Vec<u8>)>,
    lost: usize,
}

impl Worker {
    fn new(settings: &KafkaSettings, number: usize) -> Self {
        Self {
            consumer: WorkerConsumer::new(settings, number, OPTIONS).unwrap(),
            next: BTreeMap::new(),
            assigned: Vec::new(),
            read: Vec::new(),
            lost: 0,
        }
    }

    fn poll(&mut self) {
        let outcome = self
            .consumer
            .poll(Duration::from_millis(50), |message: RawMessage<'_>| {
                self.next.insert(message.partition.clone(), message.offset + 1);
                self.read.push((message.partition.clone(), message.offset, message.payload.unwrap_or_default().to_vec()));
            })
            .unwrap();
        for fault in &outcome.faults {
            println!("fault: {fault}");
        }
        for event in outcome.rebalances {
            match event {
                RebalanceEvent::Assigned(list) => {
                    self.consumer.start(&list.iter().map(|p| (p.partition.clone(), p.start)).collect::<Vec<_>>()).unwrap();
                    self.next.extend(list.iter().map(|p| (p.partition.clone(), p.start)));
                    self.assigned.extend(list);
                }
                RebalanceEvent::Revoked { partitions, lost } => {
                    self.lost += usize::from(lost);
                    if !lost {
                        self.commit(&partitions);
                    }
                    self.consumer.release(&partitions).unwrap();
                    self.next.retain(|at, _| !partitions.contains(at));
                }
            }
        }
    }

    fn commit(&mut self, partitions: &[TopicPartition]) {
        let positions: Vec<Position> = partitions
            .iter()
            .filter_map(|at| Some(Position { partition: at.clone(), offset: *self.next.get(at)?, metadata: "1;0;0;0".into() }))
            .collect();
        self.consumer.commit_and_wait(&positions, Instant::now() + Duration::from_secs(10)).unwrap();
    }

    fn commit_all(&mut self) {
        let all: Vec<_> = self.next.keys().cloned().collect();
        self.commit(&all);
    }
}

/// Polls all workers until `done`.
fn run(workers: &mut [Worker], mut done: impl FnMut(&[Worker]) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done(workers) {
        let so_far: Vec<_> = workers.iter().map(|worker| (worker.read.len(), worker.next.len())).collect();
        assert!(Instant::now() < deadline, "(read, partitions) by worker: {so_far:?}");
        workers.iter_mut().for_each(Worker::poll);
    }
}

fn produce(settings: &KafkaSettings, topic: &str, records: std::ops::Range<usize>, timestamp_ms: impl Fn(usize) -> Option<i64>) {
    let producer = ReliableProducer::new(settings).unwrap();
    let receipts = Arc::new(Receipts::default());
    for number in records {
        let text = number.to_string();
        let record = Outgoing {
            topic,
            key: Some(text.as_bytes()),
            payload: Some(text.as_bytes()),
            partition: None,
            timestamp_ms: timestamp_ms(number),
        };
        producer.send(&record, &[], &receipts, Duration::from_secs(10)).unwrap();
    }
    producer.settle(&receipts, Instant::now() + Duration::from_secs(30)).unwrap();
}

/// The first worker reads that many records, each once.
fn first_reads(workers: &mut [Worker], n: usize) {
    run(workers, |workers| workers[0].read.len() == n);
    assert_eq!(numbers(workers), (0..n).collect::<Vec<_>>());
}

fn numbers(workers: &[Worker]) -> Vec<usize> {
    let mut numbers: Vec<usize> = workers
        .iter()
        .flat_map(|worker| &worker.read)
        .map(|(.., payload)| std::str::from_utf8(payload).unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Two members share the partitions, one leaves, the other goes on: each record is read once.
fn shared_by_two(settings: &KafkaSettings, topic: &str) {
    produce(settings, topic, 0..1000, |_| None);
    let mut workers = vec![Worker::new(settings, 0), Worker::new(settings, 1)];
    run(&mut workers, |workers| {
        workers.iter().all(|worker| worker.next.len() == 2) && workers.iter().map(|w| w.read.len()).sum::<usize>() >= 1000
    });
    produce(settings, topic, 1000..2000, |_| None);
    run(&mut workers, |workers| workers.iter().map(|w| w.read.len()).sum::<usize>() >= 2000);
    let mut leaving = workers.pop().unwrap();
    leaving.commit_all();
    let read = std::mem::take(&mut leaving.read);
    leaving.consumer.close();
    workers[0].read.extend(read);
    produce(settings, topic, 2000..3000, |_| None);
    run(&mut workers, |workers| workers[0].read.len() >= 3000);
    assert_eq!(numbers(&workers), (0..3000).collect::<Vec<_>>());
}

#[test]
fn classic_cooperative_members_share_and_hand_over_without_loss_or_double() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 4);
    shared_by_two(&kafka.settings(&[&topic]), &topic);
}

#[test]
fn members_of_the_consumer_protocol_share_and_hand_over_without_loss_or_double() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 4);
    shared_by_two(&KafkaSettings { protocol: "consumer".into(), ..kafka.settings(&[&topic]) }, &topic);
}

#[test]
fn eager_members_share_and_hand_over_without_loss_or_double() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 4);
    let mut settings = kafka.settings(&[&topic]);
    settings.librdkafka.insert("partition.assignment.strategy".into(), "range".into());
    shared_by_two(&settings, &topic);
}

#[test]
fn a_static_member_that_returns_within_its_session_keeps_its_partitions() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 4);
    let settings = KafkaSettings { instance_id: unique("pod"), ..kafka.settings(&[&topic]) };
    produce(&settings, &topic, 0..100, |_| None);
    let mut workers = vec![Worker::new(&settings, 0), Worker::new(&settings, 1)];
    run(&mut workers, |workers| workers.iter().all(|worker| worker.next.len() == 2) && numbers(workers).len() == 100);
    let before: Vec<TopicPartition> = workers[1].next.keys().cloned().collect();
    let mut gone = workers.pop().unwrap();
    gone.commit_all();
    // A static member leaves without telling the group, as a killed one does.
    gone.consumer.close();
    let started = Instant::now();
    workers.push(Worker::new(&settings, 1));
    run(&mut workers, |workers| workers[1].next.len() == 2);
    println!("back after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(5), "no session timeout was waited for");
    assert_eq!(workers[1].next.keys().cloned().collect::<Vec<_>>(), before);
    assert_eq!(workers[0].lost, 0);
}

#[test]
fn topics_are_read_by_name_and_by_pattern() {
    let Some(kafka) = kafka_server::shared() else { return };
    let prefix = unique("pattern");
    for name in ["home", "search", "other"] {
        kafka.create(&format!("{prefix}.{name}"), 1);
    }
    let pattern = format!("^{prefix}\\.(home|search)$");
    let named = kafka.topic("named", 2);
    let settings = kafka.settings(&[&pattern, &named]);
    for (index, topic) in [format!("{prefix}.home"), format!("{prefix}.search"), format!("{prefix}.other"), named].iter().enumerate() {
        produce(&settings, topic, index * 10..(index + 1) * 10, |_| None);
    }
    let mut workers = [Worker::new(&settings, 0)];
    run(&mut workers, |workers| workers[0].read.len() >= 30);
    assert_eq!(numbers(&workers), (0..20).chain(30..40).collect::<Vec<_>>());
    let expected: Vec<TopicPartition> = workers[0].next.keys().cloned().collect();
    assert_eq!(workers[0].consumer.topic_partitions(Duration::from_secs(10)).unwrap(), expected);
    assert_eq!(admin::preflight(&settings, Duration::from_secs(10)).unwrap().partitions, expected);
}

#[test]
fn without_a_position_reading_starts_where_the_configuration_says() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 1);
    let base = kafka.settings(&[&topic]);
    // Kafka times an hour apart, from 2026-01-01.
    let time = |number: usize| 1_767_225_600_000 + i64::try_from(number).unwrap() * 3_600_000;
    produce(&base, &topic, 0..10, |number| Some(time(number)));
    let start = |start: &str| {
        let settings = KafkaSettings { start: start.into(), group: unique("group"), ..base.clone() };
        let mut workers = [Worker::new(&settings, 0)];
        run(&mut workers, |workers| !workers[0].assigned.is_empty());
        workers[0].assigned[0].start
    };
    assert_eq!(start("earliest"), 0);
    assert_eq!(start("latest"), 10);
    assert_eq!(start("2026-01-01T02:30:00Z"), 3);
    assert_eq!(start("2026-01-01T03:00:00Z"), 3);
    assert_eq!(start("2026-02-01T00:00:00Z"), 10, "later than every record: the end");

    let settings = KafkaSettings { start: "error".into(), group: unique("group"), ..base };
    let mut consumer = WorkerConsumer::new(&settings, 0, OPTIONS).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let error = loop {
        assert!(Instant::now() < deadline);
        if let Err(error) = consumer.poll(Duration::from_millis(50), |_| ()) {
            break error;
        }
    };
    assert!(matches!(error, KafkaError::NoPosition { .. }), "{error}");
}

#[test]
fn a_position_comes_back_with_its_metadata_and_the_lag_follows() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 1);
    let settings = kafka.settings(&[&topic]);
    produce(&settings, &topic, 0..100, |_| None);
    let mut workers = [Worker::new(&settings, 0)];
    run(&mut workers, |workers| workers[0].read.len() == 100);
    let [worker] = &mut workers;
    let at = worker.next.keys().next().unwrap().clone();
    assert_eq!(worker.consumer.lag(&at, 30), Some(70));
    assert_eq!(worker.consumer.positions().unwrap(), [(at.clone(), 100)]);
    assert_eq!(worker.consumer.watermarks(&at, Duration::from_secs(5)).unwrap(), (0, 100));

    let metadata = format!("1;0;{};7", "9".repeat(4000));
    let position = Position { partition: at.clone(), offset: 40, metadata: metadata.clone() };
    worker.consumer.commit_and_wait(&[position], Instant::now() + Duration::from_secs(10)).unwrap();
    let too_long = Position { partition: at, offset: 50, metadata: "m".repeat(4097) };
    let refused = worker.consumer.commit_and_wait(&[too_long], Instant::now() + Duration::from_secs(10)).unwrap_err();
    assert!(matches!(&refused, KafkaError::Commit { retriable: false, fenced: false, message } if message.contains(&topic)), "{refused}");
    let [worker] = workers;
    worker.consumer.close();

    let mut workers = [Worker::new(&settings, 0)];
    run(&mut workers, |workers| !workers[0].assigned.is_empty());
    let committed = workers[0].assigned[0].committed.clone().unwrap();
    assert_eq!((committed.offset, committed.metadata), (40, metadata));
}

#[test]
fn a_paused_partition_brings_nothing_and_a_resumed_one_the_rest() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 1);
    let settings = kafka.settings(&[&topic]);
    let mut workers = [Worker::new(&settings, 0)];
    run(&mut workers, |workers| !workers[0].next.is_empty());
    let at: Vec<TopicPartition> = workers[0].next.keys().cloned().collect();
    workers[0].consumer.pause(&at).unwrap();
    produce(&settings, &topic, 0..50, |_| None);
    let until = Instant::now() + Duration::from_millis(700);
    run(&mut workers, |_| Instant::now() > until);
    assert_eq!(workers[0].read.len(), 0);
    workers[0].consumer.resume(&at).unwrap();
    first_reads(&mut workers, 50);
}

#[test]
fn a_partition_that_was_paused_when_it_was_taken_away_is_read_when_it_comes_back() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 1);
    let mut settings = kafka.settings(&[&topic]);
    settings.librdkafka.insert("partition.assignment.strategy".into(), "range".into());
    let mut workers = vec![Worker::new(&settings, 0)];
    run(&mut workers, |workers| !workers[0].next.is_empty());
    let at: Vec<TopicPartition> = workers[0].next.keys().cloned().collect();
    workers[0].consumer.pause(&at).unwrap();
    workers.push(Worker::new(&settings, 1));
    // Both are asked to give up all they have, whoever gets the partition then.
    run(&mut workers, |workers| workers[0].assigned.len() + workers[1].assigned.len() == 2);
    workers.pop().unwrap().consumer.close();
    run(&mut workers, |workers| workers[0].assigned.len() == 2 && !workers[0].next.is_empty());
    produce(&settings, &topic, 0..50, |_| None);
    first_reads(&mut workers, 50);
}

#[test]
fn a_member_that_passes_by_makes_the_group_distribute_anew_and_leaves_everything_where_it_was() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 2);
    let settings = KafkaSettings { instance_id: unique("pod"), ..kafka.settings(&[&topic]) };
    let mut workers = [Worker::new(&settings, 0)];
    run(&mut workers, |workers| workers[0].next.len() == 2);
    assert_eq!(workers[0].assigned.len(), 2);
    workers[0].consumer.nudge_group();
    run(&mut workers, |workers| workers[0].assigned.len() > 2 && workers[0].next.len() == 2);
    produce(&settings, &topic, 0..50, |_| None);
    first_reads(&mut workers, 50);
}

#[test]
fn a_worker_that_only_keeps_alive_stays_a_member_and_loses_nothing() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 1);
    let settings = kafka.settings(&[&topic]);
    let mut workers = [Worker::new(&settings, 0)];
    run(&mut workers, |workers| !workers[0].next.is_empty());
    produce(&settings, &topic, 0..50, |_| None);
    for _ in 0..10 {
        assert_eq!(workers[0].consumer.keep_alive().unwrap().messages, 0);
    }
    first_reads(&mut workers, 50);
}

#[test]
fn closing_with_an_unanswered_commit_neither_hangs_nor_harms_the_next_member() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("views", 1);
    let settings = kafka.settings(&[&topic]);
    produce(&settings, &topic, 0..100, |_| None);
    let mut workers = [Worker::new(&settings, 0)];
    run(&mut workers, |workers| workers[0].read.len() == 100);
    let [mut worker] = workers;
    let at = worker.next.keys().next().unwrap().clone();
    let position = |offset| Position { partition: at.clone(), offset, metadata: String::new() };
    worker.consumer.commit_and_wait(&[position(10)], Instant::now() + Duration::from_secs(10)).unwrap();
    assert!(worker.consumer.commit(&[position(60)]).unwrap());
    assert!(worker.consumer.commit_in_flight());
    let closing = Instant::now();
    worker.consumer.close();
    println!("closed after {:?}", closing.elapsed());
    assert!(closing.elapsed() < Duration::from_secs(5));
    let mut workers = [Worker::new(&settings, 0)];
    run(&mut workers, |workers| !workers[0].assigned.is_empty());
    let committed = workers[0].assigned[0].committed.clone().unwrap().offset;
    assert!([10, 60].contains(&committed), "one or the other, nothing else: {committed}");
    run(&mut workers, |workers| workers[0].read.len() as i64 == 100 - committed);
}
