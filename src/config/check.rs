//! Settings that do not go together, found without touching broker, files or network.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::fault::Fault;
use crate::config::parsed::ReferenceChoice;
use crate::config::settings::{CountingUnit, KafkaSettings, RecordFormat, Settings};
use crate::drift::stream::StreamId;

/// librdkafka options that recsae sets itself, and what to use instead: positions, groups and
/// hand-over depend on them.
pub const OWNED_OPTIONS: [(&str, &str); 18] = [
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
    ("group.id", "use kafka.group"),
    ("group.instance.id", "use kafka.instance_id, to which each worker appends its number"),
    ("group.protocol", "use kafka.protocol"),
    ("auto.offset.reset", "use kafka.start; a position outside the log is an error, never a silent jump"),
    ("enable.auto.commit", "positions are committed after what was counted is stored"),
    ("auto.commit.enable", "positions are committed after what was counted is stored"),
    ("auto.commit.interval.ms", "use store.checkpoint_every"),
    ("enable.auto.offset.store", "positions are committed after what was counted is stored"),
    ("offset.store.method", "positions are committed after what was counted is stored"),
    ("enable.partition.eof", "the end of a partition is told from its high watermark"),
    ("consume.callback.max.messages", "use encode.batch"),
    ("enable.idempotence", "dead letters are always written idempotently"),
    ("acks", "dead letters always wait for all replicas"),
    ("request.required.acks", "dead letters always wait for all replicas"),
    ("transactional.id", "no transactions are used"),
    ("allow.auto.create.topics", "topics are created on purpose or not at all"),
];

/// Options that a broker of the new group protocol refuses (it decides them itself).
const NOT_WITH_CONSUMER_PROTOCOL: [&str; 3] = ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"];

/// Session timeout that recsae sets, ms: a killed member's partitions move after this long.
pub const SESSION_TIMEOUT_MS: u64 = 6_000;

/// Session timeout of a broker for members of the new protocol, ms: its `group.consumer.session.timeout.ms` as it is
/// delivered. A broker may be set to another one, which nothing tells its members.
const BROKER_SESSION_TIMEOUT_MS: u64 = 45_000;

/// More open windows than this per partition means a lateness that was meant for longer windows.
const MAX_OPEN_WINDOWS: u128 = 100;
/// Fewer windows make no reference.
const MIN_REFERENCE_WINDOWS: u64 = 8;

/// Every fault of settings that were read well one by one. Pure: looks at nothing but its argument.
#[must_use]
pub fn check(settings: &Settings) -> Vec<Fault> {
    let mut faults = Faults::default();
    faults.kafka(&settings.kafka);
    faults.record_and_counting(settings);
    faults.models(settings);
    faults.window(settings);
    faults.segments(settings);
    faults.drift(settings);
    faults.rest(settings);
    faults.found
}

/// A field as segments name it: `surface` of a header and of the record would be one name.
#[must_use]
pub fn segment_field(field: &str) -> &str {
    field.trim_start_matches("header:")
}

#[derive(Default)]
struct Faults {
    found: Vec<Fault>,
}

impl Faults {
    fn when(&mut self, wrong: bool, key: &str, message: impl FnOnce() -> String) {
        if wrong {
            self.found.push(Fault::new(key, message()));
        }
    }

