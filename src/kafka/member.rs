//! A worker's client as a member of its group, and how it leaves: within a limit.
//!
//! librdkafka 2.12 drops, unanswered, a request of ours that it takes up just after its group has ended
//! (`rd_kafka_cgrp_op_serve` with `rkcg_terminated`), and whoever asked waits for ever. A rebalance that comes while
//! the client closes asks such requests. So closing runs beside, is given a time, and is left behind after it: the
//! process ends anyway, and the group takes the member out when its session ends.

use std::ops::Deref;
use std::sync::mpsc::channel;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, RebalanceProtocol};
use rdkafka::{ClientConfig, TopicPartitionList};

use crate::kafka::context::{Context, Order};
use crate::kafka::error::KafkaError;
use crate::kafka::settings;

/// Longest wait for a client to close; it takes milliseconds, or the time of one request to a broker that is slow.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A client. Dropping it leaves the group.
pub(super) struct Member(Option<BaseConsumer<Context>>);

impl Member {
    pub(super) fn new(config: &ClientConfig, brokers: &str) -> Result<Self, KafkaError> {
        config.create_with_context(Context::new(brokers)).map(|client| Self(Some(client))).map_err(|error| settings::option(&error))
    }
}

impl Deref for Member {
    type Target = BaseConsumer<Context>;

    #[expect(clippy::expect_used, reason = "it is taken out when dropped, and not before")]
    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("a member until it is dropped")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(client) = self.0.take() else { return };
        let (ended, wait) = channel();
        let leave = move || {
            answer_what_is_left(&client);
            drop(client);
            let _nobody_waits_any_more = ended.send(());
        };
        let started = std::thread::Builder::new().name("kafka-leave".into()).spawn(leave);
        if started.is_err() || wait.recv_timeout(CLOSE_WITHIN).is_err() {
            tracing::warn!(limit = ?CLOSE_WITHIN, "the client did not close in time and is left behind; the group notices when its session ends");
        }
    }
}

/// Answers what the worker left unanswered: a client that waits for an answer never closes. What comes while it
/// closes is answered by the callback.
fn answer_what_is_left(client: &BaseConsumer<Context>) {
    for order in client.context().close() {
        let answered = match (order, client.rebalance_protocol()) {
            (Order::Assign(_), RebalanceProtocol::Cooperative) => client.incremental_assign(&TopicPartitionList::new()),
            (Order::Revoke { partitions, .. }, RebalanceProtocol::Cooperative) => client.incremental_unassign(&partitions),
            _ => client.unassign(),
        };
        if let Err(error) = answered {
            tracing::debug!(%error, "rebalance not answered before closing");
        }
    }
}
