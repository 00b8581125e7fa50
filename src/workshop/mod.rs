//! Everything that is done offline, with the same mathematics as live.

pub mod reference;
