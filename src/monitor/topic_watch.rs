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
use crate::monitor::command::{Commands, JudgeCommand};
use crate::monitor::error::MonitorError;
use crate::monitor::shared::Shared;
use crate::record::TopicPartition;
use crate::store::Store;
use crate::store::topics::AnotherTopic;
use crate::task::Shutdown;

/// How often the broker is asked: one small request.
const EVERY: Duration = Duration::from_secs(2);
/// Longest wait for its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for the ids of topics again and again.
pub struct TopicWatch {
    inquiry: TopicInquiry,
    known: TopicIds,
}

impl TopicWatch {
    /// Holds the ids that these partitions' topics have by now against those that were counted. Where none of them is
    /// known there is nothing to hold against, and the start does not wait for an answer: [`TopicWatch::run`] asks
    /// first. A broker that does not tell them (it may not let us ask, be too old, or be in-process) refuses nothing: a
    /// topic is then known again by the newest counted record alone.
    ///
    /// # Errors
    /// A topic is another than the one that was counted; or the store refuses, or a setting.
    pub fn open(kafka: &KafkaSettings, partitions: &[TopicPartition], store: &mut Store) -> Result<Self, MonitorError> {
        let topics: BTreeSet<&str> = partitions.iter().map(|partition| &*partition.topic).collect();
        let is_known = store.read().topic_ids()?.keys().any(|topic| topics.contains(topic.as_str()));
        let inquiry = TopicInquiry::new(kafka, topics)?;
        let known = if is_known { inquiry.ask(PATIENCE, || false) } else { Ok(TopicIds::new()) };
        let known = known.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether a topic was made anew while nobody read it is seen by its records alone");
            TopicIds::new()
        });
        match store.know_topics(&known)? {
            Some(another) => Err(MonitorError::TopicReplaced(another)),
            None => Ok(Self { inquiry, known }),
        }
    }

    /// Asks until the shutdown; ids that were not known go to the judge, who keeps them.
    ///
    /// # Errors
    /// A topic is another one by now; what is counted and not stored yet is not stored then.
    pub fn run(mut self, shared: &Shared, commands: &Commands, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let mut was_answered = true;
        while !shutdown.is_triggered() {
            match self.inquiry.ask(PATIENCE, || shutdown.is_triggered()) {
                Ok(found) => {
                    if let Some(another) = another(&self.known, &found) {
                        shared.counts_another_log.store(true, Ordering::SeqCst);
                        return Err(MonitorError::TopicReplaced(another));
                    }
                    let new: TopicIds = found.into_iter().filter(|(topic, _)| !self.known.contains_key(topic)).collect();
                    // A judge with no time for it is told of them next time.
                    if !new.is_empty() && commands.try_send(JudgeCommand::KnowTopics(new.clone())).is_ok() {
                        self.known.extend(new);
                    }
                    was_answered = true;
                }
                // Workers tell of a broker that is away.
                Err(error) if was_answered && !shutdown.is_triggered() => {
                    tracing::info!(%error, "topics are asked for their ids again; one made anew is seen by its records meanwhile");
                    was_answered = false;
                }
                Err(_) => {}
            }
            let _up = shutdown.wait_timeout(EVERY);
        }
        Ok(())
    }
}

/// The first topic with another id. One that is gone is none: it may be seen between its end and its return.
fn another(known: &TopicIds, found: &TopicIds) -> Option<AnotherTopic> {
    let (topic, stored) = known.iter().find(|(topic, id)| found.get(*topic).is_some_and(|found| found != *id))?;
    Some(AnotherTopic { topic: topic.clone(), stored: stored.clone(), found: found[topic].clone() })
}
