//! What the judge says of a window: verdicts, stream by stream, crossings and alerts.

use serde::{Deserialize, Serialize};

use crate::drift::stream::StreamId;

/// State of one stream in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// Evidence below the warning level.
    #[default]
    Ok,
    /// Evidence above a hundredth of the alarm level.
    Warn,
    /// Crossed; held while the recent ratio is outside the gate.
    Alert,
    /// Was in alert, inside the gate again for three windows.
    Recovered,
    /// The window gave no verdict.
    NoVerdict,
}

impl StreamState {
    /// The exported gauge: 0 ok, 1 warn, 2 alert, 3 recovered, -1 no verdict.
    #[must_use]
    pub fn gauge(self) -> i8 {
        match self {
            Self::Ok => 0,
            Self::Warn => 1,
            Self::Alert => 2,
            Self::Recovered => 3,
            Self::NoVerdict => -1,
        }
    }
}

/// Whether a segment of a window was judged, and if not why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Judged.
    Judged,
    /// The reference is still being gathered.
    Warmup,
    /// The reference is too short, missing, or of another SAE.
    InsufficientReference,
    /// No records.
    NoData,
    /// Volume outside [1/10, 10] of expectation.
    Volume,
    /// Session lengths too far from the reference's.
    SessionMix,
    /// A day the calendar lists.
    Calendar,
    /// The SAE does not fit its input.
    ContractBroken,
    /// Counts cannot be trusted.
    Incomplete,
    /// Too few entities or records: merged with the next window.
    Merging,
    /// Presence counting on a topic that is not keyed by the entity.
    EntitiesSplit,
}

impl Verdict {
    /// Every verdict, in the order of the exported `recsae_segment_state` values.
    pub const ALL: [Self; 11] = [
        Self::Judged,
        Self::Warmup,
        Self::InsufficientReference,
        Self::NoData,
        Self::Volume,
        Self::SessionMix,
        Self::Calendar,
        Self::ContractBroken,
        Self::Incomplete,
        Self::Merging,
        Self::EntitiesSplit,
    ];

    /// Stable name: metric label, API value.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Judged => "judged",
            Self::Warmup => "warmup",
            Self::InsufficientReference => "insufficient_reference",
            Self::NoData => "no_data",
            Self::Volume => "volume",
            Self::SessionMix => "session_mix",
            Self::Calendar => "calendar",
            Self::ContractBroken => "contract_broken",
            Self::Incomplete => "incomplete",
            Self::Merging => "merging",
            Self::EntitiesSplit => "entities_split",
        }
    }
}

/// More or less than expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More often than expected.
    Up,
    /// Less often.
    Down,
}

impl Direction {
    /// `up` or `down`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// One stream in one segment after a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Which stream.
    pub stream: StreamId,
    /// Its state after the window.
    pub state: StreamState,
    /// `max(0, ln M)`; in ALERT the value at the alarm.
    pub evidence_log: f64,
    /// `ln(A m / w)`.
    pub threshold_log: f64,
    /// Counted in the window, in the unit of counting.
    pub count: f64,
    /// Expected count mu.
    pub expected: f64,
    /// Exposure E.
    pub exposure: f64,
    /// Overdispersion phi of the reference.
    pub dispersion: f64,
    /// `sum Y / sum mu` since the change point (12-window ratio where there is none).
    pub ratio: f64,
    /// Lower 95 % limit of the ratio.
    pub ratio_low: f64,
    /// Upper 95 % limit.
    pub ratio_high: f64,
    /// Smallest ratio > 1 that 20 windows would show at this volume.
    pub mde_ratio: f64,
}

/// Input contract of a segment in a window. `None` without a decoder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContractReport {
    /// Fraction of the reference's variance that is not explained.
    pub fvu: Option<f64>,
    /// Mean cosine of x and its reconstruction.
    pub cosine: Option<f64>,
    /// Mean `||x_hat|| / ||x||`.
    pub norm_ratio: Option<f64>,
    /// Mean active latents a record.
    pub l0: f64,
    /// Latents active in no record of the window.
    pub dead_latents: u64,
    /// Whether the SAE does not fit its input, and why.
    pub broken: Option<String>,
}

/// Everything said of one segment of one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentReport {
    /// Segment name.
    pub segment: String,
    /// Judged or why not.
    pub verdict: Verdict,
    /// More words where the verdict needs them.
    pub why: Option<String>,
    /// Records counted.
    pub records: u64,
    /// Entities counted.
    pub entities: u64,
    /// Entities (or records, when counting records) behind `streams`, thin windows that were merged together
    /// included; `None` where nothing was judged.
    #[serde(default)]
    pub units: Option<f64>,
    /// Streams in ALERT that are told with a larger alert, and with which: `family:N` or `dense`.
    #[serde(default)]
    pub parts: Vec<(StreamId, String)>,
    /// Streams, in the model's order; empty before a reference exists.
    pub streams: Vec<StreamReport>,
    /// Concentration factor c.
    pub concentration: Option<f64>,
    /// Mix distance kappa.
    pub session_mix: Option<f64>,
    /// Input contract.
    pub contract: ContractReport,
    /// PSI over latents and its noise floor: description, never the alarm.
    pub psi: Option<(f64, f64)>,
    /// Jensen-Shannon divergence and its noise floor.
    pub js: Option<(f64, f64)>,
}

