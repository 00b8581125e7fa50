//! What is read: broker, payloads, models, and the windows that records fall into.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::secret::LibrdkafkaOptions;
use crate::config::units::{duration, size};

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
    /// Topic for rejected records; must be there. Empty = rejects are counted, not kept. Default `recsae.dead-letters`.
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
    /// IANA time zone of season, weekend and calendar; windows and everything printed are UTC. Default UTC.
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
