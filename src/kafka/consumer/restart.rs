//! A partition whose next record is not in the log any more: given up, and taken again at another offset.
//!
//! librdkafka stops fetching such a partition (`auto.offset.reset` is `error`: a position outside the log
//! is never a silent jump), and refuses a seek from there.

use rdkafka::consumer::{Consumer, RebalanceProtocol};
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::consumer::{WorkerConsumer, list_of};
use crate::kafka::error::KafkaError;
use crate::record::TopicPartition;

impl WorkerConsumer {
    /// Starts one of the assigned partitions again, at another offset.
    ///
    /// # Errors
    /// librdkafka refuses.
    pub fn restart(&mut self, at: &TopicPartition, offset: i64) -> Result<(), KafkaError> {
        let brokers = self.consumer.context().brokers().to_owned();
        let refused = |error| KafkaError::request(format!("start {at} again"), &brokers, &error);
        let mut list = TopicPartitionList::with_capacity(1);
        if matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative) {
            self.consumer.incremental_unassign(&list_of(std::slice::from_ref(at))).map_err(refused)?;
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(offset)).map_err(refused)?;
        } else {
            for (other, next) in self.positions()?.into_iter().filter(|(other, _)| other != at) {
                list.add_partition_offset(&other.topic, other.partition, Offset::Offset(next)).map_err(refused)?;
            }
            for other in self.assigned.iter().filter(|other| *other != at) {
                if list.find_partition(&other.topic, other.partition).is_none() {
                    return Err(KafkaError::Request { what: format!("start {at} again"), message: format!("{other} has no position yet") });
                }
            }
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(offset)).map_err(refused)?;
            self.consumer.unassign().map_err(refused)?;
        }
        let native = self.consumer.client().native_client();
        let forwarded = list.elements().iter().all(|entry| self.messages.forward(native, entry.topic(), entry.partition()));
        if !forwarded {
            return Err(KafkaError::Request { what: format!("forward the queue of {at}"), message: "no such partition".into() });
        }
        self.handles.clear();
        match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_assign(&list),
            _ => self.consumer.assign(&list),
        }
        .map_err(refused)?;
        let started: Vec<_> = list.elements().iter().map(|entry| self.name(entry.topic(), entry.partition())).collect();
        self.restarted.extend(started);
        // As in `start`: a pause outlives the assignment.
        self.resume(std::slice::from_ref(at))
    }

    /// Forwards again the queues of partitions that were started again, until a message of theirs has come.
    ///
    /// The stop of a partition takes its queue's forwarding away, on librdkafka's own thread and some time after it was
    /// asked for; a start does not renew it, because we said that forwarding is ours. What came before that stop is
    /// undone by it, and nobody would ever read the partition again. What lies in its queue meanwhile comes along.
    pub(super) fn forward_restarted(&self) {
        let native = self.consumer.client().native_client();
        for at in &self.restarted {
            // False for a partition that is no more: the group takes it back soon.
            self.messages.forward(native, &at.topic, at.partition);
        }
    }
}
