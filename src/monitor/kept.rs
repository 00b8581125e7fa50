//! A message that outlives the client's buffer: one that waits to be counted, or a reject on its way.

use std::collections::VecDeque;

use crate::record::{Header, RawMessage, TopicPartition};

/// A copy of a message.
#[derive(Clone, Debug)]
pub struct KeptMessage {
    /// Its offset.
    pub offset: i64,
    timestamp_ms: Option<i64>,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl KeptMessage {
    /// Copies a message.
    #[must_use]
    pub fn of(message: &RawMessage<'_>) -> Self {
        Self {
            offset: message.offset,
            timestamp_ms: message.timestamp_ms,
            key: message.key.map(<[u8]>::to_vec),
            payload: message.payload.map(<[u8]>::to_vec),
            headers: message.headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec))).collect(),
        }
    }

    fn n_bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Vec::len) + self.payload.as_ref().map_or(0, Vec::len)
    }

    /// Gives the message back as it was polled from that partition.
    pub fn lend<T>(&self, partition: &TopicPartition, to: impl FnOnce(&RawMessage<'_>) -> T) -> T {
        let headers: Vec<Header<'_>> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        to(&RawMessage {
            partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            payload: self.payload.as_deref(),
            headers: &headers,
        })
    }
}

/// Messages that wait before their partition is paused. The judge comes after within a few milliseconds, mostly; a
/// partition that was paused takes up to `fetch.wait.max.ms` to be fetched again.
const ENOUGH: usize = 4096;
/// The same in bytes of keys and payloads.
const ENOUGH_BYTES: usize = 4 << 20;

/// Messages of one partition that wait for the judge, in the log's order: the first lies further ahead of it than may
/// be counted, the others follow it.
#[derive(Debug, Default)]
pub struct Waiting {
    messages: VecDeque<KeptMessage>,
    n_bytes: usize,
    is_paused: bool,
}

/// What the client is to be told of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetching {
    /// Fetch no more of it.
    Stop,
    /// Fetch on.
    GoOn,
}

impl Waiting {
    /// Whether no message waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds a message behind the others; one that was handed over before is not kept twice.
    pub fn push(&mut self, message: &RawMessage<'_>) {
        if self.messages.back().is_none_or(|last| last.offset < message.offset) {
            let kept = KeptMessage::of(message);
            self.n_bytes += kept.n_bytes();
            self.messages.push_back(kept);
        }
    }

    /// Takes the first message.
    pub fn pop(&mut self) -> Option<KeptMessage> {
        let first = self.messages.pop_front()?;
        self.n_bytes -= first.n_bytes();
        Some(first)
    }

    /// Puts the message back that was taken last.
    pub fn put_back(&mut self, message: KeptMessage) {
        self.n_bytes += message.n_bytes();
        self.messages.push_front(message);
    }

    /// Forgets all of them: they are read again from the log.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.n_bytes = 0;
    }

    fn is_enough(&self) -> bool {
        self.messages.len() >= ENOUGH || self.n_bytes >= ENOUGH_BYTES
    }

    /// What the client is to be told, where that has changed since this was last asked.
    pub fn change(&mut self) -> Option<Fetching> {
        let is_paused = if self.is_paused { !self.messages.is_empty() } else { self.is_enough() };
        let before = std::mem::replace(&mut self.is_paused, is_paused);
        (before != is_paused).then_some(if is_paused { Fetching::Stop } else { Fetching::GoOn })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn messages_come_back_in_order_as_they_were_and_once() {
        let partition = TopicPartition { topic: Arc::from("t"), partition: 2 };
        let headers: [Header<'_>; 2] = [("a", Some(b"1")), ("b", None)];
        let message = |offset| RawMessage {
            partition: &partition,
            offset,
            timestamp_ms: Some(5),
            key: None,
            payload: Some(b"{}"),
            headers: &headers,
        };
        let mut waiting = Waiting::default();
        [7, 8, 8, 7, 10].map(message).iter().for_each(|message| waiting.push(message));
        let first = waiting.pop().unwrap();
        assert_eq!(first.lend(&partition, |lent| format!("{lent:?}")), format!("{:?}", message(7)));
        waiting.put_back(first);
        let offsets: Vec<i64> = std::iter::from_fn(|| waiting.pop()).map(|message| message.offset).collect();
        assert_eq!(offsets, [7, 8, 10]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn fetching_stops_once_enough_wait_and_goes_on_when_none_does() {
        let partition = TopicPartition { topic: Arc::from("t"), partition: 0 };
        let mut waiting = Waiting::default();
        for offset in 0..i64::try_from(ENOUGH).unwrap() {
            assert_eq!(waiting.change(), None);
            waiting.push(&RawMessage { partition: &partition, offset, timestamp_ms: None, key: None, payload: None, headers: &[] });
        }
        assert_eq!((waiting.change(), waiting.change()), (Some(Fetching::Stop), None));
        while waiting.pop().is_some() {
            let change = waiting.change();
            assert_eq!(change, waiting.is_empty().then_some(Fetching::GoOn));
        }
        assert_eq!(waiting.change(), None);
        let megabyte = vec![0; 1 << 20];
        for offset in 10_000..10_004 {
            assert_eq!(waiting.change(), None);
            let payload = Some(megabyte.as_slice());
            waiting.push(&RawMessage { partition: &partition, offset, timestamp_ms: None, key: None, payload, headers: &[] });
        }
        assert_eq!(waiting.change(), Some(Fetching::Stop), "large messages are enough sooner");
        waiting.clear();
        assert_eq!(waiting.change(), Some(Fetching::GoOn));
    }
}
