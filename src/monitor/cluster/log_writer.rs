//! Writes to the judge's log: never waits, and tells later what the broker refused.

use std::sync::Arc;
use std::time::Duration;

use crate::fault;
use crate::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use crate::monitor::cluster::entry::{Entry, Order};
use crate::store::StoreError;

/// Writer of one process.
pub struct LogWriter {
    producer: Arc<ReliableProducer>,
    topic: String,
    name: String,
    number: u64,
    /// Written, and not acknowledged yet.
    open: Vec<(u64, Arc<Receipts>)>,
}

impl LogWriter {
    /// A writer to `topic` under a name no other process has.
    #[must_use]
    pub fn new(producer: Arc<ReliableProducer>, topic: &str, name: String) -> Self {
        Self { producer, topic: topic.to_owned(), name, number: 0, open: Vec::new() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends an order; its number. `after` is how far the log is carried out here, and the head of the chain there.
    ///
    /// # Errors
    /// It can never be sent, or too much waits for a broker that is away.
    pub fn write(&mut self, order: Order, (after, head): (i64, String), at_ms: i64) -> Result<u64, StoreError> {
        self.number += 1;
        let entry = Entry { by: self.name.clone(), number: self.number, after, head, at_ms, order };
        let payload = entry.to_bytes()?;
        let receipts = Arc::new(Receipts::default());
        let record = Outgoing { topic: &self.topic, partition: Some(0), payload: Some(&payload), ..Outgoing::default() };
        match self.producer.try_send(&record, &[], &receipts) {
            Ok(true) => fault::point("order-sent"),
            Ok(false) => return Err(StoreError::Refused("too much waits for the broker: try again when it is back".to_owned())),
            Err(error) => return Err(StoreError::Refused(error.to_string())),
        }
        self.open.push((self.number, receipts));
        Ok(self.number)
    }

    /// Numbers of what the broker refused since the last call, and why.
    pub fn refused(&mut self) -> Vec<(u64, String)> {
        self.producer.poll(Duration::ZERO);
        let mut refused = Vec::new();
        self.open.retain(|(number, receipts)| {
            if let Err(error) = receipts.outcome() {
                refused.push((*number, error.to_string()));
            }
            receipts.in_flight() > 0
        });
        refused
    }
}
