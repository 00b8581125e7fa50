//! Reads a stretch of one partition again, by offsets: no group, no commits.
//!
//! For going back from a judged window to its records. What retention has deleted is an error, never a gap.

use std::ops::Range;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::config::settings::KafkaSettings;
use crate::kafka::context::Context;
use crate::kafka::error::KafkaError;
use crate::kafka::settings;
use crate::record::{Header, RawMessage, TopicPartition};

/// Reads stretches of partitions one after another, over the same connections: a stretch then costs its bytes and two
/// requests, where a client for each costs some 80 ms.
pub struct RangeReader {
    consumer: BaseConsumer<Context>,
    patience: Duration,
}

impl RangeReader {
    /// A reader that has asked for nothing yet, and gives up when nothing arrives for `patience`.
    ///
    /// # Errors
    /// librdkafka refuses a setting.
    pub fn new(settings: &KafkaSettings, patience: Duration) -> Result<Self, KafkaError> {
        let mut config = settings::inquirer(settings)?;
        config.set("group.id", "recsae-range").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "error").set("fetch.queue.backoff.ms", "5");
        // A stretch at the log's end leaves a request behind that the broker keeps for so long, and the next one waits for it.
        config.set("fetch.wait.max.ms", "5");
        let context = Context::new(&settings.brokers);
        let consumer = config.create_with_context(context).map_err(|error| settings::option(&error))?;
        Ok(Self { consumer, patience })
    }

    /// Hands every record of `partition` with an offset in `offsets` to `each`, in order. Offsets that no record
    /// has (transaction markers, compaction) are passed over. Ends with an error when nothing arrives in time, and
    /// early without one once `stop` says so.
    ///
    /// # Errors
    /// No broker answers, the partition does not exist, or it no longer (or not yet) holds all of the stretch.
    pub fn read(
        &mut self,
        partition: &TopicPartition,
        offsets: Range<i64>,
        stop: &dyn Fn() -> bool,
        each: impl FnMut(RawMessage<'_>),
    ) -> Result<(), KafkaError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let Self { consumer, patience } = self;
        let failed = |what: &str, error: &rdkafka::error::KafkaError| {
            KafkaError::request(format!("{what} of {partition}"), consumer.context().brokers(), error)
        };
        let (low, high) =
            consumer.fetch_watermarks(&partition.topic, partition.partition, *patience).map_err(|error| failed("the ends", &error))?;
        if offsets.start < low || offsets.end > high {
            return Err(KafkaError::Gone { partition: partition.clone(), low, high, from: offsets.start, to: offsets.end });
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(offsets.start))
            .map_err(|error| failed("reading", &error))?;
        consumer.assign(&list).map_err(|error| failed("reading", &error))?;
        let read = hand_over(consumer, partition, &offsets, *patience, stop, each);
        let stopped = consumer.unassign().map_err(|error| failed("reading", &error));
        read.and(stopped)
    }
}

fn hand_over(
    consumer: &BaseConsumer<Context>,
    partition: &TopicPartition,
    offsets: &Range<i64>,
    patience: Duration,
    stop: &dyn Fn() -> bool,
    mut each: impl FnMut(RawMessage<'_>),
) -> Result<(), KafkaError> {
    let mut last = Instant::now();
    while !stop() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) if message.offset() >= offsets.end => return Ok(()),
            Some(Ok(message)) => {
                let headers: Vec<Header<'_>> =
                    message.headers().map(|headers| headers.iter().map(|header| (header.key, header.value)).collect()).unwrap_or_default();
                each(RawMessage {
                    partition,
                    offset: message.offset(),
                    timestamp_ms: message.timestamp().to_millis(),
                    key: message.key(),
                    payload: message.payload(),
                    headers: &headers,
                });
                if message.offset() + 1 >= offsets.end {
                    return Ok(());
                }
                last = Instant::now();
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(_)) | None => {
                if let Some(fault) = consumer.context().take_faults().into_iter().find(KafkaError::needs_human) {
                    return Err(fault);
                }
                if last.elapsed() > patience {
                    let message = format!("nothing of {partition} arrived for {} s", patience.as_secs());
                    return Err(KafkaError::Unreachable { brokers: consumer.context().brokers().to_owned(), message });
                }
            }
        }
    }
    Ok(())
}
