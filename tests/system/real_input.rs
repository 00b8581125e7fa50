//! The real stream of MovieLens-100k through the whole program on Apache Kafka, held to scripts that
//! read the recorded files themselves: the same counts, and the same alarms as the numpy yardstick.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use recsae::drift::closed::ClosedWindow;
use recsae::drift::report::{AlertChange, Crossing, DriftReport, Verdict};
use recsae::store::StoreReader;
use recsae::store::reader::WindowQuery;

use crate::background::until;
use crate::kafka_server::{self, Kafka, unique};
use crate::support;

/// One of the recorded models with one of its SAEs.
struct Pair {
    model: &'static str,
    sae: &'static str,
    k: u32,
}

const PAIRS: [Pair; 4] = [
    Pair { model: "sasrec", sae: "sasrec.sae_k32_s32", k: 32 },
    Pair { model: "sasrec", sae: "sasrec.sae_k8_s16", k: 8 },
    Pair { model: "bprmf", sae: "bprmf.sae_k8_s16", k: 8 },
    Pair { model: "lightgcn", sae: "lightgcn.sae_k8_s16", k: 8 },
];

/// Windows and what they are compared with.
struct Windows {
    length: &'static str,
    reference: &'static str,
}

const WEEKS: Windows = Windows { length: "7d", reference: "first:8 windows" };
/// Eight weeks, as the weekly ones.
const DAYS: Windows = Windows { length: "1d", reference: "first:56 windows" };

/// A recorded pair on a topic, and its bundle.
struct Produced {
    folder: tempfile::TempDir,
    topic: String,
    bundle: PathBuf,
}

/// A recorded pair, produced and monitored in a folder of its own.
struct Run {
    produced: Produced,
    config: PathBuf,
}

