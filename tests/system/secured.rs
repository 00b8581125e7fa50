//! TLS, SASL and librdkafka's options on Apache Kafka: what works, and what a wrong one says.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use recsae::config::settings::KafkaSettings;
use recsae::kafka::error::KafkaError;
use recsae::kafka::{admin, settings};

use crate::background::until;
use crate::kafka_server;
use crate::scene::Scene;

fn refusal(settings: &KafkaSettings) -> KafkaError {
    let started = Instant::now();
    let error = admin::preflight(settings, Duration::from_secs(20)).unwrap_err();
    println!("{:?}: {error}", started.elapsed());
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    error
}

#[test]
fn scram_over_tls_logs_in_also_with_the_password_in_a_file() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("secured", 1);
    let mut settings = kafka.sasl_settings(&[&topic]);
    assert_eq!(admin::preflight(&settings, Duration::from_secs(20)).unwrap().partitions.len(), 1);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{}\n", kafka_server::PASSWORD)).unwrap();
    settings.librdkafka.remove("sasl.password");
    settings.secret_files.insert("sasl.password".into(), file);
    assert_eq!(admin::preflight(&settings, Duration::from_secs(20)).unwrap().partitions.len(), 1);
}

/// The scene's own topics by SASL_SSL with SCRAM, the password in a file.
fn log_in_over_scram(scene: &mut Scene, kafka: &kafka_server::Kafka) {
    let plain = scene.settings.kafka.clone();
    let secured = kafka.sasl_settings(&[&plain.topics[0]]);
    let mut own = KafkaSettings { brokers: secured.brokers, librdkafka: secured.librdkafka, ..plain };
    let file = scene.folder().join("password");
    std::fs::write(&file, kafka_server::PASSWORD).unwrap();
    own.librdkafka.remove("sasl.password");
    own.secret_files.insert("sasl.password".into(), file);
    scene.settings.kafka = own;
}

#[test]
fn records_and_dead_letters_pass_over_scram_and_tls_and_the_password_stays_secret() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    log_in_over_scram(&mut scene, kafka);
    scene.produce(0..4, Duration::ZERO);
    std::fs::write(scene.folder().join("token"), "a-token-of-the-test").unwrap();
    scene.settings.http.token_file = Some(scene.folder().join("token"));
    let monitor = scene.start(&[]);
    let end = monitor.wait_for(scene.sent());
    let poison = scene.poison.load(Ordering::SeqCst);
    assert_eq!((end.consumed, end.n_rejected()), (scene.sent(), poison));
    let mut shown: Vec<String> =
        ["status", "concepts", "windows", "alerts", "openapi.json"].iter().map(|path| monitor.api(path).unwrap().to_string()).collect();
    shown.extend(["", "concepts", "reference"].iter().map(|path| monitor.page(path).unwrap()));
    shown.push(monitor.metrics_text().unwrap());
    let log = monitor.end();
    assert!(log.contains("worker drained"), "{log}");
    let (first, next) = kafka.ends(&scene.settings.kafka.dead_letter_topic, 1)[0];
    assert_eq!(u64::try_from(next - first).unwrap(), poison, "each poison once in the dead letters");
    shown.push(log);
    for secret in [kafka_server::PASSWORD, "a-token-of-the-test"] {
        let told = shown.iter().find(|text| text.contains(secret));
        assert!(told.is_none(), "a secret in log, API, page or metrics: {told:?}");
    }
}

/// A worker that panics in the middle of records: what it prints then is all it knows.
#[test]
fn a_panic_tells_no_secret() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    log_in_over_scram(&mut scene, kafka);
    std::fs::write(scene.folder().join("token"), "a-token-of-the-test").unwrap();
    scene.settings.http.token_file = Some(scene.folder().join("token"));
    scene.produce(0..1, Duration::ZERO);
    let monitor = scene.start_under(std::path::Path::new("env"), &["FAILPOINTS=decode=panic", "RUST_BACKTRACE=full"], &[]);
    let panicked = || monitor.process.printed().contains("failpoint decode panic").then_some(());
    until(Duration::from_secs(60), panicked, || monitor.process.printed());
    let log = monitor.end();
    assert!(!log.contains(kafka_server::PASSWORD) && !log.contains("a-token-of-the-test"), "{log}");
}

#[test]
fn a_wrong_password_is_told_as_such_and_not_printed() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("secured", 1);
    let mut settings = kafka.sasl_settings(&[&topic]);
    settings.librdkafka.insert("sasl.password".into(), "hunter2".into());
    let error = refusal(&settings);
    assert_eq!(error.kind(), "authentication");
    assert!(error.to_string().contains("sasl.password") && !error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn a_broker_of_another_authority_is_told_as_such() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("secured", 1);
    let mut settings = kafka.sasl_settings(&[&topic]);
    settings.librdkafka.insert("ssl.ca.location".into(), kafka.other_authority().to_str().unwrap().into());
    let error = refusal(&settings);
    assert_eq!(error.kind(), "tls");
    assert!(error.to_string().contains("ssl.ca.location"), "{error}");
}

#[test]
fn a_missing_topic_and_a_missing_broker_are_told_apart() {
    let Some(kafka) = kafka_server::shared() else { return };
    let error = refusal(&kafka.settings(&["no-such-topic"]));
    assert!(matches!(&error, KafkaError::UnknownTopic { topic, .. } if topic == "no-such-topic"), "{error}");
    let [port] = kafka_server::free_ports();
    let nobody = KafkaSettings { brokers: format!("127.0.0.1:{port}"), ..kafka.settings(&["views"]) };
    let error = admin::preflight(&nobody, Duration::from_secs(3)).unwrap_err();
    assert_eq!(error.kind(), "unreachable");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn options_are_passed_through_and_ours_are_refused_by_name() {
    let Some(kafka) = kafka_server::shared() else { return };
    let topic = kafka.topic("options", 1);
    let with = |key: &str, value: &str| {
        let mut settings = kafka.settings(&[&topic]);
        settings.librdkafka.insert(key.into(), value.into());
        settings
    };
    assert!(admin::preflight(&with("client.rack", "shelf"), Duration::from_secs(10)).is_ok());
    for (owned, _) in recsae::config::OWNED_OPTIONS {
        let error = admin::preflight(&with(owned, "1"), Duration::from_secs(10)).unwrap_err();
        assert_eq!(error.kind(), "setting");
        assert!(error.to_string().contains(&format!("kafka.librdkafka.{owned}: ")), "{error}");
    }
    let unknown = settings::faults(&with("fetch.max.bites", "1"));
    assert!(unknown.len() == 1 && unknown[0].to_string().contains("fetch.max.bites"), "{unknown:?}");
    let consumer = KafkaSettings { protocol: "consumer".into(), ..with("session.timeout.ms", "6000") };
    assert!(settings::faults(&consumer)[0].to_string().contains("session.timeout.ms"));
}
