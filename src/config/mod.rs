//! The configuration: one file, environment over it, every fault named.

pub mod check;
pub mod documented;
pub mod fault;
pub mod hash;
mod judging;
pub mod load;
pub mod parsed;
pub mod secret;
pub mod settings;
mod shape;
pub mod units;

pub use check::{OWNED_OPTIONS, check};
pub use fault::{ConfigError, Fault};
pub use hash::{config_hash, counting_hash, judging_hash};
pub use load::{load, load_leniently, load_text};
pub use parsed::{ReferenceChoice, StartAt};
