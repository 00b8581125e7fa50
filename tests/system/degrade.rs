//! What fails is said, nothing is acknowledged without being kept, and recovery needs no restart: a full disk, a
//! store that cannot be written, a broker that is away, a reference that is missing.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use recsae::simulate::world::World;

use crate::background::until;
use crate::kafka_server::{self, Kafka};
use crate::reload::name_bundle;
use crate::scene::{Monitor, Scene, build_bundle};
use crate::support;

const NO_PAUSE: Duration = Duration::ZERO;

/// `/readyz`: status and words.
fn ready(monitor: &Monitor) -> Option<(u16, String)> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent.get(format!("http://127.0.0.1:{}/readyz", monitor.metrics)).call().ok()?;
    Some((answer.status().as_u16(), answer.body_mut().read_to_string().ok()?))
}

fn wait_until_ready(monitor: &Monitor) {
    let look = || ready(monitor).filter(|(status, _)| *status == 200);
    until(Duration::from_secs(60), look, || format!("{:?}\n{}", ready(monitor), monitor.process.printed()));
}

fn wait_until_not_ready(monitor: &Monitor, words: &str) -> String {
    // Each part that /readyz names is a series too, so that an alert says which.
    let told = |why: &String| {
        let mut parts = why.lines().filter_map(|line| line.split_once(": ")).map(|(part, _)| part);
        parts.all(|part| monitor.metric(&format!("recsae_not_ready{{part=\"{part}\"}}")) == Some(1.0))
    };
    let look = || {
        let (_, why) = ready(monitor).filter(|(status, why)| *status == 503 && why.contains(words))?;
        Some(why).filter(told)
    };
    until(Duration::from_secs(60), look, || format!("{:?}\n{}", ready(monitor), monitor.process.printed()))
}

/// Runs to the end of the log; what it printed.
fn ended(scene: &Scene) -> String {
    let last = scene.start(&["--until-end"]);
    let ended = || last.process.printed().contains("windows judged").then_some(());
    until(Duration::from_secs(90), ended, || last.process.printed());
    last.end()
}

/// Everything sent is counted once in the end.
fn assert_counted_once(scene: &Scene) {
    let log = ended(scene);
    let good = scene.good.load(Ordering::SeqCst);
    assert_eq!(scene.judged(), (good, scene.poison.load(Ordering::SeqCst)), "{log}");
}

/// What the store holds as next offsets, summed, read beside the monitor.
fn stored(scene: &Scene) -> i64 {
    let reader = recsae::store::StoreReader::open(&scene.settings.store.path).unwrap();
    reader.positions().unwrap().values().map(|position| position.next_offset).sum()
}

/// Breaks the store with `fail`, sends on, and mends it with `mend`: not ready meanwhile, consumption stands, and the
/// same process goes on afterwards.
fn survives(scene: &Scene, monitor: Monitor, fail: impl FnOnce(), mend: impl FnOnce(&Monitor)) {
    scene.produce(0..3, NO_PAUSE);
    monitor.wait_for(scene.sent());
    let all_stored = || (stored(scene).unsigned_abs() == scene.sent()).then_some(());
    until(Duration::from_secs(30), all_stored, || format!("{} of {}", stored(scene), scene.sent()));
    wait_until_ready(&monitor);
    assert_eq!(monitor.metric("recsae_consumer_stalled"), Some(0.0));

    fail();
    let kept = scene.sent();
    scene.produce(3..6, NO_PAUSE);
    let why = wait_until_not_ready(&monitor, "store: ");
    println!("not ready: {why}");
    assert!(monitor.metric("recsae_checkpoint_failures_total").unwrap() > 0.0);
    let stopped_at = monitor.scrape().unwrap().consumed;
    scene.produce(6..9, NO_PAUSE);
    let later = monitor.scrape().unwrap();
    assert!(later.consumed <= stopped_at.max(kept) + 4096 && later.consumed < scene.sent(), "{} of {}", later.consumed, scene.sent());
    assert!(stored(scene).unsigned_abs() < scene.sent(), "nothing is acknowledged without being kept");

    mend(&monitor);
    wait_until_ready(&monitor);
    let end = monitor.wait_for(scene.sent());
    assert_eq!(end.consumed, end.encoded + end.n_rejected());
    let log = monitor.end();
    assert!(log.contains("the store works again") && log.contains("worker drained"), "{log}");
    assert_counted_once(scene);
}

