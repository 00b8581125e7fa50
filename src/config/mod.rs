//! The configuration: one file, environment over it, every fault named.

pub mod settings;
pub mod units;
