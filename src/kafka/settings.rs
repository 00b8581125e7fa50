//! From `[kafka]` to librdkafka's options: what we own, what we set, what is passed through.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::config::OWNED_OPTIONS;
use crate::config::secret::{REDACTED, is_secret};
use crate::config::settings::KafkaSettings;
use crate::kafka::error::{KafkaError, setting};
use crate::kafka::topics::TopicMatcher;

/// Set by recsae where the configuration says nothing (measured; kafka design page).
const DEFAULTS: [(&str, &str); 3] = [
    // Back .9 s after a broker returns instead of 6.8.
    ("reconnect.backoff.max.ms", "1000"),
    // Connections that idle are closed by the broker anyway; librdkafka then logs an error.
    ("log.connection.close", "false"),
    // Certificates are checked against the host name unless the configuration says otherwise.
    ("client.software.name", "recsae"),
];

/// Consumers only.
const CONSUMER_DEFAULTS: [(&str, &str); 4] = [
    // The default of 1000 stalls a full queue for a second.
    ("fetch.queue.backoff.ms", "5"),
    // What is fetched ahead of a worker: its buffers are then taken up again while they are in the cache, and the
    // kernel need not clear new pages for them, which was a tenth of a raw record's cost at 16 MiB. Half as much
    // is no cheaper; some milliseconds of records at full speed, so a broker that is far away wants more.
    ("queued.max.messages.kbytes", "2048"),
    // Bounds how long a blocked worker delays everybody's rebalance.
    ("max.poll.interval.ms", "60000"),
    ("client.id", "recsae"),
];

/// Classic protocol only: the consumer protocol refuses them, its broker sets them.
const CLASSIC_DEFAULTS: [(&str, &str); 3] =
    [("partition.assignment.strategy", "cooperative-sticky"), ("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "1000")];

/// Options of consumers that a producer would only warn about.
const CONSUMER_ONLY: [&str; 22] = [
    "partition.assignment.strategy",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "group.protocol.type",
    "group.remote.assignor",
    "coordinator.query.interval.ms",
    "max.poll.interval.ms",
    "queued.min.messages",
    "queued.max.messages.kbytes",
    "fetch.wait.max.ms",
    "fetch.queue.backoff.ms",
    "fetch.message.max.bytes",
    "max.partition.fetch.bytes",
    "fetch.max.bytes",
    "fetch.min.bytes",
    "fetch.error.backoff.ms",
    "offset.store.method",
    "isolation.level",
    "check.crcs",
    "client.rack",
    "consume.callback.max.messages",
    "topic.metadata.refresh.sparse",
];

/// Group protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Classic, cooperative-sticky by default.
    Classic,
    /// KIP-848: the broker assigns.
    Consumer,
}

/// Reads `kafka.protocol`.
///
/// # Errors
/// It is neither `classic` nor `consumer`.
pub fn protocol(settings: &KafkaSettings) -> Result<Protocol, KafkaError> {
    match settings.protocol.as_str() {
        "classic" => Ok(Protocol::Classic),
        "consumer" => Ok(Protocol::Consumer),
        other => Err(setting("protocol", format!("expected \"classic\" or \"consumer\", found {other:?}"))),
    }
}

/// What of `[kafka]` can be wrong without a broker and is not seen by `config::check`: patterns,
/// secret files, and options that librdkafka does not know or whose value it refuses.
#[must_use]
pub fn faults(settings: &KafkaSettings) -> Vec<KafkaError> {
    let mut faults: Vec<KafkaError> =
        settings.topics.iter().filter_map(|topic| TopicMatcher::new(std::slice::from_ref(topic)).err()).collect();
    for (key, path) in &settings.secret_files {
        if let Err(error) = std::fs::metadata(path) {
            faults.push(secret_file(key, path, &error));
        }
    }
    if faults.is_empty()
        && let Err(error) = consumer(settings, 0).and_then(|config| config.create_native_config().map(drop).map_err(|error| option(&error)))
    {
        faults.push(error);
    }
    faults
}

/// Options of worker `worker`'s consumer.
pub(super) fn consumer(settings: &KafkaSettings, worker: usize) -> Result<ClientConfig, KafkaError> {
    let mut config = client(settings)?;
    defaults(&mut config, &CONSUMER_DEFAULTS);
    match protocol(settings)? {
        Protocol::Classic => defaults(&mut config, &CLASSIC_DEFAULTS),
        Protocol::Consumer => {
            if let Some((key, _)) = CLASSIC_DEFAULTS.iter().find(|(key, _)| settings.librdkafka.contains_key(*key)) {
                return Err(setting(
                    &format!("librdkafka.{key}"),
                    "protocol = \"consumer\" leaves this to the broker: remove it, or use protocol = \"classic\"",
                ));
            }
            config.set("group.protocol", "consumer");
        }
    }
    config.set("group.id", &settings.group);
    if !settings.instance_id.is_empty() {
        config.set("group.instance.id", format!("{}-{worker}", settings.instance_id));
    }
    config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "error").set("allow.auto.create.topics", "false");
    Ok(config)
}

