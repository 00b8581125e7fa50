//! Counting and judging as mathematics: no I/O, no clock, no logging; same input, same bytes.

pub mod alert;
pub mod closed;
pub mod counts;
pub mod partition;
pub mod presence;
pub mod report;
pub mod segment;
pub mod stream;
pub mod window;
