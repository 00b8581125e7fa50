//! A producer that loses nothing and doubles nothing: idempotent, acks=all, every ack counted.
//!
//! `flush` of the library costs 100 ms a call; polling until nothing is in flight costs what the
//! broker needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as NativeError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::config::settings::KafkaSettings;
use crate::kafka::context::log;
use crate::kafka::error::{KafkaError, classify};
use crate::kafka::settings;

/// Longest wait for an answer about one topic.
const ASK_BY_NAME: Duration = Duration::from_millis(500);

/// A record to send.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outgoing<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition; `None` = by the key's hash.
    pub partition: Option<i32>,
    /// Key bytes.
    pub key: Option<&'a [u8]>,
    /// Payload bytes; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// ms since 1970 UTC; `None` = now.
    pub timestamp_ms: Option<i64>,
}

/// How one sender's records fared; shared with librdkafka's callback.
#[derive(Debug, Default)]
pub struct Receipts {
    sent: AtomicU64,
    acked: AtomicU64,
    failed: AtomicU64,
    last: Mutex<Option<KafkaError>>,
    /// Where records that are too large for the topic go, if they are to come back.
    too_large: Option<Mutex<Vec<OwnedRecord>>>,
}

/// A record that owns its bytes: one that came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Key bytes.
    pub key: Option<Vec<u8>>,
    /// Payload bytes.
    pub payload: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// The producer. Thread-safe: several senders share one, each with receipts of its own.
pub struct ReliableProducer {
    producer: BaseProducer<Context>,
    brokers: String,
}

struct Context {
    brokers: String,
    fault: Mutex<Option<KafkaError>>,
}

impl ReliableProducer {
    /// Connects lazily: the first record finds out.
    ///
    /// # Errors
    /// A setting is refused.
    pub fn new(settings: &KafkaSettings) -> Result<Self, KafkaError> {
        let context = Context { brokers: settings.brokers.clone(), fault: Mutex::default() };
        let producer = settings::producer(settings)?.create_with_context(context).map_err(|error| settings::option(&error))?;
        Ok(Self { producer, brokers: settings.brokers.clone() })
    }

    /// Whether a topic is there, asked as one asks who writes: a broker that makes topics by itself makes it now.
    ///
    /// # Errors
    /// Nobody answers within `timeout`, or the broker refuses.
    pub fn has_topic(&self, topic: &str, timeout: Duration) -> Result<bool, KafkaError> {
        let deadline = Instant::now() + timeout;
        let client = self.producer.client();
        let mut refused = None;
        let mut was_listed = false;
        while Instant::now() < deadline {
            // Asked by its name, a topic that is missing is made where the broker does that; where it does not, librdkafka
            // asks on until the time is over. What there is says the list, once it was given.
            drop(client.fetch_metadata(Some(topic), ASK_BY_NAME));
            match client.fetch_metadata(None, 2 * ASK_BY_NAME) {
                Ok(all) if all.topics().iter().any(|known| known.name() == topic && !known.partitions().is_empty()) => return Ok(true),
                Ok(_) => was_listed = true,
                Err(error) => refused = Some(error),
            }
            std::thread::sleep(ASK_BY_NAME / 5);
        }
        match refused.filter(|_| !was_listed) {
            Some(error) => Err(KafkaError::request(format!("topic {topic:?}"), &self.brokers, &error)),
            None => Ok(false),
        }
    }

