//! Alerts as they are kept, and as every listing prints them (`/api/v1/alerts`, `backtest --json`).
//!
//! An alert is one stay of a stream in ALERT: the crossing that opened it, the last one written on
//! it, and what people did about it. The listing's names are a contract, so it is a type of its own.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::drift::report::{AlertState, Crossing, Direction, MovedWith};
use crate::drift::stream::StreamId;

/// What an operator did to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// Somebody is looking at it.
    Acknowledge,
    /// The new level is the level from now on.
    Accept,
    /// Tell nobody until the given time.
    Mute,
}

impl ActionKind {
    /// Stable name: path segment of the API, value in the store.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledge",
            Self::Accept => "accept",
            Self::Mute => "mute",
        }
    }
}

/// One operator action on one alert, with who and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertAction {
    /// What was done.
    pub action: ActionKind,
    /// By whom.
    pub who: String,
    /// Why, in the operator's words.
    pub why: String,
    /// When, ms since 1970 UTC.
    #[serde(rename = "at", with = "rfc3339")]
    pub at_ms: i64,
    /// End of a mute, ms since 1970 UTC.
    #[serde(rename = "until", with = "rfc3339_option", default)]
    pub until_ms: Option<i64>,
}

/// The concept of an alert as it was known when it was opened: another SAE has another one under the same stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertConcept {
    /// Fingerprint of the SAE; `None` where an older program did not keep it.
    pub fingerprint: Option<String>,
    /// The concept's name and its verification; `None` likewise.
    pub name: Option<(String, String)>,
}

/// One stay of a stream in ALERT.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Number in the store, from 1.
    pub id: i64,
    /// Firing, recovered, accepted or ended.
    pub state: AlertState,
    /// What it was opened on.
    pub concept: AlertConcept,
    /// The crossing that opened it.
    pub opened: Crossing,
    /// The last crossing written on it; equal to `opened` at first.
    pub last: Crossing,
    /// Crossings written on it, the first included.
    pub n_crossings: u64,
    /// When it was raised by the judge's clock, ms since 1970 UTC.
    pub alerted_at_ms: i64,
    /// End of the window in which it recovered, when it was accepted, or the edge at which a new lineage began.
    pub ended_ms: Option<i64>,
    /// What operators did, oldest first.
    pub actions: Vec<AlertAction>,
}

impl Alert {
    /// Whether nobody is to be told of it at `now_ms`.
    #[must_use]
    pub fn is_muted(&self, now_ms: i64) -> bool {
        self.actions
            .iter()
            .rev()
            .find(|action| action.action == ActionKind::Mute)
            .is_some_and(|mute| mute.until_ms.is_none_or(|until| now_ms < until))
    }
}

