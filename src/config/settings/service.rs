//! What the program keeps, shows and runs on: store, listeners, encoder, cluster.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::duration;

/// The SQLite file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// Path of the file. Default `recsae.db`.
    pub path: PathBuf,
    /// Positions are stored and committed at least this often. Default 5 s. Raising it re-reads more after a crash.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub checkpoint_every: Duration,
    /// Judged windows are kept this long. Default 400 d.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub retention: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { path: "recsae.db".into(), checkpoint_every: Duration::from_secs(5), retention: Duration::from_secs(400 * 86_400) }
    }
}

/// Prometheus listener: `/metrics` and probes, read-only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Address. Default 0.0.0.0:9464.
    pub listen: String,
    /// Hard cap on drift series. Default 50,000. Streams in WARN or ALERT are never dropped.
    pub max_series: usize,
    /// Streams exported per segment, by evidence. Default 50.
    pub top_concepts: usize,
    /// Streams (`latent:123`) exported always.
    pub pinned: Vec<String>,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { listen: "0.0.0.0:9464".into(), max_series: 50_000, top_concepts: 50, pinned: Vec::new() }
    }
}

/// Page and API listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    /// Address. Default 127.0.0.1:9465.
    pub listen: String,
    /// PEM certificate chain; with it the listener speaks TLS.
    pub tls_cert_file: Option<PathBuf>,
    /// PEM private key.
    pub tls_key_file: Option<PathBuf>,
    /// File with the bearer token that actions need. Without it actions are refused.
    pub token_file: Option<PathBuf>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9465".into(), tls_cert_file: None, tls_key_file: None, token_file: None }
    }
}

/// Engine that encodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// Our own where the graph is a plain encoder, else ONNX Runtime.
    #[default]
    Auto,
    /// ONNX Runtime.
    Onnxruntime,
    /// Our own, where the graph is a plain encoder; refused where it is not.
    Native,
}

/// The encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeSettings {
    /// `auto` (default), `onnxruntime` or `native`.
    pub engine: EngineChoice,
    /// With the native engine, one batch in so many is encoded by ONNX Runtime too and compared. Default 128,
    /// which adds some 2 % to the time of encoding (`make bench-encode`); 1 compares all. A difference that rounding
    /// does not explain stops the native engine and counts in `recsae_encode_mismatches_total`.
    pub compare_every: std::num::NonZeroU32,
    /// Path of the ONNX Runtime library; absent: `ORT_DYLIB_PATH`, beside the executable, the system.
    pub onnxruntime: Option<PathBuf>,
    /// Rows a batch. Default 512. 128 to 512 cost alike; larger batches add latency.
    pub batch: usize,
    /// Longest wait for a batch to fill. Default 5 ms.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub linger: Duration,
}

impl Default for EncodeSettings {
    fn default() -> Self {
        let compare_every = std::num::NonZeroU32::MIN.saturating_add(127);
        Self { engine: EngineChoice::Auto, compare_every, onnxruntime: None, batch: 512, linger: Duration::from_millis(5) }
    }
}

/// Several instances in one consumer group that judge as one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// Off by default: one instance does everything.
    pub enabled: bool,
    /// Compacted topic of closed parts of windows, read by every instance. Default `recsae.windows`. Some partitions: more let
    /// more producers write at once.
    pub windows_topic: String,
    /// Topic of the orders that every instance carries out in one order. Default `recsae.judge`. One partition, kept for ever.
    pub judge_topic: String,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self { enabled: false, windows_topic: "recsae.windows".into(), judge_topic: "recsae.judge".into() }
    }
}
