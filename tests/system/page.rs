//! The page in Chromium and the metrics in promtool, against the API of the same instance.
//!
//! `RECSAE_SCREENSHOTS=FOLDER` keeps the pictures, light and dark, to be looked at.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::picture::{Instance, NOW_MS, TOKEN, instance};
use crate::support;

pub(crate) fn chromium(program: &Path, folder: &Path, arguments: &[&str], url: &str) -> (String, String) {
    let profile = format!("--user-data-dir={}", folder.join("profile").display());
    let output = Command::new("timeout")
        .args(["60", &program.display().to_string()])
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--log-level=0"])
        .args([&profile, "--virtual-time-budget=2000"])
        .args(arguments)
        .arg(url)
        .env("HOME", folder)
        .output()
        .unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn get(url: &str) -> String {
    ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap()
}

/// Attributes of each tag that starts with `start`, unescaped.
pub(crate) fn attributes(dom: &str, start: &str, name: &str) -> Vec<String> {
    let tags = dom.split(start).skip(1).map(|rest| rest.split('>').next().unwrap());
    let value = |tag: &str| tag.split(&format!("{name}=\"")).nth(1).map(|rest| rest.split('"').next().unwrap().replace("&amp;", "&"));
    tags.filter_map(value).collect()
}

fn picture(folder: &Path) -> Instance {
    instance(&folder.join("recsae.db"), Some(TOKEN))
}

#[test]
fn the_page_shows_what_the_api_gives() {
    let Some(program) = support::program("chromium") else { return };
    let folder = tempfile::tempdir().unwrap();
    let instance = picture(folder.path());
    let url = format!("http://{}/", instance.api);
    let (dom, log) = chromium(&program, folder.path(), &["--dump-dom"], &url);
    assert!(dom.contains("</html>"), "no page: {log}");
    assert!(!log.contains("CONSOLE"), "console messages: {log}");

    let alerts: Vec<Value> = serde_json::from_str(&get(&format!("{url}api/v1/alerts"))).unwrap();
    assert!(!alerts.is_empty());
    for (name, key) in [
        ("data-concept", "concept"),
        ("data-segment", "segment"),
        ("data-state", "state"),
        ("data-stream", "stream"),
        ("data-ratio", "ratio"),
    ] {
        let expected: Vec<String> =
            alerts.iter().map(|alert| alert[key].as_str().map_or_else(|| alert[key].to_string(), str::to_owned)).collect();
        assert_eq!(attributes(&dom, "<tr data-alert=", name), expected, "{name}");
    }
    let concepts: Vec<Value> = serde_json::from_str(&get(&format!("{url}api/v1/concepts?limit=60"))).unwrap();
    let streams: Vec<&str> = concepts.iter().map(|concept| concept["stream"].as_str().unwrap()).collect();
    assert_eq!(attributes(&dom, "<tr data-stream=", "data-state").len(), 60);
    let shown: Vec<String> = dom.split("<tr data-stream=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    assert_eq!(shown, streams);
    let points = attributes(&dom, "<svg class=\"spark\"", "data-points");
    assert_eq!((points.len(), points.iter().all(|n| n == "32")), (60, true), "{points:?}");
    let lines: Vec<&str> = dom.split("<polyline class=\"rate\" points=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(lines.iter().all(|line| line.split_whitespace().count() == 32 && !line.contains("NaN")));
    assert!(!dom.contains("<script"));

    let Some(kept) = std::env::var_os("RECSAE_SCREENSHOTS") else { return };
    for (name, more) in [("light", "--blink-settings=preferredColorScheme=1"), ("dark", "--blink-settings=preferredColorScheme=0")] {
        let file = format!("--screenshot={}", Path::new(&kept).join(format!("page-{name}.png")).display());
        chromium(&program, folder.path(), &[&file, "--window-size=1400,1500", more], &url);
    }
    let file = format!("--screenshot={}", Path::new(&kept).join("page-narrow.png").display());
    chromium(&program, folder.path(), &[&file, "--window-size=520,1500"], &url);
}

#[test]
fn promtool_finds_nothing_to_say() {
    let Some(promtool) = support::program("promtool") else { return };
    let folder = tempfile::tempdir().unwrap();
    let instance = picture(folder.path());
    instance.live.set_test_alert(Some(NOW_MS + 60_000));
    let text = get(&format!("http://{}/metrics", instance.metrics));
    assert!(text.contains("recsae_concept_ratio_high") && text.contains("surface=mail & push"));
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "{said}");
}