    /// Queues a record; false when the queue is full (poll, then try again). Never blocks.
    ///
    /// # Errors
    /// The record can never be sent (too large, no such partition).
    pub fn try_send(&self, record: &Outgoing<'_>, headers: &[(&str, &[u8])], receipts: &Arc<Receipts>) -> Result<bool, KafkaError> {
        let mut message: BaseRecord<'_, [u8], [u8], Arc<Receipts>> = BaseRecord::with_opaque_to(record.topic, receipts.clone());
        message.partition = record.partition;
        message.key = record.key;
        message.payload = record.payload;
        message.timestamp = record.timestamp_ms;
        if !headers.is_empty() {
            let empty = OwnedHeaders::new_with_capacity(headers.len());
            message.headers =
                Some(headers.iter().fold(empty, |all, (key, value)| all.insert(rdkafka::message::Header { key, value: Some(*value) })));
        }
        match self.producer.send(message) {
            Ok(()) => {
                receipts.sent.fetch_add(1, Ordering::Relaxed);
                Ok(true)
            }
            Err((NativeError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((NativeError::MessageProduction(code), _)) if is_too_large(code) && receipts.too_large.is_some() => {
                receipts.came_back(OwnedRecord {
                    key: record.key.map(<[u8]>::to_vec),
                    payload: record.payload.map(<[u8]>::to_vec),
                    headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
                });
                Ok(true)
            }
            Err((error, _)) => Err(KafkaError::Delivery { topic: record.topic.to_owned(), message: error.to_string() }),
        }
    }

    /// Queues a record, waiting while the queue is full.
    ///
    /// # Errors
    /// As [`Self::try_send`], or still full after `timeout`.
    pub fn send(
        &self,
        record: &Outgoing<'_>,
        headers: &[(&str, &[u8])],
        receipts: &Arc<Receipts>,
        timeout: Duration,
    ) -> Result<(), KafkaError> {
        let deadline = Instant::now() + timeout;
        while !self.try_send(record, headers, receipts)? {
            self.poll(Duration::from_millis(10));
            if Instant::now() >= deadline {
                return Err(self.fault().unwrap_or_else(|| KafkaError::Unreachable {
                    brokers: self.brokers.clone(),
                    message: "the queue of unacknowledged records is full".into(),
                }));
            }
        }
        Ok(())
    }

    /// Serves acknowledgements for at most `timeout`.
    pub fn poll(&self, timeout: Duration) {
        self.producer.poll(timeout);
    }

    /// Waits until all of a sender's records are acknowledged.
    ///
    /// # Errors
    /// A record failed, or acknowledgements are still missing at the deadline.
    pub fn settle(&self, receipts: &Receipts, deadline: Instant) -> Result<(), KafkaError> {
        while receipts.in_flight() > 0 {
            self.poll(Duration::ZERO);
            if receipts.in_flight() == 0 {
                break;
            }
            if Instant::now() >= deadline {
                return Err(self.fault().unwrap_or_else(|| KafkaError::Request {
                    what: format!("{} records sent to {}", receipts.in_flight(), self.brokers),
                    message: "not acknowledged in time: is the broker overloaded, or the topic short of replicas?".into(),
                }));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        receipts.outcome()
    }

    /// The last fault librdkafka reported, once.
    pub fn fault(&self) -> Option<KafkaError> {
        self.producer.context().fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Receipts {
    /// Receipts of a sender who takes back what is too large for the topic, instead of failing.
    #[must_use]
    pub fn taking_back_too_large() -> Self {
        Self { too_large: Some(Mutex::default()), ..Self::default() }
    }

    /// Records that came back since the last call. A batch comes back whole, though only its sum may be too large.
    #[must_use]
    pub fn take_too_large(&self) -> Vec<OwnedRecord> {
        let kept = self.too_large.as_ref().map(|kept| std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner)));
        kept.unwrap_or_default()
    }

    /// One more was acknowledged, by a way of its own.
    pub(super) fn count_acked(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.acked.fetch_add(1, Ordering::Release);
    }

    fn came_back(&self, record: OwnedRecord) {
        if let Some(kept) = &self.too_large {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        }
    }

    /// Records queued or sent and not yet acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        // Read in this order: an ack between the two reads can only make the result too large.
        let done = self.acked.load(Ordering::Acquire) + self.failed.load(Ordering::Acquire);
        self.sent.load(Ordering::Relaxed).saturating_sub(done)
    }

    /// Records the broker has on all replicas.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    /// Records that were given up.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether any record was given up, and why.
    ///
    /// # Errors
    /// The last failure.
    pub fn outcome(&self) -> Result<(), KafkaError> {
        match &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: NativeError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            let said = classify(code, reason, &self.brokers);
            if fault.as_ref().is_none_or(|known| !known.needs_human()) {
                *fault = Some(said);
            }
        }
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Receipts>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipts: Arc<Receipts>) {
        match result {
            Ok(_) => {
                receipts.acked.fetch_add(1, Ordering::Release);
            }
            Err((NativeError::MessageProduction(code), message)) if is_too_large(*code) && receipts.too_large.is_some() => {
                let headers = message.headers().into_iter().flat_map(Headers::iter);
                receipts.came_back(OwnedRecord {
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().map(<[u8]>::to_vec),
                    headers: headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect(),
                });
                receipts.failed.fetch_add(1, Ordering::Release);
            }
            Err((error, message)) => {
                let failure = KafkaError::Delivery { topic: message.topic().to_owned(), message: error.to_string() };
                *receipts.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                receipts.failed.fetch_add(1, Ordering::Release);
            }
        }
    }
}

fn is_too_large(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge)
}
