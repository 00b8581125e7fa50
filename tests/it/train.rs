//! `recsae train` as a user runs it: the same bytes whatever the threads and after a kill, refusals by
//! row, a run folder that everything else reads.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ndarray::Array2;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support;

fn recsae(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_recsae")).args(args).output().unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Rows of a few known directions and noise.
fn vectors(path: &Path, n: usize) {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let directions = Array2::from_shape_simple_fn((12, 16), || rng.random_range(-1.0f32..1.0));
    let mut rows = Array2::from_shape_simple_fn((n, 16), || rng.random_range(-0.05f32..0.05));
    for mut row in rows.rows_mut() {
        for _ in 0..2 {
            row.scaled_add(rng.random_range(1.0..2.0), &directions.row(rng.random_range(0..12)));
        }
    }
    ndarray_npy::write_npy(path, &rows).unwrap();
}

const SMALL: [&str; 9] = ["train", "--k", "2", "--d-sae", "48", "--seed", "7", "--checkpoint-every", "0"];

#[test]
fn threads_and_a_kill_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    vectors(&path("v.npy"), 3000);
    let text = |path: PathBuf| path.display().to_string();
    let (embeddings, epochs) = (text(path("v.npy")), ["--epochs", "60"]);
    let args = |out: &str, threads: &'static str| -> Vec<String> {
        let own = ["--embeddings", &embeddings, "--out", &text(path(out)), "--threads", threads].map(str::to_owned);
        SMALL.iter().chain(&epochs).map(|arg| (*arg).to_owned()).chain(own).collect()
    };
    let run = |args: Vec<String>| done(&recsae(&args.iter().map(String::as_str).collect::<Vec<_>>()));
    for (out, threads) in [("one", "1"), ("two", "2"), ("four", "4")] {
        run(args(out, threads));
    }
    let weights = |out: &str| std::fs::read(path(out).join("weights.safetensors")).unwrap();
    assert!(weights("one") == weights("two") && weights("one") == weights("four"));

    let mut child = Command::new(env!("CARGO_BIN_EXE_recsae")).args(args("killed", "2")).spawn().unwrap();
    let checkpoint = path("killed").join("checkpoint.msgpack");
    while !checkpoint.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it wrote a checkpoint");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if !path("killed").join("run.json").exists() {
        let mut other = args("killed", "1");
        let seed = other.iter().position(|arg| arg == "--seed").unwrap();
        other[seed + 1] = "8".into();
        let refused = recsae(&other.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("belongs to a run of another recipe"));
        run(args("killed", "1"));
    }
    assert!(weights("one") == weights("killed"));
    let curve = |out: &str| -> Value {
        serde_json::from_slice::<Value>(&std::fs::read(path(out).join("run.json")).unwrap()).unwrap()["curve"].clone()
    };
    assert_eq!(curve("one"), curve("killed"));
    let again = recsae(&args("one", "1").iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("holds a finished run"));
}

#[test]
fn several_saes_in_one_pass_are_each_what_a_run_alone_gives() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    vectors(Path::new(&path("v.npy")), 3000);
    let embeddings = path("v.npy");
    let run = |k: &str, seed: &str, out: &str| {
        let own = ["train", "--k", k, "--d-sae", "48", "--seed", seed, "--epochs", "6", "--embeddings", &embeddings, "--out", &path(out)];
        done(&recsae(&own))
    };
    run("2,3", "7,8", "together");
    let weights = |out: &str| std::fs::read(Path::new(&path(out)).join("weights.safetensors")).unwrap();
    let mut all = Vec::new();
    for (k, seed) in [("2", "7"), ("2", "8"), ("3", "7"), ("3", "8")] {
        let name = format!("k{k}_d48_seed{seed}");
        run(k, seed, &name);
        all.push(weights(&name));
        assert!(weights(&name) == weights(&format!("together/{name}")), "{name}");
    }
    all.dedup();
    assert_eq!(all.len(), 4, "each is another SAE");
}

