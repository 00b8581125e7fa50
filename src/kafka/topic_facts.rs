//! What a topic is like: its partitions, and how the broker keeps its records.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use crate::config::settings::KafkaSettings;
use crate::kafka::admin::inspect;
use crate::kafka::error::KafkaError;
use crate::kafka::settings;

/// A topic as the broker describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFacts {
    /// How many partitions it has.
    pub partitions: i32,
    /// `cleanup.policy`: `delete`, `compact`, or both.
    pub cleanup_policy: String,
    /// `retention.ms`: -1 keeps records for ever.
    pub retention_ms: i64,
    /// `max.message.bytes`: the largest batch it takes.
    pub max_message_bytes: usize,
}

impl TopicFacts {
    /// Whether the last record of a key stays.
    #[must_use]
    pub fn is_compacted(&self) -> bool {
        self.cleanup_policy.split(',').any(|policy| policy.trim() == "compact")
    }

    /// Whether nothing is ever taken away.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        !self.is_compacted() && self.retention_ms < 0
    }
}

/// Describes a topic; `None` where there is none of that name.
///
/// # Errors
/// The broker refuses, or does not answer within `timeout`.
pub fn topic_facts(settings: &KafkaSettings, topic: &str, timeout: Duration) -> Result<Option<TopicFacts>, KafkaError> {
    let cluster = inspect(settings, timeout)?;
    let Some((_, partitions)) = cluster.topics.iter().find(|(name, _)| name == topic) else { return Ok(None) };
    let failed = |message: String| KafkaError::Request { what: format!("configuration of topic {topic:?}"), message };
    let client: AdminClient<DefaultClientContext> = settings::inquirer(settings)?.create().map_err(|error| settings::option(&error))?;
    let options = AdminOptions::new().request_timeout(Some(timeout));
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| failed(error.to_string()))?;
    let described = runtime.block_on(client.describe_configs([&ResourceSpecifier::Topic(topic)], &options));
    let described = described.map_err(|error| failed(error.to_string()))?.into_iter().next();
    let config = described.ok_or_else(|| failed("no answer".to_owned()))?.map_err(|code| failed(code.to_string()))?;
    let value = |key: &str| config.get(key).and_then(|entry| entry.value.clone()).unwrap_or_default();
    Ok(Some(TopicFacts {
        partitions: i32::try_from(*partitions).unwrap_or(i32::MAX),
        cleanup_policy: value("cleanup.policy"),
        retention_ms: value("retention.ms").parse().unwrap_or(-1),
        max_message_bytes: value("max.message.bytes").parse().unwrap_or(1_048_588),
    }))
}
