//! Questions to the cluster and the making of topics.
//!
//! `preflight` is what `run` and `check` ask first, because librdkafka never fails to connect: it
//! goes on trying and says why through events. Here the events are awaited for a while and the first
//! that waiting cannot mend becomes the answer.

use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use crate::config::settings::KafkaSettings;
use crate::kafka::context::Context;
use crate::kafka::error::KafkaError;
use crate::kafka::queue;
use crate::kafka::rebalance::Committed;
use crate::kafka::settings;
use crate::kafka::take_over;
use crate::kafka::topics::{TopicMatcher, partitions_of};
use crate::record::TopicPartition;

/// A partition's committed position.
pub type Commit = (TopicPartition, Committed);

/// What the cluster looks like from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Every topic with its number of partitions, by name.
    pub topics: Vec<(String, usize)>,
    /// The partitions that `kafka.topics` reads.
    pub partitions: Vec<TopicPartition>,
}

/// Connects, and checks that every configured topic exists.
///
/// # Errors
/// The first fault that waiting cannot mend (login, certificate, topic), or after `timeout` that
/// nobody answers, with librdkafka's last words.
pub fn preflight(settings: &KafkaSettings, timeout: Duration) -> Result<Cluster, KafkaError> {
    let cluster = inspect(settings, timeout)?;
    let brokers = settings.brokers.clone();
    for topic in &settings.topics {
        let one = TopicMatcher::new(std::slice::from_ref(topic))?;
        // A pattern may match nothing yet: the group waits for the first topic that does.
        if !topic.starts_with('^') && !cluster.topics.iter().any(|(name, _)| one.matches(name)) {
            return Err(KafkaError::UnknownTopic { topic: topic.clone(), brokers });
        }
    }
    Ok(cluster)
}

/// Connects and lists the topics.
///
/// # Errors
/// As [`preflight`], but for missing topics.
pub fn inspect(settings: &KafkaSettings, timeout: Duration) -> Result<Cluster, KafkaError> {
    let topics = TopicMatcher::new(&settings.topics)?;
    let config = settings::inquirer(settings)?;
    let client: BaseConsumer<Context> =
        config.create_with_context(Context::new(&settings.brokers)).map_err(|error| settings::option(&error))?;
    let deadline = Instant::now() + timeout;
    let mut last = None;
    loop {
        let answer = client.fetch_metadata(None, Duration::from_millis(500));
        // Without a group these are error events only.
        while client.poll(Duration::from_millis(10)).is_some() {}
        match answer {
            Ok(metadata) => {
                let mut listed: Vec<(String, usize)> =
                    metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect();
                listed.sort();
                return Ok(Cluster { partitions: partitions_of(&listed, &topics), topics: listed });
            }
            Err(error) => {
                for fault in client.context().take_faults() {
                    if fault.needs_human() {
                        return Err(fault);
                    }
                    // "all brokers down" follows "connection refused" and says less.
                    if last.as_ref().is_none_or(|said: &KafkaError| said.to_string().contains("brokers are down")) {
                        last = Some(fault);
                    }
                }
                if Instant::now() >= deadline {
                    return Err(last.unwrap_or_else(|| KafkaError::request("topics", &settings.brokers, &error)));
                }
            }
        }
    }
}

/// The group's committed positions, with what stands beside them; partitions without one are left out.
///
/// # Errors
/// The group's coordinator does not answer within `timeout`, or refuses.
pub fn committed(settings: &KafkaSettings, partitions: &[TopicPartition], timeout: Duration) -> Result<Vec<Commit>, KafkaError> {
    let failed = |error| KafkaError::request(format!("committed positions of group {:?}", settings.group), &settings.brokers, &error);
    let mut config = settings::inquirer(settings)?;
    config.set("group.id", &settings.group).set("enable.auto.commit", "false");
    let client: BaseConsumer<Context> =
        config.create_with_context(Context::new(&settings.brokers)).map_err(|error| settings::option(&error))?;
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for at in partitions {
        asked.add_partition(&at.topic, at.partition);
    }
    let answer = take_over::committed_offsets(&client, &asked, timeout).map_err(failed)?;
    let known = queue::entries_of(&answer).into_iter().filter(|entry| entry.offset >= 0);
    let commit = |entry: queue::Entry| {
        let partition = TopicPartition { topic: entry.topic.as_str().into(), partition: entry.partition };
        (partition, Committed { offset: entry.offset, metadata: String::from_utf8(entry.metadata).unwrap_or_default() })
    };
    Ok(known.map(commit).collect())
}

/// Creates a topic that keeps its records for ever (`retention.ms=-1`), unless it exists.
/// Recorded data carries old times, and a broker's default retention of 7 days would delete it.
///
/// # Errors
/// The broker refuses, or does not answer within `timeout`.
pub fn create_topic(settings: &KafkaSettings, topic: &str, partitions: i32, timeout: Duration) -> Result<bool, KafkaError> {
    if inspect(settings, timeout)?.topics.iter().any(|(name, _)| name == topic) {
        return Ok(false);
    }
    let failed = |message: String| KafkaError::Request { what: format!("create topic {topic:?}"), message };
    let config = settings::inquirer(settings)?;
    let client: AdminClient<DefaultClientContext> = config.create().map_err(|error| settings::option(&error))?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1)).set("retention.ms", "-1");
    let options = AdminOptions::new().operation_timeout(Some(timeout)).request_timeout(Some(timeout));
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| failed(error.to_string()))?;
    let results = runtime
        .block_on(client.create_topics([&new], &options))
        .map_err(|error| KafkaError::request(format!("create topic {topic:?}"), &settings.brokers, &error))?;
    match results.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((_, code))) => Err(failed(code.to_string())),
        Some(Ok(_)) | None => Ok(true),
    }
}
