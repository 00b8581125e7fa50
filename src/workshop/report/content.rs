//! What a report says: the content of its JSON, and all that the HTML draws from.
//!
//! Written for an auditor, who asks four questions: what was watched and how small a shift would have been
//! seen; what was found; what was done, by whom; and what was not watched, when. Every number comes from
//! the record; nothing is judged again here.

use serde::Serialize;

use crate::drift::alert::{AlertListing, rfc3339};
use crate::drift::closed::OffsetRange;
use crate::drift::explanation::Explanation;
use crate::drift::report::StreamState;
use crate::drift::stream::StreamId;
use crate::workshop::report::comparison::Comparison;

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub made_at: i64,
    /// Program and version.
    pub program: String,
    /// First instant it covers.
    #[serde(with = "rfc3339")]
    pub from: i64,
    /// One past the last.
    #[serde(with = "rfc3339")]
    pub to: i64,
    /// The only segment it covers, if it was restricted.
    pub segment: Option<String>,
    /// The numbers of the first page.
    pub summary: Summary,
    /// What was watched, model by model and segment by segment.
    pub watched: Vec<Watched>,
    /// Alerts that were open in the span, newest first.
    pub found: Vec<Finding>,
    /// Streams without an alert that came closest to one.
    pub closest: Vec<Timeline>,
    /// Segments over time.
    pub heat: Vec<HeatRow>,
    /// What was done, by whom, oldest first.
    pub done: Vec<Deed>,
    /// What was not judged, and when.
    pub not_watched: Vec<Gap>,
    /// Volume and input contract of `_all`, window by window.
    pub input: Vec<InputSeries>,
    /// Two models or two segments side by side.
    pub comparison: Option<Comparison>,
    /// How the record proves itself.
    pub record: Record,
}

/// The numbers of the first page.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Windows of `_all` (all models) in the span.
    pub windows: u64,
    /// Of these, judged.
    pub judged: u64,
    /// Records counted.
    pub records: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Alerts opened in the span.
    pub alerts_opened: u64,
    /// Alerts open at its end, by the state they have now.
    pub alerts_open: u64,
    /// Actions of people in the span.
    pub actions: u64,
    /// Windows per allowed false alarm, as the stored thresholds have it.
    pub budget_windows: Option<f64>,
    /// False alarms that budget allows in the judged windows.
    pub false_alarms_allowed: Option<f64>,
}

/// One segment of one model, and how small a shift would have been seen.
#[derive(Clone, Debug, Serialize)]
pub struct Watched {
    /// Model version.
    pub model_version: String,
    /// Segment.
    pub segment: String,
    /// References judged against in the span.
    pub references: Vec<String>,
    /// Windows in the span.
    pub windows: u64,
    /// Of these, judged.
    pub judged: u64,
    /// Records counted.
    pub records: u64,
    /// Median number of entities a window; 0 when counting records.
    pub median_entities: u64,
    /// Streams tested.
    pub streams: u64,
    /// What would have been seen; absent where nothing was judged.
    pub power: Option<Power>,
}

/// Smallest increase that twenty windows would have shown, over the streams of a segment in its last
/// judged window. A stream that is too rare for any is counted in none of the shares.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Power {
    /// A tenth of the streams would have shown less than this; null: no such ratio.
    pub tenth: Option<f64>,
    /// Half of them.
    pub half: Option<f64>,
    /// Nine tenths of them.
    pub nine_tenths: Option<f64>,
    /// Share of streams that would have shown +25 %.
    pub share_quarter: f64,
    /// +50 %.
    pub share_half: f64,
    /// Doubling.
    pub share_double: f64,
    /// Tripling.
    pub share_triple: f64,
}

/// An alert with its timeline.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The alert as every listing prints it.
    pub alert: AlertListing,
    /// Its stream over the span; absent where the number of drawn timelines was used up.
    pub timeline: Option<Timeline>,
    /// Offsets of the window that opened it: where the records lie.
    pub offsets: Vec<OffsetRange>,
    /// What the records around its change point say; absent where they were not read, or retention took it.
    pub explanation: Option<Explanation>,
}

