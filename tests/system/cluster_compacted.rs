//! A cluster whose topics the broker has compacted for real: who was away and who is new come right from what is left, or say
//! what is missing.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use recsae::config::settings::Settings;
use recsae::kafka::scan::scan;
use recsae::store::StoreReader;

use crate::background::until;
use crate::kafka_server::{self, Kafka};
use crate::scene::{Monitor, Scene};
use crate::together::{assert_as_alone, backup, end_together, judge_of, member, remove, scene, topics, wait_until_judged};

/// Segments of half a second, of which all but the newest are cleaned once they are a second old.
const COMPACTED: [(&str, &str); 4] =
    [("cleanup.policy", "compact"), ("segment.ms", "500"), ("min.cleanable.dirty.ratio", "0.01"), ("max.compaction.lag.ms", "1000")];
const KEPT: [(&str, &str); 3] = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("segment.ms", "500")];
/// Longest until a segment was rolled and cleaned.
const CLEANED: Duration = Duration::from_secs(60);

const PARTITIONS: i32 = 12;
/// Windows that are sent until one goes away, until it comes back, and in all.
const BEFORE: u64 = 8;
const AWAY: u64 = 14;
const WINDOWS: u64 = 19;

fn last(sent: u64) -> i64 {
    i64::try_from(sent).unwrap() - 2
}

fn assigned(monitor: &Monitor) -> f64 {
    monitor.metric("recsae_assigned_partitions").unwrap_or(0.0)
}

/// Records that lie in a topic of `partitions` partitions from those offsets on, and how many were written there.
fn left(kafka: &Kafka, settings: &Settings, topic: &str, from: &[i64]) -> (i64, i64) {
    let mut n = 0;
    let count = |partition: i32, offset: i64| i64::from(offset >= from[usize::try_from(partition).unwrap()]);
    scan(&settings.kafka, topic, Duration::from_secs(20), |message| n += count(message.partition.partition, message.offset)).unwrap();
    let ends = kafka.ends(topic, i32::try_from(from.len()).unwrap());
    (n, ends.iter().zip(from).map(|((_, end), from)| end - from).sum())
}

#[test]
fn three_of_which_one_dies_and_one_is_frozen_and_who_comes_after_real_compaction_find_what_one_alone_finds() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = scene(kafka, PARTITIONS) else { return };
    let (topics, began) = (topics(kafka), Instant::now());
    let windows = topics.1.clone();
    kafka.configure_as(&windows, &COMPACTED);
    let settings = ["a", "b", "away", "new"].map(|name| member(&scene, &topics, name));
    let alone = scene.start_beside(&scene.settings);
    let mut running: Vec<Monitor> = settings[..3].iter().map(|settings| scene.start_beside(settings)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| scene.produce(0..BEFORE, Duration::from_millis(60)));
        wait_until_judged(&scene, &running[2], 1);
        running[0].process.signal("KILL");
        running[1].process.signal("STOP");
        running[0] = scene.start_beside(&settings[0]);
        // For longer than its session: the others have its partitions.
        let taken = || (assigned(&running[0]) + assigned(&running[2]) >= f64::from(PARTITIONS)).then_some(());
        until(Duration::from_secs(40), taken, || running.iter().map(|monitor| monitor.process.printed()).collect());
        running[1].process.signal("CONT");
    });
    running.iter().for_each(|monitor| wait_until_judged(&scene, monitor, last(BEFORE)));
    println!("{:.1?}: one was killed, one frozen", began.elapsed());

    drop(running.pop().unwrap().end());
    let followed = StoreReader::open(&settings[2].store.path).unwrap().followed(&windows).unwrap();
    let read_on_at: Vec<i64> = (0..3).map(|partition| followed.get(&partition).copied().unwrap_or(0)).collect();
    scene.produce(BEFORE..AWAY - 1, Duration::from_millis(20));
    running.iter().for_each(|monitor| wait_until_judged(&scene, monitor, last(AWAY - 1)));
    // Closes the segments before: the broker rolls one when a record comes.
    scene.produce(AWAY - 1..AWAY, Duration::from_millis(20));
    let is_cleaned = || {
        let [all, since] = [&[0; 3], &read_on_at[..]].map(|from| left(kafka, &settings[0], &windows, from));
        (2 * all.0 < all.1 && since.0 < since.1).then_some((all, since))
    };
    let (all, since) = until(CLEANED, is_cleaned, || format!("{:?}", left(kafka, &settings[0], &windows, &read_on_at)));
    println!(
        "{:.1?}: the broker has {} of {} records of the windows topic left, of what the one away has not read {} of {}",
        began.elapsed(),
        all.0,
        all.1,
        since.0,
        since.1
    );

    running.extend(settings[2..].iter().map(|settings| scene.start_beside(settings)));
    scene.produce(AWAY..WINDOWS, Duration::from_millis(20));
    running.iter().chain([&alone]).for_each(|monitor| wait_until_judged(&scene, monitor, last(WINDOWS)));
    for monitor in &running {
        assert_eq!(["recsae_unequal_parts_total", "recsae_diverged"].map(|metric| monitor.metric(metric)), [Some(0.0); 2]);
    }
    println!("{:.1?}: the judge is {}", began.elapsed(), judge_of(&running));
    alone.end();
    let members: Vec<(&Path, String)> = settings.iter().map(|settings| settings.store.path.as_path()).zip(end_together(running)).collect();
    assert_as_alone(&scene.settings.store.path, &members);
}

