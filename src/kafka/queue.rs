//! librdkafka's batch call on a queue of ours, and the two other calls rust-rdkafka does not wrap.
//!
//! `rd_kafka_consume_batch_queue` costs .06 us of the application's time a record where a poll costs
//! .26. On the consumer's own queue it reads nothing for ever once the consumer is in a group; on a
//! queue of ours to which each partition's queue was forwarded before the assignment it works.
//!
//! This file is all the `unsafe` of consuming. The safe twin is `BaseConsumer::poll`, against which
//! `tests/system/consume.rs` compares what is read.

#![expect(unsafe_code, reason = "librdkafka's batch call has no wrapper; measured 2-4x cheaper than poll")]

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as native;
use rdkafka::client::NativeClient;
use rdkafka::error::RDKafkaErrorCode;

use crate::record::Header;

/// A queue of ours. Must be dropped before the client it came from, or the client's drop can hang.
pub(super) struct Queue {
    queue: NonNull<native::rd_kafka_queue_t>,
    messages: Vec<*mut native::rd_kafka_message_t>,
    /// Whether messages can arrive. A queue of commit replies must not be read as one of messages:
    /// librdkafka then aborts the process.
    holds_messages: Cell<bool>,
}

// SAFETY: librdkafka's queues are thread-safe; the message pointers are only filled and emptied
// inside `read`, which needs `&mut self`.
unsafe impl Send for Queue {}

/// A message or a partition's error, as it lies in the client's memory.
pub(super) struct Fetched<'a> {
    message: &'a native::rd_kafka_message_t,
}

/// The client's answer to a commit: the whole list's error and each partition's.
pub(super) struct CommitReply {
    pub(super) error: Option<RDKafkaErrorCode>,
    pub(super) partitions: Vec<Entry>,
}

/// One entry of a list of partitions, copied.
pub(super) struct Entry {
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Negative where there is none.
    pub(super) offset: i64,
    pub(super) error: Option<RDKafkaErrorCode>,
    /// As bytes: rust-rdkafka's accessor panics on foreign text.
    pub(super) metadata: Vec<u8>,
}

impl Queue {
    /// An empty queue of `client`, to be read `capacity` messages at a time.
    pub(super) fn new(client: &NativeClient, capacity: usize) -> Option<Self> {
        // SAFETY: the client is alive; a null result is turned into None.
        let queue = NonNull::new(unsafe { native::rd_kafka_queue_new(client.ptr()) })?;
        Some(Self { queue, messages: Vec::with_capacity(capacity.max(1)), holds_messages: Cell::new(false) })
    }

    /// Makes the partition's messages arrive here. Call before the partition is assigned.
    pub(super) fn forward(&self, client: &NativeClient, topic: &str, partition: i32) -> bool {
        let Ok(topic) = CString::new(topic) else { return false };
        self.holds_messages.set(true);
        // SAFETY: the client and our queue are alive; the partition's queue is a counted reference,
        // given back after the forward, which holds its own.
        unsafe {
            let source = native::rd_kafka_queue_get_partition(client.ptr(), topic.as_ptr(), partition);
            if source.is_null() {
                return false;
            }
            native::rd_kafka_queue_forward(source, self.queue.as_ptr());
            native::rd_kafka_queue_destroy(source);
        }
        true
    }

