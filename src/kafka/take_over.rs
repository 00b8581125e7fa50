//! What is asked of the broker when partitions are taken over: positions, and where to start without one.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::StartAt;
use crate::config::settings::KafkaSettings;
use crate::kafka::context::Context;
use crate::kafka::error::{KafkaError, setting};
use crate::kafka::queue;
use crate::kafka::rebalance::{AssignedPartition, Committed};
use crate::record::TopicPartition;

/// Longest wait for the coordinator or a partition's leader. Below it a broker that restarts would
/// stop the worker; above it the other members wait for our answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The committed position of each partition, the ends of its log, and where to start.
///
/// # Errors
/// Not answered: stop, never start at a guess. Or `kafka.start = "error"` and there is no position.
pub(super) fn ask(
    consumer: &BaseConsumer<Context>,
    list: TopicPartitionList,
    start: StartAt,
    name: impl Fn(&str, i32) -> TopicPartition,
) -> Result<Vec<AssignedPartition>, KafkaError> {
    if list.count() == 0 {
        return Ok(Vec::new());
    }
    let committed = committed_offsets(consumer, &list, PATIENCE)
        .map_err(|error| KafkaError::request("committed positions", consumer.context().brokers(), &error))?;
    let mut assigned = Vec::new();
    for entry in queue::entries_of(&committed) {
        let partition = name(&entry.topic, entry.partition);
        if let Some(code) = entry.error {
            return Err(KafkaError::Request { what: format!("committed position of {partition}"), message: code.to_string() });
        }
        let (low, high) = watermarks(consumer, &partition, PATIENCE)?;
        let committed = (entry.offset >= 0)
            .then(|| Committed { offset: entry.offset, metadata: String::from_utf8(entry.metadata).unwrap_or_default() });
        let start = match &committed {
            Some(committed) => committed.offset,
            None => first_offset(consumer, &partition, start, low, high)?,
        };
        assigned.push(AssignedPartition { partition, committed, start, low, high });
    }
    Ok(assigned)
}

/// The dead-letter topic is never read: each reject would be written there again, for ever. `config::check` refuses the
/// patterns that match it as we read them; librdkafka and a broker of the new protocol each read patterns in a dialect
/// of their own (`[\\d]` of POSIX holds the letter d), so what was assigned is what counts.
///
/// # Errors
/// It is among the partitions.
pub(super) fn refuse_dead_letters(list: &TopicPartitionList, settings: &KafkaSettings) -> Result<(), KafkaError> {
    let dead_letters = &settings.dead_letter_topic;
    let is_read = !dead_letters.is_empty() && list.elements().iter().any(|entry| entry.topic() == dead_letters);
    if !is_read {
        return Ok(());
    }
    let message = format!(
        "expected patterns that do not match the dead-letter topic, found {:?}, by which the group assigns {dead_letters:?}: rejects would \
         be read again for ever; narrow the pattern, or give kafka.dead_letter_topic a name that it does not match",
        settings.topics
    );
    Err(setting("topics", message))
}

/// The group's committed positions.
pub(super) fn committed_offsets(
    consumer: &BaseConsumer<Context>,
    list: &TopicPartitionList,
    timeout: Duration,
) -> Result<TopicPartitionList, rdkafka::error::KafkaError> {
    patiently(timeout, |left| consumer.committed_offsets(list.clone(), left))
}

/// First offset the log still has and first it does not have yet.
pub(super) fn watermarks(consumer: &BaseConsumer<Context>, at: &TopicPartition, timeout: Duration) -> Result<(i64, i64), KafkaError> {
    patiently(timeout, |left| consumer.fetch_watermarks(&at.topic, at.partition, left))
        .map_err(|error| KafkaError::request(format!("ends of {at}"), consumer.context().brokers(), &error))
}

/// Asks again while the answer passes by itself: a broker that has just come up, or comes back from a stall, is for a
/// moment no coordinator, leads nothing and knows no topic.
fn patiently<T>(
    timeout: Duration,
    mut ask: impl FnMut(Duration) -> Result<T, rdkafka::error::KafkaError>,
) -> Result<T, rdkafka::error::KafkaError> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match ask(left.max(Duration::from_millis(1))) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let passes = matches!(
            error.rdkafka_error_code(),
            Some(
                Code::NotCoordinator
                    | Code::CoordinatorNotAvailable
                    | Code::CoordinatorLoadInProgress
                    | Code::WaitingForCoordinator
                    | Code::NotLeaderForPartition
                    | Code::LeaderNotAvailable
                    | Code::UnknownTopicOrPartition
                    | Code::RequestTimedOut
                    | Code::OperationTimedOut
                    | Code::BrokerTransportFailure
                    | Code::AllBrokersDown
            )
        );
        if !passes || Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Where `kafka.start` begins in a partition that has no committed position.
fn first_offset(consumer: &BaseConsumer<Context>, at: &TopicPartition, start: StartAt, low: i64, high: i64) -> Result<i64, KafkaError> {
    match start {
        StartAt::Earliest => Ok(low),
        StartAt::Latest => Ok(high),
        StartAt::Error => Err(KafkaError::NoPosition { partition: at.clone() }),
        StartAt::Time(since_ms) => {
            let refused = |error| KafkaError::request(format!("offset of a time in {at}"), consumer.context().brokers(), &error);
            let mut list = TopicPartitionList::with_capacity(1);
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(since_ms.max(0))).map_err(refused)?;
            let found = patiently(PATIENCE, |left| consumer.offsets_for_times(list.clone(), left)).map_err(refused)?;
            // Later than every record: the end.
            Ok(found.elements().first().and_then(|entry| entry.offset().to_raw()).filter(|offset| *offset >= 0).unwrap_or(high))
        }
    }
}
