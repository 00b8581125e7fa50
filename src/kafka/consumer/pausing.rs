//! Partitions that wait: fetching stops and goes on, in the assignment they are in.

use rdkafka::consumer::Consumer;

use crate::kafka::consumer::{WorkerConsumer, list_of};
use crate::kafka::error::KafkaError;
use crate::record::TopicPartition;

impl WorkerConsumer {
    /// Stops fetching partitions until they are resumed, or assigned anew.
    ///
    /// # Errors
    /// librdkafka refuses.
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        self.consumer.pause(&list_of(partitions)).map_err(|error| KafkaError::request("pause", self.consumer.context().brokers(), &error))
    }

    /// Goes on fetching.
    ///
    /// # Errors
    /// librdkafka refuses.
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        self.consumer.resume(&list_of(partitions)).map_err(|error| KafkaError::request("resume", self.consumer.context().brokers(), &error))
    }
}
