//! Whether the topics are still the ones that are counted, asked while the program runs.
//!
//! A consumer goes on by name: where a topic was deleted and made again, and holds more than was read of the old one by
//! the next fetch, it reads on as if nothing had happened, and what lies before that is lost without a word. The
//! broker's id of the topic tells; between two questions some records of the new topic may be counted, and are not
//! stored any more once it is known.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::settings::KafkaSettings;
use crate::kafka::topic_ids::{TopicIds, TopicInquiry};
use crate::monitor::error::MonitorError;
use crate::monitor::shared::Shared;
use crate::record::TopicPartition;
use crate::store::Store;
use crate::store::topics::AnotherTopic;
use crate::task::Shutdown;

/// How often the broker is asked: one small request.
const EVERY: Duration = Duration::from_secs(2);
/// Longest wait for its answer. A start waits that long where the broker knows no such question, as the in-process one.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for the ids of topics again and again.
pub struct TopicWatch {
    inquiry: TopicInquiry,
    known: TopicIds,
}

impl TopicWatch {
    /// Takes the ids that these partitions' topics have by now, and holds them against those that were counted. A broker
    /// that does not tell them (it may not let us ask, or be too old) refuses nothing: a topic is then known again by the
    /// newest counted record alone.
    ///
    /// # Errors
    /// A topic is another than the one that was counted; or the store refuses, or a setting.
    pub fn open(kafka: &KafkaSettings, partitions: &[TopicPartition], store: &mut Store) -> Result<Self, MonitorError> {
        let topics: BTreeSet<&str> = partitions.iter().map(|partition| &*partition.topic).collect();
        let inquiry = TopicInquiry::new(kafka, topics)?;
        let known = inquiry.ask(PATIENCE).unwrap_or_else(|error| {
            tracing::warn!(%error, "a topic that is made anew is known by its records alone");
            TopicIds::new()
        });
        match store.know_topics(&known)? {
            Some(another) => Err(MonitorError::TopicReplaced(another)),
            None => Ok(Self { inquiry, known }),
        }
    }

    /// Asks until the shutdown.
    ///
    /// # Errors
    /// A topic is another one by now; what is counted and not stored yet is not stored then.
    pub fn run(&self, shared: &Shared, shutdown: &Shutdown) -> Result<(), MonitorError> {
        while !self.known.is_empty() && !shutdown.wait_timeout(EVERY) {
            match self.inquiry.ask(PATIENCE) {
                Ok(found) => {
                    if let Some(another) = another(&self.known, &found) {
                        shared.counts_another_log.store(true, Ordering::SeqCst);
                        return Err(MonitorError::TopicReplaced(another));
                    }
                }
                // Workers tell of a broker that is away.
                Err(error) => tracing::debug!(%error, "whether topics were made anew is asked again"),
            }
        }
        Ok(())
    }
}

/// The first topic with another id. One that is gone is none: it may be seen between its end and its return.
fn another(known: &TopicIds, found: &TopicIds) -> Option<AnotherTopic> {
    let (topic, stored) = known.iter().find(|(topic, id)| found.get(*topic).is_some_and(|found| found != *id))?;
    Some(AnotherTopic { topic: topic.clone(), stored: stored.clone(), found: found[topic].clone() })
}
