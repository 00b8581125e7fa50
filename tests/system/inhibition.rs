//! Drift is silent while the monitor cannot be believed: the example routes in a real Alertmanager, which is told what
//! fires and asked what it holds back.

use std::ffi::OsStr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::background::{Background, until};
use crate::kafka_server::free_ports;
use crate::support;

const DRIFT: [&str; 2] = ["RecsaeConceptDrift", "RecsaeDenseDrift"];
const EVERYWHERE: [&str; 4] = ["RecsaeDown", "RecsaeLagging", "RecsaeStalled", "RecsaeConservationViolated"];

/// What fires beside a drift of model v1 in segment surface=home, and whether the drift is then held back.
fn cases() -> Vec<(Option<Value>, bool)> {
    let mut cases = vec![(None, false), (Some(json!({"alertname": "RecsaeDeadLetters"})), false)];
    cases.extend(EVERYWHERE.map(|name| (Some(json!({"alertname": name})), true)));
    cases.extend(EVERYWHERE.map(|name| (Some(json!({"alertname": name, "job": "another"})), false)));
    for (model, segment, is_inhibited) in [
        ("v1", "_all", true),
        ("v1", "surface=home", true),
        ("v1", "surface=mail", false),
        ("v2", "_all", false),
        ("v2", "surface=home", false),
    ] {
        let broken = json!({"alertname": "RecsaeContractBroken", "model_version": model, "segment": segment});
        cases.push((Some(broken), is_inhibited));
    }
    cases
}

#[test]
fn drift_is_held_back_by_a_monitor_that_cannot_be_believed_and_by_nothing_else() {
    let Some(alertmanager) = support::program("prometheus-alertmanager") else { return };
    let folder = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let arguments = [
        format!("--config.file={}", support::repo().join("deploy/alertmanager.yml").display()),
        format!("--storage.path={}", folder.path().join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        "--cluster.listen-address=".to_owned(),
    ];
    let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
    let process = Background::start(&alertmanager, &arguments, &[], folder.path().join("alertmanager.log"));
    let url = format!("http://127.0.0.1:{port}/api/v2/alerts");

    // A job a case, so that no case sees another's.
    let cases = cases();
    let mut alerts = Vec::new();
    for (number, (source, _)) in cases.iter().enumerate() {
        let job = format!("case-{number}");
        let drift = |name: &str| json!({"alertname": name, "job": job, "namespace": "ns", "model_version": "v1", "segment": "surface=home", "stream": "latent:1"});
        alerts.extend(DRIFT.map(|name| json!({"labels": drift(name)})));
        if let Some(labels) = source {
            let mut labels = labels.clone();
            let whose = labels.get("job").map_or_else(|| job.clone(), |other| format!("{job}-{}", other.as_str().unwrap()));
            (labels["job"], labels["namespace"]) = (whose.into(), "ns".into());
            alerts.push(json!({"labels": labels}));
        }
    }
    let sent = || ureq::post(&url).send_json(&alerts).ok();
    until(Duration::from_secs(60), sent, || process.printed());
    // It learns of what inhibits a moment after it has taken the alerts.
    let unlike = || -> Option<Vec<String>> {
        let held: Vec<Value> = ureq::get(&url).call().ok()?.body_mut().read_json().ok()?;
        let is_held = |number: usize, name: &str| {
            let job = format!("case-{number}");
            let alert = held.iter().find(|alert| alert["labels"]["job"] == job.as_str() && alert["labels"]["alertname"] == name)?;
            Some(!alert["status"]["inhibitedBy"].as_array()?.is_empty())
        };
        let drifts = cases.iter().enumerate().flat_map(|(number, case)| DRIFT.map(|name| (number, name, case)));
        let unlike = drifts.filter(|(number, name, (_, expected))| is_held(*number, name) != Some(*expected));
        Some(unlike.map(|(_, name, (source, expected))| format!("{name} beside {source:?}: held back is not {expected}")).collect())
    };
    until(Duration::from_secs(60), || unlike().filter(Vec::is_empty), || format!("{:#?}\n{}", unlike(), process.printed()));
}