#[test]
fn a_disk_that_is_full_stops_consumption_and_room_on_it_lets_it_go_on() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    let (Some(unshare), Some(mount)) = (support::program("unshare"), support::program("mount")) else { return };
    // A small disk in a namespace of the monitor's own; reached from here through its root.
    let disk = scene.folder().join("disk");
    std::fs::create_dir(&disk).unwrap();
    scene.settings.store.path = disk.join("recsae.db");
    let script = format!("{} -t tmpfs -o size=24m tmpfs {} && exec \"$@\"", mount.display(), disk.display());
    let before = ["-m", "sh", "-c", &script, "sh"];
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        support::skip("a disk of one's own needs root");
        return;
    }
    let monitor = scene.start_under(&unshare, &before, &[]);
    let inside = PathBuf::from(format!("/proc/{}/root{}", monitor.process.pid(), disk.display()));
    let look = || inside.join("recsae.db").exists().then_some(());
    until(Duration::from_secs(60), look, || monitor.process.printed());
    let filler = inside.join("filler");
    scene.produce(0..3, NO_PAUSE);
    monitor.wait_for(scene.sent());
    wait_until_ready(&monitor);
    drop(std::fs::write(&filler, vec![1_u8; 64 << 20]));
    scene.produce(3..6, NO_PAUSE);
    println!("not ready: {}", wait_until_not_ready(&monitor, "full"));
    assert!(monitor.metric("recsae_checkpoint_failures_total").unwrap() > 0.0);
    scene.produce(6..9, NO_PAUSE);
    assert!(monitor.scrape().unwrap().consumed < scene.sent(), "nothing is read while nothing can be stored");
    std::fs::remove_file(&filler).unwrap();
    wait_until_ready(&monitor);
    let end = monitor.wait_for(scene.sent());
    assert_eq!((end.consumed, end.n_rejected()), (scene.sent(), scene.poison.load(Ordering::SeqCst)));
    let log = monitor.end();
    assert!(log.contains("the store works again") && log.contains("worker drained"), "{log}");
}

#[test]
fn a_store_that_another_program_holds_stops_consumption_until_it_lets_go() {
    let Some(kafka) = kafka_server::shared() else { return };
    let (Some(scene), Some(python)) = (Scene::new(kafka, ""), support::python()) else { return };
    let monitor = scene.start(&[]);
    let held = std::cell::RefCell::new(None);
    let let_go = |monitor: &Monitor| {
        // Held until the partitions that have records waiting have stood for a minute.
        let stalled = |n: std::ops::RangeInclusive<f64>| monitor.metric("recsae_consumer_stalled").filter(|stalled| n.contains(stalled));
        println!("stalled: {} of 4", until(Duration::from_secs(120), || stalled(1.0..=4.0), || monitor.process.printed()));
        held.borrow_mut().take().map(|mut child: Child| child.wait());
        until(Duration::from_secs(60), || stalled(0.0..=0.0), || monitor.process.printed());
    };
    survives(&scene, monitor, || drop(held.borrow_mut().replace(hold(&python, &scene))), let_go);
}

/// Another program that has begun to write into the store, until its input ends.
pub(crate) fn hold(python: &Path, scene: &Scene) -> Child {
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None); c.execute('BEGIN IMMEDIATE'); \
                      print('held', flush=True); sys.stdin.read()";
    let mut command = Command::new(python);
    command.args(["-c", script]).arg(&scene.settings.store.path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    child
}

