//! Rejects on their way to the dead letters.
//!
//! A reject is copied out of the client's buffer and sent after the batch, so that a slow
//! dead-letter topic makes the worker slower and loses nothing. Positions are stored only when the
//! dead letters below them are acknowledged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::kafka::dead_letter::DeadLetters;
use crate::kafka::error::KafkaError;
use crate::metrics::registry::ProcessMetrics;
use crate::monitor::kept::KeptMessage;
use crate::record::{RawMessage, Reject, TopicPartition};

/// Longest wait for the dead-letter topic before the worker stops; its records are then read again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the log tells of rejects.
const TELL_EVERY: Duration = Duration::from_secs(10);

struct Kept {
    partition: TopicPartition,
    message: KeptMessage,
    reject: Reject,
}

/// One worker's rejects.
pub struct Rejects {
    dead_letters: Option<DeadLetters>,
    kept: Vec<Kept>,
    acked: u64,
    truncated: u64,
    undeliverable: u64,
    /// Rejects by reason that no line of the log has told yet, and the words of the last one.
    untold: BTreeMap<&'static str, u64>,
    last: String,
    told: Option<Instant>,
}

impl Rejects {
    /// Rejects that go to a dead-letter topic, or that are counted only.
    #[must_use]
    pub fn new(dead_letters: Option<DeadLetters>) -> Self {
        Self {
            dead_letters,
            kept: Vec::new(),
            acked: 0,
            truncated: 0,
            undeliverable: 0,
            untold: BTreeMap::new(),
            last: String::new(),
            told: None,
        }
    }

    /// Keeps a reject until [`Self::send`].
    pub fn keep(&mut self, message: &RawMessage<'_>, reject: Reject) {
        tracing::debug!(partition = %message.partition, offset = message.offset, %reject, "record rejected");
        *self.untold.entry(reject.reason.kind()).or_default() += 1;
        if self.is_time_to_tell() {
            self.last = format!("{} at {}: {reject}", message.partition, message.offset);
        }
        if self.dead_letters.is_none() {
            return;
        }
        self.kept.push(Kept { partition: message.partition.clone(), message: KeptMessage::of(message), reject });
    }

    /// Queues what was kept.
    ///
    /// # Errors
    /// The topic cannot take it.
    pub fn send(&mut self, metrics: &ProcessMetrics) -> Result<(), KafkaError> {
        self.tell();
        let Some(dead_letters) = &self.dead_letters else { return Ok(()) };
        for kept in self.kept.drain(..) {
            let sent = kept.message.lend(&kept.partition, |message| dead_letters.send(message, &kept.reject, PATIENCE));
            if let Err(error) = sent {
                metrics.dead_letter_failures.inc();
                return Err(error);
            }
        }
        let acked = dead_letters.acked();
        metrics.dead_letters.inc_by(acked - self.acked);
        self.acked = acked;
        let (truncated, undeliverable) = (dead_letters.truncated(), dead_letters.undeliverable());
        metrics.dead_letters_truncated.inc_by(truncated - self.truncated);
        metrics.dead_letter_failures.inc_by(undeliverable - self.undeliverable);
        (self.truncated, self.undeliverable) = (truncated, undeliverable);
        Ok(())
    }

    fn is_time_to_tell(&self) -> bool {
        self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY)
    }

    /// One line for all rejects of a while, with one of them as example.
    fn tell(&mut self) {
        if self.untold.is_empty() || !self.is_time_to_tell() {
            return;
        }
        tracing::warn!(rejected = ?self.untold, example = self.last, "records were rejected");
        self.untold.clear();
        self.told = Some(Instant::now());
    }

    /// Whether every reject so far is kept safely; never blocks.
    ///
    /// # Errors
    /// One could not be written.
    pub fn is_settled(&self) -> Result<bool, KafkaError> {
        self.dead_letters.as_ref().map_or(Ok(true), DeadLetters::settled)
    }

    /// Waits until every reject is kept safely.
    ///
    /// # Errors
    /// One could not be written, or not in time.
    pub fn settle(&self, deadline: Instant) -> Result<(), KafkaError> {
        self.dead_letters.as_ref().map_or(Ok(()), |dead_letters| dead_letters.settle(deadline))
    }
}
