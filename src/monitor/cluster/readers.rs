//! Two threads that read the shared topics for the judge, from where the store has followed them.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use crate::config::settings::KafkaSettings;
use crate::kafka::follower::TopicFollower;
use crate::monitor::cluster::entry::Entry;
use crate::monitor::cluster::followed::Followed;
use crate::monitor::cluster::wire::{Joiner, Told};
use crate::monitor::command::JudgeCommand;
use crate::monitor::error::MonitorError;
use crate::record::TopicPartition;
use crate::store::shared_log::News;
use crate::task::Shutdown;

/// Longest wait for a record; also how soon a shutdown is noticed.
const POLL: Duration = Duration::from_millis(100);
/// Most records that are handed over at once: parts of windows are some hundred KB each.
const AT_ONCE: usize = 64;

/// A shared topic, and where to go on in it.
#[derive(Clone, Debug)]
pub struct SharedTopic {
    /// How to reach the broker.
    pub kafka: KafkaSettings,
    /// Its name.
    pub topic: String,
    /// Its partitions.
    pub partitions: i32,
    /// Next offset of each that was read before.
    pub next: BTreeMap<i32, i64>,
}

/// Reads the windows topic until the shutdown.
///
/// # Errors
/// The broker needs a human, or the topic holds what is none of ours.
pub fn read_windows(
    shared: &SharedTopic,
    counting_hash: &str,
    commands: &SyncSender<JudgeCommand>,
    shutdown: &Shutdown,
) -> Result<(), MonitorError> {
    let mut follower = TopicFollower::new(&shared.kafka, &shared.topic, shared.partitions, &shared.next)?;
    let (mut joiner, mut was_at_end) = (Joiner::default(), false);
    while !shutdown.is_triggered() {
        let (mut news, mut at_the_end, mut read) = (News::default(), Vec::new(), BTreeMap::new());
        let mut foreign = None;
        follower.poll(AT_ONCE, POLL, |message| {
            read.insert(message.partition.partition, message.offset + 1);
            let at = (message.partition.partition, message.offset);
            // A tombstone says nothing.
            let (Some(key), Some(value)) = (message.key, message.payload) else { return };
            match joiner.take(counting_hash, at, key, value) {
                Ok(None) => {}
                Ok(Some(Told::Part(part))) => news.parts.push(*part),
                Ok(Some(Told::Standing { partition, position, at_end })) => {
                    news.positions.push((partition, position));
                    at_the_end.push(at_end);
                }
                Err(why) => foreign = Some(format!("{}[{}] at {}: {why}", shared.topic, at.0, at.1)),
            }
        })?;
        if let Some(why) = foreign {
            return Err(MonitorError::Cluster(format!("expected parts of windows in the windows topic, found none: {why}")));
        }
        let is_at_end = follower.is_at_end();
        if read.is_empty() && is_at_end == was_at_end {
            continue;
        }
        was_at_end = is_at_end;
        let place = |partition| TopicPartition { topic: shared.topic.as_str().into(), partition };
        news.next = read.into_iter().map(|(partition, next)| (place(partition), joiner.holds_from(partition, next))).collect();
        if commands.send(JudgeCommand::Followed(Box::new(Followed::Windows { news, at_the_end, is_at_end }))).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the judge's log until the shutdown.
///
/// # Errors
/// The broker needs a human, or the log holds what this program does not know.
pub fn read_log(shared: &SharedTopic, commands: &SyncSender<JudgeCommand>, shutdown: &Shutdown) -> Result<(), MonitorError> {
    let mut follower = TopicFollower::new(&shared.kafka, &shared.topic, 1, &shared.next)?;
    let mut was_at_end = false;
    while !shutdown.is_triggered() {
        let (mut entries, mut foreign) = (Vec::new(), None);
        follower.poll(AT_ONCE, POLL, |message| match Entry::from_bytes(message.payload.unwrap_or_default()) {
            Ok(entry) => entries.push((message.offset, entry)),
            Err(error) => foreign = Some(format!("entry {}: {error}", message.offset)),
        })?;
        if let Some(why) = foreign {
            return Err(MonitorError::Cluster(format!(
                "the judge topic holds what this program does not know ({why}): run the same version on all instances"
            )));
        }
        let is_at_end = follower.is_at_end();
        if entries.is_empty() && is_at_end == was_at_end {
            continue;
        }
        was_at_end = is_at_end;
        if commands.send(JudgeCommand::Followed(Box::new(Followed::Log { entries, is_at_end }))).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
