//! An alert of a cluster reaches a person once: Prometheus scrapes every instance, the judge is killed again and again, and
//! all are started anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::background::until;
use crate::kafka_server;
use crate::observers::{Observers, drift_at_once};
use crate::scene::Monitor;
use crate::together::{judge_of, member, scene, topics, wait_until_judged};

/// Windows before the first judge dies.
const WINDOWS: u64 = 18;
/// By then a drift is found in every world: its day is a swing that the reference does not know.
const AT_MOST: u64 = 40;
const KILLS: u64 = 5;
/// Scrapes of every instance after all were started anew: Alertmanager tells what changed every 2 s here.
const SCRAPES: f64 = 10.0;

/// Model, segment and stream of an alert, and what is said of it.
fn labelled(alert: &Value) -> (String, String, String) {
    let of = |name: &str| alert[name].as_str().unwrap_or_default().to_owned();
    (of("model_version"), of("segment"), of("stream"))
}

/// How often each drift was told as firing, and as over.
fn told(observers: &Observers) -> BTreeMap<(String, String, String), [usize; 2]> {
    let mut told: BTreeMap<_, [usize; 2]> = BTreeMap::new();
    for alert in observers.webhook.alerts().iter().filter(|alert| alert["labels"]["alertname"] == "RecsaeConceptDrift") {
        told.entry(labelled(&alert["labels"])).or_default()[usize::from(alert["status"] == "resolved")] += 1;
    }
    told
}

/// Drifts that fire and are told by themselves.
fn firing(monitor: &Monitor) -> Vec<(String, String, String)> {
    let alerts = monitor.api("alerts").unwrap_or_default();
    let alone = |alert: &&Value| alert["state"] == "firing" && alert["part_of"].is_null();
    alerts.as_array().into_iter().flatten().filter(alone).map(labelled).collect()
}

#[test]
fn an_alert_is_told_once_though_judges_die_and_all_are_started_anew() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(scene) = scene(kafka, 4) else { return };
    let (topics, began) = (topics(kafka), Instant::now());
    let settings = ["a", "b"].map(|name| member(&scene, &topics, name));
    let mut running: Vec<Monitor> = settings.iter().map(|settings| scene.start_beside(settings)).collect();
    let targets: Vec<String> = running.iter().map(|monitor| format!("127.0.0.1:{}", monitor.metrics)).collect();
    let Some(observers) = Observers::start_under(scene.folder(), &targets, drift_at_once) else { return };
    let last = |sent: u64| i64::try_from(sent).unwrap() - 2;
    let mut before_kills = WINDOWS;
    scene.produce(0..WINDOWS, Duration::ZERO);
    running.iter().for_each(|monitor| wait_until_judged(&scene, monitor, last(before_kills)));
    // In some worlds the first drift is found late.
    while firing(&running[0]).is_empty() {
        assert!(before_kills < AT_MOST, "{:#?}", running[0].api("alerts"));
        scene.produce(before_kills..before_kills + 1, Duration::ZERO);
        before_kills += 1;
        running.iter().for_each(|monitor| wait_until_judged(&scene, monitor, last(before_kills)));
    }
    for kill in 0..KILLS {
        let judge = judge_of(&running);
        let died = Instant::now();
        running[judge].process.signal("KILL");
        let sent = before_kills + kill + 1;
        scene.produce(sent - 1..sent, Duration::ZERO);
        wait_until_judged(&scene, &running[1 - judge], last(sent));
        println!("kill {}: judged on after {:.1?}; told {}", kill + 1, died.elapsed(), told(&observers).len());
        running[judge] = scene.start_again(&settings[judge], &running[judge]);
        wait_until_judged(&scene, &running[judge], last(sent));
    }
    let all_told = || {
        let told = told(&observers);
        let fires = firing(&running[0]);
        (!fires.is_empty() && fires.iter().all(|alert| told.contains_key(alert))).then_some(fires.len())
    };
    let n_firing = until(Duration::from_secs(30), all_told, || format!("{:#?}\n{:#?}", firing(&running[0]), told(&observers)));
    let before = told(&observers);

    running.iter().for_each(|monitor| monitor.process.signal("KILL"));
    running = running.iter().zip(&settings).map(|(was, settings)| scene.start_again(settings, was)).collect();
    let sent = before_kills + KILLS + 1;
    scene.produce(sent - 1..sent, Duration::ZERO);
    running.iter().for_each(|monitor| wait_until_judged(&scene, monitor, last(sent)));
    let again = Instant::now();
    let scraped = || {
        let since = again.elapsed().as_secs() + 1;
        let scrapes = observers.query(&format!("min(sum_over_time(up[{since}s]))")).ok()?;
        let n: f64 = scrapes.first()?["value"][1].as_str()?.parse().ok()?;
        (n >= SCRAPES).then_some(())
    };
    until(Duration::from_secs(60), scraped, || format!("{:?}", observers.query("up")));
    let told = told(&observers);
    println!(
        "{n_firing} drifts fire, {} were told, {} of them after all were started anew; {:.1?}",
        told.len(),
        told.len() - before.len(),
        began.elapsed()
    );
    assert!(before.keys().all(|alert| told.contains_key(alert)));
    assert!(told.values().all(|times| *times == [1, 0]), "told once each, and none as over: {told:#?}");
}
