//! Families: latents that are followed together, found, named, and searched by words.

pub mod grouping;
pub mod naming;
pub mod search;
