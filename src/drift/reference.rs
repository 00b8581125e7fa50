//! The reference: what every stream's count is expected to be, how it varies, and from which windows that is known.
//!
//! Immutable once fitted: a detector's evidence is only worth something against a fixed claim. Renewing
//! it is an operator's act (on data that drifts for months a reference never renewed alarms every week).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::drift::closed::ALL;
use crate::drift::contract::ContractReference;
use crate::drift::counts::N_BUCKETS;
use crate::drift::exposure::{PresenceCurve, stream_exposure};
use crate::drift::fired::FiredSums;
use crate::drift::fit::{FittedStreams, fit_segments, fit_streams};
use crate::drift::observed::{MIN_WINDOWS, Observed, ObservedWindow};
use crate::drift::season::Season;
use crate::drift::settings::{CountingUnit, JudgeSettings, StreamLayout};
use crate::drift::stream::StreamId;
use crate::drift::stream_rates::{SegmentLevels, StreamRates};
use crate::drift::wander::MAX_WANDER;

/// Shortest span where a season is fitted.
pub const MIN_SEASON_MS: i64 = 3 * 86_400_000;

/// Why a window is not part of a reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its start.
    pub start_ms: i64,
    /// `incomplete`, `calendar`, `no_data`, `contract_broken`, `alert`, `excluded`, ...
    pub why: String,
}

/// Outcome of the self-check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelfCheck {
    /// Fewer than 168 windows, or less than a week of them in the fitted part where weekends are told from weekdays: not checked.
    #[default]
    TooShort,
    /// Few enough alarms.
    Passed {
        /// Windows judged.
        judged: usize,
        /// Windows with a crossing in `_all`.
        alarm_windows: usize,
        /// Streams with the most evidence (largest ln M minus threshold), worst first.
        worst: Vec<(StreamId, f64)>,
    },
}

/// Everything a window is judged against. Versioned by name and revision; belongs to one fingerprint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// Revision of that name, from 1.
    pub revision: u32,
    /// Fingerprint of the SAE whose latents were counted.
    pub fingerprint: String,
    /// Unit of counting.
    pub unit: CountingUnit,
    /// Window length.
    pub window_ms: i64,
    /// IANA name of the zone of the season.
    pub timezone: String,
    /// Start of its first window.
    pub first_start_ms: i64,
    /// End of its last: its age is the time since.
    pub last_end_ms: i64,
    /// R, windows fitted.
    pub n_windows: usize,
    /// Windows of the span that were not.
    pub left_out: Vec<LeftOut>,
    /// Streams tested in `_all`.
    pub layout: StreamLayout,
    /// Columns of the season.
    pub season: Season,
    /// Self-measured wander.
    pub sigma_w: f64,
    /// What fitting on the first 70 % and judging the rest said.
    pub self_check: SelfCheck,
    /// First bin of the residual histogram that counts as an outlier.
    pub residual_from_bin: Option<usize>,
    /// Presence curve; presence counting only.
    pub curve: Option<PresenceCurve>,
    /// Streams of `_all`.
    pub rates: StreamRates,
    /// Entities by bucket over its windows, `_all`.
    pub entities: [f64; N_BUCKETS],
    /// Coefficients of the expected volume (units a window), `[K]`, and its mean.
    pub volume: (Vec<f64>, f64),
    /// Segments but `_all`.
    pub segments: BTreeMap<String, SegmentLevels>,
    /// Input contract.
    pub contract: ContractReference,
}

/// Why there is no reference.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// Not enough windows.
    #[error(
        "expected {needed} for a reference, found {n_windows} usable windows over {days:.1} days ({n_left_out} left out); wait, or choose a longer span"
    )]
    TooShort {
        /// In words.
        needed: String,
        /// Windows that can be used.
        n_windows: usize,
        /// Their span.
        days: f64,
        /// Windows that cannot.
        n_left_out: usize,
    },
    /// The windows fluctuate more than a stationary stream with the fitted season does.
    #[error(
        "expected a self-measured wander of at most {MAX_WANDER}, found {sigma_w:.3}: a rhythm is not modelled or the stream changed inside the reference; check `[window] timezone`, `[drift] weekend` and `calendar`, or exclude the change"
    )]
    Unmodelled {
        /// Measured wander.
        sigma_w: f64,
    },
    /// Judged against its own first 70 %, the rest alarms.
    #[error(
        "expected at most {allowed} alarm windows when the last {judged} windows are judged against the first ones, found {found} (worst: {worst}); the stream changed inside the reference: choose or exclude windows"
    )]
    SelfCheck {
        /// Alarm windows allowed.
        allowed: usize,
        /// Alarm windows found.
        found: usize,
        /// Windows judged.
        judged: usize,
        /// Streams with the most evidence.
        worst: String,
    },
}

