//! Everything that is done offline, with the same mathematics as live.

pub mod backtest;
pub mod dataset;
pub mod encoding;
pub mod evaluate;
pub mod export;
pub mod families;
pub mod follow;
pub mod import;
pub mod label;
pub mod named_sae;
pub mod page;
pub mod plot;
pub mod recorded_windows;
pub mod recording;
pub mod reference;
pub mod rejudge;
pub mod report;
pub mod review;
pub mod sae_file;
pub mod steer;
pub mod train;
pub mod verify;
pub mod windows_columns;
pub mod windows_file;
mod windows_seen;
pub mod windows_writer;