#[test]
fn several_saes_go_on_after_a_kill_and_the_finished_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    vectors(&path("v.npy"), 3000);
    let embeddings = path("v.npy").display().to_string();
    let args = |out: &str, k: &str| -> Vec<String> {
        // One thread: the runs come one after the other.
        let own = ["train", "--k", k, "--d-sae", "48", "--seed", "7", "--threads", "1", "--checkpoint-every", "0", "--epochs", "40"];
        own.into_iter()
            .map(str::to_owned)
            .chain(["--embeddings".into(), embeddings.clone(), "--out".into(), path(out).display().to_string()])
            .collect()
    };
    let run = |args: &[String]| recsae(&args.iter().map(String::as_str).collect::<Vec<_>>());
    done(&run(&args("whole", "2,3,4")));
    let (first, last) = (path("killed/k2_d48_seed7/run.json"), path("killed/k4_d48_seed7/run.json"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_recsae")).args(args("killed", "2,3,4")).spawn().unwrap();
    while !first.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the first run did");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let of_first = std::fs::read(&first).unwrap();
    if !last.exists() {
        // The same folders are no place for another recipe.
        let other: Vec<String> = args("killed", "2,3,4").into_iter().map(|word| if word == "40" { "41".into() } else { word }).collect();
        let refused = run(&other);
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && words.contains("holds a finished run of another recipe"), "{words}");
        let said = done(&run(&args("killed", "2,3,4")));
        assert!(said.contains("k2_d48_seed7: finished before, left as it is"), "{said}");
    }
    assert_eq!(of_first, std::fs::read(&first).unwrap());
    for k in [2, 3, 4] {
        let weights = |out: &str| std::fs::read(path(out).join(format!("k{k}_d48_seed7/weights.safetensors"))).unwrap();
        assert!(weights("whole") == weights("killed"), "k = {k}");
    }
    let again = run(&args("killed", "2,3,4"));
    assert!(again.status.code() == Some(2) && String::from_utf8_lossy(&again.stderr).contains("holds a finished run"));
}

#[test]
fn a_long_run_shows_how_far_it_is_on_a_terminal_and_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    vectors(Path::new(&path("v.npy")), 3000);
    let fixed = ["train", "--k", "2", "--d-sae", "48", "--seed", "7,8", "--json", "--embeddings", &path("v.npy"), "--threads", "1"]
        .map(str::to_owned);

    // A log: nothing of a run that is done at once, and lines of one that takes its time.
    let run = |out: &str, epochs: &str| {
        let own = ["--epochs", epochs, "--out", &path(out)].map(str::to_owned);
        let output = Command::new(env!("CARGO_BIN_EXE_recsae")).args(&fixed).args(own).output().unwrap();
        let runs: Value = serde_json::from_str(&done(&output)).unwrap();
        let seconds: Vec<f64> = runs.as_array().unwrap().iter().map(|run| run["run"]["seconds"].as_f64().unwrap()).collect();
        (String::from_utf8(output.stderr).unwrap(), seconds)
    };
    let (said, seconds) = run("short", "1");
    assert!(said.is_empty() || seconds.iter().any(|seconds| *seconds > 2.0), "{said}");
    // As many passes as take some four seconds each on this machine.
    let (_, seconds) = run("paced", "20");
    let epochs = (20.0 * 4.0 / seconds[0].min(seconds[1])).ceil();
    let (said, seconds) = run("long", &epochs.to_string());
    println!("{said}{seconds:?} seconds");
    for (seed, seconds) in ["7", "8"].into_iter().zip(seconds) {
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with(&format!("k 2 of 48 seed {seed}: step "))).collect();
        let n_steps = format!(" of {}, FVU 0.", 11.0 * epochs);
        assert!(lines.iter().all(|line| line.contains(&n_steps) && line.contains(", dead ")), "{n_steps}: {lines:?}");
        // A line after two seconds, and every five; a point of the curve is a hundredth of the run.
        let most = 1.0 + ((seconds - 1.0).max(0.0) / 5.0).floor();
        assert!(lines.len() as f64 <= most && (seconds < 2.5 || !lines.is_empty()), "{} lines in {seconds} s", lines.len());
    }

    // A terminal: a bar with what is left.
    let Some(script) = support::program("script") else { return };
    let own = ["--epochs", "4", "--out", &path("shown")].map(str::to_owned);
    let words: Vec<String> = std::iter::once(env!("CARGO_BIN_EXE_recsae").to_owned()).chain(fixed.clone()).chain(own).collect();
    let shown = Command::new(script)
        .args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"])
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let shown = done(&shown);
    // Of the other the terminal may have seen nothing: it is drawn on a few times a second, and these runs take less.
    assert!(
        shown.contains("k 2 of 48 seed 7 ") && shown.contains("% ") && shown.contains("FVU 0.") && shown.contains("\u{2588}"),
        "{shown:?}"
    );
    assert!(!shown.contains(": step "), "a bar, and no lines");
}

/// `n` users with `each` rows, a table of whose they are, and the vectors.
fn of_users(folder: &Path, n: i32, each: usize) -> (String, String) {
    let (npy, fields) = (folder.join("users.npy"), folder.join("fields.parquet"));
    vectors(&npy, usize::try_from(n).unwrap());
    let users: Vec<i32> = (0..n).flat_map(|user| std::iter::repeat_n(user, each)).collect();
    let column: arrow_array::ArrayRef = std::sync::Arc::new(arrow_array::Int32Array::from(users));
    let batch = arrow_array::RecordBatch::try_from_iter([("user_id", column)]).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&fields).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    (npy.display().to_string(), fields.display().to_string())
}

