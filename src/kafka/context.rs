//! What librdkafka says while it is polled: kept for the worker, never handled inside the callback.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError as NativeError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use crate::kafka::error::{KafkaError, classify};

/// A rebalance as the group's coordinator ordered it; the client waits until it is answered.
#[derive(Clone)]
pub(super) enum Order {
    Assign(TopicPartitionList),
    Revoke { partitions: TopicPartitionList, lost: bool },
}

/// Shared with librdkafka's callbacks, which run on the polling thread.
pub(super) struct Context {
    brokers: String,
    orders: Mutex<VecDeque<Order>>,
    /// Handed to the worker and not answered by it yet, oldest first.
    unanswered: Mutex<VecDeque<Order>>,
    faults: Mutex<Vec<KafkaError>>,
    /// Counts callbacks, so that a poll can tell "nothing there" from "one event consumed".
    seen: AtomicU64,
    /// While the client is being dropped nobody answers orders but the callback itself.
    closing: AtomicBool,
}

impl Context {
    pub(super) fn new(brokers: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            orders: Mutex::default(),
            unanswered: Mutex::default(),
            faults: Mutex::default(),
            seen: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        }
    }

    pub(super) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The oldest order; it counts as unanswered until [`Self::answered`].
    pub(super) fn next_order(&self) -> Option<Order> {
        let order = lock(&self.orders).pop_front()?;
        lock(&self.unanswered).push_back(order.clone());
        Some(order)
    }

    /// The oldest order that was handed over has its answer.
    pub(super) fn answered(&self) {
        lock(&self.unanswered).pop_front();
    }

    pub(super) fn take_faults(&self) -> Vec<KafkaError> {
        std::mem::take(&mut *lock(&self.faults))
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// From here on the callback answers by itself; the orders that are left without an answer. A worker that failed
    /// while it took partitions over leaves one.
    pub(super) fn close(&self) -> VecDeque<Order> {
        self.closing.store(true, Ordering::Relaxed);
        let mut left = std::mem::take(&mut *lock(&self.unanswered));
        left.extend(std::mem::take(&mut *lock(&self.orders)));
        left
    }

    pub(super) fn fault(&self, fault: KafkaError) {
        let mut faults = lock(&self.faults);
        // One broker away says so once a second and connection: one of a kind is enough.
        if !faults.contains(&fault) && faults.len() < 16 {
            faults.push(fault);
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        if facility == "MAXPOLL" {
            self.fault(KafkaError::PollTooSlow { message: message.to_owned() });
        }
        log(level, facility, message);
    }

    fn error(&self, error: NativeError, reason: &str) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        if let Some(code) = error.rdkafka_error_code()
            && code != RDKafkaErrorCode::PartitionEOF
        {
            match classify(code, reason, &self.brokers) {
                // A pattern that no topic matches yet: the group waits for the first one that does.
                KafkaError::UnknownTopic { topic, .. } if topic.starts_with('^') => {
                    tracing::warn!(pattern = topic, "no topic matches the pattern, waiting for one");
                }
                fault => self.fault(fault),
            }
        }
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        if self.closing.load(Ordering::Relaxed) {
            // A closing client takes any answer as "I have let go". Nothing else is asked of it: see `kafka::member`.
            if !consumer.closed()
                && let Err(error) = consumer.unassign()
            {
                tracing::debug!(%error, "rebalance not answered while closing");
            }
            return;
        }
        let order = if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            Order::Assign(partitions.clone())
        } else {
            Order::Revoke { partitions: partitions.clone(), lost: consumer.assignment_lost() }
        };
        lock(&self.orders).push_back(order);
    }
}

/// librdkafka's log lines under our own target. Its lines about a lost connection repeat by the
/// second and say what the fault says: they stay below WARN.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(target: "librdkafka", facility, detail = message, "librdkafka");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", facility, detail = message, "librdkafka");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, detail = message, "librdkafka"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
