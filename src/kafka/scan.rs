//! Reads a topic from its first record to the end it had at the start: no group, no commits.
//!
//! For commands and for compacted topics, not for the flow: one message a poll.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::config::settings::KafkaSettings;
use crate::kafka::admin::inspect;
use crate::kafka::context::Context;
use crate::kafka::error::KafkaError;
use crate::kafka::settings;
use crate::record::{Header, RawMessage, TopicPartition};

/// Hands every record of `topic` to `each`, each partition in order. Stops with an error when
/// nothing arrives for `patience`.
///
/// # Errors
/// No broker answers, the topic does not exist, or its end is not reached.
pub fn scan(settings: &KafkaSettings, topic: &str, patience: Duration, mut each: impl FnMut(RawMessage<'_>)) -> Result<(), KafkaError> {
    let brokers = &settings.brokers;
    let cluster = inspect(settings, patience)?;
    let unknown = || KafkaError::UnknownTopic { topic: topic.to_owned(), brokers: brokers.clone() };
    let count = cluster.topics.iter().find(|(name, _)| name == topic).map(|(_, count)| *count).ok_or_else(unknown)?;
    let mut config = settings::inquirer(settings)?;
    // An assignment needs a group's name; none is joined and nothing is committed.
    config.set("group.id", "recsae-scan").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "earliest").set("fetch.queue.backoff.ms", "5");
    let consumer: BaseConsumer<Context> = config.create_with_context(Context::new(brokers)).map_err(|error| settings::option(&error))?;
    let failed = |what: &str, error: &rdkafka::error::KafkaError| KafkaError::request(format!("{what} of {topic}"), brokers, error);
    let (mut list, mut open) = (TopicPartitionList::new(), BTreeSet::new());
    for partition in (0..count).filter_map(|number| i32::try_from(number).ok()) {
        list.add_partition_offset(topic, partition, Offset::Beginning).map_err(|error| failed("reading", &error))?;
        open.insert(partition);
    }
    consumer.assign(&list).map_err(|error| failed("reading", &error))?;
    let name: Arc<str> = Arc::from(topic);
    let mut last = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let at = TopicPartition { topic: name.clone(), partition: message.partition() };
                let headers: Vec<Header<'_>> =
                    message.headers().map(|headers| headers.iter().map(|header| (header.key, header.value)).collect()).unwrap_or_default();
                each(RawMessage {
                    partition: &at,
                    offset: message.offset(),
                    timestamp_ms: message.timestamp().to_millis(),
                    key: message.key(),
                    payload: message.payload(),
                    headers: &headers,
                });
                last = Instant::now();
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(_)) | None => {
                if let Some(fault) = consumer.context().take_faults().into_iter().find(KafkaError::needs_human) {
                    return Err(fault);
                }
                if last.elapsed() > patience {
                    let message = format!("nothing arrived for {} s, {} partitions are unread", patience.as_secs(), open.len());
                    return Err(KafkaError::Unreachable { brokers: brokers.clone(), message });
                }
            }
        }
    }
    Ok(())
}