/// One stream in one segment over time.
#[derive(Clone, Debug, Serialize)]
pub struct Timeline {
    /// Model version.
    pub model_version: String,
    /// Segment.
    pub segment: String,
    /// Stream.
    pub stream: StreamId,
    /// Name of the concept.
    pub concept: String,
    /// Where the name comes from.
    pub verification: String,
    /// Largest evidence in the span as a share of the threshold (logarithms).
    pub evidence_share: f64,
    /// Window by window; windows without a verdict are left out.
    pub points: Vec<Point>,
}

/// One window of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Start of the window.
    #[serde(with = "rfc3339")]
    pub start: i64,
    /// Its end.
    #[serde(with = "rfc3339")]
    pub end: i64,
    /// Share of entities (or records) that showed the stream.
    pub rate: f64,
    /// Share expected.
    pub expected: f64,
    /// Lower edge of the band that holds 95 % of windows without a change.
    pub low: f64,
    /// Upper edge.
    pub high: f64,
    /// ln M.
    pub evidence_log: f64,
    /// State after the window.
    pub state: StreamState,
}

/// One segment of one model over time.
#[derive(Clone, Debug, Serialize)]
pub struct HeatRow {
    /// Model version.
    pub model_version: String,
    /// Segment.
    pub segment: String,
    /// Cells of equal width over the span.
    pub cells: Vec<HeatCell>,
}

/// A cell of the heat map.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeatCell {
    /// Windows in it.
    pub windows: u64,
    /// Of these, judged.
    pub judged: u64,
    /// Largest evidence as a share of the threshold, at most 1.
    pub evidence_share: f64,
    /// Most streams in ALERT in any of its windows.
    pub alerts: u64,
}

/// One entry of the audit trail that tells of a person, or of a change of what is watched.
#[derive(Clone, Debug, Serialize)]
pub struct Deed {
    /// When.
    #[serde(with = "rfc3339")]
    pub at: i64,
    /// Who; empty where the program did it by rule.
    pub who: String,
    /// What, in words.
    pub what: String,
    /// Why, in the actor's words.
    pub why: String,
    /// Number of the entry in the audit chain.
    pub entry: i64,
}

/// A stretch of time without a verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gap {
    /// Its begin.
    #[serde(with = "rfc3339")]
    pub from: i64,
    /// Its end.
    #[serde(with = "rfc3339")]
    pub to: i64,
    /// Model version; empty where no window exists at all.
    pub model_version: String,
    /// Segment.
    pub segment: String,
    /// Windows it spans; 0 where none exists.
    pub windows: u64,
    /// Stable name of the verdict, `no_window` where there is none.
    pub verdict: String,
    /// In words.
    pub why: String,
}

/// Volume and contract of one model's `_all`.
#[derive(Clone, Debug, Serialize)]
pub struct InputSeries {
    /// Model version.
    pub model_version: String,
    /// Window by window.
    pub windows: Vec<InputPoint>,
}

/// One window of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InputPoint {
    /// Start of the window.
    #[serde(with = "rfc3339")]
    pub start: i64,
    /// Its end.
    #[serde(with = "rfc3339")]
    pub end: i64,
    /// Records counted.
    pub records: u64,
    /// Entities counted.
    pub entities: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Fraction of variance unexplained.
    pub fvu: Option<f64>,
    /// Mean cosine.
    pub cosine: Option<f64>,
    /// Mean norm ratio.
    pub norm_ratio: Option<f64>,
    /// Mean active latents.
    pub l0: Option<f64>,
    /// Verdict.
    pub verdict: String,
}

/// How the record proves itself.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Whether every entry of the audit chain follows from the one before.
    pub intact: bool,
    /// Entries.
    pub entries: i64,
    /// Head of the chain when the report was made.
    pub head: String,
    /// What is wrong, where it is not intact.
    pub broken: Option<String>,
}
