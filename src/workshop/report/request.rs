//! What is asked of a report.

use crate::workshop::report::names::Names;

/// Span, restriction, comparison.
#[derive(Clone, Debug, Default)]
pub struct ReportRequest {
    /// First instant, ms since 1970 UTC.
    pub from_ms: i64,
    /// One past the last.
    pub to_ms: i64,
    /// Only this segment.
    pub segment: Option<String>,
    /// Two model versions or two segments.
    pub compare: Option<(String, String)>,
    /// Names of streams.
    pub names: Names,
    /// The clock, ms since 1970 UTC.
    pub now_ms: i64,
}
