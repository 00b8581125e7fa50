//! What is followed, what is counted, and what counts as drift.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::drift::settings::{CountingUnit, WeekendAs};

/// What is followed apart from the whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SegmentSettings {
    /// Up to four fields of the record (dotted paths or `header:NAME`), each followed alone. Default none.
    pub fields: Vec<String>,
    /// Pairs of those fields, followed together.
    pub pairs: Vec<[String; 2]>,
    /// Values admitted from the start, by field. Others are admitted when a reference holds them.
    pub values: BTreeMap<String, Vec<String>>,
    /// Most segments, `_all` and `_other` included. Default 64, at most 128.
    pub max: usize,
}

impl Default for SegmentSettings {
    fn default() -> Self {
        Self { fields: Vec::new(), pairs: Vec::new(), values: BTreeMap::new(), max: 64 }
    }
}

/// What is counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CountingSettings {
    /// `presence` (default), `records` or `kish`. Presence and kish need an entity.
    pub unit: CountingUnit,
    /// More entities in one window and partition mark it incomplete: no verdict. Default 200,000.
    pub max_entities: usize,
    /// Keep entities whose hash ends in this many zero bits. Default 0 = all. Each step halves memory.
    pub sample_shift: u32,
}

impl Default for CountingSettings {
    fn default() -> Self {
        Self { unit: CountingUnit::Presence, max_entities: 200_000, sample_shift: 0 }
    }
}

/// The test and its budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DriftSettings {
    /// False alarms allowed, e.g. `1 per 30d` (default) or `1 per 1000 windows`.
    pub false_alarm_budget: String,
    /// Relative shifts below this do not matter. Default 0.01. Raise it where volumes are huge.
    pub min_effect: f64,
    /// Fewer entities than this in a window: it is merged with the next, up to six. Default 20.
    pub min_entities: u64,
    /// The same when counting records. Default 200.
    pub min_records: u64,
    /// Name of an approved reference; `first:14d`, `first:8 windows`: the first windows live; `rolling:14d`: the last
    /// windows, fitted anew each fourteenth of them and frozen while anything is in alert; `model:VERSION`: each
    /// version by its own first 14 days, and every other one by VERSION's too (`OTHER against VERSION`), for a canary
    /// of the same SAE. Default `first:14d`.
    pub reference: String,
    /// Daily harmonics of the season; absent: as many as the window length carries, at most 3.
    pub harmonics: Option<usize>,
    /// Whether weekends are told from weekdays; absent: from references of 7 days on.
    pub weekend: Option<bool>,
    /// What a weekend does to a rate: `factor` (default) multiplies the daily rhythm, `level` adds the same at every hour.
    pub weekend_as: WeekendAs,
    /// Local dates without verdicts, `YYYY-MM-DD`.
    pub calendar: Vec<String>,
    /// FVU above this share breaks the input contract; absent: 2 x the reference's + 0.05.
    pub max_fvu: Option<f64>,
    /// Whether `residual_outlier` (with a decoder) and `dead_record` are tested beside the latents and
    /// families, where they are counted. Default true; each adds one stream to the threshold's m.
    pub pseudo_streams: bool,
}

impl Default for DriftSettings {
    fn default() -> Self {
        Self {
            false_alarm_budget: "1 per 30d".into(),
            min_effect: 0.01,
            min_entities: 20,
            min_records: 200,
            reference: "first:14d".into(),
            harmonics: None,
            weekend: None,
            weekend_as: WeekendAs::Factor,
            calendar: Vec::new(),
            max_fvu: None,
            pseudo_streams: true,
        }
    }
}
