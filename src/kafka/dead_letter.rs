//! Dead letters: the original bytes of a record that was not counted, and why, at least once.
//!
//! The queue is bounded; full means slower, never dropped. A position is committed only after the
//! dead letters below it are acknowledged ([`DeadLetters::settled`]), so that a kill sends some of
//! them twice and none of them never. The key names the record, so that readers show each once.
//! A record that is too large for the topic is shortened until it fits (`shorten`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::kafka::error::{KafkaError, setting};
use crate::kafka::producer::{Outgoing, OwnedRecord, Receipts, ReliableProducer};
use crate::record::{RawMessage, Reject, TopicPartition};

/// Header: the reason, from the closed set.
pub const REASON: &str = "recsae.reason";
/// Header: the record's topic.
pub const TOPIC: &str = "recsae.topic";
/// Header: the record's partition.
pub const PARTITION: &str = "recsae.partition";
/// Header: the record's offset.
pub const OFFSET: &str = "recsae.offset";
/// Header: the record's Kafka timestamp, ms; empty when it had none.
pub const TIMESTAMP: &str = "recsae.timestamp";
/// Header: what was expected and what was found.
pub const ERROR: &str = "recsae.error";
/// Header: bytes of the record's payload, when it is longer than what the topic takes and only its beginning is kept.
pub const TRUNCATED: &str = "recsae.truncated";
/// Header: the record's own key, when it had one (the dead letter's key names the record).
pub const KEY: &str = "recsae.key";

/// A dead letter as it is read back: the record it was, and why it was not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where the record lay.
    pub partition: TopicPartition,
    /// At which offset.
    pub offset: i64,
    /// Its Kafka timestamp, ms.
    pub timestamp_ms: Option<i64>,
    /// The reason, from the closed set.
    pub reason: String,
    /// What was expected and what was found.
    pub error: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its payload, or the beginning of it.
    pub payload: Option<Vec<u8>>,
    /// Bytes of the whole payload, when only the beginning is kept: such a letter cannot be replayed.
    pub truncated_from: Option<usize>,
    /// Its headers, as far as the monitor read headers at all.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl DeadLetter {
    /// Reads a message of the dead-letter topic; `None` when it is no dead letter.
    #[must_use]
    pub fn read(message: &RawMessage<'_>) -> Option<Self> {
        // Ours come first, whatever headers the record had itself.
        let text = |index: usize, name: &str| {
            let (_, value) = message.headers.get(index).filter(|(header, _)| *header == name)?;
            std::str::from_utf8(value.unwrap_or_default()).ok()
        };
        let key = message.headers.get(6).filter(|(name, _)| *name == KEY).map(|(_, value)| value.unwrap_or_default().to_vec());
        let at = if key.is_some() { 7 } else { 6 };
        let truncated_from = text(at, TRUNCATED).and_then(|bytes| bytes.parse().ok());
        let own = message.headers.iter().skip(at + usize::from(truncated_from.is_some()));
        Some(Self {
            reason: text(0, REASON)?.to_owned(),
            partition: TopicPartition { topic: text(1, TOPIC)?.into(), partition: text(2, PARTITION)?.parse().ok()? },
            offset: text(3, OFFSET)?.parse().ok()?,
            timestamp_ms: text(4, TIMESTAMP)?.parse().ok(),
            error: text(5, ERROR)?.to_owned(),
            key,
            payload: message.payload.map(<[u8]>::to_vec),
            truncated_from,
            headers: own.map(|(name, value)| ((*name).to_owned(), value.unwrap_or_default().to_vec())).collect(),
        })
    }
}

mod shorten;

/// That the topic is not there.
#[must_use]
pub fn missing(topic: &str) -> KafkaError {
    setting(
        "dead_letter_topic",
        format!(
            "topic {topic:?} does not exist: create it, or set it to \"\" (rejects are then counted, not kept); one that this login may not see counts as missing"
        ),
    )
}

/// Longest wait for letters that came back and are sent again, each alone; below a session's length.
const AGAIN: Duration = Duration::from_secs(4);
/// Most dead letters without an acknowledgement, a worker. At a mebibyte each this is the memory a
/// worker can be made to hold by poison.
const MOST_IN_FLIGHT: u64 = 64;

