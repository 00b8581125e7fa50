//! From `[kafka]` to librdkafka's options: what we own, what we set, what is passed through.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::config::settings::KafkaSettings;
use crate::kafka::error::KafkaError;

/// Options recsae owns, and what to use instead.
const OWNED: [(&str, &str); 17] = [
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
    ("group.id", "use kafka.group"),
    ("group.instance.id", "use kafka.instance_id; each worker appends its number"),
    ("group.protocol", "use kafka.protocol"),
    ("auto.offset.reset", "use kafka.start; a position outside the log is an error, never a silent jump"),
    ("enable.auto.commit", "positions are committed after what was counted is stored"),
    ("auto.commit.enable", "positions are committed after what was counted is stored"),
    ("auto.commit.interval.ms", "use store.checkpoint_every"),
    ("enable.auto.offset.store", "positions are committed after what was counted is stored"),
    ("enable.partition.eof", "the end of a partition is told from its high watermark"),
    ("enable.idempotence", "dead letters are always written idempotently"),
    ("acks", "dead letters always wait for all replicas"),
    ("request.required.acks", "dead letters always wait for all replicas"),
    ("transactional.id", "no transactions are used"),
    ("log.queue", "log lines go through tracing"),
    ("allow.auto.create.topics", "topics are created on purpose or not at all"),
];

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
    // A sidecar's share of memory: 64 MiB of fetched records a topic partition is librdkafka's default.
    ("queued.max.messages.kbytes", "16384"),
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

/// Where a partition without a committed position starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// First record the log still has.
    Earliest,
    /// Only what comes from now on.
    Latest,
    /// First record whose Kafka timestamp is at or after this instant, ms since 1970 UTC.
    Time(i64),
    /// Refuse to start.
    Error,
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

/// Reads `kafka.start`.
///
/// # Errors
/// It is no keyword and no RFC 3339 time.
pub fn start(settings: &KafkaSettings) -> Result<Start, KafkaError> {
    match settings.start.as_str() {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        "error" => Ok(Start::Error),
        other => other.parse::<jiff::Timestamp>().map(|time| Start::Time(time.as_millisecond())).map_err(|_| {
            setting(
                "start",
                format!("expected \"earliest\", \"latest\", \"error\" or an RFC 3339 time like \"2026-01-31T00:00:00Z\", found {other:?}"),
            )
        }),
    }
}

/// Every fault of `[kafka]` that can be seen without a broker.
#[must_use]
pub fn faults(settings: &KafkaSettings) -> Vec<KafkaError> {
    let mut faults: Vec<KafkaError> = refused(settings);
    faults.extend(protocol(settings).err());
    faults.extend(start(settings).err());
    if settings.brokers.trim().is_empty() {
        faults.push(setting("brokers", "expected host:port, found nothing"));
    }
    if settings.group.trim().is_empty() {
        faults.push(setting("group", "expected the name of a consumer group, found nothing"));
    }
    if settings.topics.is_empty() {
        faults.push(setting("topics", "expected at least one topic or ^pattern, found none"));
    }
    for pattern in settings.topics.iter().filter(|topic| topic.starts_with('^')) {
        if let Err(error) = regex::Regex::new(pattern) {
            faults.push(setting("topics", format!("{pattern:?} is no regular expression: {}", error.to_string().replace('\n', " "))));
        }
    }
    if let Some(session) = session_timeout(settings)
        && settings.drain >= session
    {
        let (drain, session) = (humantime::format_duration(settings.drain), humantime::format_duration(session));
        faults.push(setting(
            "drain",
            format!("{drain} must stay below the session timeout of {session}, or the group gives partitions away while they are flushed"),
        ));
    }
    for (key, path) in &settings.secret_files {
        if let Err(error) = std::fs::metadata(path) {
            faults.push(setting(&format!("secret_files.\"{key}\""), format!("{}: {error}", path.display())));
        }
    }
    if faults.is_empty()
        && let Err(error) = consumer(settings, 0)
            .and_then(|config| config.create_native_config().map(|_| ()).map_err(|error| setting("librdkafka", native_words(&error))))
    {
        faults.push(error);
    }
    faults
}

/// Session timeout the classic protocol runs with; `None` under the consumer protocol, whose broker decides.
#[must_use]
pub fn session_timeout(settings: &KafkaSettings) -> Option<Duration> {
    (settings.protocol == "classic").then(|| {
        let set = settings.librdkafka.get("session.timeout.ms").and_then(|text| text.parse().ok());
        Duration::from_millis(set.unwrap_or(6_000))
    })
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
                    &format!("librdkafka.\"{key}\""),
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
    if let Some(fault) = refused(settings).into_iter().next() {
        return Err(fault);
    }
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Info);
    config.set("bootstrap.servers", &settings.brokers);
    for (key, value) in settings.librdkafka.iter() {
        config.set(key, value);
    }
    for (key, path) in &settings.secret_files {
        let secret = std::fs::read_to_string(path)
            .map_err(|error| setting(&format!("secret_files.\"{key}\""), format!("{}: {error}", path.display())))?;
        config.set(key, secret.trim_end_matches(['\r', '\n']));
    }
    defaults(&mut config, &DEFAULTS);
    Ok(config)
}

fn refused(settings: &KafkaSettings) -> Vec<KafkaError> {
    let given =
        settings.librdkafka.keys().map(|key| (key, "librdkafka")).chain(settings.secret_files.keys().map(|key| (key, "secret_files")));
    given
        .filter_map(|(key, section)| {
            let (_, instead) = OWNED.iter().find(|(owned, _)| owned == key)?;
            Some(setting(&format!("{section}.\"{key}\""), format!("recsae sets this itself: {instead}")))
        })
        .collect()
}

fn defaults(config: &mut ClientConfig, defaults: &[(&str, &str)]) {
    for (key, value) in defaults {
        if config.get(key).is_none() {
            config.set(*key, *value);
        }
    }
}

/// The words of a refused option, without its value: it may be a secret.
pub(super) fn native_words(error: &rdkafka::error::KafkaError) -> String {
    match error {
        rdkafka::error::KafkaError::ClientConfig(_, why, key, _) => format!("{key}: {why}"),
        other => other.to_string(),
    }
}

pub(super) fn setting(key: &str, message: impl Into<String>) -> KafkaError {
    KafkaError::Setting { key: key.to_owned(), message: message.into() }
}
