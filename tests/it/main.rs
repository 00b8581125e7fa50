//! The one integration binary: what needs the repository and ONNX Runtime, no server.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which the lints' own exception for tests does not reach")]

mod backtest_command;
mod bundle_command;
mod canary;
mod check_command;
mod counting;
mod dashboards;
mod decode;
mod drift_yardstick;
mod encode_f64;
mod encode_real;
mod evaluate;
mod explain;
mod graph_variants;
mod hostile_onnx;
mod http;
mod import;
mod judge_properties;
mod kafka;
mod label;
mod lineage;
mod llm;
mod onnx_forms;
mod picture;
mod pictured;
mod real_weeks;
mod record;
mod recorded;
mod recount;
mod report;
mod simulated_world;
mod store_beside;
mod support;
mod tls;
mod train;
mod workshop_labels;
