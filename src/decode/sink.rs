//! Where decoded values go: the record, with the limits of each part, and the first fault found.
//!
//! A value of the wrong type does not stop the reader: it is noted, reading goes on to the end, and
//! only then the record is rejected. So a payload that is not JSON at all is always `malformed_json`,
//! whatever came before the place where it breaks.

use std::fmt::Write;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::config::settings::RecordSettings;
use crate::decode::entity::EntityHasher;
use crate::decode::layout::{Slot, slot_name};
use crate::decode::raw;
use crate::decode::timestamp::{from_number, from_text, shorten};
use crate::record::{RawMessage, Record, Reject, RejectReason};

/// Longest version, segment value or item, in bytes: they become labels and keys of tables.
const MOST_TEXT_BYTES: usize = 256;
/// Longest entity, in bytes; only its hash is kept.
const MOST_ENTITY_BYTES: usize = 1024;
/// Items kept of a record; they are examples, so the rest is left out rather than refused.
pub const MOST_ITEMS: usize = 100;

/// Base64 with or without padding.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// A record being filled.
pub struct Sink<'a> {
    record: &'a mut Record,
    hasher: &'a EntityHasher,
    settings: &'a RecordSettings,
    bytes: &'a mut Vec<u8>,
    event_time_ms: Option<i64>,
    has_embedding: bool,
    fault: Option<Reject>,
    /// The slot whose value is being read: what a syntax error inside it is about.
    pub(super) current: Option<Slot>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(record: &'a mut Record, hasher: &'a EntityHasher, settings: &'a RecordSettings, bytes: &'a mut Vec<u8>) -> Self {
        Self { record, hasher, settings, bytes, event_time_ms: None, has_embedding: false, fault: None, current: None }
    }

    /// Forgets everything, to be filled from the start.
    pub(super) fn restart(&mut self) {
        self.record.clear(self.record.fields.len());
        (self.event_time_ms, self.has_embedding, self.fault, self.current) = (None, false, None, None);
    }

    /// Whether a fault was noted.
    pub(super) fn is_faulty(&self) -> bool {
        self.fault.is_some()
    }

    /// The vector, to be filled.
    pub(super) fn embedding(&mut self) -> &mut Vec<f32> {
        self.has_embedding = true;
        &mut self.record.embedding
    }

    /// A value of a type that the slot cannot take.
    pub(super) fn wrong_type(&mut self, slot: Slot, found: &str) {
        let name = slot_name(self.settings, slot);
        let (reason, expected) = match slot {
            Slot::Embedding => (RejectReason::BadEmbedding, "an array of numbers or base64"),
            Slot::Timestamp => (RejectReason::BadTimestamp, "seconds, milliseconds or RFC 3339"),
            Slot::Items => (RejectReason::BadField, "an array of texts or whole numbers"),
            _ => (RejectReason::BadField, "text or a number"),
        };
        self.note(reason, format!("{name}: expected {expected}, found {found}"));
    }

    pub(super) fn note(&mut self, reason: RejectReason, detail: String) {
        if self.fault.is_none() {
            self.fault = Some(Reject::new(reason, detail));
        }
    }

    pub(super) fn settings(&self) -> &RecordSettings {
        self.settings
    }

    /// A text from the payload.
    pub(super) fn text(&mut self, slot: Slot, text: &str) {
        match slot {
            Slot::Embedding => self.base64(text),
            Slot::Entity => self.entity(text.as_bytes()),
            Slot::Timestamp => match from_text(text) {
                Ok(ms) => self.event_time_ms = Some(ms),
                Err(detail) => self.bad_timestamp(&detail),
            },
            Slot::ModelVersion => {
                if self.fits(slot, text) {
                    self.record.model_version.push_str(text);
                }
            }
            Slot::Segment(number) => {
                if self.fits(slot, text) {
                    self.record.fields[number].push_str(text);
                }
            }
            Slot::Items => self.wrong_type(slot, "text"),
        }
    }

    /// A whole number from the payload.
    pub(super) fn integer(&mut self, slot: Slot, number: i128) {
        match slot {
            Slot::Embedding | Slot::Items => self.wrong_type(slot, "a number"),
            #[expect(clippy::cast_precision_loss, reason = "exact below 2^53; 1e14 and above are refused")]
            Slot::Timestamp => self.timestamp(number as f64),
            _ => self.formatted(slot, &number),
        }
    }

    /// A number with a fraction from the payload.
    pub(super) fn float(&mut self, slot: Slot, number: f64) {
        match slot {
            Slot::Embedding | Slot::Items => self.wrong_type(slot, "a number"),
            Slot::Timestamp => self.timestamp(number),
            // 42.0 and 42 from another writer would be two entities.
            Slot::Entity => self.wrong_type(slot, "a number with a fraction"),
            _ => self.formatted(slot, &number),
        }
    }

    /// true or false from the payload.
    pub(super) fn boolean(&mut self, slot: Slot, value: bool) {
        match slot {
            Slot::Segment(_) | Slot::ModelVersion => self.formatted(slot, &value),
            _ => self.wrong_type(slot, "true or false"),
        }
    }

    /// One recommended item.
    pub(super) fn item(&mut self, text: &str) {
        if self.record.items.len() < MOST_ITEMS && self.fits(Slot::Items, text) {
            self.record.items.push(text.to_owned());
        }
    }

    /// A header's or the key's bytes.
    pub(super) fn bytes(&mut self, slot: Slot, bytes: &[u8]) {
        match (slot, std::str::from_utf8(bytes)) {
            (Slot::Entity, _) => self.entity(bytes),
            (Slot::Items, Ok(list)) => list.split(',').map(str::trim).filter(|item| !item.is_empty()).for_each(|item| self.item(item)),
            (_, Ok(text)) => self.text(slot, text),
            (_, Err(_)) => self.wrong_type(slot, "bytes that are not UTF-8"),
        }
    }

    /// Checks what is missing and takes it from the message where it may come from there.
    pub(super) fn finish(mut self, message: &RawMessage<'_>) -> Result<(), Reject> {
        if self.record.entity.is_none()
            && let Some(key) = message.key
        {
            self.entity(key);
        }
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if !self.has_embedding {
            return Err(Reject::new(
                RejectReason::MissingEmbedding,
                format!("expected a vector at {:?}, found none", self.settings.embedding),
            ));
        }
        let from_broker = message.timestamp_ms.filter(|ms| *ms >= 0);
        self.record.event_time_ms = self.event_time_ms.or(from_broker).ok_or_else(|| {
            let detail = format!("expected a time at {:?} or from the broker, found none", self.settings.timestamp);
            Reject::new(RejectReason::MissingTimestamp, detail)
        })?;
        Ok(())
    }

    /// Empty is absent: many writers have no other way to say so.
    fn entity(&mut self, entity: &[u8]) {
        if entity.len() > MOST_ENTITY_BYTES {
            let detail = format!("entity: expected at most {MOST_ENTITY_BYTES} bytes, found {}", entity.len());
            self.note(RejectReason::BadField, detail);
        } else if !entity.is_empty() {
            self.record.entity = Some(self.hasher.hash(entity));
        }
    }

    fn timestamp(&mut self, number: f64) {
        match from_number(number) {
            Ok(ms) => self.event_time_ms = Some(ms),
            Err(detail) => self.bad_timestamp(&detail),
        }
    }

    fn bad_timestamp(&mut self, detail: &str) {
        self.note(RejectReason::BadTimestamp, format!("{}: {detail}", self.settings.timestamp));
    }

    fn fits(&mut self, slot: Slot, text: &str) -> bool {
        let name = slot_name(self.settings, slot);
        if text.len() > MOST_TEXT_BYTES {
            let detail = format!("{name}: expected at most {MOST_TEXT_BYTES} bytes, found {}", text.len());
            self.note(RejectReason::BadField, detail);
            return false;
        }
        // They would break a label, a log line or a terminal.
        if text.chars().any(char::is_control) {
            let detail = format!("{name}: expected no control characters, found {:?}", shorten(text));
            self.note(RejectReason::BadField, detail);
            return false;
        }
        true
    }

    fn formatted(&mut self, slot: Slot, value: &dyn std::fmt::Display) {
        let mut text = Digits::default();
        // Longer than any number's digits is a float like 1e-300, which no label needs.
        match write!(text, "{value}") {
            Ok(()) => self.text(slot, text.as_str()),
            Err(_) => self.wrong_type(slot, "a number of more than 64 digits"),
        }
    }

    fn base64(&mut self, text: &str) {
        self.bytes.clear();
        if let Err(error) = BASE64.decode_vec(text, self.bytes) {
            let detail = format!("{}: expected an array of numbers or base64, found text: {error}", self.settings.embedding);
            self.note(RejectReason::BadEmbedding, detail);
            return;
        }
        self.has_embedding = true;
        if let Err(reject) = raw::read(self.bytes, self.settings.dtype, &mut self.record.embedding) {
            self.note(reject.reason, reject.detail);
        }
    }
}

/// A number's text without an allocation.
struct Digits {
    bytes: [u8; 64],
    length: usize,
}

impl Default for Digits {
    fn default() -> Self {
        Self { bytes: [0; 64], length: 0 }
    }
}

impl Digits {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