#[test]
fn users_are_held_out_whole_without_being_named() {
    let folder = tempfile::tempdir().unwrap();
    let (npy, fields) = of_users(folder.path(), 400, 5);
    let run = |out: &str, more: &[&str]| -> Value {
        let out = folder.path().join(out).display().to_string();
        let fixed =
            ["train", "--k", "2", "--d-sae", "48", "--epochs", "2", "--hold-out", "0.2", "--json", "--embeddings", &npy, "--out", &out];
        let run: Value = serde_json::from_str(&done(&recsae(&[&fixed[..], more].concat()))).unwrap();
        run[0]["run"].clone()
    };
    let by = ["--fields", &fields, "--by", "user_id"];
    let (named, unnamed) = (run("named", &[&by[..], &["--entity", "user_id"]].concat()), run("unnamed", &by));
    assert_eq!(unnamed["held_out"], json!({ "share": 0.2, "entity": "user_id", "item": null }));
    assert_eq!((&unnamed["rows_sha256"], &unnamed["held_out_entities"]), (&named["rows_sha256"], &named["held_out_entities"]));
    assert_eq!(unnamed["held_out_entities"]["rows"].as_u64().unwrap() % 5, 0, "a user's five rows are on one side");
    assert_eq!(unnamed["data"], "users.npy with fields.parquet, vectors by user_id; held out 0.2 of user_id");
    // Where nobody is known, rows are held out, and the words say so.
    let rows = run("rows", &[]);
    assert_eq!(rows["held_out"]["entity"], Value::Null);
    assert!(rows["data"].as_str().unwrap().contains("held out 0.2 of the rows, one by one: no entity is known"));
    let out = folder.path().join("words").display().to_string();
    let said = done(&recsae(&["train", "--k", "2", "--d-sae", "48", "--epochs", "1", "--embeddings", &npy, "--out", &out]));
    assert!(said.contains("held-out rows") && !said.contains("entities"), "{said}");
}

#[test]
fn rows_that_cannot_be_trained_on_are_refused_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.npy");
    let out = folder.path().join("run").display().to_string();
    let fails = |rows: Array2<f32>, says: &str| {
        ndarray_npy::write_npy(&path, &rows).unwrap();
        let output = recsae(&["train", "--k", "2", "--scale", "2", "--embeddings", path.to_str().unwrap(), "--out", &out]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains(says) && words.trim_end().lines().count() == 1, "{words}");
    };
    let mut rows = Array2::from_shape_fn((2000, 8), |(i, j)| ((i * 7 + j * 3) % 11) as f32);
    rows[[1234, 5]] = f32::NAN;
    fails(rows.clone(), "row 1234 of");
    rows[[1234, 5]] = f32::INFINITY;
    fails(rows, "value 5 is inf");
    fails(Array2::zeros((2000, 8)), "all the same vector");
    fails(Array2::from_shape_fn((40, 8), |(i, j)| (i * j) as f32), "rows to train on, expected at least");
    fails(Array2::zeros((0, 8)), "no row is left");
    // A recording in which one vector has another width, and one that has none.
    let path = folder.path().join("recorded.parquet");
    for (odd, says) in [(Some(7_u8), "row 1234, column \"embedding\": expected a vector of 8 values"), (None, "row 1234: no embedding")] {
        let mut embedding = arrow_array::builder::ListBuilder::new(arrow_array::builder::Float32Builder::new());
        for row in 0..2000_u16 {
            let width = if row == 1234 { odd } else { Some(8) };
            (0..width.unwrap_or(0)).for_each(|at| embedding.values().append_value(f32::from(row) * 0.1 + f32::from(at)));
            embedding.append(width.is_some());
        }
        let column: arrow_array::ArrayRef = std::sync::Arc::new(embedding.finish());
        let batch = arrow_array::RecordBatch::try_from_iter([("embedding", column)]).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let output = recsae(&["train", "--k", "2", "--scale", "2", "--embeddings", path.to_str().unwrap(), "--out", &out]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && words.contains(says), "{words}");
    }
}

