//! Several instances in one consumer group judge as one: what they find is what one undisturbed instance finds, byte for
//! byte, whoever is killed.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::background::until;
use crate::cluster_picture::assert_same_picture;
use crate::kafka_server;
use crate::scene::Monitor;
use crate::together::{TOKEN, assert_as_alone, end_together, judge_of, member, newest, scene, topics, wait_until_judged};

/// Windows of the world that are sent.
const WINDOWS: u64 = 24;
/// The last that is closed by the records of another.
const LAST: i64 = 22;
/// Windows that are sent once there is one instance again.
const AT_THE_END: u64 = 2;

#[test]
fn two_instances_of_which_one_is_killed_find_what_one_alone_finds() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = scene(kafka, 4) else { return };
    let alone = scene.start_beside(&scene.settings);
    let topics = topics(kafka);
    let [first, second] = ["first", "second"].map(|name| member(&scene, &topics, name));
    let began = Instant::now();
    let (killed, other) = (scene.start_beside(&first), scene.start_beside(&second));
    std::thread::scope(|scope| {
        scope.spawn(|| scene.produce(0..WINDOWS, Duration::from_millis(20)));
        wait_until_judged(&scene, &killed, 5);
        killed.process.signal("KILL");
        println!("killed after {:.1?} at window {:?}", began.elapsed(), newest(&scene, &other));
    });
    wait_until_judged(&scene, &other, LAST);
    wait_until_judged(&scene, &alone, LAST);
    let back = scene.start_beside(&first);
    wait_until_judged(&scene, &back, LAST);
    println!("{:.1?}", began.elapsed());
    assert_eq!(["recsae_unequal_parts_total", "recsae_diverged"].map(|metric| other.metric(metric)), [Some(0.0); 2]);
    alone.end();
    let members: Vec<(&Path, String)> =
        [&first, &second].map(|settings| settings.store.path.as_path()).into_iter().zip(end_together([back, other])).collect();
    assert!(assert_as_alone(&scene.settings.store.path, &members) > 0, "nothing was found");
}

#[test]
fn from_one_to_four_and_back_while_judges_die_nothing_is_judged_twice_and_what_people_did_stays() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = scene(kafka, 12) else { return };
    let (topics, began) = (topics(kafka), Instant::now());
    let settings = ["a", "b", "c", "d"].map(|name| member(&scene, &topics, name));
    let alone = scene.start_beside(&scene.settings);
    let mut running: Vec<Monitor> = vec![scene.start_beside(&settings[0])];
    let mut slowest = Duration::ZERO;
    let before_the_end = LAST - i64::try_from(AT_THE_END).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| scene.produce(0..WINDOWS - AT_THE_END, Duration::from_millis(60)));
        wait_until_judged(&scene, &running[0], 1);
        running.extend(settings[1..].iter().map(|settings| scene.start_beside(settings)));
        for round in 0..5 {
            let judge = judge_of(&running);
            let died = Instant::now();
            // One is frozen for longer than its session, and wakes as what it was.
            let order = if round == 2 { "STOP" } else { "KILL" };
            running[judge].process.signal(order);
            let next = until(
                Duration::from_secs(40),
                || (0..running.len()).find(|at| *at != judge && running[*at].metric("recsae_judging") == Some(1.0)),
                || running.iter().map(|monitor| monitor.process.printed()).collect(),
            );
            slowest = slowest.max(died.elapsed());
            println!("{order}: from {judge} to {next} after {:.1?}, window {:?}", died.elapsed(), newest(&scene, &running[next]));
            if round == 2 {
                running[judge].process.signal("CONT");
            } else {
                running[judge] = scene.start_beside(&settings[judge]);
            }
            // Who judges now does.
            let judged = newest(&scene, &running[next]).unwrap_or(0);
            wait_until_judged(&scene, &running[next], (judged + 1).min(before_the_end));
        }
    });
    running.iter().for_each(|monitor| wait_until_judged(&scene, monitor, before_the_end));
    wait_until_judged(&scene, &alone, before_the_end);
    println!("all judged after {:.1?}, the slowest change of the judge took {slowest:.1?}", began.elapsed());
    assert!(slowest <= Duration::from_secs(30));

    let judge = judge_of(&running);
    let follower = (judge + 1) % running.len();
    let body = serde_json::json!({"who": "ann", "why": "a known campaign"});
    let answer = running[follower].post("alerts/1/acknowledge", &body, TOKEN).unwrap();
    assert_eq!(answer["actions"][0]["who"], "ann", "{answer}");
    for monitor in &running {
        let seen = || monitor.api("alerts").filter(|alerts| alerts.to_string().contains("a known campaign")).map(drop);
        until(Duration::from_secs(10), seen, || monitor.process.printed());
        assert_eq!(["recsae_unequal_parts_total", "recsae_diverged"].map(|metric| monitor.metric(metric)), [Some(0.0); 2]);
    }
    let answer = alone.post("alerts/1/acknowledge", &body, TOKEN).unwrap();
    assert_eq!(answer["actions"][0]["who"], "ann");

    let texts: Vec<String> = running.iter().filter_map(Monitor::metrics_text).collect();
    let exporting = texts.iter().filter(|text| text.contains("\nrecsae_concept_state{")).count();
    assert_eq!((texts.len(), exporting), (4, 1), "drift series come from the judge alone");
    assert_same_picture(&running[judge], &running[follower]);

    // Back to one, which reads what four have read; the others come back later, to a record that went on.
    let one = running.remove(follower);
    running.into_iter().for_each(|monitor| drop(monitor.end()));
    scene.produce(WINDOWS - AT_THE_END..WINDOWS, Duration::ZERO);
    wait_until_judged(&scene, &one, LAST);
    wait_until_judged(&scene, &alone, LAST);
    let mut one = Some(one);
    let members = (0..settings.len()).map(|at| if at == follower { one.take().unwrap() } else { scene.start_beside(&settings[at]) });
    let running: Vec<Monitor> = members.collect();
    running.iter().for_each(|monitor| wait_until_judged(&scene, monitor, LAST));
    alone.end();
    let members: Vec<(&Path, String)> = settings.iter().map(|settings| settings.store.path.as_path()).zip(end_together(running)).collect();
    assert!(assert_as_alone(&scene.settings.store.path, &members) > 0, "nothing was found");
}
