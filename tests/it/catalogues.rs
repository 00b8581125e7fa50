//! Which SAE and which catalogue a command means: nothing is guessed, nothing is taken for empty.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support;

struct Given {
    data: PathBuf,
    folder: tempfile::TempDir,
}

impl Given {
    fn new() -> Option<Self> {
        Some(Self { data: support::data()?.join("ml100k"), folder: tempfile::tempdir().unwrap() })
    }

    fn sae(&self, name: &str) -> PathBuf {
        self.data.join(format!("sasrec.{name}.safetensors"))
    }

    fn own(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str], paths: &[(&str, &Path)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
        command.args(words);
        paths.iter().for_each(|(name, path)| {
            command.arg(name).arg(path);
        });
        command.output().unwrap()
    }

    /// Refused in one line.
    #[track_caller]
    fn refuses(&self, words: &[&str], paths: &[(&str, &Path)], says: &str) {
        let output = self.run(words, paths);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
        assert!(said.contains(says) && said.trim_end().lines().count() == 1, "{words:?}: {said}");
    }

    /// A command over the last rows: enough to have some labels.
    fn over_rows(&self, sae: &str, concepts: &Path, words: &[&str]) -> Value {
        let (vectors, events, items) =
            (self.data.join("sasrec.embeddings.npy"), self.data.join("sasrec.events.parquet"), self.data.join("items.parquet"));
        let words = [words, &["--json", "--tags", "genres,year:decade", "--where", "split=dev,test"]].concat();
        let paths = [
            ("--sae", self.sae(sae)),
            ("--embeddings", vectors),
            ("--fields", events),
            ("--items", items),
            ("--concepts", concepts.into()),
        ];
        let output = self.run(&words, &paths.each_ref().map(|(name, path)| (*name, path.as_path())));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn a_catalogue_that_is_not_there_is_not_taken_for_an_empty_one() {
    let Some(given) = Given::new() else { return };
    let (sae, missing, vectors, items) =
        (given.sae("sae_k8_s16"), given.own("mistyped.json"), given.data.join("sasrec.embeddings.npy"), given.data.join("items.parquet"));
    let (with, without) = ([("--sae", sae.as_path()), ("--concepts", missing.as_path())], [("--sae", sae.as_path())]);
    let sheet = given.own("sheet.json");
    std::fs::write(&sheet, "{}").unwrap();
    for words in [
        &["concepts", "search", "war"][..],
        &["review", "ask", "--reviewer", "ann"],
        &["review", "sheet"],
        &["review", "agreement"],
        &["review", "apply", "--reviewer", "ann", sheet.to_str().unwrap()],
    ] {
        given.refuses(words, &with, "mistyped.json: there is no such catalogue; `recsae label` makes one");
        given.refuses(words, &without, "this is no bundle: say where its catalogue lies with --concepts FILE.json");
    }
    let over = [&with[..], &[("--embeddings", vectors.as_path()), ("--items", items.as_path())]].concat();
    given.refuses(&["verify"], &over, "there is no such catalogue");
    let carry =
        [("--sae", sae.as_path()), ("--from", sae.as_path()), ("--concepts", missing.as_path()), ("--from-concepts", missing.as_path())];
    given.refuses(&["review", "carry-over"], &carry, "there is no such catalogue");
    assert!(!missing.exists());
}

#[test]
fn labels_are_carried_over_between_saes_of_different_k() {
    let Some(given) = Given::new() else { return };
    let (before, after, old) = (given.own("k8.json"), given.own("k32.json"), given.sae("sae_k8_s16"));
    assert!(given.over_rows("sae_k8_s16", &before, &["label", "--shuffles", "0"])["n_named"].as_u64() >= Some(10));
    // The new SAE has a catalogue already, in which nothing has a name.
    let nothing = given.over_rows("sae_k32_s32", &after, &["label", "--shuffles", "0", "--min-lift", "1e9"]);
    assert_eq!(nothing["n_named"], 0);
    let new = given.sae("sae_k32_s32");
    let paths =
        [("--from", old.as_path()), ("--from-concepts", before.as_path()), ("--sae", new.as_path()), ("--concepts", after.as_path())];
    let output = given.run(&["review", "carry-over", "--json", "--least", "0.5"], &paths);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let carried: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{carried}");
    assert!(carried["carried_over"].as_u64() >= Some(1));
    let read = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    // Names of tags can be tested as such, wherever they came from.
    let tests = given.over_rows("sae_k32_s32", &after, &["verify"]);
    println!("{} {}", tests["by_status"], tests["by_source"]);
    assert_eq!(
        (tests["n_untestable"].as_u64(), tests["tests"].as_array().unwrap().len() as u64),
        (Some(0), carried["carried_over"].as_u64().unwrap())
    );
    assert!(tests["tests"].as_array().unwrap().iter().all(|test| ["genres", "year:decade"].contains(&test["source"].as_str().unwrap())));
    let (before, after) = (read(&before), read(&after));
    for concept in after["concepts"].as_object().unwrap().values().filter(|concept| concept["label"].is_string()) {
        let from = concept["evidence"]["value"].as_str().unwrap().split_whitespace().nth(1).unwrap().to_owned();
        assert_eq!((&concept["label"], &concept["state"]), (&before["concepts"][&from]["label"], &json!("proposed")), "{concept}");
    }
    // The other way round the catalogue of one SAE is refused for the other.
    given.refuses(
        &["concepts", "search", "war"],
        &[("--sae", new.as_path()), ("--concepts", given.own("k8.json").as_path())],
        "labels belong to one SAE",
    );
}

#[test]
fn another_k_than_the_sae_says_is_another_sae_and_refused() {
    let Some(given) = Given::new() else { return };
    let (sae, vectors, out) = (given.sae("sae_k8_s16"), given.data.join("sasrec.item_embeddings.npy"), given.own("sae.onnx"));
    given.refuses(
        &["evaluate", "--k", "32"],
        &[("--sae", &sae), ("--embeddings", &vectors)],
        "asked for k = 32, but the SAE says k = 8 itself",
    );
    given.refuses(&["export", "--k", "32"], &[("--sae", &sae), ("--onnx", &out)], "asked for k = 32, but the SAE says k = 8 itself");
    assert!(!out.exists());
    let said = given.run(&["evaluate", "--json", "--k", "8"], &[("--sae", &sae), ("--embeddings", &vectors)]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn an_item_that_is_not_there_and_a_cap_that_turns_round_are_refused() {
    let Some(given) = Given::new() else { return };
    let file = |name: &str| given.data.join(name);
    let (sae, vectors, events, items) =
        (given.sae("sae_k8_s16"), file("sasrec.embeddings.npy"), file("sasrec.events.parquet"), file("sasrec.item_embeddings.npy"));
    let paths =
        [("--sae", sae.as_path()), ("--embeddings", vectors.as_path()), ("--fields", events.as_path()), ("--items", items.as_path())];
    let cases = ["--entity", "user_id", "--target", "target_item"];
    given.refuses(&[&["evaluate", "--padding", "1009"], &cases[..]].concat(), &paths, "--padding 1009: --items has 1009 rows");
    let table = file("items.parquet");
    let paths = [&paths[..], &[("--catalogue", table.as_path())]].concat();
    let steer = ["steer", "evaluate", "--choose", "split=dev", "--report", "split=test", "--tags", "genres"];
    for (more, says) in [
        (["--padding", "1009"], "--padding 1009: --items has 1009 rows"),
        (["--cap=-0.1", "--no-padding"], "--cap: expected a number above zero, found -0.1"),
        (["--cap=nan", "--no-padding"], "--cap: expected a number above zero"),
        (["--top", "0"], "--top and --latents: expected at least 1"),
        (["--tags", "studio"], "no column \"studio\"; there are item_id"),
    ] {
        let steer: &[&str] = if more[0] == "--tags" { &steer[..6] } else { &steer };
        given.refuses(&[steer, &cases, &more].concat(), &paths, says);
    }
}

#[test]
fn shares_and_lifts_that_cannot_be_meant_are_refused() {
    let Some(given) = Given::new() else { return };
    let (sae, vectors, items) = (given.sae("sae_k8_s16"), given.data.join("sasrec.item_embeddings.npy"), given.data.join("items.parquet"));
    let paths = [("--sae", sae.as_path()), ("--embeddings", vectors.as_path()), ("--items", items.as_path())];
    for (words, says) in [
        (["--min-precision", "50"], "--min-precision: expected a share from 0 to 1, found 50"),
        (["--min-precision", "nan"], "--min-precision"),
        (["--min-lift", "-1"], "--min-lift"),
        (["--min-lift", "inf"], "--min-lift"),
        (["--q", "1"], "--q: expected a share"),
        (["--hold-out-items", "1"], "--hold-out-items: expected a share"),
        (["--hold-out-entities", "nan"], "--hold-out-entities"),
    ] {
        let joined = format!("{}={}", words[0], words[1]);
        given.refuses(&["label", "--dry-run", "--evidence", "vectors", &joined], &paths, says);
    }
}