/// One worker's way to the dead-letter topic.
pub struct DeadLetters {
    producer: Arc<ReliableProducer>,
    topic: String,
    receipts: Arc<Receipts>,
    /// Payload bytes the topic was seen to take, once it refused one: longer ones are cut before they are sent.
    limit: AtomicUsize,
    truncated: AtomicU64,
    undeliverable: AtomicU64,
}

impl DeadLetters {
    /// Writes to `topic` through a producer that workers share.
    #[must_use]
    pub fn new(producer: Arc<ReliableProducer>, topic: &str) -> Self {
        Self {
            producer,
            topic: topic.to_owned(),
            receipts: Arc::new(Receipts::taking_back_too_large()),
            limit: AtomicUsize::new(usize::MAX),
            truncated: AtomicU64::new(0),
            undeliverable: AtomicU64::new(0),
        }
    }

    /// Queues the record with its reason, waiting at most `timeout` while too many are without an
    /// acknowledgement. A worker that gets an error stops; the record is read again.
    ///
    /// # Errors
    /// The topic cannot take the record, or nobody acknowledged within `timeout`.
    pub fn send(&self, message: &RawMessage<'_>, reject: &Reject, timeout: Duration) -> Result<(), KafkaError> {
        let deadline = Instant::now() + timeout;
        while self.receipts.in_flight() >= MOST_IN_FLIGHT {
            self.producer.poll(Duration::from_millis(1));
            self.receipts.outcome()?;
            self.send_again(deadline)?;
            if Instant::now() >= deadline {
                return Err(self.producer.fault().unwrap_or_else(|| KafkaError::Delivery {
                    topic: self.topic.clone(),
                    message: format!("{} records are not acknowledged", self.receipts.in_flight()),
                }));
            }
        }
        let (partition, offset) = (message.partition.partition.to_string(), message.offset.to_string());
        let timestamp = message.timestamp_ms.map(|ms| ms.to_string()).unwrap_or_default();
        let key = format!("{}|{partition}|{offset}", message.partition.topic);
        let mut headers: Vec<(&str, &[u8])> = vec![
            (REASON, reject.reason.kind().as_bytes()),
            (TOPIC, message.partition.topic.as_bytes()),
            (PARTITION, partition.as_bytes()),
            (OFFSET, offset.as_bytes()),
            (TIMESTAMP, timestamp.as_bytes()),
            (ERROR, reject.detail.as_bytes()),
        ];
        if let Some(original) = message.key {
            headers.push((KEY, original));
        }
        // The record's own headers, so that a replay is the record again.
        headers.extend(message.headers.iter().map(|(name, value)| (*name, value.unwrap_or_default())));
        let limit = self.limit.load(Ordering::Relaxed);
        if message.payload.is_some_and(|payload| payload.len() > limit) {
            let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            let letter = OwnedRecord { key: Some(key.into_bytes()), payload: message.payload.map(<[u8]>::to_vec), headers };
            return self.send_until_it_fits(letter, deadline);
        }
        let record = Outgoing { topic: &self.topic, key: Some(key.as_bytes()), payload: message.payload, ..Outgoing::default() };
        self.producer.send(&record, &headers, &self.receipts, deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether every dead letter so far is acknowledged; serves acknowledgements, never blocks.
    ///
    /// # Errors
    /// One could not be written.
    pub fn settled(&self) -> Result<bool, KafkaError> {
        if self.receipts.in_flight() > 0 {
            self.producer.poll(Duration::ZERO);
        }
        self.receipts.outcome()?;
        self.send_again(Instant::now() + AGAIN)?;
        Ok(self.receipts.in_flight() == 0)
    }

    /// Waits for every acknowledgement: for a drain.
    ///
    /// # Errors
    /// One could not be written, or is still missing at the deadline.
    pub fn settle(&self, deadline: Instant) -> Result<(), KafkaError> {
        self.producer.settle(&self.receipts, deadline)?;
        self.send_again(deadline)
    }

    /// Dead letters of which only the beginning is kept.
    #[must_use]
    pub fn truncated(&self) -> u64 {
        self.truncated.load(Ordering::Relaxed)
    }

    /// Rejects the topic does not take in any length: counted and logged, not kept.
    #[must_use]
    pub fn undeliverable(&self) -> u64 {
        self.undeliverable.load(Ordering::Relaxed)
    }

    /// Dead letters acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.receipts.acked()
    }
}