#[test]
fn a_drain_that_cannot_be_done_ends_at_its_deadline_says_so_and_loses_nothing() {
    let Some(kafka) = kafka_server::shared() else { return };
    let (Some(scene), Some(python)) = (Scene::new(kafka, ""), support::python()) else { return };
    let monitor = scene.start(&[]);
    scene.produce(0..3, NO_PAUSE);
    monitor.wait_for(scene.sent());
    let mut other = hold(&python, &scene);
    scene.produce(3..6, NO_PAUSE);
    wait_until_not_ready(&monitor, "store: ");
    let asked = Instant::now();
    let log = monitor.end();
    println!("ended after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(15), "kafka.drain is 5 s");
    assert!(log.contains("worker not drained in time: open windows are read again at the next start"), "{log}");
    other.wait().unwrap();
    assert_counted_once(&scene);
}

#[test]
fn a_broker_that_is_away_makes_not_ready_and_nothing_is_lost_when_it_is_back() {
    let Some(mut kafka) = Kafka::start() else {
        support::skip("no Apache Kafka (make setup)");
        return;
    };
    let Some(scene) = Scene::new(&kafka, "") else { return };
    let monitor = scene.start(&[]);
    scene.produce(0..3, NO_PAUSE);
    monitor.wait_for(scene.sent());
    wait_until_ready(&monitor);
    kafka.order("KILL");
    println!("not ready: {}", wait_until_not_ready(&monitor, "broker: no broker answers"));
    kafka.order("START");
    wait_until_ready(&monitor);
    scene.produce(3..6, NO_PAUSE);
    monitor.wait_for(scene.sent());
    let log = monitor.end();
    assert!(log.contains("worker drained"), "{log}");
    assert_counted_once(&scene);
}

/// A broker that hangs closes nothing: the session that ends is the first that is known of it.
#[test]
fn a_broker_that_hangs_makes_not_ready_when_the_session_ends_and_it_goes_on_by_itself() {
    let Some(mut kafka) = Kafka::start() else {
        support::skip("no Apache Kafka (make setup)");
        return;
    };
    let Some(mut scene) = Scene::new(&kafka, "") else { return };
    scene.settings.kafka.librdkafka.insert("session.timeout.ms".into(), "6000".into());
    let monitor = scene.start(&[]);
    scene.produce(0..3, NO_PAUSE);
    monitor.wait_for(scene.sent());
    wait_until_ready(&monitor);
    kafka.order("STOP");
    println!("not ready: {}", wait_until_not_ready(&monitor, "group: partitions were lost"));
    kafka.order("CONT");
    wait_until_ready(&monitor);
    scene.produce(3..6, NO_PAUSE);
    monitor.wait_for(scene.sent());
    let log = monitor.end();
    assert!(log.contains("worker drained") && !log.contains("\"ERROR\""), "{log}");
    assert_counted_once(&scene);
}

/// A window is judged where one instance reads every partition; a second member of the group takes some away.
#[test]
fn two_instances_of_one_group_both_say_that_no_window_can_be_judged_until_one_has_gone() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    let first = scene.start(&[]);
    scene.produce(0..3, NO_PAUSE);
    first.wait_for(scene.sent());
    wait_until_ready(&first);
    let other = scene.folder().join("second.db");
    let own = std::mem::replace(&mut scene.settings.store.path, other);
    let second = scene.start(&[]);
    println!("the second: {}", wait_until_not_ready(&second, "partitions are not read here"));
    println!("the first: {}", wait_until_not_ready(&first, "partitions are not read here"));
    drop(second.end());
    scene.settings.store.path = own;
    wait_until_ready(&first);
    scene.produce(3..6, NO_PAUSE);
    let all = || first.positions().filter(|positions| *positions == scene.sent());
    until(Duration::from_secs(60), all, || first.process.printed());
    drop(first.end());
    assert_counted_once(&scene);
}

/// `_all` of each window a store has judged: start, records, and whether it has no verdict for what is missing.
fn judged_windows(store: &Path) -> Vec<(i64, i64, bool)> {
    let reader = recsae::store::StoreReader::open(store).unwrap();
    let query = recsae::store::reader::WindowQuery { segment: Some("_all".into()), limit: Some(1000), ..Default::default() };
    let windows = reader.summaries(&query).unwrap();
    windows.iter().map(|window| (window.window_start, window.records, window.verdict == "incomplete")).collect()
}

#[test]
fn what_another_instance_has_counted_is_missing_here_and_said_and_never_judged() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    let own = scene.settings.store.path.clone();
    let other = scene.folder().join("second.db");
    // The second has committed nothing when the first starts, and gives it partitions before there is anything to read.
    scene.settings.store.checkpoint_every = Duration::from_secs(10);
    scene.settings.store.path.clone_from(&other);
    let second = scene.start(&[]);
    let has_all = || second.metric("recsae_assigned_partitions").filter(|n| *n == 4.0);
    until(Duration::from_secs(60), has_all, || second.process.printed());
    scene.settings.store.path.clone_from(&own);
    let first = scene.start(&[]);
    let halves = |monitor: &Monitor| monitor.metric("recsae_assigned_partitions").filter(|n| *n == 2.0);
    until(Duration::from_secs(60), || halves(&first).zip(halves(&second)), || second.process.printed());
    scene.produce(0..12, NO_PAUSE);
    let all = || (first.scrape()?.consumed + second.scrape()?.consumed >= scene.sent()).then_some(());
    until(Duration::from_secs(90), all, || second.process.printed());
    drop(second.end());
    scene.settings.store.path.clone_from(&own);
    wait_until_ready(&first);
    scene.produce(12..24, NO_PAUSE);
    let end = || first.positions().filter(|positions| *positions == scene.sent());
    until(Duration::from_secs(90), end, || first.process.printed());
    drop(first.end());
    drop(ended(&scene));
    let found = judged_windows(&own);

    // The whole topic, read by one.
    scene.settings.kafka.group = crate::kafka_server::unique("alone");
    scene.settings.store.path = scene.folder().join("alone.db");
    drop(ended(&scene));
    let whole = judged_windows(&scene.settings.store.path);
    let incomplete = found.iter().filter(|(.., incomplete)| *incomplete).count();
    println!("{} windows, {incomplete} incomplete; read by one: {}", found.len(), whole.len());
    assert!(incomplete > 0 && incomplete < found.len());
    for (start, records, incomplete) in found {
        let (_, expected, _) = whole.iter().find(|(known, ..)| *known == start).unwrap();
        assert!(incomplete || records == *expected, "{records} of {expected} records in the window of {start}, and a verdict");
    }
}

