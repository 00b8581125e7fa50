//! A broker inside this process, for the demo and for tests: librdkafka's mock cluster.
//!
//! It is a real listener that other processes reach, with groups, commits and rebalances. It keeps
//! 5 MiB or 100,000 message sets a partition in memory, drops older ones silently, and knows neither
//! time lookups nor admin calls.

#![expect(unsafe_code, reason = "one call of the mock cluster has no wrapper: the join delay of 3 s")]

use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Code};
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

use crate::kafka::error::KafkaError;

/// What a coordinator that moves, or a group in the middle of a rebalance, answers to a commit.
const REFUSALS: [Code; 5] = [
    Code::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
    Code::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
    Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
    Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
    Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
];

/// The broker; it stops when dropped.
pub struct EmbeddedBroker {
    /// Owns the cluster: it was made by this client's configuration.
    client: BaseProducer<DefaultProducerContext>,
}

impl EmbeddedBroker {
    /// Starts one broker on a free port of the loopback address.
    ///
    /// # Errors
    /// No thread or port is to be had.
    pub fn start() -> Result<Self, KafkaError> {
        let failed = |message: String| KafkaError::Request { what: "start the in-process broker".into(), message };
        let client: BaseProducer = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .set_log_level(RDKafkaLogLevel::Critical)
            .create()
            .map_err(|error| failed(error.to_string()))?;
        // SAFETY: the client is alive and owns the cluster its configuration asked for; null is checked.
        unsafe {
            let cluster = native::rd_kafka_handle_mock_cluster(client.client().native_ptr());
            if cluster.is_null() {
                return Err(failed("librdkafka made no mock cluster".into()));
            }
            // Real brokers wait 3 s for more members before the first assignment; nobody else comes here.
            native::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
        }
        Ok(Self { client })
    }

    /// `host:port`, for `kafka.brokers`.
    #[must_use]
    pub fn brokers(&self) -> String {
        self.cluster().map(|cluster| cluster.bootstrap_servers()).unwrap_or_default()
    }

    /// Lets every answer take that much longer.
    ///
    /// # Errors
    /// The broker is gone.
    pub fn delay_answers(&self, by: Duration) -> Result<(), KafkaError> {
        let failed = |message: String| KafkaError::Request { what: "slow the in-process broker".into(), message };
        let cluster = self.cluster().ok_or_else(|| failed("it is gone".into()))?;
        cluster.broker_round_trip_time(1, by).map_err(|error| failed(error.to_string()))
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// It exists already.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), KafkaError> {
        let failed = |message: String| KafkaError::Request { what: format!("create topic {topic:?}"), message };
        let cluster = self.cluster().ok_or_else(|| failed("the in-process broker is gone".into()))?;
        cluster.create_topic(topic, partitions, 1).map_err(|error| failed(error.to_string()))
    }

    /// Refuses the next commits, each for another reason.
    pub fn refuse_commits(&self) {
        if let Some(cluster) = self.cluster() {
            cluster.request_errors(RDKafkaApiKey::OffsetCommit, &REFUSALS);
        }
    }

    fn cluster(&self) -> Option<MockCluster<'_, DefaultProducerContext>> {
        self.client.client().mock_cluster()
    }
}
