//! A broker that takes a third of a second for every answer: nothing stalls, and what is counted is what an undisturbed
//! reading counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use recsae::clock::{Clock, SystemClock};
use recsae::config::settings::Settings;
use recsae::drift::closed::ClosedWindow;
use recsae::kafka::admin;
use recsae::kafka::embedded::EmbeddedBroker;
use recsae::monitor::{self, RunOptions, RunSummary};
use recsae::record::TopicPartition;
use recsae::simulate::feed::Feed;
use recsae::simulate::setup::TOPIC;
use recsae::simulate::world::World;
use recsae::store::reader::WindowQuery;
use recsae::store::{StoreError, StoreReader};
use recsae::task::{Shutdown, TaskGroup};

use crate::explain::{N_PARTITIONS, prepared};
use crate::support;

/// What each answer takes longer: some hundred times what it takes.
const SLOW: Duration = Duration::from_millis(300);
/// Commits are at the log's end again after no longer.
const RECOVERED: Duration = Duration::from_secs(30);

fn run(settings: &Settings, until_end: bool, shutdown: &Shutdown) -> RunSummary {
    let options = RunOptions { until_end, clock: Arc::new(SystemClock), on_open: Box::new(|_| Ok(())) };
    monitor::run(settings, options, &TaskGroup::new(shutdown.clone())).unwrap()
}

fn windows(settings: &Settings) -> Vec<ClosedWindow> {
    let mut windows = Vec::new();
    let keep = |window: ClosedWindow| -> Result<(), StoreError> {
        windows.push(window);
        Ok(())
    };
    StoreReader::open(&settings.store.path).unwrap().for_each_window(&WindowQuery::default(), keep).unwrap();
    windows
}

/// Sum of the group's committed offsets.
fn committed(settings: &Settings) -> i64 {
    let partitions: Vec<TopicPartition> =
        (0..N_PARTITIONS).map(|partition| TopicPartition { topic: Arc::from(TOPIC), partition }).collect();
    let commits = admin::committed(&settings.kafka, &partitions, Duration::from_secs(20)).unwrap();
    commits.iter().map(|(_, commit)| commit.offset).sum()
}

#[test]
fn a_broker_that_answers_slowly_loses_nothing() {
    let Some(library) = support::onnxruntime() else { return };
    let seed = SystemClock.now_ms().unsigned_abs() % 1_000_000;
    println!("seed {seed}");
    let world = World::new(seed, 1_772_409_600_000).unwrap();
    let (folder, broker) = (tempfile::tempdir().unwrap(), EmbeddedBroker::start().unwrap());
    let mut settings = prepared(folder.path(), &broker, &world, &library);
    settings.kafka.group = "slow".into();
    settings.store.checkpoint_every = Duration::from_millis(200);
    let (shutdown, mut feed) = (Shutdown::new(), Feed::new(world, &settings.kafka, TOPIC).unwrap());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&settings, false, &shutdown));
        let fed = scope.spawn(|| {
            (0..2).for_each(|_| feed.send_window().unwrap());
            broker.delay_answers(SLOW).unwrap();
            (0..2).for_each(|_| feed.send_window().unwrap());
            let slowly = Instant::now();
            committed(&settings);
            assert!(slowly.elapsed() >= SLOW, "it is slow");
            broker.delay_answers(Duration::ZERO).unwrap();
            (0..4).for_each(|_| feed.send_window().unwrap());
            let (sent, began) = (i64::try_from(feed.n_records()).unwrap(), Instant::now());
            while committed(&settings) < sent && began.elapsed() < RECOVERED {
                std::thread::yield_now();
            }
            println!("{sent} records, committed to the last {:.1?} after it was slow", began.elapsed());
            assert_eq!(committed(&settings), sent, "not within {RECOVERED:?}");
        });
        // Whatever became of it: the monitor ends before the scope does.
        let fed = fed.join();
        shutdown.trigger();
        running.join().unwrap();
        fed.unwrap();
    });
    run(&settings, true, &Shutdown::new());

    let mut undisturbed = settings.clone();
    undisturbed.kafka.group = "undisturbed".into();
    undisturbed.store.path = folder.path().join("undisturbed.db");
    run(&undisturbed, true, &Shutdown::new());
    let (found, expected) = (windows(&settings), windows(&undisturbed));
    assert!(found.len() >= 8 && found == expected, "{} and {} windows", found.len(), expected.len());
}
