//! Prometheus with our rules, Alertmanager with our routes, and a webhook that keeps what it is told.
//!
//! The files are the committed ones; only addresses, and minutes of `for` that become seconds, differ.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::background::{Background, until};
use crate::kafka_server::free_ports;
use crate::support;

/// Notifications as Alertmanager posted them.
#[derive(Clone, Default)]
pub(crate) struct Webhook {
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    /// Listens on a port of its own for as long as the test process lives.
    fn start() -> (Self, u16) {
        let webhook = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let bodies = Arc::clone(&webhook.bodies);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(body) = read_body(&stream) {
                    bodies.lock().unwrap().push(body);
                }
            }
        });
        (webhook, port)
    }

    /// Every alert in every notification, in order of arrival.
    pub(crate) fn alerts(&self) -> Vec<Value> {
        self.bodies.lock().unwrap().iter().flat_map(|body| body["alerts"].as_array().unwrap().clone()).collect()
    }
}

/// Reads one request and answers it.
fn read_body(stream: &TcpStream) -> Option<Value> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut answer = stream;
    answer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    serde_json::from_slice(&body).ok()
}

/// The observers of one monitor.
pub(crate) struct Observers {
    _alertmanager: Background,
    prometheus: Background,
    prometheus_port: u16,
    /// What people are told.
    pub(crate) webhook: Webhook,
}

impl Observers {
    /// Starts them over the monitor whose metrics are at `targets`; `None` after saying so where a program is missing.
    pub(crate) fn start(folder: &Path, targets: &[String]) -> Option<Self> {
        Self::start_under(folder, targets, minutes_as_seconds)
    }

    /// The same with rules that are told apart from the committed ones by `hurried` alone.
    pub(crate) fn start_under(folder: &Path, targets: &[String], hurried: fn(&str) -> String) -> Option<Self> {
        let (prometheus, alertmanager) = (support::program("prometheus")?, support::program("prometheus-alertmanager")?);
        let (webhook, webhook_port) = Webhook::start();
        let [alertmanager_port, prometheus_port] = free_ports();

        let routes = fs::read_to_string(support::repo().join("deploy/alertmanager.yml")).unwrap();
        let routes = routes.replace("http://webhook:8080/", &format!("http://127.0.0.1:{webhook_port}/"));
        let routes = routes.replace("group_wait: 30s", "group_wait: 2s").replace("group_interval: 5m", "group_interval: 2s");
        fs::write(folder.join("alertmanager.yml"), routes).unwrap();

        let rules = fs::read_to_string(support::repo().join("grafana/rules/recsae.yml")).unwrap();
        fs::write(folder.join("rules.yml"), hurried(&rules)).unwrap();

        let config = fs::read_to_string(support::repo().join("deploy/prometheus.yml")).unwrap();
        let config = config
            .replace("scrape_interval: 15s", "scrape_interval: 1s")
            .replace("evaluation_interval: 15s", "evaluation_interval: 1s")
            .replace("/etc/prometheus/rules/recsae.yml", "rules.yml")
            .replace("alertmanager:9093", &format!("127.0.0.1:{alertmanager_port}"))
            .replace("\"recsae:9464\"", &format!("\"{}\"", targets.join("\", \"")));
        fs::write(folder.join("prometheus.yml"), config).unwrap();

        let flag = |name: &str, value: &str| format!("--{name}={value}");
        let at = |name: &str| folder.join(name).display().to_string();
        let arguments = [
            flag("config.file", &at("alertmanager.yml")),
            flag("storage.path", &at("alertmanager")),
            flag("web.listen-address", &format!("127.0.0.1:{alertmanager_port}")),
            flag("cluster.listen-address", ""),
        ];
        let alertmanager = start(&alertmanager, &arguments, folder, "alertmanager.log");
        let arguments = [
            flag("config.file", &at("prometheus.yml")),
            flag("storage.tsdb.path", &at("prometheus")),
            flag("web.listen-address", &format!("127.0.0.1:{prometheus_port}")),
        ];
        let prometheus = start(&prometheus, &arguments, folder, "prometheus.log");
        let observers = Self { _alertmanager: alertmanager, prometheus, prometheus_port, webhook };
        let (one, printed) = (|| observers.query("vector(1)").ok(), || observers.prometheus.printed());
        until(Duration::from_secs(30), one, printed);
        Some(observers)
    }

    /// The samples of an instant query now.
    pub(crate) fn query(&self, expr: &str) -> Result<Vec<Value>, String> {
        let url = format!("http://127.0.0.1:{}/api/v1/query", self.prometheus_port);
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.get(&url).query("query", expr).call().map_err(|error| error.to_string())?;
        let body: Value = answer.body_mut().read_json().map_err(|error| error.to_string())?;
        if body["status"] != "success" {
            return Err(body["error"].to_string());
        }
        Ok(body["data"]["result"].as_array().cloned().unwrap_or_default())
    }
}

fn start(program: &Path, arguments: &[String], folder: &Path, log: &str) -> Background {
    let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
    Background::start(program, &arguments, &[], folder.join(log))
}

/// A drift that holds for a second is told, not for a minute; every other patience is the committed one, so that what outlasts
/// a judge that dies does here as there.
pub(crate) fn drift_at_once(rules: &str) -> String {
    let (before, drift) = rules.split_once("- alert: RecsaeConceptDrift\n").unwrap();
    let (expr, after) = drift.split_once("        for: 1m\n").unwrap();
    format!("{before}- alert: RecsaeConceptDrift\n{expr}        for: 1s\n{after}")
}

/// `for: 5m` becomes `for: 5s`: the order of rules, not their patience, is what is tested here.
fn minutes_as_seconds(rules: &str) -> String {
    let mut out = String::new();
    for line in rules.lines() {
        let patience = ["for: ", "keep_firing_for: "].iter().any(|key| line.trim_start().starts_with(key));
        let line = if patience { format!("{}s", line.trim_end_matches(['m', 'h'])) } else { line.to_string() };
        out.push_str(&line);
        out.push('\n');
    }
    out
}
