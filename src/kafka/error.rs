//! What can go wrong at the broker, by what the reader must do about it.
//!
//! librdkafka reports most faults of a connection through events, long after the call that caused
//! them, and once a second for ever. `classify` turns such an event into one line that says what
//! was expected, what was found and where to look.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::record::TopicPartition;

/// A fault at the broker or in its configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// A key of `[kafka]` cannot be used as it is.
    #[error("{key}: {message}")]
    Setting {
        /// Dotted key, e.g. `kafka.topics`.
        key: String,
        /// What was expected and what was found.
        message: String,
    },
    /// The broker knows us and refuses our name or password.
    #[error("broker {brokers} refused the login: check sasl.mechanism, sasl.username and sasl.password ({message})")]
    Authentication {
        /// `kafka.brokers`.
        brokers: String,
        /// librdkafka's words.
        message: String,
    },
    /// TLS could not be agreed on: mostly a certificate of another authority.
    #[error(
        "no TLS connection to {brokers}: check that ssl.ca.location names the authority that signed the broker's certificate ({message})"
    )]
    Tls {
        /// `kafka.brokers`.
        brokers: String,
        /// librdkafka's words.
        message: String,
    },
    /// Nothing answers.
    #[error("no broker answers at {brokers}: check kafka.brokers, the network, security.protocol and how busy the broker is ({message})")]
    Unreachable {
        /// `kafka.brokers`.
        brokers: String,
        /// librdkafka's words.
        message: String,
    },
    /// A configured topic does not exist.
    #[error("topic {topic:?} does not exist on {brokers}: create it, or mend kafka.topics")]
    UnknownTopic {
        /// Topic or pattern, as configured.
        topic: String,
        /// `kafka.brokers`.
        brokers: String,
    },
    /// The login is fine, the permission is missing.
    #[error("not allowed to use {what}: grant it to recsae's user ({message})")]
    NotAuthorized {
        /// Topic, group or cluster.
        what: String,
        /// librdkafka's words.
        message: String,
    },
    /// `kafka.start = "error"` and the group has no position.
    #[error("{partition}: the group has no committed position and kafka.start is \"error\": set it to earliest, latest or a time")]
    NoPosition {
        /// Partition without one.
        partition: TopicPartition,
    },
    /// A position was not committed.
    #[error("position not committed: {message}")]
    Commit {
        /// librdkafka's words.
        message: String,
        /// Whether the same commit can succeed a moment later (a rebalance is on its way).
        retriable: bool,
        /// Whether the partitions now belong to somebody else: what was counted since the last commit is dropped.
        fenced: bool,
    },
    /// The client is dead and must be made anew (`UnreleasedInstanceId`, a blocked poller under KIP-848).
    #[error("the Kafka client gave up: {message}; it must be made anew")]
    Fatal {
        /// librdkafka's words.
        message: String,
    },
    /// The poll loop was blocked longer than `max.poll.interval.ms`, the group took the partitions away.
    #[error("no poll within max.poll.interval.ms, the partitions were given away: {message}")]
    PollTooSlow {
        /// librdkafka's words.
        message: String,
    },
    /// The log does not hold the records that are asked for.
    #[error(
        "{partition} holds offsets {low} to {high}, {from} to {to} are asked for: retention has deleted the others, or it is another topic of that name"
    )]
    Gone {
        /// Partition.
        partition: TopicPartition,
        /// First offset it holds.
        low: i64,
        /// One past the last.
        high: i64,
        /// First offset asked for.
        from: i64,
        /// One past the last.
        to: i64,
    },
    /// A record could not be delivered.
    #[error("record not delivered to topic {topic:?}: {message}")]
    Delivery {
        /// Topic it was meant for.
        topic: String,
        /// librdkafka's words.
        message: String,
    },
    /// Anything else the broker or the client answered.
    #[error("{what}: {message}")]
    Request {
        /// What was asked.
        what: String,
        /// librdkafka's words.
        message: String,
    },
}

