//! What a set-up or a record is refused for, end to end: unknown versions, a topic that is not keyed by the
//! entity, and what `recsae check` says of an Apache Kafka.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use serde_json::Value;

use crate::background::until;
use crate::kafka_server;
use crate::scene::{Monitor, Scene};

/// Sends records of a window of the world; `each` gives payload and partition.
fn send(scene: &Scene, windows: std::ops::Range<u64>, mut each: impl FnMut(usize, &mut Vec<u8>) -> Option<i32>) -> u64 {
    let producer = ReliableProducer::new(&scene.settings.kafka).unwrap();
    let receipts = Arc::new(Receipts::default());
    let (mut payload, mut n) = (Vec::new(), 0);
    for served in windows.flat_map(|window| scene.world.window(window).records) {
        served.write_json(&mut payload).unwrap();
        let partition = each(n, &mut payload);
        let key = served.key();
        let record = Outgoing {
            topic: &scene.settings.kafka.topics[0],
            key: Some(key.as_bytes()),
            payload: Some(&payload),
            partition,
            timestamp_ms: None,
        };
        producer.send(&record, &[], &receipts, Duration::from_secs(30)).unwrap();
        n += 1;
    }
    producer.settle(&receipts, Instant::now() + Duration::from_secs(30)).unwrap();
    n as u64
}

fn window(monitor: &Monitor) -> Value {
    let look = || monitor.api("windows?segment=_all")?.as_array()?.last().cloned();
    until(Duration::from_secs(60), look, || monitor.process.printed())
}

#[test]
fn a_version_that_no_model_reads_is_a_reject_and_the_listed_one_is_counted() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    scene.settings.model[0].version = Some("v1".into());
    let versions = [r#""model_version":"v1","#, r#""model_version":"v2","#, ""];
    let sent = send(&scene, 0..1, |number, payload| {
        payload.splice(1..1, versions[number % 3].bytes());
        None
    });
    let monitor = scene.start(&[]);
    let scrape = monitor.wait_for(sent);
    let unknown = scrape.rejected.get("unknown_model_version").copied().unwrap_or_default();
    assert_eq!((scrape.encoded, unknown), (sent.div_ceil(3), sent - sent.div_ceil(3)), "{scrape:?}");
    monitor.end();
    let dead = &scene.settings.kafka.dead_letter_topic;
    let output = Command::new(env!("CARGO_BIN_EXE_recsae"))
        .args(["dead-letters", "list", "--brokers", &kafka.brokers, "--topic", dead, "--reason", "unknown_model_version", "--json"])
        .output()
        .unwrap();
    let letters: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(letters.len() as u64, unknown);
    assert!(letters.iter().any(|letter| letter["error"].as_str().unwrap().contains("\"v2\"")), "{}", letters[0]);
}

#[test]
fn a_topic_that_is_not_keyed_by_the_entity_gives_no_verdict_and_says_so() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = Scene::new(kafka, "") else { return };
    let sent = send(&scene, 0..3, |number, _| Some(i32::try_from(number % 4).unwrap()));
    let monitor = scene.start(&[]);
    monitor.wait_for(sent);
    let first = window(&monitor);
    assert_eq!(first["verdict"], "entities_split", "{first}");
    assert!(first["why"].as_str().unwrap().contains("key the topic by the entity"), "{first}");
    assert!(monitor.metric("recsae_entities_split_ratio").unwrap() > 0.01);
    monitor.end();
    let (code, printed) = scene.check(&[]);
    assert!(code == 1 && printed.contains("more than one partition"), "{printed}");
}

