//! The id that the broker gave a topic when it was made: a topic that is deleted and made again has another.
//!
//! rust-rdkafka does not wrap the call. Brokers give ids since Kafka 2.8; one that gives none (the in-process broker
//! among them) answers with zeros, and its topics are not known again by their ids.

#![expect(unsafe_code, reason = "librdkafka's description of topics has no wrapper, and nothing else tells a topic's id")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use crate::config::settings::KafkaSettings;
use crate::kafka::context::Context;
use crate::kafka::error::KafkaError;
use crate::kafka::settings;

/// Topics by name, each with its id as Kafka's tools print it (22 characters of base64). Topics that are not there, and
/// those without an id, are left out.
pub type TopicIds = BTreeMap<String, String>;

/// What the broker says where it knows no id.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Longest wait for an answer between two looks at whether it is still wanted.
const LOOK_UP: Duration = Duration::from_millis(50);

/// Asks for the ids of topics.
pub struct TopicInquiry {
    client: BaseConsumer<Context>,
    names: Vec<CString>,
    brokers: String,
}

impl TopicInquiry {
    /// A client that asks for these.
    ///
    /// # Errors
    /// A setting is refused.
    pub fn new<'a>(settings: &KafkaSettings, topics: impl IntoIterator<Item = &'a str>) -> Result<Self, KafkaError> {
        let config = settings::inquirer(settings)?;
        let client = config.create_with_context(Context::new(&settings.brokers)).map_err(|error| settings::option(&error))?;
        // No topic's name holds a NUL byte.
        let names = topics.into_iter().filter_map(|topic| CString::new(topic).ok()).collect();
        Ok(Self { client, names, brokers: settings.brokers.clone() })
    }

    /// The ids by now.
    ///
    /// # Errors
    /// No answer within `timeout` or until `is_over`, or the broker refuses.
    pub fn ask(&self, timeout: Duration, is_over: impl Fn() -> bool) -> Result<TopicIds, KafkaError> {
        // What the client has to say meanwhile: nobody else reads it.
        while self.client.poll(Duration::ZERO).is_some() {}
        if self.names.is_empty() {
            return Ok(TopicIds::new());
        }
        let failed = |message: String| KafkaError::Request { what: format!("the ids of topics at {}", self.brokers), message };
        let request = Request::new(self.client.client().native_ptr(), &self.names, timeout);
        request.and_then(|request| request.answer(timeout, is_over)).map_err(failed)
    }
}

/// A request on its way, with what it is made of.
struct Request {
    queue: NonNull<native::rd_kafka_queue_t>,
    options: NonNull<native::rd_kafka_AdminOptions_t>,
    collection: NonNull<native::rd_kafka_TopicCollection_t>,
}

impl Request {
    /// Sends it. `client` must be alive until this is dropped.
    fn new(client: *mut native::rd_kafka_t, names: &[CString], timeout: Duration) -> Result<Self, String> {
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let none = || "librdkafka makes no such request".to_owned();
        // SAFETY: the client is alive; librdkafka copies the names; null results, which it gives only where it does not
        // know the operation, are turned into errors. The message buffer is allowed to be null.
        unsafe {
            let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
            let collection = NonNull::new(native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()));
            let options = NonNull::new(native::rd_kafka_AdminOptions_new(client, operation));
            let queue = NonNull::new(native::rd_kafka_queue_new(client));
            let made =
                Self { queue: queue.ok_or_else(none)?, options: options.ok_or_else(none)?, collection: collection.ok_or_else(none)? };
            native::rd_kafka_AdminOptions_set_request_timeout(made.options.as_ptr(), milliseconds(timeout), ptr::null_mut(), 0);
            native::rd_kafka_DescribeTopics(client, made.collection.as_ptr(), made.options.as_ptr(), made.queue.as_ptr());
            Ok(made)
        }
    }

    /// Waits for the answer.
    fn answer(&self, timeout: Duration, is_over: impl Fn() -> bool) -> Result<TopicIds, String> {
        let asked = Instant::now();
        // SAFETY: the queue is alive; the event is ours and destroyed below; everything read of it belongs to it, is
        // read before that, and copied.
        unsafe {
            let mut event: *mut native::rd_kafka_event_t = ptr::null_mut();
            while event.is_null() {
                // librdkafka itself answers at the request's timeout.
                if is_over() || asked.elapsed() > timeout.saturating_mul(2) {
                    return Err(format!("no answer within {:?}", asked.elapsed()));
                }
                event = native::rd_kafka_queue_poll(self.queue.as_ptr(), milliseconds(LOOK_UP));
            }
            let error = native::rd_kafka_event_error(event);
            let ids = if error == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                Ok(ids_of(native::rd_kafka_event_DescribeTopics_result(event)))
            } else {
                Err(RDKafkaErrorCode::from(error).to_string())
            };
            native::rd_kafka_event_destroy(event);
            ids
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: all three are ours and not used again; librdkafka has taken what it needs of them.
        unsafe {
            native::rd_kafka_queue_destroy(self.queue.as_ptr());
            native::rd_kafka_AdminOptions_destroy(self.options.as_ptr());
            native::rd_kafka_TopicCollection_destroy(self.collection.as_ptr());
        }
    }
}

/// SAFETY: `result` is null or belongs to a live event.
unsafe fn ids_of(result: *const native::rd_kafka_DescribeTopics_result_t) -> TopicIds {
    let mut ids = TopicIds::new();
    if result.is_null() {
        return ids;
    }
    // SAFETY: by the caller's promise; the array has as many descriptions as it says, and their texts belong to the event.
    unsafe {
        let mut count = 0;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for index in 0..count {
            let topic = *topics.add(index);
            let id = native::rd_kafka_TopicDescription_topic_id(topic);
            let is_there = native::rd_kafka_error_code(native::rd_kafka_TopicDescription_error(topic))
                == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            if is_there && !id.is_null() {
                let id = text(native::rd_kafka_Uuid_base64str(id)).replace('+', "-").replace('/', "_");
                if id != NO_ID {
                    ids.insert(text(native::rd_kafka_TopicDescription_name(topic)), id);
                }
            }
        }
    }
    ids
}

/// Copies a C string; empty when null.
///
/// SAFETY: `start` is null or a live string that ends in NUL.
unsafe fn text(start: *const c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: by the caller's promise.
    unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
}

fn milliseconds(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}
