//! A dead letter that is too large for its topic: sent alone, then with less and less of its payload.
//!
//! | attempt | what is sent                                                                        |
//! |---------|-------------------------------------------------------------------------------------|
//! | first   | the whole letter, alone: a batch comes back whole when only its sum is too large     |
//! | next    | half the payload each time, and how long it was (`recsae.truncated`)                 |
//! | last    | no payload, none of the record's own headers and key, and a short `recsae.error`     |
//! | then    | given up: counted, and logged with its place; the worker goes on                    |
//!
//! What once fitted is remembered, so that the next long ones are cut at once. Nothing is lost silently,
//! and a topic with a small limit costs time, never the flow.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::kafka::dead_letter::{DeadLetters, ERROR, KEY, OFFSET, PARTITION, REASON, TIMESTAMP, TOPIC, TRUNCATED};
use crate::kafka::error::KafkaError;
use crate::kafka::producer::{Outgoing, OwnedRecord, Receipts};

/// Bytes of the error's words that the last attempt keeps.
const SHORT_ERROR: usize = 120;
/// Payloads below this are left out instead of halved once more.
const SMALLEST: usize = 64;

impl DeadLetters {
    /// Sends what came back, each letter alone and shortened until it fits.
    pub(super) fn send_again(&self, deadline: Instant) -> Result<(), KafkaError> {
        for letter in self.receipts.take_too_large() {
            self.send_until_it_fits(letter, deadline)?;
        }
        Ok(())
    }

    pub(super) fn send_until_it_fits(&self, mut letter: OwnedRecord, deadline: Instant) -> Result<(), KafkaError> {
        // Alone in its batch: everything before it is answered.
        self.producer.settle(&self.receipts, deadline)?;
        let whole = letter.payload.as_ref().map_or(0, Vec::len);
        let limit = self.limit.load(Ordering::Relaxed);
        if whole > limit {
            cut(&mut letter, limit, whole);
        }
        loop {
            if self.fits(&letter, deadline)? {
                let kept = letter.payload.as_ref().map_or(0, Vec::len);
                if kept < whole {
                    self.truncated.fetch_add(1, Ordering::Relaxed);
                    self.limit.store(kept.max(SMALLEST), Ordering::Relaxed);
                }
                self.receipts.count_acked();
                return Ok(());
            }
            if !shorter(&mut letter, whole) {
                self.undeliverable.fetch_add(1, Ordering::Relaxed);
                tracing::error!(place = place(&letter), topic = self.topic, "the topic takes no dead letter of this record, however short");
                return Ok(());
            }
        }
    }

    /// Whether the topic takes the letter as it is.
    fn fits(&self, letter: &OwnedRecord, deadline: Instant) -> Result<bool, KafkaError> {
        let receipts = Arc::new(Receipts::taking_back_too_large());
        let headers: Vec<(&str, &[u8])> = letter.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let record = Outgoing { topic: &self.topic, key: letter.key.as_deref(), payload: letter.payload.as_deref(), ..Outgoing::default() };
        self.producer.send(&record, &headers, &receipts, deadline.saturating_duration_since(Instant::now()))?;
        self.producer.settle(&receipts, deadline)?;
        Ok(receipts.take_too_large().is_empty())
    }
}

/// Makes the letter shorter; false when nothing can be left out any more.
fn shorter(letter: &mut OwnedRecord, whole: usize) -> bool {
    let kept = letter.payload.as_ref().map_or(0, Vec::len);
    if kept > 0 {
        cut(letter, if kept > SMALLEST { kept / 2 } else { 0 }, whole);
        return true;
    }
    let size = |letter: &OwnedRecord| letter.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let before = size(letter);
    letter.headers.retain(|(name, _)| [REASON, TOPIC, PARTITION, OFFSET, TIMESTAMP, ERROR, TRUNCATED].contains(&name.as_str()));
    for (_, value) in letter.headers.iter_mut().filter(|(name, _)| name == ERROR) {
        // Never in the middle of a character: readers take it for text.
        let text = String::from_utf8_lossy(value).into_owned();
        let end = (0..=SHORT_ERROR.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        *value = text.as_bytes()[..end].to_vec();
    }
    size(letter) < before
}

/// Keeps the first bytes of the payload, and says how many there were. The header stands behind ours, before the record's own.
fn cut(letter: &mut OwnedRecord, keep: usize, whole: usize) {
    if let Some(payload) = &mut letter.payload {
        payload.truncate(keep);
    }
    let at = letter.headers.iter().position(|(name, _)| name == KEY).map_or(6, |key| key + 1).min(letter.headers.len());
    if letter.headers.get(at).is_none_or(|(name, _)| name != TRUNCATED) {
        letter.headers.insert(at, (TRUNCATED.to_owned(), whole.to_string().into_bytes()));
    }
}

fn place(letter: &OwnedRecord) -> String {
    String::from_utf8_lossy(letter.key.as_deref().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(payload: usize) -> OwnedRecord {
        let headers = [REASON, TOPIC, PARTITION, OFFSET, TIMESTAMP, ERROR, KEY, "surface", "colour"];
        let value = |name: &&str| ((*name).to_owned(), if *name == ERROR { vec![b'e'; 500] } else { b"1".to_vec() });
        OwnedRecord { key: Some(b"t|0|5".to_vec()), payload: Some(vec![7; payload]), headers: headers.iter().map(value).collect() }
    }

    #[test]
    fn a_letter_shrinks_to_its_bare_place_and_reason_and_then_no_more() {
        let mut letter = letter(1000);
        let mut sizes = Vec::new();
        while shorter(&mut letter, 1000) {
            sizes.push(letter.payload.as_ref().unwrap().len());
        }
        assert_eq!(sizes, [500, 250, 125, 62, 0, 0]);
        let names: Vec<&str> = letter.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [REASON, TOPIC, PARTITION, OFFSET, TIMESTAMP, ERROR, TRUNCATED]);
        assert_eq!((letter.headers[5].1.len(), &letter.headers[6].1), (SHORT_ERROR, &b"1000".to_vec()));
    }

    #[test]
    fn the_mark_stands_once_between_ours_and_the_records_own_headers() {
        let mut letter = letter(1000);
        cut(&mut letter, 500, 1000);
        cut(&mut letter, 250, 1000);
        let names: Vec<&str> = letter.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[6..], [KEY, TRUNCATED, "surface", "colour"]);
    }
}
