//! The dashboards keep the rules of Grafana's dashboard-linter, and name only metrics the program writes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support;

const TOP_KEYS: &[&str] = &[
    "uid",
    "title",
    "description",
    "tags",
    "editable",
    "schemaVersion",
    "version",
    "timezone",
    "refresh",
    "time",
    "fiscalYearStartMonth",
    "graphTooltip",
    "links",
    "templating",
    "annotations",
    "panels",
];
const PANEL_KEYS: &[&str] =
    &["type", "title", "description", "datasource", "targets", "fieldConfig", "options", "transformations", "gridPos", "id"];

fn dashboards() -> Vec<(String, Value)> {
    let folder = support::repo().join("grafana/dashboards");
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect();
    found.sort_by(|a: &(String, Value), b| a.0.cmp(&b.0));
    assert_eq!(found.len(), 3, "overview, one concept, input and pipeline");
    found
}

/// Every rule a dashboard breaks.
fn faults(name: &str, board: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut need = |holds: bool, rule: String| {
        if !holds {
            faults.push(format!("{name}: {rule}"));
        }
    };
    need(board["editable"] == false, "editable is false: it is provisioned".into());
    need(board["uid"].as_str().is_some_and(|uid| uid.starts_with("recsae-")), "a stable uid".into());
    need(board["title"].as_str().is_some_and(|title| !title.is_empty()), "a title".into());
    for key in board.as_object().into_iter().flatten().map(|(key, _)| key) {
        need(TOP_KEYS.contains(&key.as_str()), format!("unknown key {key}"));
    }
    let variables: Vec<&Value> = board["templating"]["list"].as_array().into_iter().flatten().collect();
    let has = |name: &str, kind: &str| variables.iter().any(|variable| variable["name"] == name && variable["type"] == kind);
    need(has("datasource", "datasource"), "a data source variable".into());
    need(has("job", "query") && has("instance", "query"), "variables job and instance".into());
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        need(variable["datasource"]["uid"] == "${datasource}", format!("variable {} uses the data source variable", variable["name"]));
    }
    let panels = board["panels"].as_array().cloned().unwrap_or_default();
    let ids: BTreeSet<String> = panels.iter().map(|panel| panel["id"].to_string()).collect();
    need(ids.len() == panels.len() && !panels.is_empty(), "every panel an id of its own".into());
    for panel in &panels {
        let title = panel["title"].as_str().unwrap_or_default();
        for key in panel.as_object().into_iter().flatten().map(|(key, _)| key) {
            need(PANEL_KEYS.contains(&key.as_str()), format!("panel {title}: unknown key {key}"));
        }
        need(!title.is_empty(), format!("panel {} has a title", panel["id"]));
        need(panel["description"].as_str().is_some_and(|text| text.len() > 10), format!("panel {title} says what it shows"));
        need(panel["fieldConfig"]["defaults"]["unit"].as_str().is_some_and(|unit| !unit.is_empty()), format!("panel {title} has a unit"));
        need(panel["datasource"]["uid"] == "${datasource}", format!("panel {title} uses the data source variable"));
        need(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), format!("panel {title} has a query"));
        for expr in panel["targets"].as_array().into_iter().flatten().map(|target| target["expr"].as_str().unwrap_or_default()) {
            for fault in query_faults(expr) {
                need(false, format!("panel {title}: {fault} in {expr}"));
            }
        }
    }
    faults
}

fn query_faults(expr: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let selectors = metric_names(expr);
    if selectors.is_empty() {
        faults.push("no metric".into());
    }
    for (at, name) in &selectors {
        let selector = &expr[*at + name.len()..];
        if !selector.starts_with("{job=~\"$job\",instance=~\"$instance\"") {
            faults.push(format!("{name} does not select job and instance"));
        }
        let counts = name.ends_with("_total") || name.ends_with("_bucket");
        let inside_rate = ["rate(", "increase("].iter().any(|function| expr[..*at].ends_with(function));
        if counts != inside_rate {
            faults.push(format!("{name}: counters under rate or increase, and nothing else"));
        }
    }
    if expr.contains("vector(") {
        faults.push("vector() hides that a query finds nothing".into());
    }
    for (at, _) in expr.match_indices("rate(") {
        let range = expr[at..].split('[').nth(1).and_then(|rest| rest.split(']').next());
        if range != Some("$__rate_interval") {
            faults.push("rate over $__rate_interval".into());
        }
    }
    faults
}