fn recsae(arguments: &[&str]) -> Output {
    let output =
        Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).env("ORT_DYLIB_PATH", support::onnxruntime().unwrap()).output().unwrap();
    assert!(output.status.success(), "recsae {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Builds the bundle and produces the stream.
fn produce(kafka: &Kafka, data: &Path, pair: &Pair) -> Produced {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| text(&data.join("ml100k").join(name)).to_owned();
    let bundle = folder.path().join("bundle");
    let (onnx, golden, concepts) = (
        file(&format!("{}.full.onnx", pair.sae)),
        file(&format!("{}.golden.npz", pair.sae)),
        file(&format!("{}.concepts.parquet", pair.sae)),
    );
    let mut build = vec!["bundle", "build", "--onnx", &onnx, "--golden", &golden, "--out", text(&bundle)];
    if Path::new(&concepts).exists() {
        build.extend(["--concepts", &concepts]);
    }
    recsae(&build);

    let topic = unique(pair.model);
    let (fields, join) = (file("sasrec.events.parquet"), format!("{}:user_id", file("users.parquet")));
    let vectors = if pair.model == "sasrec" { file("sasrec.embeddings.npy") } else { file(&format!("{}.user_embeddings.npy", pair.model)) };
    let mut produce =
        vec!["produce", "--embeddings", &vectors, "--fields", &fields, "--join", &join, "--entity", "user_id", "--timestamp", "ts"];
    produce.extend(["--items", "recommended", "--topic", &topic, "--partitions", "3", "--brokers", &kafka.brokers]);
    if pair.model != "sasrec" {
        produce.extend(["--by", "user_id"]);
    }
    recsae(&produce);
    Produced { folder, topic, bundle }
}

/// Writes the configuration of a group of that name, with a store of that name.
fn configure(kafka: &Kafka, produced: &Produced, name: &str, workers: usize, segments: &str, windows: &Windows) -> PathBuf {
    let (Produced { folder, topic, bundle }, Windows { length, reference }) = (produced, windows);
    let config = folder.path().join(format!("{name}.toml"));
    let settings = format!(
        r#"
        [kafka]
        brokers = "{}"
        topics = ["{topic}"]
        dead_letter_topic = "{}"
        group = "{topic}-{name}"
        workers = {workers}
        librdkafka = {{ "session.timeout.ms" = "12000" }}
        [[model]]
        bundle = "{}"
        [window]
        length = "{length}"
        origin = "1997-09-20T00:00:00Z"
        [drift]
        false_alarm_budget = "1 per 52 windows"
        reference = "{reference}"
        harmonics = 0
        weekend = false
        min_entities = 1
        pseudo_streams = false
        [store]
        path = "{}"
        [metrics]
        listen = "127.0.0.1:0"
        [http]
        listen = "127.0.0.1:0"
        {segments}
        "#,
        kafka.brokers,
        kafka.topic("dead", 1),
        text(bundle),
        text(&folder.path().join(format!("{name}.db"))),
    );
    std::fs::write(&config, settings).unwrap();
    config
}

/// Produces the stream, and runs the monitor to the end of the log.
fn monitor(kafka: &Kafka, data: &Path, pair: &Pair, segments: &str) -> Run {
    let produced = produce(kafka, data, pair);
    let config = configure(kafka, &produced, "recsae", 0, segments, &WEEKS);
    recsae(&["run", "-c", text(&config), "--until-end"]);
    Run { produced, config }
}

/// Every verdict, as a store holds them.
fn reports(produced: &Produced, name: &str) -> Vec<DriftReport> {
    let reader = StoreReader::open(&produced.folder.path().join(format!("{name}.db"))).unwrap();
    let mut reports = Vec::new();
    let keep = |report: DriftReport| -> Result<(), recsae::store::StoreError> {
        reports.push(report);
        Ok(())
    };
    reader.for_each_report(&WindowQuery::default(), keep).unwrap();
    reports
}

fn crossings(reports: Vec<DriftReport>) -> Vec<Crossing> {
    let changes = reports.into_iter().flat_map(|report| report.changes);
    let crossing = |change| match change {
        AlertChange::Opened(crossing) | AlertChange::CrossedAgain(crossing) | AlertChange::Relapsing(crossing) => Some(crossing),
        AlertChange::Recovered { .. } => None,
    };
    changes.filter_map(crossing).collect()
}

/// (window end, latent, direction) as the yardstick prints them.
fn yardstick(data: &Path, pair: &Pair) -> BTreeSet<String> {
    let script = data.parent().unwrap().join("tools/ml100k_yardstick.py");
    let arguments = ["--model", pair.model, "--sae", pair.sae, "--k", &pair.k.to_string(), "--shuffles", "0"].map(str::to_owned);
    let output = Command::new(support::python().unwrap()).arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let words = |line: &str| {
        let w: Vec<&str> = line.split_whitespace().collect();
        format!("{} latent:{} {}", w[0], w[2], w[5])
    };
    String::from_utf8(output.stdout).unwrap().lines().map(words).collect()
}

#[test]
fn every_alarm_on_the_real_data_is_the_yardsticks() {
    let (Some(kafka), Some(data)) = (kafka_server::shared(), support::data()) else { return };
    for pair in &PAIRS {
        let run = monitor(kafka, &data, pair, "");
        let found = crossings(reports(&run.produced, "recsae"));
        let listed: BTreeSet<String> = found
            .iter()
            .map(|crossing| {
                let end = jiff::Timestamp::from_millisecond(crossing.window_end_ms).unwrap().to_string();
                format!("{} {} {}", &end[..10], crossing.stream, crossing.direction.kind())
            })
            .collect();
        let expected = yardstick(&data, pair);
        println!("{}: {} crossings, the yardstick has {}", pair.sae, listed.len(), expected.len());
        assert_eq!(listed, expected, "{}", pair.sae);
        if pair.sae == "sasrec.sae_k32_s32" {
            assert!(listed.contains("1998-01-03 latent:2004 up") && listed.contains("1998-01-03 latent:342 up"));
        }
    }
}

#[test]
fn counts_on_the_real_data_equal_a_numpy_script() {
    let (Some(kafka), Some(data)) = (kafka_server::shared(), support::data()) else { return };
    let run = monitor(kafka, &data, &PAIRS[0], "[segments]\nfields = [\"gender\"]\nvalues = { gender = [\"F\", \"M\"] }");
    let windows = run.produced.folder.path().join("windows.parquet");
    recsae(&["history", "export", "-c", text(&run.config), "--out", text(&windows)]);
    let script = support::repo().join("tests/scripts/ml100k_counts.py");
    let folder = data.join("ml100k");
    let output =
        Command::new(support::python().unwrap()).arg(script).args([text(&windows), text(&folder), PAIRS[0].sae, "32"]).output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

/// Every window with its segments, the segments' records and all counts, as a store holds them.
fn windows(produced: &Produced, name: &str) -> Vec<ClosedWindow> {
    let reader = StoreReader::open(&produced.folder.path().join(format!("{name}.db"))).unwrap();
    let mut windows = Vec::new();
    let keep = |window: ClosedWindow| -> Result<(), recsae::store::StoreError> {
        windows.push(window);
        Ok(())
    };
    reader.for_each_window(&WindowQuery::default(), keep).unwrap();
    windows
}

#[test]
fn segments_that_nobody_listed_are_followed_alike_at_every_reading() {
    let (Some(kafka), Some(data)) = (kafka_server::shared(), support::data()) else { return };
    let produced = produce(kafka, &data, &PAIRS[0]);
    let segments = "[segments]\nfields = [\"gender\"]";
    let run = |name: &str, workers: usize| {
        recsae(&["run", "-c", text(&configure(kafka, &produced, name, workers, segments, &WEEKS)), "--until-end"]);
        windows(&produced, name)
    };
    let one = run("one", 1);

    // A window of seven days holds the lateness and idle_after: two more follow the one that showed the names.
    let names = |window: &ClosedWindow| window.segments.keys().cloned().collect::<Vec<_>>().join(" ");
    let first = one.iter().position(|window| window.segments.contains_key("gender=F")).unwrap();
    println!("{} windows, the first: {}; from {first} on: {}", one.len(), names(&one[0]), names(&one[first]));
    assert_eq!(first, 4);
    assert_eq!(names(&one[first - 1]), "_all _other");
    assert_eq!(names(&one[first]), "_all gender=F gender=M");

    assert_eq!(run("three", 3), one);

    // Killed in the middle of the log, and gone on.
    let config = configure(kafka, &produced, "killed", 2, segments, &WEEKS);
    let mut killed = Command::new(env!("CARGO_BIN_EXE_recsae"))
        .args(["run", "-c", text(&config)])
        .env("ORT_DYLIB_PATH", support::onnxruntime().unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let store = produced.folder.path().join("killed.db");
    let judged = || StoreReader::open(&store).and_then(|reader| reader.last_judged()).ok().flatten();
    until(Duration::from_secs(60), judged, || "no window is judged".into());
    killed.kill().unwrap();
    killed.wait().unwrap();
    let n_before = windows(&produced, "killed").len();
    recsae(&["run", "-c", text(&config), "--until-end"]);
    let resumed = windows(&produced, "killed");
    println!("killed after {n_before} of {} windows", resumed.len());
    let starts = |windows: &[ClosedWindow]| windows.iter().map(|window| window.start_ms).collect::<Vec<_>>();
    assert_eq!(starts(&resumed), starts(&one));
    assert!(resumed == one, "counts differ in windows {:?}", (0..one.len()).filter(|&t| resumed[t] != one[t]).collect::<Vec<_>>());
}

#[test]
fn a_segment_that_is_admitted_inside_the_reference_is_judged_alike_at_every_reading() {
    let (Some(kafka), Some(data)) = (kafka_server::shared(), support::data()) else { return };
    let produced = produce(kafka, &data, &PAIRS[0]);
    let run = |name: &str, workers: usize| {
        let config = configure(kafka, &produced, name, workers, "[segments]\nfields = [\"gender\"]", &DAYS);
        recsae(&["run", "-c", text(&config), "--until-end"]);
        reports(&produced, name)
    };
    let one = run("one", 1);
    let judged = |name: &str| {
        let of = one.iter().flat_map(|report| &report.segments).filter(|segment| segment.segment == name);
        of.filter(|segment| segment.verdict == Verdict::Judged).count()
    };
    let found = crossings(one.clone());
    for segment in ["_all", "gender=F", "gender=M"] {
        let crossed = found.iter().filter(|crossing| crossing.segment == segment).count();
        println!("{segment}: {} of {} windows judged, {crossed} crossings", judged(segment), one.len());
    }
    // 56 days are the reference; many of the others are too thin to be judged alone and merged.
    assert!(["_all", "gender=F", "gender=M"].iter().all(|segment| judged(segment) > 0));
    assert!(found.iter().any(|crossing| crossing.segment.starts_with("gender=")), "the test would see no difference");
    let three = run("three", 3);
    let differ = three.iter().zip(&one).find(|(three, one)| three != one);
    assert!(three == one, "the verdicts depend on how the log was read: {differ:?}");
}
