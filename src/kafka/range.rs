//! Reads a stretch of one partition again, by offsets: no group, no commits.
//!
//! For going back from a judged window to its records. What retention has deleted is an error, never a gap.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::config::settings::KafkaSettings;
use crate::kafka::context::Context;
use crate::kafka::error::KafkaError;
use crate::kafka::settings;
use crate::record::{Header, RawMessage, TopicPartition};

/// Hands every record of `partition` with an offset in `offsets` to `each`, in order. Offsets that no record
/// has (transaction markers, compaction) are passed over. Ends with an error when nothing arrives for `patience`, and
/// early without one once `stop` says so.
///
/// # Errors
/// No broker answers, the partition does not exist, or it no longer (or not yet) holds all of the stretch.
pub fn read_range(
    settings: &KafkaSettings,
    partition: &TopicPartition,
    offsets: std::ops::Range<i64>,
    patience: Duration,
    stop: &dyn Fn() -> bool,
    mut each: impl FnMut(RawMessage<'_>),
) -> Result<(), KafkaError> {
    if offsets.is_empty() {
        return Ok(());
    }
    let brokers = &settings.brokers;
    let failed = |what: &str, error: &rdkafka::error::KafkaError| KafkaError::request(format!("{what} of {partition}"), brokers, error);
    let mut config = settings::inquirer(settings)?;
    config.set("group.id", "recsae-range").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "error").set("fetch.queue.backoff.ms", "5");
    let consumer: BaseConsumer<Context> = config.create_with_context(Context::new(brokers)).map_err(|error| settings::option(&error))?;
    let (low, high) =
        consumer.fetch_watermarks(&partition.topic, partition.partition, patience).map_err(|error| failed("the ends", &error))?;
    if offsets.start < low || offsets.end > high {
        return Err(KafkaError::Gone { partition: partition.clone(), low, high, from: offsets.start, to: offsets.end });
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(offsets.start))
        .map_err(|error| failed("reading", &error))?;
    consumer.assign(&list).map_err(|error| failed("reading", &error))?;
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
                    return Err(KafkaError::Unreachable { brokers: brokers.clone(), message });
                }
            }
        }
    }
    Ok(())
}
