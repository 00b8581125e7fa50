//! `recsae evaluate` on the real SAEs: the digits of the issue, and those of a numpy script of its own.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support;

/// SAE, and what is known of it on dev + test rows: FVU and, where known, cosine; on test rows NDCG@10 before and after.
type Known = (&'static str, f64, Option<f64>, Option<(f64, f64)>);

const KNOWN: &[Known] = &[
    ("sasrec.sae_k8_s16", 0.0798, Some(0.9676), Some((0.1088, 0.0994))),
    ("sasrec.sae_k32_s32", 0.0060, Some(0.9975), Some((0.1088, 0.1087))),
    ("bprmf.sae_k8_s16", 0.0493, None, None),
    ("lightgcn.sae_k8_s16", 0.0163, None, None),
];

fn evaluate(data: &Path, sae: &str, split: &str, more: &[&str]) -> Value {
    let file = |name: &str| data.join(name).display().to_string();
    let model = sae.split('.').next().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.args(["evaluate", "--json", "--sae", &file(&format!("{sae}.safetensors")), "--fields", &file("sasrec.events.parquet")]);
    command.args(["--where", &format!("split={split}"), "--entity", "user_id", "--target", "target_item", "--history", "history"]);
    command.args(["--items", &file(&format!("{model}.item_embeddings.npy"))]);
    match model {
        "sasrec" => command.args(["--embeddings", &file("sasrec.embeddings.npy")]),
        _ => command.args(["--embeddings", &file(&format!("{model}.user_embeddings.npy")), "--by", "user_id"]),
    };
    let output = command.args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_given_saes_give_the_known_digits_and_those_of_numpy() {
    let (Some(data), Some(python)) = (support::data(), support::python()) else { return };
    let data = data.join("ml100k");
    let output = Command::new(python).arg(support::repo().join("tests/scripts/evaluate_yardstick.py")).arg(&data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let numpy: Value = serde_json::from_slice(&output.stdout).unwrap();
    let close = |name: &str, got: &Value, expected: f64, tolerance: f64| {
        let got = got.as_f64().unwrap();
        assert!((got - expected).abs() <= tolerance, "{name}: {got}, expected {expected}");
    };
    for (sae, fvu, cosine, ndcg) in KNOWN {
        let (held_out, test) = (evaluate(&data, sae, "dev,test", &[]), evaluate(&data, sae, "test", &[]));
        close(sae, &held_out["quality"]["fvu"], *fvu, 3e-4);
        if let Some(cosine) = cosine {
            close(sae, &held_out["quality"]["cosine"], *cosine, 3e-4);
        }
        if let Some((before, after)) = ndcg {
            close(sae, &test["ranking"]["ndcg_before"], *before, 2e-4);
            close(sae, &test["ranking"]["ndcg_after"], *after, 2e-4);
        }
        for (name, expected) in numpy[sae]["quality"].as_object().unwrap().iter().filter(|(name, _)| *name != "dead") {
            close(&format!("{sae} {name}"), &held_out["quality"][name], expected.as_f64().unwrap(), 2e-6);
        }
        close(&format!("{sae} dead"), &held_out["latents"]["dead"], numpy[sae]["quality"]["dead"].as_f64().unwrap(), 1e-9);
        for (name, expected) in numpy[sae]["ranking"].as_object().unwrap() {
            // A near tie in f32 may swap one place of one of 938 lists.
            close(&format!("{sae} {name}"), &test["ranking"][name], expected.as_f64().unwrap(), 2e-4);
        }
    }
}

#[test]
fn segments_users_and_the_page_are_parts_of_one_whole() {
    let Some(data) = support::data() else { return };
    let data = data.join("ml100k");
    let folder = tempfile::tempdir().unwrap();
    let (html, json) = (folder.path().join("report.html"), folder.path().join("report.json"));
    let join = format!("{}:user_id", data.join("users.parquet").display());
    let more = ["--join", &join, "--segment", "gender", "--html", html.to_str().unwrap(), "--out", json.to_str().unwrap()];
    let whole = evaluate(&data, "sasrec.sae_k8_s16", "test", &more);
    assert_eq!(serde_json::from_slice::<Value>(&std::fs::read(json).unwrap()).unwrap(), whole);
    let rows = |value: &Value| value["rows"].as_u64().unwrap();
    let (men, women) = (&whole["segments"]["gender=M"], &whole["segments"]["gender=F"]);
    assert_eq!(rows(&men["quality"]) + rows(&women["quality"]), rows(&whole["quality"]));
    let users = whole["users"].as_object().unwrap();
    assert_eq!((users.len(), rows(&whole["quality"])), (938, 938));
    let mean = |of: fn(&Value) -> f64| users.values().map(of).sum::<f64>() / 938.0;
    assert!(
        (mean(|user| user["ranking"]["ndcg_after"].as_f64().unwrap()) - whole["ranking"]["ndcg_after"].as_f64().unwrap()).abs() < 1e-12
    );
    assert!((mean(|user| user["cosine"].as_f64().unwrap()) - whole["quality"]["cosine"].as_f64().unwrap()).abs() < 1e-12);
    let page = std::fs::read_to_string(html).unwrap();
    // What becomes of the recommendations is plotted: the means as they stand in the JSON, and every user once.
    for (name, key) in [("NDCG", "ndcg"), ("HR", "hit_rate")] {
        for when in ["before", "after"] {
            let value = whole["ranking"][format!("{key}_{when}")].as_f64().unwrap();
            assert!(page.contains(&format!("<title>{name}@10 {when}: {value:.4}</title>")), "{name} {when}");
        }
    }
    assert_eq!(users_in_bars(&page), 938.0);
    assert!(page.matches("<svg").count() >= 7 && page.contains("gender=F") && !page.contains("NaN"));
    // One file: nothing is fetched. The name of SVG's elements is no place to fetch from.
    let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!["http:", "https:", "src=", "url(", "<link", "@import"].iter().any(|fetched| elsewhere.contains(fetched)));
}

/// Users in the bars of the page's plot of changes.
fn users_in_bars(page: &str) -> f64 {
    let plot = page.split("<svg").find(|plot| plot.contains("Users by the change of their NDCG")).unwrap();
    let bars = plot.split("<rect").skip(1).map(|bar| bar.split("<title>").nth(1).unwrap().split("</title>").next().unwrap());
    bars.map(|title| title.split(": ").nth(1).unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() {
    let Some(data) = support::data() else { return };
    let data = data.join("ml100k");
    let file = |name: &str| data.join(name).display().to_string();
    let fails = |args: &[&str], says: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_recsae")).arg("evaluate").args(args).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains(says) && words.trim_end().lines().count() == 1, "{words}");
    };
    let (sae, vectors, events) = (file("sasrec.sae_k8_s16.safetensors"), file("sasrec.embeddings.npy"), file("sasrec.events.parquet"));
    fails(&["--sae", &events, "--embeddings", &vectors], "not a safetensors file");
    fails(&["--sae", &sae, "--embeddings", &vectors, "--fields", &file("users.parquet")], "--fields has 938 rows, --embeddings 53475");
    fails(&["--sae", &sae, "--embeddings", &vectors, "--fields", &events, "--where", "split=valid"], "no row is left of 53475");
    fails(&["--sae", &sae, "--embeddings", &vectors, "--fields", &events, "--segment", "surface"], "no column \"surface\"; there are ts");
    let folder = tempfile::tempdir().unwrap();
    let narrow = folder.path().join("narrow.npy");
    ndarray_npy::write_npy(&narrow, &ndarray::Array2::<f32>::zeros((3, 32))).unwrap();
    fails(&["--sae", &sae, "--embeddings", narrow.to_str().unwrap()], "the embeddings have 32 values, the SAE reads 64");
}
