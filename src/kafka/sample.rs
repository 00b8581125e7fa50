//! The newest records of each partition, read beside the group: what `check` looks at.
//!
//! Nothing is joined and nothing is committed, so a running instance is not disturbed. The group's
//! committed positions are asked for all the same: it is the cheapest request that fails when recsae's
//! user may not use the group.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::config::settings::KafkaSettings;
use crate::kafka::context::Context;
use crate::kafka::error::KafkaError;
use crate::kafka::settings;
use crate::record::{Header, RawMessage, TopicPartition};

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledRecord {
    /// Where it lies.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// The broker's timestamp.
    pub timestamp_ms: Option<i64>,
    /// Key bytes.
    pub key: Option<Vec<u8>>,
    /// Payload bytes.
    pub payload: Option<Vec<u8>>,
    /// Headers with UTF-8 names.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl SampledRecord {
    /// Its headers, borrowed, for [`Self::as_message`].
    #[must_use]
    pub fn borrowed_headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect()
    }

    /// The record as a worker sees it.
    #[must_use]
    pub fn as_message<'a>(&'a self, headers: &'a [Header<'a>]) -> RawMessage<'a> {
        RawMessage {
            partition: &self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            payload: self.payload.as_deref(),
            headers,
        }
    }
}

/// Reads the last `n` records of each partition, as many as there are.
///
/// # Errors
/// The group or a topic may not be read, or the broker does not answer within `timeout`.
pub fn newest(
    settings: &KafkaSettings,
    partitions: &[TopicPartition],
    n: i64,
    timeout: Duration,
) -> Result<Vec<SampledRecord>, KafkaError> {
    let failed = |what: &str, error: &rdkafka::error::KafkaError| KafkaError::request(what, &settings.brokers, error);
    let mut config = settings::inquirer(settings)?;
    config.set("group.id", &settings.group).set("enable.auto.commit", "false").set("auto.offset.reset", "error");
    let consumer: BaseConsumer<Context> =
        config.create_with_context(Context::new(&settings.brokers)).map_err(|error| settings::option(&error))?;
    let mut asked = TopicPartitionList::new();
    for at in partitions {
        asked.add_partition(&at.topic, at.partition);
    }
    consumer.committed_offsets(asked, timeout).map_err(|error| failed(&format!("group {:?}", settings.group), &error))?;

    let mut from = TopicPartitionList::new();
    let mut missing = 0;
    for at in partitions {
        let ends = consumer.fetch_watermarks(&at.topic, at.partition, timeout);
        let (low, high) = ends.map_err(|error| failed(&format!("ends of {at}"), &error))?;
        let start = low.max(high - n);
        missing += high - start;
        if high > start {
            from.add_partition_offset(&at.topic, at.partition, Offset::Offset(start)).map_err(|error| failed("assign", &error))?;
        }
    }
    consumer.assign(&from).map_err(|error| failed("assign", &error))?;
    let deadline = Instant::now() + timeout;
    let mut records = Vec::new();
    while missing > 0 && Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(message)) => {
                missing -= 1;
                records.push(owned(&message));
            }
            Some(Err(error)) => {
                let faults = consumer.context().take_faults();
                return Err(faults.into_iter().find(KafkaError::needs_human).unwrap_or_else(|| failed("read records", &error)));
            }
            None => {}
        }
    }
    // Transaction markers and compacted records take offsets and are never handed over, so fewer than
    // asked for is no fault; none at all although the log says otherwise is one.
    if records.is_empty() && missing > 0 {
        return Err(KafkaError::Unreachable { brokers: settings.brokers.clone(), message: "no record arrived".into() });
    }
    Ok(records)
}

fn owned(message: &rdkafka::message::BorrowedMessage<'_>) -> SampledRecord {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    SampledRecord {
        partition: TopicPartition { topic: message.topic().into(), partition: message.partition() },
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
    }
}
