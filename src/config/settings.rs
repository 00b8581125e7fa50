//! Every key of the configuration, its unit, its default, and what raising it does.
//!
//! `config/recsae.toml` shows each of them with its default; a test compares the two.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::secret::LibrdkafkaOptions;
use crate::config::units::{duration, size};
pub use crate::drift::settings::CountingUnit;

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

/// Where the records come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaSettings {
    /// `host:port` of one or more brokers, comma separated. Default `localhost:9092`.
    pub brokers: String,
    /// Topics by name, or regular expressions that start with `^`.
    pub topics: Vec<String>,
    /// Consumer group. Default `recsae`.
    pub group: String,
    /// Stable name of this instance: switches static membership on, so that a restart within the
    /// session timeout causes no rebalance. Empty = dynamic membership (default).
    pub instance_id: String,
    /// Where to start with no committed position: `earliest` (default), `latest`, `error`, or an RFC 3339 time.
    pub start: String,
    /// `classic` (default, cooperative-sticky) or `consumer` (KIP-848).
    pub protocol: String,
    /// Worker threads, each with a consumer and an ONNX session of its own. 0 (default) = one a core.
    pub workers: usize,
    /// Topic for rejected records. Empty = rejects are counted, not kept. Default `recsae.dead-letters`.
    pub dead_letter_topic: String,
    /// Longest time a drain may take after SIGTERM or a revoked partition. Must stay below
    /// `session.timeout.ms`, or the group gives the partition away while it is still flushed. Default 5 s.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub drain: Duration,
    /// Any librdkafka option but those recsae owns, by its dotted name. Secret ones come from the
    /// environment or from `secret_files`.
    pub librdkafka: LibrdkafkaOptions,
    /// Files that hold secret librdkafka options (`"sasl.password" = "/run/secrets/kafka"`): read at
    /// start, never printed.
    pub secret_files: BTreeMap<String, PathBuf>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            brokers: "localhost:9092".into(),
            topics: vec!["recommendations".into()],
            group: "recsae".into(),
            instance_id: String::new(),
            start: "earliest".into(),
            protocol: "classic".into(),
            workers: 0,
            dead_letter_topic: "recsae.dead-letters".into(),
            drain: Duration::from_secs(5),
            librdkafka: LibrdkafkaOptions::default(),
            secret_files: BTreeMap::new(),
        }
    }
}

/// Layout of a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordFormat {
    /// One JSON object.
    #[default]
    Json,
    /// The vector's bytes, everything else in headers.
    Raw,
}

/// Number format of a raw or base64 vector, little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// IEEE single.
    #[default]
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

/// How a payload becomes a record. A place is a dotted path into the JSON object, `header:NAME`, or `key`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecordSettings {
    /// `json` (default) or `raw`.
    pub format: RecordFormat,
    /// Place of the vector (JSON only): an array of numbers, or base64 of `dtype` values. Default `embedding`.
    pub embedding: String,
    /// Place of the entity (user or session); absent: the Kafka key. Default `entity`.
    pub entity: String,
    /// Place of the event time: ms or s since 1970, or RFC 3339; absent: the Kafka timestamp. Default `timestamp`.
    pub timestamp: String,
    /// Place of the recommender's version. Default `model_version`.
    pub model_version: String,
    /// Place of the recommended items, for examples. Default `items`.
    pub items: String,
    /// Numbers of a raw payload or a base64 vector: `f32` (default), `f16`, `bf16`.
    pub dtype: Dtype,
    /// Larger payloads are rejected. Default 1 MiB.
    #[serde(with = "size")]
    #[schemars(with = "String")]
    pub max_bytes: u64,
}

impl Default for RecordSettings {
    fn default() -> Self {
        Self {
            format: RecordFormat::Json,
            embedding: "embedding".into(),
            entity: "entity".into(),
            timestamp: "timestamp".into(),
            model_version: "model_version".into(),
            items: "items".into(),
            dtype: Dtype::F32,
            max_bytes: 1 << 20,
        }
    }
}

/// One model: which SAE reads which version of the recommender.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Version as records carry it; absent: every version that is not listed.
    pub version: Option<String>,
    /// Bundle folder.
    pub bundle: PathBuf,
}

/// Event-time windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WindowSettings {
    /// Length. Default 1 h. Longer windows see smaller shifts and see them later.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub length: Duration,
    /// RFC 3339 instant at which a window starts. Default 1970-01-01T00:00:00Z.
    pub origin: String,
    /// IANA time zone of season, weekend, calendar and printed times; windows themselves are UTC. Default UTC.
    pub timezone: String,
    /// How far a record may lag behind the newest of its partition. Default 10 min. Raising it
    /// rejects fewer records and judges later.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub lateness: Duration,
    /// A partition without records for this long no longer holds windows open. Default 2 min.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub idle_after: Duration,
    /// How far an event time may lie ahead of the Kafka timestamp. Default 1 h.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub future_tolerance: Duration,
}

impl Default for WindowSettings {
    fn default() -> Self {
        Self {
            length: Duration::from_secs(3600),
            origin: "1970-01-01T00:00:00Z".into(),
            timezone: "UTC".into(),
            lateness: Duration::from_secs(600),
            idle_after: Duration::from_secs(120),
            future_tolerance: Duration::from_secs(3600),
        }
    }
}

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
    /// Name of an approved reference, or `first:14d`, `first:8 windows`: the first windows live. Default `first:14d`.
    pub reference: String,
    /// Daily harmonics of the season; absent: as many as the window length carries, at most 3.
    pub harmonics: Option<usize>,
    /// Whether weekends have a level of their own; absent: from references of 7 days on.
    pub weekend: Option<bool>,
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
            calendar: Vec::new(),
            max_fvu: None,
            pseudo_streams: true,
        }
    }
}

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
    /// The fastest that reads the bundle.
    #[default]
    Auto,
    /// ONNX Runtime.
    Onnxruntime,
    /// Our own.
    Native,
}

/// The encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeSettings {
    /// `auto` (default), `onnxruntime` or `native`.
    pub engine: EngineChoice,
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
        Self { engine: EngineChoice::Auto, onnxruntime: None, batch: 512, linger: Duration::from_millis(5) }
    }
}

/// Scale-out over several instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// Off by default: one instance does everything.
    pub enabled: bool,
    /// Compacted topic of closed partial windows.
    pub windows_topic: String,
    /// Topic of the judge's steps.
    pub judge_topic: String,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self { enabled: false, windows_topic: "recsae.windows".into(), judge_topic: "recsae.judge".into() }
    }
}
