//! A message's bytes to a [`Record`], or to a [`Reject`] that says what was expected and found.
//!
//! Where things lie is configured: a dotted path into the JSON object, `header:NAME`, or `key`. With
//! raw payloads everything but the vector is in headers, so a plain name is a header's name there.
//!
//! One decoder a worker, one record filled again and again: nothing is allocated per record but the
//! recommended items. JSON is read in one pass without a tree of values; what is not configured is
//! skipped, but it must be JSON.

mod digits;
pub mod entity;
mod fraction;
pub mod json;
pub mod layout;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod planted;
mod quick;
pub mod raw;
pub mod sink;
pub mod timestamp;

use crate::config::settings::{RecordFormat, RecordSettings};
use crate::decode::entity::EntityHasher;
use crate::decode::layout::Layout;
use crate::decode::sink::Sink;
use crate::record::{RawMessage, Record, Reject, RejectReason};

pub use crate::decode::layout::DecodeSetupError;

/// Decodes messages of one configured layout.
pub struct Decoder {
    settings: RecordSettings,
    layout: Layout,
    hasher: EntityHasher,
    bytes: Vec<u8>,
}

impl Decoder {
    /// A decoder for `[record]` and the fields of `[segments]`; entities are hashed with `entity_salt`.
    ///
    /// # Errors
    /// A place is unreadable, or two places exclude each other.
    pub fn new(settings: &RecordSettings, segment_fields: &[String], entity_salt: &[u8; 16]) -> Result<Self, DecodeSetupError> {
        Ok(Self {
            layout: Layout::new(settings, segment_fields)?,
            settings: settings.clone(),
            hasher: EntityHasher::new(entity_salt),
            bytes: Vec::new(),
        })
    }

    /// Whether a place is a header: reading headers costs .3 us a message, so it is done on demand.
    #[must_use]
    pub fn needs_headers(&self) -> bool {
        self.layout.needs_headers()
    }

    /// Fills `record` from `message`. The vector's width and finiteness are the batch's to check:
    /// values beyond f32 arrive as Inf.
    ///
    /// # Errors
    /// The message is no record; `record` then holds garbage.
    pub fn decode(&mut self, message: &RawMessage<'_>, record: &mut Record) -> Result<(), Reject> {
        record.clear(self.layout.n_fields());
        let payload = self.payload(message)?;
        let mut sink = Sink::new(record, &self.hasher, &self.settings, &mut self.bytes);
        match self.settings.format {
            RecordFormat::Json if quick::read(payload, self.layout.tree(), &mut sink) => {}
            RecordFormat::Json => {
                sink.restart();
                json::read(payload, self.layout.tree(), &mut sink)?;
            }
            RecordFormat::Raw => raw::read(payload, self.settings.dtype, sink.embedding())?,
        }
        for (slots, place) in self.layout.outside() {
            if let Some(bytes) = place.find(message) {
                slots.iter().for_each(|slot| sink.bytes(*slot, bytes));
            }
        }
        sink.finish(message)
    }

    fn payload<'a>(&self, message: &RawMessage<'a>) -> Result<&'a [u8], Reject> {
        let payload = message.payload.ok_or_else(|| Reject::new(RejectReason::Tombstone, "expected a record, found a tombstone"))?;
        if payload.is_empty() {
            return Err(Reject::new(RejectReason::EmptyPayload, "expected a record, found 0 bytes"));
        }
        if payload.len() as u64 > self.settings.max_bytes {
            let detail = format!("expected at most {} bytes (record.max_bytes), found {}", self.settings.max_bytes, payload.len());
            return Err(Reject::new(RejectReason::TooLarge, detail));
        }
        Ok(payload)
    }
}
