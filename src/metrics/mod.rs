//! Prometheus: the process's own metrics through the client library, drift series from the snapshot.
//!
//! Two ways, because the library merges label sets whose concatenated values are equal and needs 129 ms
//! for 50,000 series: it gets only metrics whose labels are closed sets of ours. Everything whose label
//! values come from data is written as text from one immutable snapshot.

pub use prometheus::IntCounter as Counter;

pub mod cpu;
pub mod registry;

pub mod exposition;

pub mod gzip;
mod quiet;
pub mod selection;
mod text;
