//! Books that balance on Apache Kafka: under load with poison, and over ends in mid-flow.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use recsae::kafka::scan::scan;

use crate::background::until;
use crate::kafka_server::{self, unique};
use crate::scene::{POISON, Scene, WINDOWS};

#[test]
fn consumed_is_encoded_plus_rejected_in_a_hundred_scrapes_under_load_with_poison() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = Scene::new(kafka, "") else { return };
    let monitor = scene.start(&[]);
    until(Duration::from_secs(60), || monitor.scrape(), || monitor.process.printed());
    let (mut scrapes, mut advances, mut last) = (0, 0, 0);
    std::thread::scope(|scope| {
        let feed = scope.spawn(|| scene.produce(0..WINDOWS, Duration::from_millis(15)));
        while scrapes < 100 || !feed.is_finished() {
            let scrape = monitor.scrape().unwrap();
            assert_eq!(scrape.consumed, scrape.encoded + scrape.n_rejected(), "scrape {scrapes}: {scrape:?}");
            advances += usize::from(scrape.consumed > last);
            last = scrape.consumed;
            scrapes += 1;
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    println!("{scrapes} scrapes, {advances} while records came");
    assert!(advances >= 20, "the scrapes were not under load");
    let end = monitor.wait_for(scene.sent());
    assert_eq!(
        (end.consumed, end.encoded, end.n_rejected()),
        (scene.sent(), scene.good.load(Ordering::SeqCst), scene.poison.load(Ordering::SeqCst))
    );
    assert!(POISON.iter().all(|reason| end.rejected.get(*reason).is_some_and(|n| *n > 0)), "{end:?}");
    let advanced = || monitor.positions().filter(|sum| *sum == end.consumed);
    until(Duration::from_secs(20), advanced, || format!("offsets advanced by {:?}, consumed {}", monitor.positions(), end.consumed));
    let log = monitor.end();
    assert!(log.contains("worker drained"), "{log}");

    let mut letters = 0;
    scan(&scene.settings.kafka, &scene.settings.kafka.dead_letter_topic, Duration::from_secs(20), |_| letters += 1).unwrap();
    assert_eq!(letters, scene.poison.load(Ordering::SeqCst), "each dead letter once where nothing was killed");
}

#[test]
fn ended_in_mid_flow_and_started_again_every_record_is_counted_once() {
    let Some(kafka) = kafka_server::shared() else { return };
    // A stable name: the members come back to their partitions without waiting for a session to end.
    let Some(scene) = Scene::new(kafka, &unique("pod")) else { return };
    std::thread::scope(|scope| {
        let feed = scope.spawn(|| scene.produce(0..WINDOWS, Duration::from_millis(15)));
        for ends in 1..=3 {
            let monitor = scene.start(&[]);
            monitor.wait_for(300);
            let asked = Instant::now();
            let log = monitor.end();
            println!("end {ends}: {:?}, feed finished {}", asked.elapsed(), feed.is_finished());
            assert!(asked.elapsed() < Duration::from_secs(10), "drain within 10 s");
            assert!(log.contains("worker drained: everything counted is stored and committed"), "{log}");
        }
    });
    let last = scene.start(&["--until-end"]);
    let ended = || last.process.printed().contains("windows judged").then_some(());
    until(Duration::from_secs(90), ended, || last.process.printed());
    let log = last.end();
    let (records, rejected) = scene.judged();
    assert_eq!(records, scene.good.load(Ordering::SeqCst), "lost or counted twice; {log}");
    assert_eq!(rejected, scene.poison.load(Ordering::SeqCst));
}
