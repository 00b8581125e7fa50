//! Instances of a cluster under stable names (`kafka.instance_id`): one that is killed and comes back within its session has
//! its partitions again and nobody else moved; one that stays away longer is replaced, and is taken in again.

use std::time::{Duration, Instant};

use recsae::fault::RELEASED;

use crate::background::until;
use crate::kafka_server::{self, unique};
use crate::scene::Monitor;
use crate::together::{assert_as_alone, end_together, judge_of, member, scene, topics, wait_until_judged};

const PARTITIONS: i32 = 4;
const WINDOWS: u64 = 16;

fn assigned(monitor: &Monitor) -> f64 {
    monitor.metric("recsae_assigned_partitions").unwrap_or(0.0)
}

/// Waits until each of them has so many partitions; how long that took.
fn wait_for_partitions(running: &[&Monitor], each: f64) -> Duration {
    let began = Instant::now();
    let look = || running.iter().all(|monitor| assigned(monitor) == each).then_some(());
    let printed = || running.iter().map(|monitor| format!("{}\n{}", assigned(monitor), monitor.process.printed())).collect();
    until(Duration::from_secs(40), look, printed);
    began.elapsed()
}

#[test]
fn who_is_killed_and_returns_under_its_name_has_its_partitions_again_and_the_record_is_that_of_one_alone() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = scene(kafka, PARTITIONS) else { return };
    let (topics, began) = (topics(kafka), Instant::now());
    let settings = ["a", "b"].map(|name| {
        let mut settings = member(&scene, &topics, name);
        settings.kafka.instance_id = unique(name);
        settings
    });
    let alone = scene.start_beside(&scene.settings);
    let mut running = settings.each_ref().map(|settings| scene.start_beside(settings));
    let half = f64::from(PARTITIONS) / 2.0;
    wait_for_partitions(&running.each_ref(), half);
    std::thread::scope(|scope| {
        scope.spawn(|| scene.produce(0..WINDOWS, Duration::from_millis(60)));
        wait_until_judged(&scene, &running[0], 1);
        let judge = judge_of(&running);
        let other = 1 - judge;
        let moved = running[other].metric("recsae_rebalances_total");
        running[judge].process.signal("KILL");
        running[judge] = scene.start_beside(&settings[judge]);
        let took = wait_for_partitions(&running.each_ref(), half);
        println!("{:.1?}: the judge was killed, and has its partitions again {took:.1?} after it listens", began.elapsed());
        assert_eq!(running[other].metric("recsae_rebalances_total"), moved, "nobody else had to move");

        // Away for longer than its session.
        running[other].process.signal("KILL");
        let took = wait_for_partitions(&[&running[judge]], f64::from(PARTITIONS));
        println!("{:.1?}: the other was killed, all partitions are here after {took:.1?}", began.elapsed());
        running[other] = scene.start_beside(&settings[other]);
        let took = wait_for_partitions(&running.each_ref(), half);
        println!("{:.1?}: it came back, and has its share after {took:.1?}", began.elapsed());

        // Both, and at once: the broker hands each what it had.
        running.iter().for_each(|monitor| monitor.process.signal("KILL"));
        running = settings.each_ref().map(|settings| scene.start_beside(settings));
        let took = wait_for_partitions(&running.each_ref(), half);
        println!("{:.1?}: both were killed, and have theirs again {took:.1?} after they listen", began.elapsed());
    });
    let last = i64::try_from(WINDOWS).unwrap() - 2;
    running.iter().chain([&alone]).for_each(|monitor| wait_until_judged(&scene, monitor, last));
    for monitor in &running {
        assert_eq!(["recsae_unequal_parts_total", "recsae_diverged"].map(|metric| monitor.metric(metric)), [Some(0.0); 2]);
    }
    println!("{:.1?}: all judged", began.elapsed());
    alone.end();
    let members: Vec<_> = settings.iter().map(|settings| settings.store.path.as_path()).zip(end_together(running)).collect();
    assert_as_alone(&scene.settings.store.path, &members);
}

/// A rebalance takes two rounds; killed between them and back under its name, an instance has what it kept, and what it gave
/// up is nobody's, for ever: nobody begins the second round.
#[test]
fn partitions_that_a_kill_between_two_rounds_left_to_nobody_are_told_and_given_anew() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = scene(kafka, PARTITIONS) else { return };
    let (topics, all) = (topics(kafka), f64::from(PARTITIONS));
    let settings = ["a", "b"].map(|name| {
        let mut settings = member(&scene, &topics, name);
        settings.kafka.instance_id = unique(name);
        settings.kafka.workers = 1;
        settings
    });
    let killed = scene.start_armed(&settings[0], &format!("{RELEASED}=return"));
    wait_for_partitions(&[&killed], all);
    let comes = scene.start_beside(&settings[1]);
    until(Duration::from_secs(40), || killed.metrics_text().is_none().then_some(()), || killed.process.printed());
    let running = [scene.start_beside(&settings[0]), comes];
    let began = Instant::now();
    let nobodys = |monitor: &Monitor| {
        let why = monitor.api("status")?["not_ready"]["group"].as_str()?.to_owned();
        why.contains("read by no instance").then_some(why)
    };
    let printed = || running.iter().map(|monitor| format!("{}\n{}", assigned(monitor), monitor.process.printed())).collect();
    let why = until(Duration::from_secs(40), || running.iter().find_map(nobodys), printed);
    println!("told after {:.1?}: {why}", began.elapsed());
    let took = wait_for_partitions(&running.each_ref(), all / 2.0);
    println!("each has its share {took:.1?} after it was told");
    scene.produce(0..3, Duration::ZERO);
    running.iter().for_each(|monitor| wait_until_judged(&scene, monitor, 1));
    let is_ready = |monitor: &Monitor| monitor.api("status").is_some_and(|status| status["ready"] == true);
    until(Duration::from_secs(20), || running.iter().all(is_ready).then_some(()), || format!("{:#?}", running[0].api("status")));
}