#[test]
fn check_passes_on_a_sound_broker_and_names_every_fault_of_another() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    send(&scene, 0..1, |_, _| None);
    let (code, printed) = scene.check(&["--sample"]);
    assert!(code == 0 && printed.contains("64 values, entity"), "{printed}");

    let plain = scene.settings.kafka.clone();
    scene.settings.kafka.topics.push("no-such-topic".into());
    let (code, printed) = scene.check(&[]);
    assert!(code == 1 && printed.contains("topic \"no-such-topic\" does not exist"), "{printed}");

    let mut secured = kafka.sasl_settings(&[&plain.topics[0]]);
    let password = scene.folder().join("password");
    std::fs::write(&password, secured.librdkafka.remove("sasl.password").unwrap()).unwrap();
    secured.secret_files.insert("sasl.password".into(), password.clone());
    scene.settings.kafka = recsae::config::settings::KafkaSettings { dead_letter_topic: plain.dead_letter_topic.clone(), ..secured };
    let (code, printed) = scene.check(&[]);
    assert_eq!(code, 0, "{printed}");
    std::fs::write(&password, "hunter2").unwrap();
    let (code, printed) = scene.check(&[]);
    assert!(code == 1 && printed.contains("refused the login") && !printed.contains("hunter2"), "{printed}");
    scene.settings.kafka.librdkafka.insert("ssl.ca.location".into(), kafka.other_authority().to_str().unwrap().into());
    let (code, printed) = scene.check(&[]);
    assert!(code == 1 && printed.contains("no TLS connection"), "{printed}");
}

/// Later the first record that is rejected would stop the program, after every start again.
#[test]
fn a_dead_letter_topic_that_is_not_there_is_refused_at_the_start() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    scene.settings.kafka.dead_letter_topic = crate::kafka_server::unique("never-made");
    let words = format!("kafka.dead_letter_topic: topic {:?} does not exist: create it", scene.settings.kafka.dead_letter_topic);
    let (code, printed) = scene.check(&[]);
    assert!(code == 1 && printed.contains(&words), "{printed}");
    refused_run(&scene, &words);
}

/// `recsae run` with the file that `check` was given says the words once, and begins nothing.
fn refused_run(scene: &Scene, words: &str) {
    let (code, printed) = run(scene);
    assert_eq!(code, Some(2), "{printed}");
    assert_eq!(printed.lines().filter(|line| line.contains(words)).count(), 1, "{printed}");
    assert!(!scene.settings.store.path.exists(), "nothing was begun");
}

/// Exit code and standard error of `recsae run` with the file that `check` was given.
fn run(scene: &Scene) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.args(["run", "-c"]).arg(scene.folder().join("recsae.toml")).env("ORT_DYLIB_PATH", &scene.library);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Each reject would be read as a record and written there again, for ever.
#[test]
fn a_pattern_that_matches_the_dead_letter_topic_is_refused_at_the_start() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    scene.settings.kafka.topics = vec!["^pipeline-".into()];
    let words = "expected a pattern that does not match the dead-letter topic, found \"^pipeline-\"";
    let (code, printed) = scene.check(&["--offline"]);
    assert!(code == 1 && printed.contains(words), "{printed}");
    refused_run(&scene, words);
}

/// `[\-a]` is a hyphen and a letter as we read it, and to POSIX all from the backslash to the letter, `_` among them:
/// what the group assigns is what counts.
#[test]
fn a_dead_letter_topic_that_only_the_group_finds_in_a_pattern_is_never_read() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    let stem = kafka_server::unique("dialect");
    let dead = format!("{stem}_dead");
    kafka.create(&dead, 1);
    scene.settings.kafka.dead_letter_topic.clone_from(&dead);
    let bad = send(&scene, 0..1, |_, payload| {
        payload.truncate(10);
        None
    });
    assert!(bad > 0);
    scene.settings.kafka.topics.push(format!(r"^{stem}[\-a]dead$"));
    let (code, printed) = scene.check(&[]);
    assert_eq!(code, 0, "the two dialects differ: {printed}");
    let (code, printed) = run(&scene);
    assert_eq!(code, Some(2), "{printed}");
    let last = printed.lines().last().unwrap();
    assert!(last.contains("recsae: kafka.topics: expected patterns that do not match the dead-letter topic"), "{printed}");
    assert!(last.contains(&dead), "{printed}");
    let [(_, end)] = kafka.ends(&dead, 1)[..] else { panic!("one partition") };
    assert!(u64::try_from(end).unwrap() <= bad, "{end} dead letters of {bad} records");
}

