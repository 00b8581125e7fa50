//! Which topics are read: names, and patterns that start with `^`; and all their partitions.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;

use crate::kafka::error::{KafkaError, setting};
use crate::record::TopicPartition;

/// The configured topics: names, and patterns that start with `^`.
pub struct TopicMatcher {
    names: Vec<String>,
    patterns: Vec<regex::Regex>,
}

impl TopicMatcher {
    /// Compiles `kafka.topics`.
    ///
    /// # Errors
    /// A pattern is no regular expression.
    pub fn new(topics: &[String]) -> Result<Self, KafkaError> {
        let (patterns, names): (Vec<_>, Vec<_>) = topics.iter().cloned().partition(|topic| topic.starts_with('^'));
        let compile =
            |pattern: &String| regex::Regex::new(pattern).map_err(|_| setting("topics", format!("{pattern:?} is no regular expression")));
        Ok(Self { names, patterns: patterns.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// Whether the topic is read.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        self.names.iter().any(|name| name == topic) || self.patterns.iter().any(|pattern| pattern.is_match(topic))
    }
}

/// Asks for every partition of every topic that matches.
pub(super) fn topic_partitions<C: ClientContext>(
    client: &Client<C>,
    topics: &TopicMatcher,
    brokers: &str,
    timeout: Duration,
) -> Result<Vec<TopicPartition>, KafkaError> {
    let metadata = client.fetch_metadata(None, timeout).map_err(|error| KafkaError::request("topics", brokers, &error))?;
    let listed: Vec<(String, usize)> = metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect();
    Ok(partitions_of(&listed, topics))
}

/// The partitions of the topics that match, in order.
pub(super) fn partitions_of(listed: &[(String, usize)], topics: &TopicMatcher) -> Vec<TopicPartition> {
    let mut partitions = Vec::new();
    for (name, count) in listed.iter().filter(|(name, _)| topics.matches(name)) {
        let topic: Arc<str> = Arc::from(name.as_str());
        partitions.extend(
            (0..*count).filter_map(|number| i32::try_from(number).ok()).map(|partition| TopicPartition { topic: topic.clone(), partition }),
        );
    }
    partitions.sort();
    partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_a_regular_expression_and_a_name_as_itself() {
        let topics = TopicMatcher::new(&["^views\\..*".into(), "served".into()]).unwrap();
        assert!(topics.matches("views.home") && topics.matches("served"));
        assert!(!topics.matches("views") && !topics.matches("served.more") && !topics.matches("my-views.home"));
        assert!(TopicMatcher::new(&["^(".into()]).is_err());
    }
}