#[test]
fn a_run_folder_holds_an_sae_that_bundle_and_evaluate_read() {
    let Some(library) = support::onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    vectors(Path::new(&path("v.npy")), 3000);
    let (embeddings, out) = (path("v.npy"), path("run"));
    let json = done(&recsae(&[&SMALL[..], &["--epochs", "40", "--embeddings", &embeddings, "--out", &out, "--json"]].concat()));
    let run: Value = serde_json::from_str(&json).unwrap();
    let run = &run[0]["run"];
    println!("{:#}", run["held_out_entities"]);
    assert!(run["held_out_entities"]["fvu"].as_f64().unwrap() < 0.2, "two of twelve directions and little noise");
    let l0 = run["with_threshold"]["l0"].as_f64().unwrap();
    assert!((l0 - 2.0).abs() < 0.1, "the threshold keeps k on average: {l0}");
    let evaluated = |sae: &str| -> Value {
        serde_json::from_str(&done(&recsae(&["evaluate", "--sae", sae, "--embeddings", &embeddings, "--json"]))).unwrap()
    };
    let evaluation = evaluated(&out);
    assert_eq!(evaluation["sae"]["selection"]["top_k"], 2);
    let (trained, all) = (run["train"]["fvu"].as_f64().unwrap(), evaluation["quality"]["fvu"].as_f64().unwrap());
    assert!((trained - all).abs() < 0.2 * all, "the scaling is taken back: {trained} {all}");
    let by_threshold = evaluated(&format!("{out}/threshold"));
    let threshold = |value: &Value| serde_json::from_value::<f32>(value.clone()).unwrap();
    assert_eq!(threshold(&by_threshold["sae"]["selection"]["threshold"]), threshold(&run["threshold"]));
    assert!((by_threshold["quality"]["l0"].as_f64().unwrap() - 2.0).abs() < 0.1, "{by_threshold:#}");
    for (form, graph) in [("", "sae.onnx"), ("", "encoder.onnx"), ("/threshold", "sae.onnx")] {
        let bundle = path(&format!("bundle{}-{graph}", form.replace('/', "-")));
        let (onnx, weights) = (format!("{out}{form}/{graph}"), format!("{out}{form}/weights.safetensors"));
        let built = Command::new(env!("CARGO_BIN_EXE_recsae"))
            .env("ORT_DYLIB_PATH", &library)
            .args(["bundle", "build", "--onnx", &onnx, "--weights", &weights, "--out", &bundle])
            .output()
            .unwrap();
        done(&built);
        let manifest: Value = serde_json::from_slice(&std::fs::read(format!("{bundle}/manifest.json")).unwrap()).unwrap();
        let own = recsae::workshop::sae_file::open(Path::new(&format!("{out}{form}")), None).unwrap();
        let own = recsae::bundle::fingerprint::of_weights(&own, recsae::bundle::manifest::Normalisation::None);
        assert_eq!(manifest["fingerprint"], own, "names made before the bundle are this SAE's");
    }
    assert!(std::fs::read_to_string(format!("{out}/loss.svg")).unwrap().contains("held-out entities"));
}

#[test]
fn real_vectors_of_three_kinds_of_model_are_learnt_within_the_bounds() {
    let Some(data) = support::data() else { return };
    let data = data.join("ml100k");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| data.join(name).display().to_string();
    // Fewer passes than the default recipe, which a debug build would take minutes for; the bounds are the issue's. At 15 passes
    // LightGCN's is met by some seeds only, .0145 to .0193 of six; at 25 they are at .0096 to .0133.
    for (model, bound) in [("sasrec", 0.040), ("bprmf", 0.0493), ("lightgcn", 0.0163)] {
        let out = folder.path().join(model).display().to_string();
        let (vectors, by): (String, &[&str]) = match model {
            "sasrec" => (file("sasrec.embeddings.npy"), &[]),
            _ => (file(&format!("{model}.user_embeddings.npy")), &["--by", "user_id"]),
        };
        let events = file("sasrec.events.parquet");
        let rows = ["--embeddings", &vectors, "--fields", &events];
        let train = [
            "train",
            "--k",
            "8",
            "--scale",
            "16",
            "--epochs",
            "25",
            "--where",
            "split=train",
            "--entity",
            "user_id",
            "--items",
            "target_item",
        ];
        done(&recsae(&[&train[..], &rows, by, &["--out", &out]].concat()));
        let evaluate = ["evaluate", "--sae", &out, "--json", "--where", "split=dev,test"];
        let json: Value = serde_json::from_str(&done(&recsae(&[&evaluate[..], &rows, by].concat()))).unwrap();
        let fvu = json["quality"]["fvu"].as_f64().unwrap();
        println!("{model}: FVU {fvu:.4}, dead {}", json["latents"]["dead"]);
        assert!(fvu <= bound, "{model}: FVU {fvu}, at most {bound}");
        let run: Value = serde_json::from_slice(&std::fs::read(Path::new(&out).join("run.json")).unwrap()).unwrap();
        println!("{model}: FVU of users never seen {}", run["held_out_entities"]["fvu"]);
        assert!(run["held_out_entities"]["rows"].as_u64().unwrap() > 500 && run["held_out_items"]["rows"].as_u64().unwrap() > 500);
    }
}
