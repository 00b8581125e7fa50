//! Starts the threads that an instance in a cluster has beside those of one alone.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use crate::config::settings::Settings;
use crate::kafka::error::KafkaError;
use crate::kafka::producer::ReliableProducer;
use crate::monitor::cluster::duty::{duty_settings, stand_by};
use crate::monitor::cluster::join::SharedTopics;
use crate::monitor::cluster::publisher::Publisher;
use crate::monitor::cluster::readers::{SharedTopic, read_log, read_windows};
use crate::monitor::command::JudgeCommand;
use crate::monitor::error::MonitorError;
use crate::monitor::shared::Shared;
use crate::store::StoreReader;
use crate::task::{TaskError, TaskGroup};

/// What an instance found when it joined its cluster.
pub struct Joined {
    /// How to reach the topics.
    pub settings: Settings,
    /// The topics.
    pub topics: SharedTopics,
    /// Where the windows topic is read on.
    pub windows: SharedTopic,
    /// Where the log is read on.
    pub log: SharedTopic,
    /// Who writes to both.
    pub producer: Arc<ReliableProducer>,
}

impl Joined {
    /// With what the store has followed of the topics.
    ///
    /// # Errors
    /// The store cannot be read, or a producer cannot be made.
    pub fn new(
        settings: &Settings,
        topics: SharedTopics,
        producer: Arc<ReliableProducer>,
        store: &StoreReader,
    ) -> Result<Self, MonitorError> {
        let shared = |topic: &str, partitions| -> Result<SharedTopic, MonitorError> {
            Ok(SharedTopic { kafka: settings.kafka.clone(), topic: topic.to_owned(), partitions, next: store.followed(topic)? })
        };
        let windows = shared(&settings.cluster.windows_topic, topics.windows.partitions)?;
        let log = shared(&settings.cluster.judge_topic, 1)?;
        Ok(Self { settings: settings.clone(), topics, windows, log, producer })
    }

    /// Starts what publishes the workers' `steps`, the readers, and what stands by to judge.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        self,
        shared: &Arc<Shared>,
        steps: Receiver<JudgeCommand>,
        commands: &SyncSender<JudgeCommand>,
        group: &TaskGroup,
    ) -> Result<(), MonitorError> {
        let publisher = Publisher {
            producer: self.producer,
            topic: self.windows.topic.clone(),
            partitions: self.windows.partitions,
            max_message_bytes: self.topics.windows.max_message_bytes,
            shared: Arc::clone(shared),
        };
        let shutdown = group.shutdown().clone();
        thread(group, "publisher", move || publisher.run(&steps, &shutdown))?;
        let (windows, hash, to, shutdown) = (self.windows, shared.rules.counting_hash.clone(), commands.clone(), group.shutdown().clone());
        thread(group, "windows-reader", move || read_windows(&windows, &hash, &to, &shutdown))?;
        let (log, to, shutdown) = (self.log, commands.clone(), group.shutdown().clone());
        thread(group, "log-reader", move || read_log(&log, &to, &shutdown))?;
        let duty = duty_settings(&self.settings.kafka, &self.settings.cluster.judge_topic);
        let (shared, to, shutdown) = (Arc::clone(shared), commands.clone(), group.shutdown().clone());
        thread(group, "duty", move || stand_by(&duty, &shared.together, &to, &shutdown))
    }
}

fn thread(group: &TaskGroup, name: &str, work: impl FnOnce() -> Result<(), MonitorError> + Send + 'static) -> Result<(), MonitorError> {
    let work = move || -> Result<(), TaskError> { work().map_err(Into::into) };
    group.thread(name, work).map_err(|error| MonitorError::Start(error.to_string()))
}

/// The producer of both topics.
///
/// # Errors
/// librdkafka refuses a setting.
pub fn producer(settings: &Settings) -> Result<Arc<ReliableProducer>, KafkaError> {
    ReliableProducer::new(&settings.kafka).map(Arc::new)
}
