//! The world onto a topic, window by window, keyed by the user as presence counting needs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::settings::KafkaSettings;
use crate::kafka::error::KafkaError;
use crate::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use crate::simulate::shift::Truth;
use crate::simulate::world::World;

/// Longest wait for the broker to take a window.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends the world's windows one after another.
pub struct Feed {
    world: World,
    topic: String,
    producer: ReliableProducer,
    receipts: Arc<Receipts>,
    next_window: u64,
    n_records: u64,
    truth: Truth,
}

impl Feed {
    /// A feed at the world's first window.
    ///
    /// # Errors
    /// The producer cannot be made.
    pub fn new(world: World, kafka: &KafkaSettings, topic: &str) -> Result<Self, KafkaError> {
        let producer = ReliableProducer::new(kafka)?;
        let topic = topic.to_owned();
        Ok(Self { world, topic, producer, receipts: Arc::default(), next_window: 0, n_records: 0, truth: Truth::default() })
    }

    /// Sends the next window and waits until the broker has all of it.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn send_window(&mut self) -> Result<(), KafkaError> {
        let window = self.world.window(self.next_window);
        let mut payload = Vec::new();
        for record in &window.records {
            let written = record.write_json(&mut payload);
            written.map_err(|error| KafkaError::Delivery { topic: self.topic.clone(), message: error.to_string() })?;
            let key = record.key();
            let outgoing = Outgoing { topic: &self.topic, key: Some(key.as_bytes()), payload: Some(&payload), ..Outgoing::default() };
            self.producer.send(&outgoing, &[], &self.receipts, PATIENCE)?;
        }
        self.producer.settle(&self.receipts, Instant::now() + PATIENCE)?;
        self.next_window += 1;
        self.n_records += window.records.len() as u64;
        self.truth.entities_before += window.truth.entities_before;
        self.truth.entities_after += window.truth.entities_after;
        Ok(())
    }

    /// Windows sent.
    #[must_use]
    pub fn n_windows(&self) -> u64 {
        self.next_window
    }

    /// Records sent.
    #[must_use]
    pub fn n_records(&self) -> u64 {
        self.n_records
    }

    /// The world that is sent.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The shift so far, in entities: what a monitor that counts them can at best have seen. `None`
    /// before the shift.
    #[must_use]
    pub fn entity_ratio(&self) -> Option<f64> {
        let Truth { entities_before, entities_after } = self.truth;
        (entities_before > 0).then(|| entities_after as f64 / entities_before as f64)
    }
}