#[test]
fn without_the_named_reference_windows_are_counted_and_it_is_taken_up_once_it_is_approved() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(mut scene) = Scene::new(kafka, "") else { return };
    std::fs::write(scene.folder().join("token"), "a-token-of-the-test").unwrap();
    scene.settings.http.token_file = Some(scene.folder().join("token"));
    scene.settings.drift.reference = "autumn".into();
    scene.settings.drift.harmonics = Some(0);
    let monitor = scene.start(&[]);
    let why = wait_until_not_ready(&monitor, "reference: ");
    assert!(why.contains("\"autumn\" is not in the store"), "{why}");
    scene.produce(0..14, NO_PAUSE);
    let judged = |n: usize| {
        let look = || monitor.api("windows?segment=_all").filter(|windows| windows.as_array().is_some_and(|all| all.len() >= n));
        until(Duration::from_secs(60), look, || monitor.process.printed())
    };
    let windows = judged(12);
    assert!(windows.as_array().unwrap().iter().all(|window| window["verdict"] == "insufficient_reference"), "{windows:#}");
    assert!(windows[0]["why"].as_str().unwrap().contains("\"autumn\" is not in the store"), "{}", windows[0]);
    let recsae = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).arg("-c").arg(scene.folder().join("recsae.toml")).output().unwrap();
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{arguments:?}: {printed}");
        printed
    };
    // Through the running instance: it holds the store.
    println!("{}", recsae(&["reference", "build", "--name", "autumn"]));
    assert!(ready(&monitor).unwrap().1.contains("\"autumn\" is not approved"), "{:?}", ready(&monitor));
    recsae(&["reference", "approve", "autumn", "--who", "ana", "--why", "quiet hours"]);
    wait_until_ready(&monitor);
    scene.produce(14..18, NO_PAUSE);
    let windows = judged(16);
    let verdict = &windows.as_array().unwrap().iter().map(|window| window["verdict"].as_str().unwrap()).collect::<Vec<_>>();
    println!("{verdict:?}");
    assert!(!["insufficient_reference", "warmup"].contains(&verdict[0]), "the newest window is judged by it: {verdict:?}");
    let status = monitor.api("status").unwrap();
    assert_eq!(status["models"][0]["reference"]["name"], "autumn", "{status:#}");

    // Under another SAE the same reference is never used, and says why; back, it is.
    let sound = scene.settings.model[0].bundle.clone();
    let folder = scene.folder().join("other");
    std::fs::create_dir(&folder).unwrap();
    let other = World::new(scene.sent() + 1, scene.world.window_start_ms(0)).unwrap();
    let bundle = build_bundle(&other, &folder, &scene.library);
    name_bundle(&mut scene, &monitor, &bundle);
    monitor.process.signal("HUP");
    let why = wait_until_not_ready(&monitor, "reference: ");
    assert!(why.contains("\"autumn\" belongs to SAE "), "{why}");
    scene.produce(18..22, NO_PAUSE);
    let newest = |verdict: &'static str| {
        let look =
            || monitor.api("windows?segment=_all&limit=1")?.as_array()?.first().filter(|window| window["verdict"] == verdict).cloned();
        until(Duration::from_secs(60), look, || monitor.process.printed())
    };
    let window = newest("insufficient_reference");
    assert!(window["why"].as_str().unwrap().contains("belongs to SAE "), "{window}");
    name_bundle(&mut scene, &monitor, &sound);
    monitor.process.signal("HUP");
    wait_until_ready(&monitor);
    scene.produce(22..26, NO_PAUSE);
    newest("judged");
    monitor.end();
}
