//! Rules, runbook, compose file and provisioning: read by the programs and parsers that will read them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support;

/// A YAML file as JSON, read by PyYAML.
fn yaml(path: &str) -> Option<Value> {
    let python = support::python()?;
    let output = Command::new(python)
        .args(["-c", "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)"])
        .arg(support::repo().join(path))
        .output()
        .unwrap();
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn promtool(arguments: &[&str], file: &Path) {
    let Some(promtool) = support::program("promtool") else { return };
    let output = Command::new(promtool).args(arguments).arg(file).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?} {}:\n{text}", file.display());
}

fn rules() -> Option<Vec<Value>> {
    let file = yaml("grafana/rules/recsae.yml")?;
    Some(file["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect())
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    promtool(&["check", "rules", "--lint-fatal"], &support::repo().join("grafana/rules/recsae.yml"));
    promtool(&["test", "rules"], &support::repo().join("grafana/rules/recsae.test.yml"));
}

#[test]
fn every_alert_says_what_where_and_what_to_do() {
    let Some(rules) = rules() else { return };
    let runbook = fs::read_to_string(support::repo().join("deploy/runbook.md")).unwrap().to_lowercase();
    let alerts: Vec<&Value> = rules.iter().filter(|rule| rule["alert"].is_string()).collect();
    assert!(alerts.len() >= 20, "{} alerts", alerts.len());
    for alert in alerts {
        let name = alert["alert"].as_str().unwrap();
        for annotation in ["summary", "description", "runbook_url", "dashboard_url"] {
            assert!(alert["annotations"][annotation].as_str().is_some_and(|text| !text.is_empty()), "{name} has no {annotation}");
        }
        for key in ["for", "keep_firing_for"] {
            assert!(alert[key].is_string(), "{name} has no {key}");
        }
        assert!(["page", "ticket"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}: severity");
        let section = alert["annotations"]["runbook_url"].as_str().unwrap().split_once('#').unwrap().1;
        assert_eq!(section, name.to_lowercase(), "the section is named after the alert");
        assert!(runbook.contains(&format!("## {section}\n")), "deploy/runbook.md has no section {name}");
        let uid = alert["annotations"]["dashboard_url"].as_str().unwrap().split("/d/").nth(1).unwrap();
        assert!(["recsae-overview", "recsae-concept", "recsae-pipeline"].contains(&uid.split('?').next().unwrap()), "{name}: {uid}");
    }
    assert!(rules.iter().any(|rule| rule["alert"] == "RecsaeConceptDrift" && rule["labels"]["severity"] == "ticket"), "drift is no page");
}

#[test]
fn every_alert_has_a_test_that_shows_it_firing() {
    let Some(rules) = rules() else { return };
    let tests = fs::read_to_string(support::repo().join("grafana/rules/recsae.test.yml")).unwrap();
    for name in rules.iter().filter_map(|rule| rule["alert"].as_str()) {
        let fires = tests.contains(&format!("alertname=\"{name}\"")) || tests.contains(&format!("alertname: {name}\n"));
        assert!(fires, "{name} is in no test");
    }
}

#[test]
fn every_query_of_a_dashboard_is_valid_promql() {
    if support::program("promtool").is_none() {
        return;
    }
    let mut rules = String::from("groups:\n  - name: panels\n    rules:\n");
    for file in fs::read_dir(support::repo().join("grafana/dashboards")).unwrap().map(|entry| entry.unwrap().path()) {
        let board: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let targets = board["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
        let annotations = board["annotations"]["list"].as_array().unwrap().iter();
        for expr in targets.chain(annotations).map(|target| target["expr"].as_str().unwrap()) {
            let expr = expr.replace("$__rate_interval", "1m");
            rules.push_str(&format!("      - {{record: 'panel:query', labels: {{n: '{}'}}, expr: {}}}\n", rules.len(), Value::from(expr)));
        }
    }
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    fs::write(file.path(), rules).unwrap();
    promtool(&["check", "rules"], file.path());
}

#[test]
fn alertmanager_accepts_its_example() {
    let Some(amtool) = support::program("amtool") else { return };
    let file = support::repo().join("deploy/alertmanager.yml");
    let output = Command::new(amtool).arg("check-config").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_compose_file_has_its_services_and_mounts_what_is_there() {
    let Some(compose) = yaml("deploy/compose.yml") else { return };
    let services = compose["services"].as_object().unwrap();
    for name in ["kafka", "recsae", "prometheus", "alertmanager", "grafana"] {
        assert!(services.contains_key(name), "no {name}");
    }
    let volumes: Vec<&str> = compose["volumes"].as_object().unwrap().keys().map(String::as_str).collect();
    // The user's own: named in the head of the file.
    let brought = ["./recsae.toml", "./bundle"];
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        assert!(name == "recsae" || image.contains(':') && !image.ends_with(":latest"), "{name}: {image} is not pinned");
        for mount in service["volumes"].as_array().into_iter().flatten() {
            let source = mount.as_str().unwrap().split(':').next().unwrap();
            let there = volumes.contains(&source) || brought.contains(&source) || support::repo().join("deploy").join(source).exists();
            assert!(there, "{name} mounts {source}, which is not there");
        }
    }
    assert_eq!(services["recsae"]["read_only"], true);
    assert_eq!(services["recsae"]["cap_drop"][0], "ALL");
    let dockerfile = fs::read_to_string(support::repo().join("deploy/Dockerfile")).unwrap();
    assert!(dockerfile.contains("FROM gcr.io/distroless/cc-debian12:nonroot") && dockerfile.contains("USER nonroot"));
}

#[test]
fn provisioning_points_at_what_is_mounted() {
    let Some(provider) = yaml("grafana/provisioning/dashboards/recsae.yml") else { return };
    let Some(source) = yaml("grafana/provisioning/datasources/prometheus.yml") else { return };
    let compose = fs::read_to_string(support::repo().join("deploy/compose.yml")).unwrap();
    let path = provider["providers"][0]["options"]["path"].as_str().unwrap();
    assert!(compose.contains(&format!("../grafana/dashboards:{path}:ro")));
    assert_eq!(source["datasources"][0]["url"], "http://prometheus:9090");
    promtool(&["check", "config", "--syntax-only"], &support::repo().join("deploy/prometheus.yml"));
}