/// A run that is refused: what it says last. Its store has no history then.
fn refused(scene: &Scene, settings: &Settings, has_history: bool) -> String {
    let config = scene.folder().join("refused.toml");
    std::fs::write(&config, toml::to_string(settings).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    let output = command.args(["run", "-c"]).arg(&config).env("ORT_DYLIB_PATH", &scene.library).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{printed}");
    let head = StoreReader::open(&settings.store.path).unwrap().audit_head().unwrap();
    assert_eq!(!head.is_empty(), has_history, "{printed}");
    printed.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn who_cannot_read_the_whole_record_from_the_topics_any_more_says_so_and_begins_nothing() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = scene(kafka, 4) else { return };
    let topics = topics(kafka);
    let (windows, judge) = (topics.1.clone(), topics.2.clone());
    kafka.configure_as(&judge, &KEPT);
    let settings = ["whole", "new"].map(|name| member(&scene, &topics, name));
    let [whole, new] = &settings;
    let monitor = scene.start_beside(whole);
    for window in 0..5 {
        // An entry a window, each in a segment of its own.
        scene.produce(window..window + 1, Duration::from_millis(20));
        if window > 0 {
            wait_until_judged(&scene, &monitor, last(window + 1));
        }
        std::thread::sleep(Duration::from_millis(600));
    }

    // Parts of windows are gone: it waits, says for what, and is not ready; with the backup it is asked for it is.
    kafka.configure_as(&windows, &[("cleanup.policy", "compact,delete")]);
    (0..).zip(kafka.ends(&windows, 3)).for_each(|(partition, (_, end))| kafka.delete_before(&windows, partition, end));
    let waits = scene.start_beside(new);
    let why = || waits.api("status")?["not_ready"]["cluster"].as_str().filter(|why| why.contains("parts of the window")).map(str::to_owned);
    let why = until(Duration::from_secs(30), why, || waits.process.printed());
    println!("{why}");
    assert!(why.contains("not in the windows topic") && why.contains("backup"), "{why}");
    assert_eq!((waits.metric("recsae_judging"), assigned(&waits)), (Some(0.0), 0.0), "it takes no part");
    drop(waits.end());
    remove(&new.store.path);
    backup(&scene, whole, &new.store.path);
    let comes_right = scene.start_beside(new);
    scene.produce(5..6, Duration::ZERO);
    [&comes_right, &monitor].into_iter().for_each(|monitor| wait_until_judged(&scene, monitor, last(6)));
    drop(end_together([comes_right, monitor]));
    let [head, its] = [whole, new].map(|settings| StoreReader::open(&settings.store.path).unwrap().audit_head().unwrap());
    assert_eq!(head, its);
    remove(&new.store.path);

    // The log is compacted: entries have no keys, and the broker lets go of all it cleans.
    kafka.configure_as(&judge, &COMPACTED);
    let said = refused(&scene, new, false);
    assert!(said.contains("expected cleanup.policy=delete and retention.ms=-1"), "{said}");
    let is_cleaned = || Some(left(kafka, whole, &judge, &[0])).filter(|(n, written)| n < written);
    let (n, written) = until(CLEANED, is_cleaned, || format!("{:?}", left(kafka, whole, &judge, &[0])));
    println!("the broker has {n} of {written} entries of the judge's log left");
    kafka.configure_as(&judge, &KEPT);
    for (settings, has_history) in [(new, false), (whole, true)] {
        let said = refused(&scene, settings, has_history);
        assert!(said.contains("no longer begins with what its cluster was founded on"), "{said}");
    }

    // Nothing is left of it: that is no new cluster.
    let end = kafka.ends(&judge, 1)[0].1;
    kafka.delete_before(&judge, 0, end);
    let said = refused(&scene, new, false);
    println!("{said}");
    assert!(said.contains("no longer begins with what its cluster was founded on"), "{said}");
    assert_eq!(kafka.ends(&judge, 1), [(end, end)], "nothing was founded in it");
}
