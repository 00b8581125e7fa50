//! Every page in Chromium under axe-core, light and dark: what a screen reader meets, and contrast. And a page of a
//! thousand concepts, held to what a browser lays out without lag.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::page::{attributes, chromium};
use crate::picture::{TOKEN, instance, instance_of};
use crate::support;

/// The pages, by the name their pictures get.
const PAGES: [(&str, &str); 6] = [
    ("overview", "/"),
    ("concepts", "/concepts?q=latent"),
    ("concept", "/concepts/latent:0?model=v12&segment=surface%3Dhome"),
    ("alert", "/alerts/2"),
    ("alert-over", "/alerts/1"),
    ("reference", "/reference"),
];
const LIGHT: &str = "--blink-settings=preferredColorScheme=1";
const DARK: &str = "--blink-settings=preferredColorScheme=0";

fn get(url: &str) -> String {
    ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap()
}

/// axe-core as `make setup` put it.
fn axe() -> Option<PathBuf> {
    let folders = std::fs::read_dir(support::cache()).ok()?.flatten().map(|entry| entry.path().join("axe.min.js"));
    let found = folders.filter(|file| file.is_file()).max();
    if found.is_none() {
        support::skip("no axe-core (make setup)");
    }
    found
}

/// What axe-core finds wrong with a page: rule and element.
fn violations(program: &Path, folder: &Path, axe: &Path, page: &str, scheme: &str) -> (usize, Vec<String>) {
    let script = std::fs::read_to_string(axe).unwrap();
    let ask = "axe.run(document, {resultTypes: ['violations']}).then(found => {
        const out = document.createElement('pre'); out.id = 'axe'; document.body.append(out);
        out.textContent = JSON.stringify({passes: found.passes.length,
            violations: found.violations.map(rule => [rule.id, rule.nodes.map(node => node.html + ' ' + node.failureSummary)])});
    });";
    let file = folder.join("page.html");
    std::fs::write(&file, page.replace("</body>", &format!("<script>{script}</script><script>{ask}</script></body>"))).unwrap();
    let (dom, log) = chromium(program, folder, &["--dump-dom", scheme, "--window-size=1300,1400"], &format!("file://{}", file.display()));
    let found = dom.split("<pre id=\"axe\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let found = found.unwrap_or_else(|| panic!("axe gave nothing: {log}")).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let found: Value = serde_json::from_str(&found).unwrap();
    let words = found["violations"].as_array().unwrap().iter().map(ToString::to_string).collect();
    (usize::try_from(found["passes"].as_u64().unwrap()).unwrap(), words)
}

#[test]
fn every_page_is_sound_by_keyboard_and_ear_in_light_and_dark() {
    let (Some(program), Some(axe)) = (support::program("chromium"), axe()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let instance = instance(&folder.path().join("recsae.db"), Some(TOKEN));
    for (name, path) in PAGES {
        let url = format!("http://{}{path}", instance.api);
        let page = get(&url);
        assert!(!page.contains("<script"), "{name} needs no script");
        for scheme in [LIGHT, DARK] {
            let (passes, found) = violations(&program, folder.path(), &axe, &page, scheme);
            println!("{name} {scheme}: {passes} rules hold, {} do not", found.len());
            assert!(found.is_empty() && passes > 15, "{name} {scheme}: {found:#?}");
        }
        if let Some(kept) = std::env::var_os("RECSAE_SCREENSHOTS") {
            for (scheme, flag) in [("light", LIGHT), ("dark", DARK)] {
                let file = format!("--screenshot={}", Path::new(&kept).join(format!("{name}-{scheme}.png")).display());
                chromium(&program, folder.path(), &[&file, flag, "--window-size=1300,1500"], &url);
            }
        }
    }
    // The check itself: a page with a picture without words and grey on white is not sound.
    let broken = "<html><head><title>x</title></head><body><img src='x'><p style='color:#ccc;background:#fff'>pale</p></body></html>";
    let (_, found) = violations(&program, folder.path(), &axe, broken, LIGHT);
    assert!(
        ["image-alt", "color-contrast", "html-has-lang"].iter().all(|rule| found.iter().any(|words| words.contains(rule))),
        "{found:?}"
    );
}

#[test]
fn the_alert_page_shows_what_the_store_holds() {
    let Some(program) = support::program("chromium") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recsae.db");
    let instance = instance(&path, Some(TOKEN));
    let (dom, log) = chromium(&program, folder.path(), &["--dump-dom"], &format!("http://{}/alerts/2", instance.api));
    assert!(dom.contains("</html>") && !log.contains("CONSOLE"), "{log}");
    let explanation = recsae::store::StoreReader::open(&path).unwrap().explanation(2).unwrap().unwrap();
    let records = explanation.records.unwrap();
    assert_eq!(attributes(&dom, "<div class=\"heading\"", "data-stream"), ["latent:0"]);
    assert_eq!(attributes(&dom, "<p class=\"sentence\"", "data-carriers"), ["users", "items"]);
    let carried: Vec<&str> = dom.split("data-carried-by=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(carried, ["crowd", "one"]);
    let offsets: Vec<String> = dom.split("data-offset=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    let stored = records.before.examples.iter().chain(&records.after.examples).map(|example| example.offset.to_string());
    assert_eq!(offsets, stored.collect::<Vec<_>>());
    for top in records.entities.unwrap().top.iter().take(5).chain(records.items.unwrap().top.iter().take(5)) {
        assert!(dom.contains(&top.name.replace('&', "&amp;")), "{}", top.name);
    }
    let drawn = attributes(&dom, "<svg class=\"timeline\"", "data-points");
    assert_eq!(drawn, ["32"], "the windows that the instance remembers");
    assert_eq!(attributes(&dom, "<svg class=\"timeline\"", "data-alerts"), ["1"]);
}

#[test]
fn a_thousand_concepts_are_a_page_of_bounded_size() {
    let folder = tempfile::tempdir().unwrap();
    let instance = instance_of(&folder.path().join("recsae.db"), Some(TOKEN), Default::default(), 3000);
    let page = get(&format!("http://{}/concepts", instance.api));
    let n_rows = page.matches("<tr data-state=").count();
    let n_elements = page.matches('<').count() - page.matches("</").count();
    println!("{n_rows} rows, {n_elements} elements, {} bytes", page.len());
    assert_eq!(n_rows, 1000, "of 3,000 the first thousand");
    assert!(page.contains("3\u{202f}000 found") && page.contains("the first 1\u{202f}000"), "and it says so");
    assert!(n_elements < 12_000, "{n_elements} elements: a browser lays out some ten thousand in a blink");
    assert!(page.len() < 500_000, "{} bytes", page.len());
    // The overview stays what a person reads, however many there are.
    let overview = get(&format!("http://{}/", instance.api));
    assert!(overview.matches("<tr data-stream=").count() == 60 && overview.len() < 200_000, "{} bytes", overview.len());
    let found = get(&format!("http://{}/concepts?q=romance&state=ok", instance.api));
    assert_eq!(found.matches("<tr data-state=").count(), 1, "90s romance");
}
