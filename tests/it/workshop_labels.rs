//! Labels from end to end on a real SAE, by the program: label, verify, families, search, review, bundle.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support;

struct World {
    folder: tempfile::TempDir,
    data: PathBuf,
}

impl World {
    fn new() -> Option<Self> {
        let data = support::data()?.join("ml100k");
        support::onnxruntime()?;
        let world = Self { folder: tempfile::tempdir().unwrap(), data };
        let (onnx, golden) = (world.data.join("sasrec.sae_k8_s16.full.onnx"), world.data.join("sasrec.sae_k8_s16.golden.npz"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
        command.args(["bundle", "build", "--onnx"]).arg(onnx).arg("--golden").arg(golden).arg("--out").arg(world.bundle());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        Some(world)
    }

    fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).arg("--sae").arg(self.bundle()).output().unwrap()
    }

    /// A command over the recorded rows, its JSON.
    fn over_rows(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
        command.args(arguments).arg("--json").arg("--sae").arg(self.bundle());
        command.arg("--embeddings").arg(self.data.join("sasrec.embeddings.npy"));
        command.arg("--fields").arg(self.data.join("sasrec.events.parquet"));
        command.arg("--items").arg(self.data.join("items.parquet"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn catalogue(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.bundle().join("concepts.json")).unwrap()).unwrap()
    }
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", words(output));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

fn decide(sheet: &Value, path: &Path, state: &str, n: usize) {
    let mut sheet = sheet.clone();
    for entry in sheet["entries"].as_array_mut().unwrap().iter_mut().take(n) {
        entry["decision"] = state.into();
    }
    std::fs::write(path, serde_json::to_vec(&sheet).unwrap()).unwrap();
}

#[test]
fn a_label_goes_from_proposal_to_a_tested_and_accepted_name_in_the_bundle() {
    let Some(world) = World::new() else { return };
    let report = world.over_rows(&["label", "--shuffles", "2"]);
    let n_named = report["n_named"].as_u64().unwrap();
    assert!(n_named > 100, "{n_named}");

    // Verified on held-out users and items, beside another SAE.
    let other = world.data.join("sasrec.sae_k32_s32.safetensors");
    let tests = world.over_rows(&["verify", "--other-sae", other.to_str().unwrap()]);
    println!(
        "{} RecSAE {} deciles {} stable {}",
        tests["by_status"], tests["recsae_confirmed"], tests["recall_by_decile"], tests["stable"]
    );
    let status = |name: &str| tests["by_status"][name].as_u64().unwrap_or(0);
    assert_eq!(status("verified") + status("weak") + status("unverified"), n_named);
    assert!(status("verified") > 0 && status("weak") > 0, "{}", tests["by_status"]);
    for test in tests["tests"].as_array().unwrap() {
        let detection = &test["detection"];
        let n = |side: &str| detection[side]["n"].as_u64().unwrap();
        if detection["status"] == "verified" {
            assert!(n("recall") >= 50 && n("specificity") >= 50 && detection["interval"][0].as_f64() >= Some(0.65), "{detection}");
        }
        assert_eq!(detection["by_decile"].as_array().unwrap().len(), 10);
    }

    // Families, with stable ids.
    let families = world.over_rows(&["concepts", "families"]);
    let n_families = families["families"].as_array().unwrap().len();
    assert!(n_families >= 2, "{n_families}");
    assert_eq!(families["families"], world.over_rows(&["concepts", "families"])["families"], "again: the same");
    let hits = done(&world.run(&["concepts", "search", "horror", "--json"]));
    println!("{hits}");
    assert!(hits[0]["name"].as_str().unwrap().starts_with("Horror"), "{hits}");
    assert_eq!(world.run(&["concepts", "search", "zzzz", "--json"]).status.code(), Some(1));

    // Two reviewers; the second disagrees on one.
    let path = world.folder.path().join("sheet.json");
    let sheet = done(&world.run(&["review", "sheet"]));
    assert_eq!(sheet["entries"].as_array().unwrap().len() as u64, n_named);
    decide(&sheet, &path, "accepted", 4);
    let file = path.to_str().unwrap();
    done(&world.run(&["review", "apply", file, "--reviewer", "ann", "--json"]));
    decide(&sheet, &path, "accepted", 3);
    let mut bobs: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    bobs["entries"][2]["decision"] = "rejected".into();
    std::fs::write(&path, bobs.to_string()).unwrap();
    let decided = done(&world.run(&["review", "apply", file, "--reviewer", "bob", "--json"]));
    assert_eq!(decided["decided"][2]["state"], "needs_data");
    let agreement = done(&world.run(&["review", "agreement", "--json"]));
    assert_eq!((&agreement[0]["n"], agreement[0]["observed"].as_f64()), (&json!(3), Some(2.0 / 3.0)));
    let entry = &sheet["entries"][0];
    let concept = &world.catalogue()["concepts"][entry["latent"].to_string()];
    assert_eq!((&concept["state"], &concept["reviews"][1]["reviewer"]), (&json!("accepted"), &json!("bob")));
    assert_eq!(concept["reviews"][0]["evidence"], entry["evidence"], "bound to what was seen");

    // What was accepted outlives another labelling; the bundle holds together; the wrong evidence is refused.
    world.over_rows(&["label", "--shuffles", "0", "--min-precision", "0.9"]);
    assert_eq!(world.catalogue()["concepts"][entry["latent"].to_string()]["state"], "accepted");
    let verify = Command::new(env!("CARGO_BIN_EXE_recsae")).args(["bundle", "verify"]).arg(world.bundle()).output().unwrap();
    assert!(verify.status.success(), "{}", words(&verify));
    bobs["entries"][0]["evidence"] = "0".into();
    std::fs::write(&path, bobs.to_string()).unwrap();
    let refused = world.run(&["review", "apply", file, "--reviewer", "bob"]);
    assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
    assert!(words(&refused).contains("evidence"), "{}", words(&refused));
}

#[test]
fn labels_are_carried_over_to_another_sae_as_proposals() {
    let Some(world) = World::new() else { return };
    world.over_rows(&["label", "--shuffles", "0"]);
    // The same SAE with its latents in another order and scale stands for a retrained one.
    let bytes = std::fs::read(world.data.join("sasrec.sae_k8_s16.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let turned = |name: &str, width: usize| -> Vec<u8> {
        let data = file.tensor(name).unwrap().data().to_vec();
        data.chunks(4 * width).rev().flatten().copied().collect()
    };
    let tensors = [
        ("encoder.weight", turned("encoder.weight", 64), vec![1024, 64]),
        ("encoder.bias", turned("encoder.bias", 1), vec![1024]),
        ("W_dec", turned("W_dec", 64), vec![1024, 64]),
        ("b_dec", file.tensor("b_dec").unwrap().data().to_vec(), vec![64]),
    ];
    let views = tensors
        .iter()
        .map(|(name, data, shape)| (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap()));
    let metadata = std::collections::HashMap::from([("k".to_owned(), "8".to_owned())]);
    let (sae, concepts) = (world.folder.path().join("new.safetensors"), world.folder.path().join("new.json"));
    std::fs::write(&sae, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
    let carry = |to: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
        command.args(["review", "carry-over", "--json", "--from"]).arg(world.bundle()).arg("--sae").arg(&sae).arg("--concepts").arg(to);
        done(&command.output().unwrap())
    };
    let n = carry(&concepts)["carried_over"].as_u64().unwrap();
    let (old, new) = (world.catalogue(), serde_json::from_slice::<Value>(&std::fs::read(&concepts).unwrap()).unwrap());
    let labelled: Vec<(u64, &Value)> =
        old["concepts"].as_object().unwrap().iter().filter(|(_, c)| c["label"].is_string()).map(|(l, c)| (l.parse().unwrap(), c)).collect();
    assert_eq!(n, labelled.len() as u64);
    for (latent, concept) in labelled {
        let carried = &new["concepts"][(1023 - latent).to_string()];
        assert_eq!((&carried["label"], &carried["state"]), (&concept["label"], &json!("proposed")));
        assert_eq!(carried["evidence"]["source"], "carried over");
    }
    // A catalogue of one SAE is refused with another.
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.args(["concepts", "search", "war", "--concepts"]).arg(world.bundle().join("concepts.json")).arg("--sae").arg(&sae);
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
    assert!(words(&refused).contains("carry-over"), "{}", words(&refused));
}

#[test]
fn reviewing_in_the_terminal_writes_every_answer_at_once() {
    use std::io::Write as _;
    let Some(world) = World::new() else { return };
    world.over_rows(&["label", "--shuffles", "0"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.args(["review", "ask", "--reviewer", "ann", "--sae"]).arg(world.bundle());
    let mut child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"x\na\ne my own words\ns\nr not a concept\nq\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = words(&output);
    assert!(output.status.success() && text.contains("expected a, e NEW LABEL") && text.contains("items:"), "{text}");
    let catalogue = world.catalogue();
    let by_state = |state: &str| catalogue["concepts"].as_object().unwrap().values().filter(|concept| concept["state"] == state).count();
    assert_eq!((by_state("accepted"), by_state("edited"), by_state("rejected")), (1, 1, 1));
    assert!(catalogue.to_string().contains("not a concept") && catalogue.to_string().contains("my own words"));
}
