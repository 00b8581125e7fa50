//! The audit report: one HTML file and the same as JSON, made from the record alone.
//!
//! Reading order: [`content`] (what it says), [`mod@gather`] (where that comes from), [`comparison`] with
//! [`two_sample`], [`mod@html`] with its figures. A report judges nothing again: it shows what was stored when it was judged.

pub mod comparison;
pub mod content;
pub mod deeds;
pub mod figures;
pub mod gaps;
pub mod gather;
pub mod html;
mod html_parts;
pub mod names;
pub mod power;
pub mod request;
pub mod scale;
pub mod tally;
pub mod two_sample;
pub mod words;

pub use content::Report;
pub use gather::gather;
pub use html::html;
pub use names::Names;
pub use request::ReportRequest;
