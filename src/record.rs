//! What passes between the broker, the decoders and the workers: a message, a record, a reject.
//!
//! A message is borrowed from the client's buffer, a record is one scratch object filled again and
//! again, so that nothing is allocated per record on the hot path.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: Arc<str>,
    /// Partition number.
    pub partition: i32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// One header of a message.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// A message as polled, borrowed from the client's buffer.
#[derive(Clone, Copy, Debug)]
pub struct RawMessage<'a> {
    /// Where it lies: index of the partition in the worker's assignment.
    pub partition: &'a TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// The broker's timestamp (create or append time), ms since 1970 UTC.
    pub timestamp_ms: Option<i64>,
    /// Key bytes.
    pub key: Option<&'a [u8]>,
    /// Payload bytes; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Headers, read only when the configuration names one (0.3 us a record otherwise wasted).
    pub headers: &'a [Header<'a>],
}

/// A decoded record: one scratch object, filled again for each message.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The vector as it came; width and finiteness are checked by `EmbeddingBatch::push`.
    pub embedding: Vec<f32>,
    /// Salted hash of the entity (user or session); `None` where neither field nor key has one.
    pub entity: Option<u64>,
    /// When the recommendation was served, ms since 1970 UTC.
    pub event_time_ms: i64,
    /// Version of the recommender that made the vector; empty when the record names none.
    pub model_version: String,
    /// Values of the configured segment fields, in the configuration's order; empty = absent.
    pub fields: Vec<String>,
    /// Recommended items, for examples beside a concept; never counted.
    pub items: Vec<String>,
}

impl Record {
    /// Empties the record and keeps its memory; `n_fields` segment fields are configured.
    pub fn clear(&mut self, n_fields: usize) {
        self.embedding.clear();
        self.entity = None;
        self.event_time_ms = 0;
        self.model_version.clear();
        self.fields.resize_with(n_fields, String::new);
        self.fields.iter_mut().for_each(String::clear);
        self.items.clear();
    }
}

/// Why a record was not counted. A closed set: `kind` is the metric's label and the dead letter's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// No payload at all (a tombstone).
    Tombstone,
    /// A payload of zero bytes.
    EmptyPayload,
    /// The payload is larger than the configured limit.
    TooLarge,
    /// Not valid JSON, or not an object.
    MalformedJson,
    /// A raw payload's length is not a whole number of values.
    BadLength,
    /// No vector where the configuration says it is.
    MissingEmbedding,
    /// The vector is not an array of numbers or base64 of them.
    BadEmbedding,
    /// The vector's width is not the SAE's.
    WrongWidth,
    /// NaN or Inf in the vector.
    NotFinite,
    /// A value far beyond what the SAE's golden rows hold: it would outweigh all other records of a window.
    OutOfRange,
    /// The timestamp is there but cannot be read.
    BadTimestamp,
    /// Neither a timestamp in the record nor one from the broker.
    MissingTimestamp,
    /// Presence or Kish counting needs an entity and the record has none.
    MissingEntity,
    /// A field has a type that cannot be read as text (or is longer than the limit).
    BadField,
    /// No model is configured for the record's version.
    UnknownModelVersion,
    /// Older than the allowed lateness: its window is closed.
    Late,
    /// Further ahead of the broker's timestamp than the tolerance.
    Future,
}

impl RejectReason {
    /// Every reason, in the order of declaration: what the metric is registered with.
    pub const ALL: [Self; 17] = [
        Self::Tombstone,
        Self::EmptyPayload,
        Self::TooLarge,
        Self::MalformedJson,
        Self::BadLength,
        Self::MissingEmbedding,
        Self::BadEmbedding,
        Self::WrongWidth,
        Self::NotFinite,
        Self::OutOfRange,
        Self::BadTimestamp,
        Self::MissingTimestamp,
        Self::MissingEntity,
        Self::BadField,
        Self::UnknownModelVersion,
        Self::Late,
        Self::Future,
    ];

    /// Stable name: metric label and dead-letter header.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::EmptyPayload => "empty_payload",
            Self::TooLarge => "too_large",
            Self::MalformedJson => "malformed_json",
            Self::BadLength => "bad_length",
            Self::MissingEmbedding => "missing_embedding",
            Self::BadEmbedding => "bad_embedding",
            Self::WrongWidth => "wrong_width",
            Self::NotFinite => "not_finite",
            Self::OutOfRange => "out_of_range",
            Self::BadTimestamp => "bad_timestamp",
            Self::MissingTimestamp => "missing_timestamp",
            Self::MissingEntity => "missing_entity",
            Self::BadField => "bad_field",
            Self::UnknownModelVersion => "unknown_model_version",
            Self::Late => "late",
            Self::Future => "future",
        }
    }
}

/// A record that was not counted: the reason, and in words what was expected and found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.kind())]
pub struct Reject {
    /// The closed-set reason.
    pub reason: RejectReason,
    /// What was expected and what was found; goes to the dead letter's `recsae.error` header.
    pub detail: String,
}

impl Reject {
    /// A reject with its words.
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
