//! How an instance joins its cluster: the topics as they must be, what the log begins with, and a store that fits it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::settings::Settings;
use crate::kafka::follower::TopicFollower;
use crate::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use crate::kafka::topic_facts::{TopicFacts, topic_facts};
use crate::monitor::cluster::entry::{Entry, Founding, Order};
use crate::monitor::error::MonitorError;
use crate::store::{Store, salt};

/// Longest wait for one answer of the broker.
const PATIENCE: Duration = Duration::from_secs(10);
/// The smallest largest record: below it a part of some segments would be hundreds of pieces.
const MIN_MESSAGE_BYTES: usize = 64 << 10;

/// The shared topics as they were found.
#[derive(Clone, Debug)]
pub struct SharedTopics {
    /// The windows topic.
    pub windows: TopicFacts,
    /// The judge topic.
    pub judge: TopicFacts,
}

/// Looks at the shared topics; each fault in words.
///
/// # Errors
/// What is not as it must be, or that the broker does not answer.
pub fn look_at_topics(settings: &Settings) -> Result<SharedTopics, Vec<String>> {
    let cluster = &settings.cluster;
    let made = |topic: &str, how: &str| format!("kafka-topics.sh --create --topic {topic} {how}");
    let compacted = "--partitions 4 --config cleanup.policy=compact";
    let log = "--partitions 1 --config cleanup.policy=delete --config retention.ms=-1";
    let facts = |topic: &str| topic_facts(&settings.kafka, topic, PATIENCE).map_err(|error| vec![error.to_string()]);
    let (windows, judge) = (facts(&cluster.windows_topic)?, facts(&cluster.judge_topic)?);
    let mut faults = Vec::new();
    match &windows {
        None => faults.push(format!(
            "cluster.windows_topic: there is no topic {:?}: {}",
            cluster.windows_topic,
            made(&cluster.windows_topic, compacted)
        )),
        Some(windows) => {
            if !windows.is_compacted() {
                faults.push(format!(
                    "cluster.windows_topic: expected a topic with cleanup.policy=compact (a position that is deleted stops all judging), \
                     {:?} has {:?}",
                    cluster.windows_topic, windows.cleanup_policy
                ));
            }
            if windows.max_message_bytes < MIN_MESSAGE_BYTES {
                faults.push(format!(
                    "cluster.windows_topic: expected max.message.bytes of at least {MIN_MESSAGE_BYTES}, {:?} has {}",
                    cluster.windows_topic, windows.max_message_bytes
                ));
            }
        }
    }
    match &judge {
        None => {
            faults.push(format!("cluster.judge_topic: there is no topic {:?}: {}", cluster.judge_topic, made(&cluster.judge_topic, log)))
        }
        Some(judge) => {
            if judge.partitions != 1 {
                faults.push(format!(
                    "cluster.judge_topic: expected one partition (its order is what all instances agree on), {:?} has {}",
                    cluster.judge_topic, judge.partitions
                ));
            }
            if !judge.keeps_all() {
                faults.push(format!(
                    "cluster.judge_topic: expected cleanup.policy=delete and retention.ms=-1 (an entry that is gone cannot be carried out), \
                     {:?} has {:?} and {}",
                    cluster.judge_topic, judge.cleanup_policy, judge.retention_ms
                ));
            }
        }
    }
    match (windows, judge) {
        (Some(windows), Some(judge)) if faults.is_empty() => Ok(SharedTopics { windows, judge }),
        _ => Err(faults),
    }
}

/// What the cluster's log begins with: found there, or written by the first instance. The store is bound to it.
///
/// # Errors
/// The log is of a cluster that counts in another way, the store has another history, or the broker does not answer.
pub fn join(
    settings: &Settings,
    counting_hash: &str,
    (store, producer): (&mut Store, &Arc<ReliableProducer>),
    now_ms: i64,
) -> Result<Founding, MonitorError> {
    let topic = &settings.cluster.judge_topic;
    let head = store.read().audit_head()?;
    let founding = match first_entry(settings)? {
        Some(founding) => founding,
        None => {
            let salt = store.read().entity_salt()?.map_or_else(salt::draw, Ok)?;
            let founding = Founding { counting_hash: counting_hash.to_owned(), salt, head: head.clone(), at_ms: now_ms };
            let order = Order::Found(founding);
            let entry = Entry { by: String::new(), number: 0, after: 0, head: head.clone(), at_ms: now_ms, order };
            let (payload, receipts) = (entry.to_bytes()?, Arc::new(Receipts::default()));
            let record = Outgoing { topic, partition: Some(0), payload: Some(&payload), ..Outgoing::default() };
            producer.send(&record, &[], &receipts, PATIENCE)?;
            producer.settle(&receipts, Instant::now() + PATIENCE)?;
            // Another instance may have been first.
            first_entry(settings)?.ok_or_else(|| MonitorError::Cluster(format!("{topic} does not show what was written to it")))?
        }
    };
    if founding.counting_hash != counting_hash {
        return Err(MonitorError::Cluster(format!(
            "the cluster of {topic} counts in another way ({}) than this configuration ({counting_hash}): window, segments, counting, record and \
             bundles must be the same on all instances; to change them, stop all and give them new topics and new stores",
            founding.counting_hash
        )));
    }
    let is_bound = store.read().membership()?.is_some();
    if !is_bound && head != founding.head {
        return Err(MonitorError::Cluster(format!(
            "this store has a history of its own ({head}) that the cluster of {topic} did not begin with: give the instance a new [store] path, or \
             a backup of another instance's store (recsae history backup)"
        )));
    }
    store.bind(&founding.digest())?;
    store.take_salt(founding.salt)?;
    Ok(founding)
}

fn first_entry(settings: &Settings) -> Result<Option<Founding>, MonitorError> {
    let topic = &settings.cluster.judge_topic;
    let mut log = TopicFollower::new(&settings.kafka, topic, 1, &BTreeMap::new())?;
    let (mut first, deadline) = (None, Instant::now() + PATIENCE);
    while first.is_none() && !log.is_at_end() {
        log.poll(1, PATIENCE / 10, |message| first = Some(Entry::from_bytes(message.payload.unwrap_or_default())))?;
        if first.is_none() && !log.is_at_end() && Instant::now() > deadline {
            return Err(MonitorError::Cluster(format!("the judge topic {topic} was not read within {} s", PATIENCE.as_secs())));
        }
    }
    match first.transpose()?.map(|entry| entry.order) {
        // A log that is empty by now is not a new one: founded anew, its cluster would be two.
        None if log.ends(0, PATIENCE)?.1 == 0 => Ok(None),
        Some(Order::Found(founding)) => Ok(Some(founding)),
        _ => Err(MonitorError::Cluster(format!(
            "the judge topic {topic} no longer begins with what its cluster was founded on: it must keep all records (retention.ms=-1)"
        ))),
    }
}
