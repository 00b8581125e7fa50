//! Follows a whole topic from given offsets, for ever: no group, no commits, every partition.
//!
//! The end of a partition is told each time it is reached, because what a compacted topic holds is complete only there:
//! compaction may have moved the last record of a key behind others that were written after the first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError as NativeError;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::config::settings::KafkaSettings;
use crate::kafka::context::Context;
use crate::kafka::error::KafkaError;
use crate::kafka::settings;
use crate::record::{RawMessage, TopicPartition};

/// Reads the topic.
pub struct TopicFollower {
    consumer: BaseConsumer<Context>,
    topic: Arc<str>,
    /// Partitions whose end is not reached, or was left by a record since.
    behind: BTreeSet<i32>,
}

impl TopicFollower {
    /// Begins to read `partitions` partitions, each at its offset of `next`, else at its first record.
    ///
    /// # Errors
    /// librdkafka refuses a setting or an offset.
    pub fn new(settings: &KafkaSettings, topic: &str, partitions: i32, next: &BTreeMap<i32, i64>) -> Result<Self, KafkaError> {
        let brokers = &settings.brokers;
        let mut config = settings::inquirer(settings)?;
        // An assignment needs a group's name; none is joined and nothing is committed.
        config.set("group.id", "recsae-follower").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "earliest").set("fetch.queue.backoff.ms", "5");
        let consumer: BaseConsumer<Context> =
            config.create_with_context(Context::new(brokers)).map_err(|error| settings::option(&error))?;
        let refused = |error| KafkaError::request(format!("following {topic}"), brokers, &error);
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            let offset = next.get(&partition).map_or(Offset::Beginning, |next| Offset::Offset(*next));
            list.add_partition_offset(topic, partition, offset).map_err(refused)?;
        }
        consumer.assign(&list).map_err(refused)?;
        Ok(Self { consumer, topic: Arc::from(topic), behind: (0..partitions).collect() })
    }

    /// Hands over what comes: waits for the first record or end at most `timeout`, then takes what is there, up to `most`.
    ///
    /// # Errors
    /// A fault that waiting cannot mend.
    pub fn poll(&mut self, most: usize, timeout: Duration, mut each: impl FnMut(RawMessage<'_>)) -> Result<(), KafkaError> {
        let deadline = Instant::now() + timeout;
        let mut n = 0;
        while n < most {
            let left = if n == 0 { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match self.consumer.poll(left) {
                Some(Ok(message)) => {
                    self.behind.insert(message.partition());
                    let partition = TopicPartition { topic: Arc::clone(&self.topic), partition: message.partition() };
                    each(RawMessage {
                        partition: &partition,
                        offset: message.offset(),
                        timestamp_ms: message.timestamp().to_millis(),
                        key: message.key(),
                        payload: message.payload(),
                        headers: &[],
                    });
                    n += 1;
                }
                Some(Err(NativeError::PartitionEOF(partition))) => {
                    self.behind.remove(&partition);
                    if self.is_at_end() {
                        break;
                    }
                }
                Some(Err(_)) | None => {
                    if let Some(fault) = self.consumer.context().take_faults().into_iter().find(KafkaError::needs_human) {
                        return Err(fault);
                    }
                    if n > 0 || Instant::now() >= deadline {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// First offset that a partition of the topic still has, and first that it does not have yet.
    ///
    /// # Errors
    /// No broker answers within `timeout`.
    pub fn ends(&self, partition: i32, timeout: Duration) -> Result<(i64, i64), KafkaError> {
        let failed = |error| KafkaError::request(format!("ends of {}", self.topic), self.consumer.context().brokers(), &error);
        self.consumer.fetch_watermarks(&self.topic, partition, timeout).map_err(failed)
    }

    /// Whether everything was handed over that the topic held when its partitions' ends were last told.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.behind.is_empty()
    }
}
