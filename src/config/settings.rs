//! Every key of the configuration, its unit, its default, and what raising it does.
//!
//! `config/recsae.toml` shows each of them with its default; a test compares the two.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod input;
mod judging;
mod service;

pub use crate::drift::settings::CountingUnit;
pub use input::{Dtype, KafkaSettings, ModelSettings, RecordFormat, RecordSettings, WindowSettings};
pub use judging::{CountingSettings, DriftSettings, SegmentSettings};
pub use service::{ClusterSettings, EncodeSettings, EngineChoice, HttpSettings, MetricsSettings, StoreSettings};

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the records come from.
    pub kafka: KafkaSettings,
    /// How a payload becomes a record.
    pub record: RecordSettings,
    /// Which SAE reads which version of the recommender.
    pub model: Vec<ModelSettings>,
    /// Event-time windows.
    pub window: WindowSettings,
    /// What is followed apart.
    pub segments: SegmentSettings,
    /// What is counted.
    pub counting: CountingSettings,
    /// The test and its budget.
    pub drift: DriftSettings,
    /// The SQLite file.
    pub store: StoreSettings,
    /// Prometheus listener.
    pub metrics: MetricsSettings,
    /// Page and API listener.
    pub http: HttpSettings,
    /// The encoder.
    pub encode: EncodeSettings,
    /// Scale-out over several instances.
    pub cluster: ClusterSettings,
}