/// Metric names with their positions.
fn metric_names(text: &str) -> Vec<(usize, &str)> {
    text.match_indices("recsae_")
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
        .map(|(at, _)| {
            let end = text[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len() - at);
            (at, &text[at..at + end])
        })
        .collect()
}

/// Every metric name in a string literal of the program's metrics.
fn written_metrics(folder: &Path, names: &mut BTreeSet<String>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            written_metrics(&path, names);
        } else if let Ok(source) = fs::read_to_string(&path) {
            let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            for literal in source.split('"').filter(|literal| literal.starts_with("recsae_")) {
                names.extend(metric_names(literal).into_iter().map(|(_, name)| name.to_string()));
            }
        }
    }
}

#[test]
fn every_dashboard_keeps_the_rules() {
    let faults: Vec<String> = dashboards().iter().flat_map(|(name, board)| faults(name, board)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_dashboard_that_breaks_a_rule_is_found() {
    let (name, good) = dashboards().remove(0);
    let broken: [(&str, &str, Value); 9] = [
        ("/editable", "editable", true.into()),
        ("/uid", "uid", "x".into()),
        ("/templating/list/0/type", "data source variable", "query".into()),
        ("/panels/0/title", "title", "".into()),
        ("/panels/0/description", "says what", "".into()),
        ("/panels/0/fieldConfig/defaults/unit", "unit", "".into()),
        ("/panels/0/datasource/uid", "data source variable", "prometheus".into()),
        ("/panels/1/id", "id of its own", good["panels"][0]["id"].clone()),
        ("/panels/0/targets", "has a query", Value::Array(Vec::new())),
    ];
    for (pointer, said, value) in broken {
        let mut board = good.clone();
        *board.pointer_mut(pointer).unwrap() = value;
        let found = faults(&name, &board);
        assert!(found.iter().any(|fault| fault.contains(said)), "{pointer}: {found:?}");
    }
    let of = "{job=~\"$job\",instance=~\"$instance\"}";
    for expr in [
        "recsae_l0".to_string(),
        format!("recsae_records_consumed_total{of}"),
        format!("rate(recsae_records_consumed_total{of}[5m])"),
        format!("rate(recsae_l0{of}[$__rate_interval])"),
        format!("sum(recsae_l0{of}) or vector(0)"),
        "vector(1)".into(),
    ] {
        assert!(!query_faults(&expr).is_empty(), "{expr}");
    }
    assert_eq!(query_faults(&format!("sum(rate(recsae_records_consumed_total{of}[$__rate_interval]))")), Vec::<String>::new());
}

#[test]
fn the_committed_dashboards_are_the_generated_ones() {
    let Some(python) = support::program("python3") else { return };
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new(python).arg(support::repo().join("grafana/dashboards.py")).arg(folder.path()).status().unwrap();
    assert!(status.success());
    for (name, board) in dashboards() {
        let fresh: Value = serde_json::from_str(&fs::read_to_string(folder.path().join(&name)).unwrap()).unwrap();
        assert_eq!(board, fresh, "{name}: run grafana/dashboards.py");
    }
}

#[test]
fn every_metric_that_is_named_to_people_is_one_the_program_writes() {
    let mut written = BTreeSet::new();
    written_metrics(&support::repo().join("src/metrics"), &mut written);
    let boards = ["grafana/dashboards/overview.json", "grafana/dashboards/concept.json", "grafana/dashboards/pipeline.json"];
    let files = ["grafana/rules/recsae.yml", "deploy/runbook.md", "README.md"];
    let mut unknown = BTreeSet::new();
    for file in boards.into_iter().chain(files) {
        let text = fs::read_to_string(support::repo().join(file)).unwrap();
        for (_, name) in metric_names(&text) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
            if !written.contains(name) && !written.contains(base) {
                unknown.insert(format!("{file}: {name}"));
            }
        }
    }
    assert!(unknown.is_empty(), "not written by src/metrics: {unknown:#?}");
}
