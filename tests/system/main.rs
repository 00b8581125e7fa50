//! Tests on real parts: Apache Kafka, Prometheus, Alertmanager, Chromium. Run by `make test`, or
//! `cargo test --test system`; plain `cargo test` leaves them out.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which the lints' own exception for tests does not reach")]

#[path = "../it/support.rs"]
mod support;

mod alerting;
mod background;
mod chain;
mod cluster;
mod cluster_broker;
mod cluster_compacted;
mod cluster_people;
mod cluster_picture;
mod cluster_static;
mod cluster_stores;
mod cluster_told;
mod consume;
mod contract;
mod dead_letters;
mod degrade;
mod demo;
mod encode_mismatch;
mod gaps;
mod inhibition;
mod kafka_server;
mod model_added;
mod moves;
mod observers;
mod page;
mod page_axe;
mod page_report;
#[path = "../it/picture.rs"]
mod picture;
#[path = "../it/pictured.rs"]
mod pictured;
mod pipeline;
mod produce;
mod real_input;
#[path = "../it/recorded.rs"]
mod recorded;
mod recording;
mod refused;
mod reload;
mod rules;
mod scene;
mod secured;
mod service_unit;
mod setup;
mod steering;
mod together;
mod topics_appear;