/// An alert as printed: the contract of `/api/v1/alerts` and `backtest --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertListing {
    /// Number of the alert.
    pub id: i64,
    /// Firing, recovered, accepted, or ended (a new lineage began).
    pub state: AlertState,
    /// Model version, "" = the only one.
    pub model_version: String,
    /// Segment.
    pub segment: String,
    /// Stream.
    pub stream: StreamId,
    /// Name of the concept.
    pub concept: String,
    /// Where the name comes from and whether it was tested.
    pub verification: String,
    /// Up or down.
    pub direction: Direction,
    /// Ratio since the change point, as of the last crossing.
    pub ratio: Option<f64>,
    /// Lower 95 % limit.
    pub ratio_low: Option<f64>,
    /// Upper 95 % limit; null where there is none.
    pub ratio_high: Option<f64>,
    /// Change point.
    #[serde(with = "rfc3339")]
    pub began: i64,
    /// Interval of the change point.
    #[serde(with = "rfc3339")]
    pub began_low: i64,
    /// Interval of the change point.
    #[serde(with = "rfc3339")]
    pub began_high: i64,
    /// When it was raised.
    #[serde(with = "rfc3339")]
    pub alerted_at: i64,
    /// Start of the window that opened it.
    #[serde(with = "rfc3339")]
    pub window_start: i64,
    /// End of that window.
    #[serde(with = "rfc3339")]
    pub window_end: i64,
    /// ln M at the first crossing.
    pub evidence_log: f64,
    /// ln(A m / w).
    pub threshold_log: f64,
    /// Exposure of the window.
    pub exposure: f64,
    /// Name of the reference.
    pub reference: String,
    /// Ratio of activations a record since the change point.
    #[serde(default)]
    pub rate_ratio: Option<f64>,
    /// Lower 95 % limit of that.
    #[serde(default)]
    pub rate_low: Option<f64>,
    /// Upper 95 % limit.
    #[serde(default)]
    pub rate_high: Option<f64>,
    /// The larger alert it is told with: `family:N` or `dense`.
    #[serde(default)]
    pub part_of: Option<String>,
    /// Other streams that were moving.
    #[serde(default)]
    pub moved_with: Vec<MovedWith>,
    /// Minimum detectable ratio at this volume; null where there is none.
    pub mde_ratio: Option<f64>,
    /// Crossings written on it.
    pub crossings: u64,
    /// When it ended.
    #[serde(with = "rfc3339_option", default)]
    pub ended: Option<i64>,
    /// What operators did, oldest first.
    pub actions: Vec<AlertAction>,
}

impl AlertListing {
    /// The listing of `alert` under its concept's name. Ratios that are not finite become null.
    #[must_use]
    pub fn of(alert: &Alert, concept: &str, verification: &str) -> Self {
        let (opened, last) = (&alert.opened, &alert.last);
        let finite = |value: f64| value.is_finite().then_some(value);
        Self {
            id: alert.id,
            state: alert.state,
            model_version: opened.model_version.clone(),
            segment: opened.segment.clone(),
            stream: opened.stream,
            concept: concept.to_owned(),
            verification: verification.to_owned(),
            direction: opened.direction,
            ratio: finite(last.ratio),
            ratio_low: finite(last.ratio_low),
            ratio_high: finite(last.ratio_high),
            began: opened.began_ms,
            began_low: opened.began_low_ms,
            began_high: opened.began_high_ms,
            alerted_at: alert.alerted_at_ms,
            window_start: opened.window_start_ms,
            window_end: opened.window_end_ms,
            evidence_log: opened.evidence_log,
            threshold_log: opened.threshold_log,
            exposure: opened.exposure,
            reference: opened.reference.clone(),
            rate_ratio: last.rate_ratio,
            rate_low: last.rate_low,
            rate_high: last.rate_high,
            part_of: opened.part_of.clone(),
            moved_with: opened.moved_with.clone(),
            mde_ratio: finite(opened.mde_ratio),
            crossings: alert.n_crossings,
            ended: alert.ended_ms,
            actions: alert.actions.clone(),
        }
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC (`1998-01-03T00:00:00Z`); out of range: the nearest instant.
#[must_use]
pub fn utc_text(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap_or(if ms < 0 { Timestamp::MIN } else { Timestamp::MAX }).to_string()
}

/// serde for ms since 1970 as RFC 3339 text in UTC.
pub mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes `1998-01-03T00:00:00Z`.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::utc_text(*ms))
    }

    /// Reads RFC 3339.
    ///
    /// # Errors
    /// The text is no instant.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        Ok(Timestamp::deserialize(deserializer)?.as_millisecond())
    }
}

/// serde for an optional instant, see [`rfc3339`].
pub mod rfc3339_option {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the text or null.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(ms: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
        match ms {
            Some(ms) => serializer.serialize_some(&super::utc_text(*ms)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads RFC 3339 or null.
    ///
    /// # Errors
    /// The text is no instant.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
        Ok(Option::<Timestamp>::deserialize(deserializer)?.map(Timestamp::as_millisecond))
    }
}
