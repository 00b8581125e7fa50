//! recsae: knowing, live, what a recommender has started to think.

pub mod bundle;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decode;
pub mod drift;
pub mod encode;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod monitor;
pub mod record;
pub mod sae;
pub mod simulate;
pub mod snapshot;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod workshop;