/// Options of a client that only asks: no group, no position.
pub(super) fn inquirer(settings: &KafkaSettings) -> Result<ClientConfig, KafkaError> {
    let mut config = client(settings)?;
    config.set("allow.auto.create.topics", "false");
    Ok(config)
}

/// Options of a producer that loses nothing and doubles nothing.
pub(super) fn producer(settings: &KafkaSettings) -> Result<ClientConfig, KafkaError> {
    let mut settings = settings.clone();
    settings.librdkafka.retain(|key, _| !CONSUMER_ONLY.contains(&key.as_str()));
    let mut config = client(&settings)?;
    // Infinite: a broker that is away makes us wait, it never makes us drop.
    defaults(&mut config, &[("message.timeout.ms", "0"), ("linger.ms", "5"), ("message.max.bytes", "104857600")]);
    config.set("enable.idempotence", "true").set("acks", "all");
    Ok(config)
}

/// What all clients share: address, passed-through options, secrets from files.
fn client(settings: &KafkaSettings) -> Result<ClientConfig, KafkaError> {
    if let Some(fault) = refused(settings) {
        return Err(fault);
    }
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Info);
    config.set("bootstrap.servers", &settings.brokers);
    for (key, value) in settings.librdkafka.iter() {
        config.set(key, value);
    }
    for (key, path) in &settings.secret_files {
        let secret = std::fs::read_to_string(path).map_err(|error| secret_file(key, path, &error))?;
        config.set(key, secret.trim_end_matches(['\r', '\n']));
    }
    defaults(&mut config, &DEFAULTS);
    Ok(config)
}

/// The first option given that is ours.
fn refused(settings: &KafkaSettings) -> Option<KafkaError> {
    settings.librdkafka.keys().chain(settings.secret_files.keys()).find_map(|key| {
        let (_, instead) = OWNED_OPTIONS.iter().find(|(owned, _)| owned == key)?;
        Some(setting(&format!("librdkafka.{key}"), format!("is set by recsae itself: {instead}")))
    })
}

fn defaults(config: &mut ClientConfig, defaults: &[(&str, &str)]) {
    for (key, value) in defaults {
        if config.get(key).is_none() {
            config.set(*key, *value);
        }
    }
}

/// An option that librdkafka does not know, or whose value it refuses. A secret's value is not repeated.
pub(super) fn option(error: &rdkafka::error::KafkaError) -> KafkaError {
    match error {
        rdkafka::error::KafkaError::ClientConfig(_, why, key, value) if !value.is_empty() && is_secret(key) => {
            setting(&format!("librdkafka.{key}"), why.replace(value.as_str(), REDACTED))
        }
        rdkafka::error::KafkaError::ClientConfig(_, why, key, _) => setting(&format!("librdkafka.{key}"), why.as_str()),
        other => setting("librdkafka", other.to_string()),
    }
}

fn secret_file(key: &str, path: &std::path::Path, error: &std::io::Error) -> KafkaError {
    setting(&format!("secret_files.{key}"), format!("{}: {error}", path.display()))
}
