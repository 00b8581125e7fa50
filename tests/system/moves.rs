//! Partitions that move between live workers of one process: another member of the group comes and goes
//! while records come, and every record is counted once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use recsae::kafka::consumer::{ReadOptions, WorkerConsumer};
use recsae::kafka::rebalance::RebalanceEvent;

use crate::background::until;
use crate::kafka_server;
use crate::scene::{Scene, WINDOWS};

/// A member that takes its share of the partitions, reads nothing of worth and commits nothing, for `stay` after
/// its first assignment with a partition in it.
fn stranger(scene: &Scene, stay: Duration) -> usize {
    let options = ReadOptions { batch: 1, linger: Duration::from_millis(5), headers: false };
    let mut consumer = WorkerConsumer::new(&scene.settings.kafka, 7, options).unwrap();
    let (mut most, mut held, mut since) = (0, 0, None);
    let deadline = Instant::now() + Duration::from_secs(40);
    while since.is_none_or(|since: Instant| since.elapsed() < stay) && Instant::now() < deadline {
        let outcome = consumer.poll(Duration::from_millis(20), |_| ()).unwrap();
        for event in outcome.rebalances {
            match event {
                RebalanceEvent::Assigned(list) => {
                    // At the end: what it would read is not the point.
                    consumer.start(&list.iter().map(|p| (p.partition.clone(), p.high)).collect::<Vec<_>>()).unwrap();
                    held += list.len();
                }
                RebalanceEvent::Revoked { partitions, .. } => {
                    consumer.release(&partitions).unwrap();
                    held -= partitions.len();
                }
            }
        }
        most = most.max(held);
        if held > 0 && since.is_none() {
            since = Some(Instant::now());
        }
    }
    consumer.close();
    most
}

fn counted_once_with(strategy: &str) {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    if !strategy.is_empty() {
        scene.settings.kafka.librdkafka.insert("partition.assignment.strategy".into(), strategy.into());
    }
    let monitor = scene.start(&[]);
    monitor.wait_for(0);
    let fed = AtomicBool::new(false);
    let (mut taken, mut visits) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            scene.produce(0..WINDOWS, Duration::from_millis(40));
            fed.store(true, Ordering::SeqCst);
        });
        while visits < 3 || !fed.load(Ordering::SeqCst) {
            taken += stranger(&scene, Duration::from_millis(700));
            visits += 1;
        }
    });
    println!("{visits} visits took {taken} partitions");
    assert!(taken >= 3, "the stranger got no partition");
    // What the stranger held is read by its next owner; a record read twice is a replay, not a count.
    let everywhere = || monitor.positions().filter(|sum| *sum == scene.sent());
    until(Duration::from_secs(60), everywhere, || format!("{:?} of {}\n{}", monitor.positions(), scene.sent(), monitor.process.printed()));
    let rebalances = monitor.metric("recsae_rebalances_total").unwrap();
    println!("{rebalances} assignments and revocations");
    let log = monitor.end();
    assert!(log.contains("worker drained"), "{log}");

    let last = scene.start(&["--until-end"]);
    let ended = || last.process.printed().contains("windows judged").then_some(());
    until(Duration::from_secs(90), ended, || last.process.printed());
    let log = last.end();
    let (records, rejected) = scene.judged();
    assert_eq!(records, scene.good.load(Ordering::SeqCst), "lost or counted twice; {log}");
    assert_eq!(rejected, scene.poison.load(Ordering::SeqCst));
}

#[test]
fn partitions_move_between_live_workers_by_and_by_and_every_record_is_counted_once() {
    counted_once_with("");
}

#[test]
fn partitions_move_between_live_workers_all_at_once_and_every_record_is_counted_once() {
    counted_once_with("roundrobin");
}