/// A window has one row for a label: of two models of one label nothing was ever judged.
#[test]
fn two_models_of_one_label_are_refused_at_the_start() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    let again = recsae::config::settings::ModelSettings { version: Some("default".into()), ..scene.settings.model[0].clone() };
    scene.settings.model.push(again);
    let words = "model: expected labels that differ, found \"default\" twice: model[0] without a version by its bundle ";
    let (code, printed) = scene.check(&["--offline"]);
    assert!(code == 1 && printed.contains(words), "{printed}");
    refused_run(&scene, words);
}

/// At the stored position the new log has another record: read on there, the first ones would never be counted, and what
/// is read again would go into windows of the old log.
#[test]
fn a_topic_made_anew_under_its_name_is_not_read_on_however_long_it_is() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    scene.settings.kafka.librdkafka.insert("topic.metadata.refresh.interval.ms".into(), "1000".into());
    let topic = scene.settings.kafka.topics[0].clone();
    let sent = send(&scene, 0..2, |_, _| None);
    let monitor = scene.start(&[]);
    monitor.wait_for(sent);
    monitor.end();
    let (before, store) = (kafka.ends(&topic, 4), scene.settings.store.path.clone());
    let positions = || recsae::store::StoreReader::open(&store).unwrap().positions().unwrap();
    let stored = positions();

    kafka.make_anew(&topic, 4);
    send(&scene, 2..6, |_, _| None);
    assert!(kafka.ends(&topic, 4).iter().zip(&before).all(|(new, old)| new.1 > old.1), "longer in each partition");
    let (code, printed) = run(&scene);
    assert_eq!(code, Some(2), "{printed}");
    let last = printed.lines().last().unwrap();
    assert!(last.contains("the topic was made anew or this is another cluster; use another [store] path"), "{printed}");
    assert_eq!(positions(), stored, "nothing of the new log is counted as if it were the old one");

    // As it asks: another store counts the new log from its start.
    scene.settings.store.path = scene.folder().join("another.db");
    let monitor = scene.start(&[]);
    let new: i64 = kafka.ends(&topic, 4).iter().map(|(_, end)| end).sum();
    let scrape = monitor.wait_for(new.unsigned_abs());
    assert_eq!(scrape.consumed, new.unsigned_abs());
    monitor.end();
}

#[test]
fn a_topic_made_anew_under_a_running_program_is_not_read_on_however_long_it_is() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = Scene::new(kafka, "") else { return };
    let topic = scene.settings.kafka.topics[0].clone();
    let sent = send(&scene, 0..2, |_, _| None);
    let monitor = scene.start(&[]);
    monitor.wait_for(sent);
    let before = kafka.ends(&topic, 4);

    // It looks away meanwhile, so that the new log holds its positions when it asks for the next records.
    monitor.process.signal("STOP");
    kafka.make_anew(&topic, 4);
    send(&scene, 2..8, |_, _| None);
    monitor.process.signal("CONT");
    assert!(kafka.ends(&topic, 4).iter().zip(&before).all(|(new, old)| new.1 > old.1), "longer in each partition");
    let told = || Some(monitor.process.printed()).filter(|printed| printed.contains("made anew"));
    until(Duration::from_secs(30), told, || monitor.process.printed());
    let printed = monitor.end();
    println!("{}", printed.lines().last().unwrap_or_default());
    assert!(printed.lines().last().unwrap().contains("made anew"), "{printed}");
    let (code, printed) = run(&scene);
    assert!(code == Some(2) && printed.lines().last().unwrap().contains("has the id"), "{code:?} {printed}");
}