impl SegmentReport {
    /// Share of the entities (or records) that show the stream, and the share expected. Families count an
    /// entity once for each member. Pseudo-streams are shares of the Kish-weighted records, as is
    /// everything where nobody knows how many there were. 0 where nothing was counted.
    #[must_use]
    pub fn shares(&self, stream: &StreamReport) -> (f64, f64) {
        let of_entities = matches!(stream.stream, StreamId::Latent(_) | StreamId::Family(_));
        let whole = self.units.filter(|_| of_entities).unwrap_or(stream.exposure);
        if whole > 0.0 { (stream.count / whole, stream.expected / whole) } else { (0.0, 0.0) }
    }
}

/// Another stream that was moving when an alert was raised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovedWith {
    /// Which.
    pub stream: StreamId,
    /// Its ratio since its own change point.
    pub ratio: f64,
    /// Its evidence for a run that goes on, nats.
    pub nats: f64,
    /// Whether it shares a family with the stream of the alert, or is that family.
    pub same_family: bool,
}

/// `M >= A m / w` in a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crossing {
    /// Start of the window (of the last one, where thin windows were merged).
    pub window_start_ms: i64,
    /// Its end.
    pub window_end_ms: i64,
    /// Model version.
    pub model_version: String,
    /// Segment.
    pub segment: String,
    /// Stream.
    pub stream: StreamId,
    /// Up or down.
    pub direction: Direction,
    /// ln M at the crossing.
    pub evidence_log: f64,
    /// ln(A m / w).
    pub threshold_log: f64,
    /// Ratio since the change point.
    pub ratio: f64,
    /// Lower 95 % limit.
    pub ratio_low: f64,
    /// Upper 95 % limit.
    pub ratio_high: f64,
    /// Start of the first window of the current run: the change point.
    pub began_ms: i64,
    /// Interval of the change point.
    pub began_low_ms: i64,
    /// Interval of the change point.
    pub began_high_ms: i64,
    /// Exposure of the window.
    pub exposure: f64,
    /// Minimum detectable ratio at this volume.
    pub mde_ratio: f64,
    /// Name of the reference it was judged against.
    pub reference: String,
    /// Ratio of activations a record since the change point, where they are counted apart from presence.
    #[serde(default)]
    pub rate_ratio: Option<f64>,
    /// Lower 95 % limit of that.
    #[serde(default)]
    pub rate_low: Option<f64>,
    /// Upper 95 % limit.
    #[serde(default)]
    pub rate_high: Option<f64>,
    /// The larger alert it is told with: `family:N` or `dense`; `None`: told by itself.
    #[serde(default)]
    pub part_of: Option<String>,
    /// Other streams of the segment that were moving, most evidence first.
    #[serde(default)]
    pub moved_with: Vec<MovedWith>,
}

/// State of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// The stream is in ALERT.
    Firing,
    /// The ratio came back inside the gate.
    Recovered,
    /// An operator accepted the new level.
    Accepted,
    /// A new lineage began: nobody judges it any more, what fires now has an alert of its own.
    Ended,
}

impl AlertState {
    /// The state as stored and printed.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Recovered => "recovered",
            Self::Accepted => "accepted",
            Self::Ended => "ended",
        }
    }
}

/// What a window changed in the list of alerts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum AlertChange {
    /// A stream that was not in ALERT crossed.
    Opened(Crossing),
    /// A stream in ALERT crossed again: written on the same alert.
    CrossedAgain(Crossing),
    /// A stream that recovered lately crossed once: written on the alert that is over. A second crossing
    /// soon after opens a new one.
    Relapsing(Crossing),
    /// A stream left ALERT.
    Recovered {
        /// Segment.
        segment: String,
        /// Stream.
        stream: StreamId,
        /// End of the window in which it did.
        window_end_ms: i64,
    },
}

/// What the judge says of one window of one model version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftReport {
    /// Window start.
    pub start_ms: i64,
    /// Window end.
    pub end_ms: i64,
    /// Model version.
    pub model_version: String,
    /// Name of the reference, if there is one.
    pub reference: Option<String>,
    /// Segment by segment, `_all` first.
    pub segments: Vec<SegmentReport>,
    /// Changes of alerts, in order of evidence.
    pub changes: Vec<AlertChange>,
}
