//! The SQLite file: everything that must survive, one writer, one transaction for what belongs together.
//!
//! Why SQLite: WAL with synchronous=FULL gives an atomic, durable commit without an fsync of ours, and
//! people can open the file with `sqlite3` or DuckDB. Counts and reports are compressed blobs with a
//! checksum; everything people ask for by hand is a column. The one writer holds `<path>.lock`, because
//! SQLite's own exclusive mode would shut readers out too.
//!
//! Reading order: [`lineage`] (stretches counted in one way), [`step`] (what a worker stores), [`judgement`] (what the judge stores), [`alerts`],
//! [`references`], [`audit`] (the hash chain), [`reader`] (everything read back).

pub use crate::store::error::StoreError;
pub use crate::store::lineage::Lineage;
pub use crate::store::reader::StoreReader;
pub use crate::store::writer::{Store, lock_path};

mod alert_rows;
pub mod alerts;
pub mod audit;
pub mod check;
mod codec;
mod detector_state;
pub mod error;
mod explanations;
mod fitted;
pub mod judgement;
pub mod lineage;
pub mod reader;
mod reference_rows;
pub mod references;
pub mod retention;
pub mod salt;
mod schema;
pub mod shared_log;
pub mod step;
pub mod topics;
mod transaction;
pub mod writer;

#[cfg(test)]
mod tests;