    fn read<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.found.push(fault)).ok()
    }

    fn kafka(&mut self, kafka: &KafkaSettings) {
        for broker in kafka.brokers.split(',').map(str::trim) {
            let port = broker.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
            self.when(port.is_none(), "kafka.brokers", || format!("expected host:port, found {broker:?}"));
        }
        self.when(kafka.topics.is_empty(), "kafka.topics", || "expected at least one topic, found none".into());
        for topic in kafka.topics.iter().filter(|topic| !topic.starts_with('^')) {
            self.topic("kafka.topics", topic);
        }
        if !kafka.dead_letter_topic.is_empty() {
            self.topic("kafka.dead_letter_topic", &kafka.dead_letter_topic);
        }
        self.when(kafka.topics.contains(&kafka.dead_letter_topic), "kafka.dead_letter_topic", || {
            "is one of kafka.topics: rejects would be read again for ever; give it a name of its own".into()
        });
        // What is no regular expression is refused where patterns are compiled (kafka::settings::faults).
        let matches = |pattern: &str| regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(&kafka.dead_letter_topic));
        let is_read = |pattern: &&String| pattern.starts_with('^') && !kafka.dead_letter_topic.is_empty() && matches(pattern);
        for pattern in kafka.topics.iter().filter(is_read) {
            self.when(true, "kafka.topics", || {
                format!(
                    "expected a pattern that does not match the dead-letter topic, found {pattern:?}, which matches {:?}: rejects would be \
                     read again for ever; narrow the pattern, or give kafka.dead_letter_topic a name that it does not match",
                    kafka.dead_letter_topic
                )
            });
        }
        self.when(kafka.group.is_empty(), "kafka.group", || "expected a consumer group's name, found nothing".into());
        self.read(kafka.start_at());
        self.when(!["classic", "consumer"].contains(&kafka.protocol.as_str()), "kafka.protocol", || {
            format!("expected classic or consumer, found {:?}", kafka.protocol)
        });
        self.when(kafka.workers > 1024, "kafka.workers", || format!("expected at most 1024, found {}", kafka.workers));
        self.options(kafka);
    }

    fn options(&mut self, kafka: &KafkaSettings) {
        for key in kafka.librdkafka.keys().chain(kafka.secret_files.keys()) {
            let place = format!("kafka.librdkafka.{key}");
            if let Some((_, instead)) = OWNED_OPTIONS.iter().find(|(owned, _)| owned == key) {
                self.when(true, &place, || format!("is set by recsae itself: {instead}"));
            }
            self.when(kafka.protocol == "consumer" && NOT_WITH_CONSUMER_PROTOCOL.contains(&key.as_str()), &place, || {
                "is decided by the broker under protocol = \"consumer\"; take it out".into()
            });
        }
        for key in kafka.secret_files.keys().filter(|key| kafka.librdkafka.contains_key(*key)) {
            self.when(true, &format!("kafka.secret_files.{key}"), || "is set in [kafka.librdkafka] too; keep one of them".into());
        }
        let stated = kafka.librdkafka.get("session.timeout.ms");
        // Under the new protocol the broker decides.
        let usual_ms = if kafka.protocol == "consumer" { BROKER_SESSION_TIMEOUT_MS } else { SESSION_TIMEOUT_MS };
        let session_ms = stated.map_or(Ok(usual_ms), |text| text.trim().parse::<u64>());
        match session_ms {
            Err(_) => self.when(true, "kafka.librdkafka.session.timeout.ms", || {
                format!("expected milliseconds, found {:?}", stated.map(String::as_str).unwrap_or_default())
            }),
            Ok(session_ms) => {
                self.when(kafka.drain.is_zero(), "kafka.drain", || "expected a time above zero".into());
                self.when(kafka.drain.as_millis() >= u128::from(session_ms), "kafka.drain", || {
                    format!(
                        "expected less than the session timeout of {session_ms} ms (a longer drain loses the partitions while it still \
                         flushes), found {} ms",
                        kafka.drain.as_millis()
                    )
                });
            }
        }
    }

    fn topic(&mut self, key: &str, topic: &str) {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        self.when(topic.is_empty() || topic.len() > 249 || topic == "." || topic == ".." || !topic.bytes().all(legal), key, || {
            format!("expected a topic's name (letters, digits, `.`, `_`, `-`, at most 249) or a regular expression that starts with ^, found {topic:?}")
        });
    }

    fn record_and_counting(&mut self, settings: &Settings) {
        let (record, counting) = (&settings.record, &settings.counting);
        self.when(record.format == RecordFormat::Json && record.embedding.is_empty(), "record.embedding", || {
            "expected the vector's place in the JSON object, found nothing".into()
        });
        self.when(record.max_bytes == 0, "record.max_bytes", || "expected at least 1B: every payload would be too large".into());
        self.when(counting.unit != CountingUnit::Records && record.entity.is_empty(), "record.entity", || {
            "counting by presence or kish needs an entity: name a field, \"header:NAME\" or \"key\", or count records".into()
        });
        self.when(counting.max_entities == 0, "counting.max_entities", || "expected at least 1".into());
        self.when(counting.sample_shift > 30, "counting.sample_shift", || {
            format!("expected 0 to 30 (each step halves the entities kept), found {}", counting.sample_shift)
        });
    }

    fn models(&mut self, settings: &Settings) {
        self.when(settings.model.is_empty(), "model", || "expected at least one [[model]] with a bundle, found none".into());
        let defaults = settings.model.iter().filter(|model| model.version.is_none()).count();
        self.when(defaults > 1, "model", || format!("expected at most one [[model]] without a version, found {defaults}"));
        let mut seen = BTreeSet::new();
        for (index, model) in settings.model.iter().enumerate() {
            self.when(model.bundle.as_os_str().is_empty(), &format!("model[{index}].bundle"), || "expected a bundle folder".into());
            if let Some(version) = &model.version {
                let place = format!("model[{index}].version");
                self.when(version.is_empty(), &place, || "expected a version; leave the key out for every other version".into());
                self.when(!seen.insert(version), &place, || format!("{version:?} is listed twice"));
            }
        }
    }

    fn window(&mut self, settings: &Settings) {
        let window = &settings.window;
        self.when(window.length < Duration::from_secs(1), "window.length", || "expected at least 1 s".into());
        self.when(window.length > Duration::from_secs(366 * 86_400), "window.length", || "expected at most 366 days".into());
        self.when(!window.length.subsec_nanos().is_multiple_of(1_000_000), "window.length", || "expected whole milliseconds".into());
        let n_open = window.lateness.as_millis() / window.length.as_millis().max(1);
        self.when(n_open > MAX_OPEN_WINDOWS, "window.lateness", || {
            format!("would hold {n_open} windows open per partition, at most {MAX_OPEN_WINDOWS} are; shorten it or lengthen window.length")
        });
        self.when(window.idle_after.is_zero(), "window.idle_after", || "expected a time above zero".into());
        self.read(window.origin_ms());
        self.read(window.time_zone());
    }

    fn segments(&mut self, settings: &Settings) {
        let segments = &settings.segments;
        self.when(segments.fields.len() > 4, "segments.fields", || format!("expected at most 4 fields, found {}", segments.fields.len()));
        let mut seen = BTreeSet::new();
        for field in &segments.fields {
            self.when(field.is_empty(), "segments.fields", || "expected a field's place, found an empty text".into());
            let name = segment_field(field);
            self.when(!seen.insert(name), "segments.fields", || {
                format!("{field:?}: {name:?} is listed twice, and is one name in segments")
            });
        }
        let mut seen_pairs = BTreeSet::new();
        for [first, second] in &segments.pairs {
            for field in [first, second] {
                self.when(!segments.fields.contains(field), "segments.pairs", || format!("{field:?} is not one of segments.fields"));
            }
            self.when(first == second, "segments.pairs", || format!("{first:?} is paired with itself"));
            let pair = if first < second { (first, second) } else { (second, first) };
            self.when(first != second && !seen_pairs.insert(pair), "segments.pairs", || {
                format!("{first:?} and {second:?} are paired twice")
            });
        }
        for field in segments.values.keys().filter(|field| !segments.fields.contains(field)) {
            self.when(true, &format!("segments.values.{field}"), || format!("{field:?} is not one of segments.fields"));
        }
        self.when(!(2..=128).contains(&segments.max), "segments.max", || format!("expected 2 to 128, found {}", segments.max));
        self.when(segments.n_named() > segments.max, "segments.max", || {
            format!("segments.values name {} segments with _all and _other, more than the {} allowed", segments.n_named(), segments.max)
        });
    }

    fn drift(&mut self, settings: &Settings) {
        let (drift, length) = (&settings.drift, settings.window.length);
        self.read(drift.budget_windows(length));
        self.when(!(0.0..1.0).contains(&drift.min_effect), "drift.min_effect", || {
            format!("expected a relative shift from 0 to below 1, found {}", drift.min_effect)
        });
        self.when(drift.min_entities == 0, "drift.min_entities", || "expected at least 1".into());
        self.when(drift.min_records == 0, "drift.min_records", || "expected at least 1".into());
        if let Some(choice) = self.read(drift.reference_choice()) {
            let n_windows = choice.first_windows(length);
            self.when(n_windows.is_some_and(|n| n < MIN_REFERENCE_WINDOWS), "drift.reference", || {
                format!("expected at least {MIN_REFERENCE_WINDOWS} windows, {:?} holds {}", drift.reference, n_windows.unwrap_or(0))
            });
            let span_ms = match choice {
                ReferenceChoice::FirstDuration(span) | ReferenceChoice::RollingDuration(span) => span.as_millis(),
                ReferenceChoice::FirstWindows(n) | ReferenceChoice::RollingWindows(n) => u128::from(n) * length.as_millis(),
                ReferenceChoice::Named(_) | ReferenceChoice::OfModel(_) => 0,
            };
            self.when(span_ms > settings.store.retention.as_millis(), "store.retention", || {
                format!("is shorter than the reference {:?} that it must keep", drift.reference)
            });
        }
        self.when(drift.harmonics.is_some_and(|n| n > 3), "drift.harmonics", || "expected at most 3".into());
        for day in &drift.calendar {
            self.when(day.parse::<jiff::civil::Date>().is_err(), "drift.calendar", || {
                format!("expected a date like 2026-12-24, found {day:?}")
            });
        }
        self.when(drift.max_fvu.is_some_and(|fvu| !(fvu.is_finite() && fvu > 0.0)), "drift.max_fvu", || "expected a share above 0".into());
    }

    fn rest(&mut self, settings: &Settings) {
        let (store, metrics, http, encode) = (&settings.store, &settings.metrics, &settings.http, &settings.encode);
        self.when(store.path.as_os_str().is_empty(), "store.path", || "expected a file's path, found nothing".into());
        self.when(store.checkpoint_every.is_zero(), "store.checkpoint_every", || "expected a time above zero".into());
        self.when(store.retention < settings.window.length, "store.retention", || "expected at least one window".into());
        let listen = [("metrics.listen", &metrics.listen), ("http.listen", &http.listen)].map(|(key, text)| {
            self.read(
                text.parse::<SocketAddr>()
                    .map_err(|_| Fault::new(key, format!("expected address:port like 127.0.0.1:9465, found {text:?}"))),
            )
        });
        if let [Some(one), Some(two)] = listen {
            let same = one.port() == two.port() && (one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified());
            self.when(same && one.port() != 0, "http.listen", || format!("shares port {} with metrics.listen", one.port()));
        }
        self.when(metrics.max_series == 0, "metrics.max_series", || "expected at least 1".into());
        for stream in &metrics.pinned {
            self.read(stream.parse::<StreamId>().map_err(|error| Fault::new("metrics.pinned", error.to_string())));
        }
        self.when(http.tls_cert_file.is_some() != http.tls_key_file.is_some(), "http.tls_cert_file", || {
            "tls_cert_file and tls_key_file belong together; one of them is missing".into()
        });
        self.when(!(1..=65_536).contains(&encode.batch), "encode.batch", || format!("expected 1 to 65536 rows, found {}", encode.batch));
        self.when(encode.linger > Duration::from_secs(10), "encode.linger", || "expected at most 10 s".into());
        if settings.cluster.enabled {
            self.cluster(settings);
        }
    }

    fn cluster(&mut self, settings: &Settings) {
        let (cluster, kafka) = (&settings.cluster, &settings.kafka);
        let shared = [("cluster.windows_topic", &cluster.windows_topic), ("cluster.judge_topic", &cluster.judge_topic)];
        let matches = |pattern: &String, topic: &str| {
            pattern == topic || (pattern.starts_with('^') && regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(topic)))
        };
        for (key, topic) in shared {
            self.topic(key, topic);
            let is_read = kafka.topics.iter().any(|pattern| matches(pattern, topic));
            self.when(is_read || *topic == kafka.dead_letter_topic, key, || {
                format!("expected a topic of its own, found {topic:?}, which kafka.topics or kafka.dead_letter_topic name too")
            });
        }
        self.when(cluster.windows_topic == cluster.judge_topic, "cluster.judge_topic", || {
            format!("expected a topic of its own, found {:?}, which is cluster.windows_topic too", cluster.judge_topic)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::ModelSettings;

    fn sound() -> Settings {
        Settings { model: vec![ModelSettings { version: None, bundle: "b".into() }], ..Settings::default() }
    }

    /// A change, and the key it makes faulty.
    type Case = (fn(&mut Settings), &'static str);

    const CASES: [Case; 42] = [
        (|s| s.kafka.brokers = "localhost".into(), "kafka.brokers"),
        (|s| s.kafka.brokers = "a:1,:2".into(), "kafka.brokers"),
        (|s| s.kafka.topics.clear(), "kafka.topics"),
        (|s| s.kafka.topics = vec!["two words".into()], "kafka.topics"),
        (|s| s.kafka.topics = vec!["recsae.dead-letters".into()], "kafka.dead_letter_topic"),
        (|s| s.kafka.topics = vec!["^rec".into()], "kafka.topics"),
        (|s| (s.kafka.topics, s.kafka.dead_letter_topic) = (vec!["^views-.*".into()], "views-rejected".into()), "kafka.topics"),
        (|s| s.kafka.start = "noon".into(), "kafka.start"),
        (|s| s.kafka.protocol = "new".into(), "kafka.protocol"),
        (|s| s.kafka.drain = Duration::from_secs(6), "kafka.drain"),
        (|s| drop(s.kafka.librdkafka.insert("session.timeout.ms".into(), "4000".into())), "kafka.drain"),
        (|s| (s.kafka.protocol, s.kafka.drain) = ("consumer".into(), Duration::from_secs(45)), "kafka.drain"),
        (|s| drop(s.kafka.librdkafka.insert("session.timeout.ms".into(), "long".into())), "kafka.librdkafka.session.timeout.ms"),
        (|s| drop(s.kafka.librdkafka.insert("group.id".into(), "x".into())), "kafka.librdkafka.group.id"),
        (|s| s.record.entity.clear(), "record.entity"),
        (|s| s.record.embedding.clear(), "record.embedding"),
        (|s| s.model.clear(), "model"),
        (|s| s.model.push(s.model[0].clone()), "model"),
        (|s| s.model[0].version = Some(String::new()), "model[0].version"),
        (|s| s.window.length = Duration::from_micros(7_200_000_500), "window.length"),
        (|s| s.window.lateness = Duration::from_secs(3600 * 200), "window.lateness"),
        (|s| s.window.origin = "now".into(), "window.origin"),
        (|s| s.window.timezone = "Mars/Base".into(), "window.timezone"),
        (|s| s.segments.fields = ["a", "b", "c", "d", "e"].map(String::from).to_vec(), "segments.fields"),
        (|s| s.segments.fields = vec!["surface".into(), "header:surface".into()], "segments.fields"),
        (|s| s.segments.pairs.push(["a".into(), "b".into()]), "segments.pairs"),
        (|s| s.segments.max = 129, "segments.max"),
        (|s| drop(s.segments.values.insert("x".into(), vec![])), "segments.values.x"),
        (|s| s.drift.false_alarm_budget = "few".into(), "drift.false_alarm_budget"),
        (|s| s.drift.min_effect = f64::NAN, "drift.min_effect"),
        (|s| s.drift.reference = "first:3h".into(), "drift.reference"),
        (|s| s.drift.reference = "first:99999999999 windows".into(), "store.retention"),
        (|s| s.drift.reference = "rolling:18446744073709551615 windows".into(), "store.retention"),
        (|s| (s.cluster.enabled, s.cluster.judge_topic) = (true, s.cluster.windows_topic.clone()), "cluster.judge_topic"),
        (|s| (s.cluster.enabled, s.kafka.topics) = (true, vec!["^recsae.w".into()]), "cluster.windows_topic"),
        (|s| s.drift.calendar = vec!["24.12.".into()], "drift.calendar"),
        (|s| s.store.retention = Duration::from_secs(86_400 * 13), "store.retention"),
        (|s| s.http.listen = "0.0.0.0:9464".into(), "http.listen"),
        (|s| s.metrics.listen = ":9464".into(), "metrics.listen"),
        (|s| s.metrics.pinned = vec!["latent".into()], "metrics.pinned"),
        (|s| s.http.tls_key_file = Some("k".into()), "http.tls_cert_file"),
        (|s| s.encode.batch = 0, "encode.batch"),
    ];

    #[test]
    fn the_defaults_with_a_model_are_sound() {
        assert_eq!(check(&sound()), []);
    }

    #[test]
    fn settings_that_do_not_go_together_are_named_each_with_its_key() {
        for (n, (change, key)) in CASES.into_iter().enumerate() {
            let mut settings = sound();
            change(&mut settings);
            let found = check(&settings);
            assert!(found.iter().any(|fault| fault.key == key), "case {n}: expected a fault at {key}, found {found:?}");
            assert_eq!(found.iter().filter(|fault| fault.key != key).count(), 0, "case {n}: {found:?}");
        }
    }

    #[test]
    fn a_pattern_beside_the_dead_letter_topic_is_sound() {
        let mut settings = sound();
        settings.kafka.topics = vec!["^views-[a-z]+$".into(), "^rec$".into()];
        settings.kafka.dead_letter_topic = "views-rejected-2".into();
        assert_eq!(check(&settings), []);
        // Without dead letters nothing can come round.
        (settings.kafka.topics, settings.kafka.dead_letter_topic) = (vec!["^".into()], String::new());
        assert_eq!(check(&settings), []);
    }

    #[test]
    fn a_drain_is_measured_by_the_session_of_its_protocol() {
        let mut settings = sound();
        (settings.kafka.protocol, settings.kafka.drain) = ("consumer".into(), Duration::from_secs(20));
        assert_eq!(check(&settings), []);
        settings.kafka.protocol = "classic".into();
        assert!(check(&settings)[0].message.contains("session timeout of 6000 ms"), "{:?}", check(&settings));
    }

    #[test]
    fn options_the_new_protocol_refuses_are_named() {
        let mut settings = sound();
        settings.kafka.protocol = "consumer".into();
        settings.kafka.librdkafka.insert("heartbeat.interval.ms".into(), "1000".into());
        assert_eq!(check(&settings)[0].key, "kafka.librdkafka.heartbeat.interval.ms");
    }
}
