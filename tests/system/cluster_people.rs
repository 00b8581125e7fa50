//! What people do on any instance of a cluster is done on all of them, and outlives the judge.

use std::time::{Duration, Instant};

use recsae::clock::{Clock, SystemClock};
use recsae::drift::alert::utc_text;
use recsae::store::StoreReader;
use serde_json::{Value, json};

use crate::background::until;
use crate::kafka_server;
use crate::scene::Monitor;
use crate::together::{TOKEN, assert_as_alone, end_together, judge_of, member, scene, topics, wait_until_judged};

/// Windows that are sent at a time.
const AT_A_TIME: u64 = 4;
/// By then two alerts fire in every world: its day is a swing that the reference does not know.
const AT_MOST: u64 = 40;

fn firing(monitor: &Monitor) -> Vec<u64> {
    let alerts = monitor.api("alerts").unwrap_or_default();
    let firing = alerts.as_array().into_iter().flatten().filter(|alert| alert["state"] == "firing");
    firing.filter_map(|alert| alert["id"].as_u64()).collect()
}

#[test]
fn what_people_do_on_any_instance_is_done_on_all_and_outlives_the_judge() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = scene(kafka, 4) else { return };
    // The group of the broker's own protocol: it assigns, and its sessions end where it says.
    scene.settings.kafka.protocol = "consumer".into();
    let (topics, began) = (topics(kafka), Instant::now());
    let settings = ["a", "b"].map(|name| member(&scene, &topics, name));
    let alone = scene.start_beside(&scene.settings);
    let mut running: Vec<Monitor> = settings.iter().map(|settings| scene.start_beside(settings)).collect();
    let mut sent = 0;
    let mut send = |all: &[&Monitor]| {
        scene.produce(sent..sent + AT_A_TIME, Duration::ZERO);
        sent += AT_A_TIME;
        all.iter().for_each(|monitor| wait_until_judged(&scene, monitor, i64::try_from(sent).unwrap() - 2));
        sent
    };
    while firing(&alone).len() < 2 {
        let sent = send(&[&alone, &running[0], &running[1]]);
        assert!(sent < AT_MOST, "{:#?}", alone.api("alerts"));
    }

    let judge = judge_of(&running);
    let follower = 1 - judge;
    let [accepted, muted] = firing(&alone)[..2] else { unreachable!("there are two") };
    let end = utc_text(SystemClock.now_ms() + 86_400_000);
    let acts: [(usize, String, Value); 4] = [
        (follower, format!("alerts/{accepted}/accept"), json!({"who": "ann", "why": "the new catalogue"})),
        (judge, format!("alerts/{muted}/mute"), json!({"who": "bob", "why": "a known campaign", "until": end})),
        (follower, "references".into(), json!({"name": "calm"})),
        (judge, "references/calm/approve".into(), json!({"who": "eve", "why": "a good week"})),
    ];
    for (on, path, body) in &acts {
        let answers = [&running[*on], &alone].map(|monitor| monitor.post(path, body, TOKEN));
        assert!(answers.iter().all(Option::is_some), "{path}: {answers:?}\n{}", running[*on].process.printed());
    }
    for (monitor, settings) in running.iter().zip(&settings) {
        let is_done = || {
            let alerts = monitor.api("alerts")?.to_string();
            let references = StoreReader::open(&settings.store.path).ok()?.references().ok()?;
            let is_approved = references.iter().any(|entry| entry.name == "calm" && entry.approval.is_some());
            (is_approved && ["the new catalogue", "a known campaign"].iter().all(|why| alerts.contains(why))).then_some(())
        };
        until(Duration::from_secs(10), is_done, || format!("{:#?}\n{}", monitor.api("alerts"), monitor.process.printed()));
    }

    // The mute is the judge's to show, whoever judges; the level that was accepted is judged by.
    let shows_mute =
        |monitor: &Monitor| monitor.metrics_text().is_some_and(|text| text.contains("\nrecsae_concept_muted_until_timestamp_seconds{"));
    assert_eq!((shows_mute(&running[judge]), shows_mute(&running[follower])), (true, false));
    let died = Instant::now();
    running[judge].process.signal("KILL");
    send(&[&alone, &running[follower]]);
    println!("judged on {:.1?} after the judge was killed", died.elapsed());
    assert!(running[follower].metric("recsae_judging") == Some(1.0) && shows_mute(&running[follower]));
    running[judge] = scene.start_beside(&settings[judge]);
    send(&[&alone, &running[0], &running[1]]);
    for monitor in &running {
        assert_eq!(["recsae_unequal_parts_total", "recsae_diverged"].map(|metric| monitor.metric(metric)), [Some(0.0); 2]);
    }
    println!("{:.1?}", began.elapsed());
    alone.end();
    let members: Vec<_> = settings.iter().map(|settings| settings.store.path.as_path()).zip(end_together(running)).collect();
    assert_as_alone(&scene.settings.store.path, &members);
}