impl KafkaError {
    /// Stable name: the metric's label.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Setting { .. } => "setting",
            Self::Authentication { .. } => "authentication",
            Self::Tls { .. } => "tls",
            Self::Unreachable { .. } => "unreachable",
            Self::UnknownTopic { .. } => "unknown_topic",
            Self::NotAuthorized { .. } => "not_authorized",
            Self::NoPosition { .. } => "no_position",
            Self::Commit { .. } => "commit",
            Self::Fatal { .. } => "fatal",
            Self::PollTooSlow { .. } => "poll_too_slow",
            Self::Gone { .. } => "gone",
            Self::Delivery { .. } => "delivery",
            Self::Request { .. } => "request",
        }
    }

    /// Whether waiting cannot help: a human must change the configuration or the broker.
    #[must_use]
    pub fn needs_human(&self) -> bool {
        !matches!(
            self,
            Self::Unreachable { .. } | Self::Commit { .. } | Self::PollTooSlow { .. } | Self::Request { .. } | Self::Fatal { .. }
        )
    }

    /// A request that was refused or not answered, with the code's own classification.
    pub(super) fn request(what: impl Into<String>, brokers: &str, error: &rdkafka::error::KafkaError) -> Self {
        let what = what.into();
        match error.rdkafka_error_code() {
            Some(code) => match classify(code, &error.to_string(), brokers) {
                Self::Request { message, .. } => Self::Request { what, message },
                Self::NotAuthorized { message, .. } => Self::NotAuthorized { what, message },
                known => known,
            },
            None => Self::Request { what, message: error.to_string() },
        }
    }
}

/// A fault of the key `kafka.{key}`.
pub(super) fn setting(key: &str, message: impl Into<String>) -> KafkaError {
    KafkaError::Setting { key: format!("kafka.{key}"), message: message.into() }
}

/// Turns a librdkafka code and its words into the fault a reader can act on.
pub(super) fn classify(code: Code, reason: &str, brokers: &str) -> KafkaError {
    let brokers = brokers.to_owned();
    let message = one_line(reason);
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism | Code::IllegalSASLState => {
            KafkaError::Authentication { brokers, message }
        }
        Code::SSL => KafkaError::Tls { brokers, message },
        // A TLS listener that refuses our certificate authority closes the connection; librdkafka
        // then reports a transport fault whose words alone tell the difference.
        _ if reason.contains("certificate verify failed") || reason.contains("SSL handshake failed") => {
            KafkaError::Tls { brokers, message }
        }
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve | Code::OperationTimedOut | Code::RequestTimedOut => {
            KafkaError::Unreachable { brokers, message }
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            KafkaError::UnknownTopic { topic: topic_in(reason).unwrap_or_default().to_owned(), brokers }
        }
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            KafkaError::NotAuthorized { what: code.to_string(), message }
        }
        Code::Fatal | Code::Fenced | Code::FencedInstanceId => KafkaError::Fatal { message },
        Code::PollExceeded => KafkaError::PollTooSlow { message },
        _ => KafkaError::Request { what: code.to_string(), message },
    }
}

/// "Subscribed topic not available: NAME: Broker: Unknown topic or partition" holds the name.
fn topic_in(reason: &str) -> Option<&str> {
    let (_, rest) = reason.split_once("topic not available: ")?;
    rest.split(':').next().map(str::trim)
}

/// librdkafka's words may span lines and carry a connection's address twice; one line is enough.
fn one_line(reason: &str) -> String {
    reason.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_fault_whose_words_speak_of_certificates_is_a_tls_fault() {
        let reason = "ssl://b:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed";
        assert_eq!(classify(Code::BrokerTransportFailure, reason, "b:9093").kind(), "tls");
        assert_eq!(
            classify(Code::BrokerTransportFailure, "Connect to ipv4#127.0.0.1:1 failed: Connection refused", "b").kind(),
            "unreachable"
        );
    }

    #[test]
    fn the_unknown_topic_is_named() {
        let reason = "Subscribed topic not available: views: Broker: Unknown topic or partition";
        let error = classify(Code::UnknownTopicOrPartition, reason, "b:9092");
        assert!(error.to_string().contains("\"views\""), "{error}");
    }

    #[test]
    fn every_message_is_one_line() {
        let error = classify(Code::Authentication, "first\n  second\t third", "b:9092");
        assert!(!error.to_string().contains('\n'));
        assert!(error.to_string().contains("first second third"));
    }
}