impl ReferenceError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooShort { .. } => "too_short",
            Self::Unmodelled { .. } => "unmodelled",
            Self::SelfCheck { .. } => "self_check",
        }
    }
}

impl Reference {
    /// Lists further windows as left out by the caller (in ALERT, excluded by the operator).
    #[must_use]
    pub fn also_left_out(mut self, windows: impl IntoIterator<Item = LeftOut>) -> Self {
        self.left_out.extend(windows);
        self.left_out.sort_by_key(|window| window.start_ms);
        self
    }

    /// The same reference as another revision of its name.
    #[must_use]
    pub fn with_revision(self, revision: u32) -> Self {
        Self { revision, ..self }
    }

    /// K, columns of the season's design.
    #[must_use]
    pub fn n_columns(&self) -> usize {
        self.season.n_columns()
    }

    /// Expected volume of `_all` in units a window, for the season's row `x` `[K]`; at least 5 % of the mean.
    #[must_use]
    pub fn expected_volume(&self, x: &[f64]) -> f64 {
        let (beta, mean) = &self.volume;
        x.iter().zip(beta).map(|(x, b)| x * b).sum::<f64>().max(0.05 * mean)
    }

    /// Exposure of every stream of `layout` (this reference's, or the same without families), `[n]`, into `out`.
    pub fn exposure(&self, layout: &StreamLayout, observed: &Observed, out: &mut Vec<f64>) {
        stream_exposure(self.unit, self.curve.as_ref(), layout, observed, out);
    }
}

/// Fits `_all`, without the checks; segments are added by [`add_segments`].
pub(super) fn fit_all(
    name: &str,
    fingerprint: &str,
    kept: &[&ObservedWindow],
    left_out: Vec<LeftOut>,
    settings: &JudgeSettings,
) -> Result<(Reference, FittedStreams), ReferenceError> {
    let (first_start_ms, last_end_ms) = kept.first().zip(kept.last()).map_or((0, 0), |(first, last)| (first.start_ms, last.end_ms));
    let span_ms = last_end_ms - first_start_ms;
    let season = Season::choose(settings, span_ms);
    let least = MIN_WINDOWS.max(season.n_columns() + 2);
    if kept.len() < least || (season.is_fitted() && span_ms < MIN_SEASON_MS) {
        let needed = if season.is_fitted() { format!("3 days and {least} windows") } else { format!("{least} windows") };
        let days = span_ms as f64 / 86_400_000.0;
        return Err(ReferenceError::TooShort { needed, n_windows: kept.len(), days, n_left_out: left_out.len() });
    }
    let counted = |of: fn(&Observed) -> bool| kept.iter().filter_map(|w| w.segments.get(ALL)).any(of);
    let layout = StreamLayout {
        n_latents: settings.n_latents,
        families: settings.families.clone(),
        residual_outlier: settings.pseudo_streams && counted(|all| all.residual_outlier.is_some()),
        dead_record: settings.pseudo_streams && counted(|all| all.dead_record.is_some()),
    };
    let streams = fit_streams(kept, season, &layout, settings);
    let reference = Reference {
        name: name.to_owned(),
        revision: 1,
        fingerprint: fingerprint.to_owned(),
        unit: settings.unit,
        window_ms: settings.window_ms,
        timezone: settings.timezone.iana_name().unwrap_or("unnamed").to_owned(),
        first_start_ms,
        last_end_ms,
        n_windows: kept.len(),
        left_out,
        layout,
        season,
        sigma_w: streams.sigma_w,
        self_check: SelfCheck::TooShort,
        residual_from_bin: None,
        curve: streams.curve.clone(),
        rates: streams.rates.clone(),
        entities: streams.entities,
        volume: streams.volume.clone(),
        segments: BTreeMap::new(),
        contract: ContractReference::fit(kept),
    };
    Ok((reference, streams))
}

/// Fits the segments that the same windows hold here, and what they fired: all of them, or some of them at a time. Of
/// `_all` only the volume is looked at.
pub(super) fn add_segments(
    reference: &mut Reference,
    streams: &FittedStreams,
    kept: &[&ObservedWindow],
    fired: &FiredSums,
    settings: &JudgeSettings,
) {
    reference.segments.extend(fit_segments(kept, fired, streams, &reference.layout, settings));
    reference.contract.add_segments(kept);
}
