//! Kafka: the one folder that names rdkafka.
//!
//! Why librdkafka's own machinery is bent in three places (each measured, see the files):
//! partitions are forwarded to one queue of ours and read in batches ([`consumer`]), positions are
//! committed through a reply queue so that no commit ever stalls the flow, and a rebalance is
//! handed to the worker as a value instead of being handled inside a callback, so that the worker
//! can flush, store and commit with its own state in its hands.

pub mod admin;
pub mod consumer;
pub mod dead_letter;
pub mod embedded;
pub mod error;
pub mod follower;
pub mod producer;
pub mod range;
pub mod rebalance;
pub mod sample;
pub mod scan;
pub mod settings;
pub mod topic_facts;
pub mod topic_ids;
pub mod topics;

mod commit;
mod context;
mod member;
mod queue;
mod take_over;
