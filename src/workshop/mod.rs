//! Everything that is done offline, with the same mathematics as live.

pub mod backtest;
pub mod reference;
pub mod windows_columns;
pub mod windows_file;
pub mod windows_writer;