    /// Hands up to `max` messages to `each`, waiting at most `timeout` for that many. Returns their number.
    pub(super) fn read(&mut self, max: usize, timeout: Duration, mut each: impl FnMut(Fetched<'_>)) -> usize {
        let max = max.min(self.messages.capacity());
        // SAFETY: the vector has room for `max` pointers; librdkafka writes `count <= max` of them.
        let count =
            unsafe { native::rd_kafka_consume_batch_queue(self.queue.as_ptr(), milliseconds(timeout), self.messages.as_mut_ptr(), max) };
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: the first `count` pointers were just written and are ours to destroy.
        unsafe { self.messages.set_len(count) };
        let mut batch = Batch { messages: &mut self.messages, next: 0 };
        while let Some(&message) = batch.messages.get(batch.next) {
            // SAFETY: not yet destroyed: `next` moves past a message only when it is.
            each(Fetched { message: unsafe { &*message } });
            batch.destroy_next();
        }
        count
    }

    /// Waits at most `timeout` for the reply to a commit that names this queue.
    pub(super) fn poll_commit(&self, timeout: Duration) -> Option<CommitReply> {
        // SAFETY: our queue is alive; the event is ours and destroyed below; the list inside it
        // belongs to the event and is only read before that.
        unsafe {
            let event = native::rd_kafka_queue_poll(self.queue.as_ptr(), milliseconds(timeout));
            if event.is_null() {
                return None;
            }
            let reply = (native::rd_kafka_event_type(event) == native::RD_KAFKA_EVENT_OFFSET_COMMIT).then(|| CommitReply {
                error: error_code(native::rd_kafka_event_error(event)),
                partitions: entries(native::rd_kafka_event_topic_partition_list(event)),
            });
            native::rd_kafka_event_destroy(event);
            reply
        }
    }

    /// Starts a commit whose reply comes to this queue; never blocks.
    pub(super) fn commit(&self, client: &NativeClient, positions: &TopicPartitionList) -> Option<RDKafkaErrorCode> {
        // SAFETY: client, list and queue are alive; librdkafka copies the list; no callback is given.
        error_code(unsafe { native::rd_kafka_commit_queue(client.ptr(), positions.ptr(), self.queue.as_ptr(), None, ptr::null_mut()) })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // What is still queued belongs to partitions whose position was not committed past it.
        while self.holds_messages.get() && self.read(self.messages.capacity(), Duration::ZERO, |_| ()) > 0 {}
        // SAFETY: the queue is ours and not used again.
        unsafe { native::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// Destroys what is left of a batch also when the reader unwinds.
struct Batch<'a> {
    messages: &'a mut Vec<*mut native::rd_kafka_message_t>,
    next: usize,
}

impl Batch<'_> {
    fn destroy_next(&mut self) {
        if let Some(&message) = self.messages.get(self.next) {
            self.next += 1;
            // SAFETY: each message is destroyed once: `next` never moves back.
            unsafe { native::rd_kafka_message_destroy(message) };
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        while self.next < self.messages.len() {
            self.destroy_next();
        }
        self.messages.clear();
    }
}

impl<'a> Fetched<'a> {
    /// A partition's error instead of a message, with librdkafka's words.
    pub(super) fn error(&self) -> Option<(RDKafkaErrorCode, String)> {
        let code = error_code(self.message.err)?;
        // SAFETY: the message is alive; the text belongs to it and is copied.
        Some((code, text(unsafe { native::rd_kafka_message_errstr(self.message) })))
    }

    /// Identity of the topic's handle: the same for all messages of a topic while it is assigned.
    pub(super) fn topic_handle(&self) -> usize {
        self.message.rkt.addr()
    }

    /// Name of the topic.
    pub(super) fn topic(&self) -> String {
        if self.message.rkt.is_null() {
            return String::new();
        }
        // SAFETY: the handle is kept alive by the message; the name belongs to it and is copied.
        text(unsafe { native::rd_kafka_topic_name(self.message.rkt) })
    }

    /// Number of the partition.
    pub(super) fn partition(&self) -> i32 {
        self.message.partition
    }

    /// Offset.
    pub(super) fn offset(&self) -> i64 {
        self.message.offset
    }

    /// The broker's timestamp, ms; `None` when it has none.
    pub(super) fn timestamp_ms(&self) -> Option<i64> {
        // SAFETY: the message is alive; a null type is allowed.
        let timestamp = unsafe { native::rd_kafka_message_timestamp(self.message, ptr::null_mut()) };
        (timestamp >= 0).then_some(timestamp)
    }

    /// Key bytes.
    pub(super) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka gives a pointer and the length it holds, valid as long as the message.
        unsafe { bytes(self.message.key, self.message.key_len) }
    }

    /// Payload bytes.
    pub(super) fn payload(&self) -> Option<&'a [u8]> {
        // SAFETY: as for the key.
        unsafe { bytes(self.message.payload, self.message.len) }
    }

    /// Appends the headers whose names are UTF-8; .3 us a message, so only when one is configured.
    pub(super) fn headers(&self, into: &mut Vec<Header<'a>>) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive; the list, names and values it gives belong to the message.
        unsafe {
            if error_code(native::rd_kafka_message_headers(self.message, &raw mut headers)).is_some() {
                return;
            }
            for index in 0.. {
                let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
                let found = native::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size);
                if error_code(found).is_some() {
                    return;
                }
                if let Ok(name) = CStr::from_ptr(name).to_str() {
                    into.push((name, bytes(value, size)));
                }
            }
        }
    }
}

/// The high watermark of the last fetch reply, without a request; `None` before the first.
pub(super) fn cached_high_watermark(client: &NativeClient, topic: &str, partition: i32) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is alive; both numbers are ours.
    let error = unsafe { native::rd_kafka_get_watermark_offsets(client.ptr(), topic.as_ptr(), partition, &raw mut low, &raw mut high) };
    (error_code(error).is_none() && high >= 0).then_some(high)
}

/// The entries of a list.
pub(super) fn entries_of(list: &TopicPartitionList) -> Vec<Entry> {
    // SAFETY: the list is alive for the whole call.
    unsafe { entries(list.ptr()) }
}

/// SAFETY: `list` is null or a live list.
unsafe fn entries(list: *const native::rd_kafka_topic_partition_list_t) -> Vec<Entry> {
    // SAFETY: by the caller's promise a list that is not null is alive; it holds `cnt` entries,
    // whose names and metadata belong to it and are copied here.
    unsafe {
        if list.is_null() || (*list).elems.is_null() {
            return Vec::new();
        }
        let entries = std::slice::from_raw_parts((*list).elems, usize::try_from((*list).cnt).unwrap_or(0));
        entries
            .iter()
            .map(|entry| Entry {
                topic: text(entry.topic),
                partition: entry.partition,
                offset: entry.offset,
                error: error_code(entry.err),
                metadata: bytes(entry.metadata, entry.metadata_size).unwrap_or_default().to_vec(),
            })
            .collect()
    }
}

/// SAFETY: `start` is null or points to `length` bytes that live as long as the result.
unsafe fn bytes<'a>(start: *const std::ffi::c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: by the caller's promise.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), length) })
}

/// Copies a C string; empty when null.
fn text(start: *const std::ffi::c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: librdkafka's strings end in NUL and outlive this call.
    unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
}

fn error_code(error: native::rd_kafka_resp_err_t) -> Option<RDKafkaErrorCode> {
    (error != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| error.into())
}

fn milliseconds(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}
