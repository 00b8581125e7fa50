//! Why the monitor cannot start or go on.

use std::path::PathBuf;

use crate::bundle::BundleError;
use crate::config::Fault;
use crate::decode::DecodeSetupError;
use crate::drift::alert::utc_text;
use crate::drift::judge::JudgeError;
use crate::drift::partition::LogMark;
use crate::encode::{EncodeError, OpenError};
use crate::kafka::error::KafkaError;
use crate::record::TopicPartition;
use crate::store::StoreError;
use crate::store::topics::AnotherTopic;

/// A fault that stops the monitor; the sentence says what was expected, what was found, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A key of the configuration.
    #[error("{}", list(.0))]
    Config(Vec<Fault>),
    /// A bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// An encoder.
    #[error(transparent)]
    Encoder(#[from] OpenError),
    /// An engine failed while running.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// `[record]`.
    #[error(transparent)]
    Decoder(#[from] DecodeSetupError),
    /// The broker.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A reference and its detectors.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// No model.
    #[error("no [[model]] is configured: add one with bundle = \"FOLDER\" (made by `recsae bundle build`)")]
    NoModel,
    /// `drift.reference` names nothing.
    #[error(
        "[drift] reference = {name:?} is not in the store (known: {known}); build it with `recsae reference build`, or use \"first:14d\""
    )]
    NoReference {
        /// Name.
        name: String,
        /// What there is.
        known: String,
    },
    /// The reference waits for somebody to approve it.
    #[error("reference {name:?} is not approved: look at it with `recsae reference show {name}`, then `recsae reference approve {name}`")]
    NotApproved {
        /// Name.
        name: String,
    },
    /// The reference belongs to another SAE.
    #[error("reference {name:?} belongs to SAE {found}, the bundle is {expected}: build a reference from this SAE's windows")]
    ReferenceOfAnotherSae {
        /// Name.
        name: String,
        /// Its fingerprint.
        found: String,
        /// The bundle's.
        expected: String,
    },
    /// A stored value cannot be read.
    #[error("{what} {name:?} in the store cannot be read: {message}")]
    Damaged {
        /// What.
        what: &'static str,
        /// Its name.
        name: String,
        /// Why.
        message: String,
    },
    /// The log ends before the stored position: the topic was made anew, or it is another cluster.
    #[error(
        "{partition} ends at {end}, the store has counted up to {stored}: the topic was made anew or this is another cluster; use another [store] path, or mend kafka.brokers"
    )]
    LogBehind {
        /// Partition.
        partition: TopicPartition,
        /// Stored position.
        stored: i64,
        /// End of the log.
        end: i64,
    },
    /// The log holds another record where the newest counted one was: the topic was made anew, or it is another cluster.
    #[error(
        "{partition}: the record at offset {} is of {}, the store has counted one of {}: the topic was made anew or this is another cluster; use another [store] path, or mend kafka.brokers",
        mark.offset, found_ms.map_or_else(|| "no known time".to_owned(), utc_text), utc_text(mark.timestamp_ms)
    )]
    LogReplaced {
        /// Partition.
        partition: TopicPartition,
        /// The counted record.
        mark: LogMark,
        /// Timestamp of the one that is there, ms since 1970 UTC.
        found_ms: Option<i64>,
    },
    /// The broker has another topic of that name than the one that was counted.
    #[error(
        "topic {:?} has the id {}, the store has counted one with the id {}: the topic was made anew or this is another cluster; use another [store] path, or mend kafka.brokers",
        .0.topic, .0.found, .0.stored
    )]
    TopicReplaced(AnotherTopic),
    /// Records between the stored position and a step are missing.
    #[error(
        "{partition}: a step up to {position} does not follow the stored position {stored}; start again, the records in between are read again"
    )]
    Gap {
        /// Partition.
        partition: TopicPartition,
        /// Stored position.
        stored: i64,
        /// Where the step ends.
        position: i64,
    },
    /// The judge ended before its workers.
    #[error("the judge has ended, nothing can be stored any more")]
    JudgeGone,
    /// The drain deadline passed.
    #[error("{waiting} steps were not stored within kafka.drain")]
    DrainTimeout {
        /// Steps without an answer.
        waiting: usize,
    },
    /// A listener.
    #[error("cannot listen on {address} ({key}): {source}; choose another address, or stop what uses it")]
    Listen {
        /// Configuration key.
        key: &'static str,
        /// Address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system refused a thread, a runtime, or metrics could not be registered.
    #[error("cannot start: {0}")]
    Start(String),
    /// What instances share is not as it must be.
    #[error("{0}")]
    Cluster(String),
    /// Parts of the program ended badly.
    #[error("{0}")]
    Failed(String),
}

impl MonitorError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Bundle(error) => error.kind(),
            Self::Encoder(error) => error.kind(),
            Self::Encode(_) => "encode",
            Self::Decoder(_) => "record",
            Self::Kafka(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Judge(error) => error.kind(),
            Self::NoModel => "no_model",
            Self::NoReference { .. } => "no_reference",
            Self::NotApproved { .. } => "reference_not_approved",
            Self::ReferenceOfAnotherSae { .. } => "reference_of_another_sae",
            Self::Damaged { .. } => "damaged",
            Self::LogBehind { .. } => "log_behind",
            Self::LogReplaced { .. } => "log_replaced",
            Self::TopicReplaced(_) => "topic_replaced",
            Self::Gap { .. } => "gap",
            Self::JudgeGone => "judge_gone",
            Self::DrainTimeout { .. } => "drain_timeout",
            Self::Listen { .. } => "listen",
            Self::File { .. } => "file",
            Self::Start(_) => "start",
            Self::Cluster(_) => "cluster",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether usage or set-up must be mended (exit 2), rather than a fault of ours (exit 70).
    #[must_use]
    pub fn is_setup(&self) -> bool {
        match self {
            Self::Encode(_) | Self::Damaged { .. } | Self::Gap { .. } | Self::JudgeGone | Self::DrainTimeout { .. } => false,
            Self::Start(_) | Self::Failed(_) => false,
            // A running monitor has asked for nothing that is not there.
            Self::Store(StoreError::NotFound { .. } | StoreError::Refused(_)) => false,
            Self::Store(error) => error.is_setup(),
            _ => true,
        }
    }

    pub(super) fn damaged(what: &'static str, name: &str, error: &dyn std::error::Error) -> Self {
        Self::Damaged { what, name: name.to_owned(), message: error.to_string() }
    }
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
