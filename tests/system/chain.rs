//! RecSAE whole, on MovieLens-100k and Apache Kafka: what the topic holds is recorded, an SAE trained on it,
//! its latents named and tested, and the monitor then tells a real drift by a name that stood the test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use ndarray::Array2;
use recsae::workshop::dataset::table::Table;
use recsae::workshop::dataset::{Dataset, DatasetRequest};
use recsae::workshop::sae_file;
use serde_json::{Value, json};

use crate::kafka_server::{self, unique};
use crate::steering::{ablated, messages, vector};
use crate::support;

struct Chain {
    folder: tempfile::TempDir,
    library: PathBuf,
    data: PathBuf,
    config: String,
}

impl Chain {
    /// A command that succeeds: what it printed, as JSON or null.
    fn run(&self, arguments: &[&str]) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).env("ORT_DYLIB_PATH", &self.library).output().unwrap();
        assert!(output.status.success(), "recsae {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn given(&self, name: &str) -> String {
        self.data.join(name).display().to_string()
    }

    /// The configuration as an operator has it before there is an SAE, and after.
    fn configure(&self, brokers: &str, topic: &str, with_model: bool) {
        let model = if with_model { format!("[[model]]\nbundle = {:?}\n", self.path("bundle")) } else { String::new() };
        let text = format!(
            r#"
            [kafka]
            brokers = "{brokers}"
            topics = ["{topic}"]
            dead_letter_topic = ""
            group = "{topic}"
            {model}
            [window]
            length = "7d"
            origin = "1997-09-20T00:00:00Z"
            [drift]
            false_alarm_budget = "1 per 52 windows"
            reference = "autumn"
            harmonics = 0
            weekend = false
            min_entities = 1
            pseudo_streams = false
            [store]
            path = "{}"
            [metrics]
            listen = "127.0.0.1:0"
            [http]
            listen = "127.0.0.1:0"
            "#,
            self.path("recsae.db"),
        );
        std::fs::write(Path::new(&self.config), text).unwrap();
    }
}

#[test]
fn from_the_topic_to_an_alert_that_names_a_verified_concept() {
    let (Some(kafka), Some(data), Some(library)) = (kafka_server::shared(), support::data(), support::onnxruntime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("recsae.toml").display().to_string();
    let chain = Chain { folder, library, data: data.join("ml100k"), config };
    let (topic, config) = (unique("chain"), chain.config.as_str());
    let (vectors, events, items) =
        (chain.given("sasrec.embeddings.npy"), chain.given("sasrec.events.parquet"), chain.given("items.parquet"));
    let produce = ["produce", "--embeddings", &vectors, "--fields", &events, "--entity", "user_id", "--timestamp", "ts"];
    chain.run(&[&produce[..], &["--items", "recommended", "--topic", &topic, "--brokers", &kafka.brokers]].concat());

    // Record: there is no SAE yet.
    chain.configure(&kafka.brokers, &topic, false);
    let recorded = chain.path("recorded");
    let done = chain.run(&["record", "-c", config, "--out", &recorded, "--until-end", "--json"]);
    assert_eq!(done["records"], 53_475, "{done}");

    // Train, twice: what both seeds find is no accident of one. Ten passes, which a debug build does in seconds; the
    // default recipe has more.
    let runs = chain.path("runs");
    let (run, other) = (format!("{runs}/k8_d1024_seed1"), format!("{runs}/k8_d1024_seed2"));
    let train = ["train", "--embeddings", &recorded, "--entity", "entity", "--items", "items", "--k", "8", "--scale", "16"];
    let report = chain.run(&[&train[..], &["--epochs", "10", "--seed", "1,2", "--out", &runs, "--json"]].concat());
    let fvu = report[0]["run"]["held_out_entities"]["fvu"].as_f64().unwrap();

    // Evaluate: the given SAE of this size, trained elsewhere, leaves .0798.
    let evaluated = chain.run(&["evaluate", "--sae", &run, "--embeddings", &recorded, "--json"]);
    println!("FVU {} over all, {fvu} of users never seen", evaluated["quality"]["fvu"]);
    assert!(fvu < 0.0798 && evaluated["quality"]["fvu"].as_f64().unwrap() < 0.0798);

    // Label, and test the labels on users and items they were not made from.
    let concepts = chain.path("concepts.json");
    let named = ["--sae", &run, "--concepts", &concepts, "--embeddings", &recorded, "--items", &items, "--json"];
    let labels = chain.run(&[&["label", "--shuffles", "1"], &named[..]].concat());
    assert_eq!(labels["shuffled"][0], 0, "no label by chance: {}", labels["shuffled"]);
    let tested = chain.run(&[&["verify", "--other-sae", &other], &named[..]].concat());
    println!("{} of {} latents named, tested: {}", labels["n_named"], labels["n_latents"], tested["by_status"]);
    println!("latents that the other seed has too: {}", tested["stable"]);
    assert!(tested["tests"].as_array().unwrap().iter().all(|test| test["stability"].is_f64()), "each label says how stable its latent is");
    assert!(labels["n_named"].as_u64() >= Some(100) && tested["by_status"]["verified"].as_u64() >= Some(20));
    let families = chain.run(&[&["concepts", "families"], &named[..]].concat())["families"].clone();

    // Bundle, reference, monitor.
    let (bundle, onnx, weights) = (chain.path("bundle"), format!("{run}/sae.onnx"), format!("{run}/weights.safetensors"));
    let build = ["bundle", "build", "--onnx", &onnx, "--weights", &weights, "--concepts", &concepts, "--model-version", "sasrec"];
    chain.run(&[&build[..], &["--out", &bundle, "--json"]].concat());
    chain.configure(&kafka.brokers, &topic, true);
    let reference = ["reference", "build", "-c", config, "--name", "autumn", "--embeddings", &recorded, "--json"];
    let reference = chain.run(&[&reference[..], &["--from", "1997-09-20", "--to", "1997-11-15"]].concat());
    assert_eq!(reference["windows"], 8, "{reference}");
    chain.run(&["reference", "approve", "-c", config, "autumn", "--who", "ana", "--why", "eight quiet weeks"]);
    chain.run(&["run", "-c", config, "--until-end"]);

    // The drift is real: films of late 1997 come into the lists from December on. It is told by concepts whose names,
    // years and genres of the films shown, held on users and films that the names were not made from.
    let alerts = chain.run(&["alerts", "list", "-c", config, "--json"]);
    let alerts = alerts.as_array().unwrap();
    for alert in alerts {
        println!(
            "{} {} {} x{:.1}, began {}, {}",
            alert["stream"],
            alert["concept"],
            alert["direction"],
            alert["ratio"].as_f64().unwrap_or(f64::NAN),
            alert["began"],
            alert["verification"]
        );
    }
    let catalogue: Value = serde_json::from_slice(&std::fs::read(&concepts).unwrap()).unwrap();
    let of_latent = |alert: &&Value| alert["stream"].as_str().unwrap().starts_with("latent:");
    let verified: Vec<&Value> = alerts.iter().filter(of_latent).filter(|alert| alert["verification"] == "verified").collect();
    assert!(!verified.is_empty(), "no alert has a verified name");
    for alert in &verified {
        let latent = alert["stream"].as_str().unwrap().trim_start_matches("latent:");
        let label = catalogue["concepts"][latent]["label"].as_str().unwrap();
        assert!(alert["concept"].as_str().unwrap().starts_with(label), "{alert}");
    }
    let risen = |alert: &&&Value| alert["direction"] == "up" && alert["concept"].as_str().unwrap().contains("1997");
    assert!(verified.iter().any(|alert| risen(&alert)), "the films of 1997 rose");
    let counts = chain.path("counts.parquet");
    chain.run(&["history", "export", "-c", config, "--out", &counts]);
    families_are_followed(families.as_array().unwrap(), alerts, &Table::read(Path::new(&counts)).unwrap());
}

/// The families went with the bundle: each is judged and exported as the sum of its members, and called by their labels.
fn families_are_followed(families: &[Value], alerts: &[Value], counts: &Table) {
    let column = |name: &str| counts.column(name).unwrap();
    let mut users: BTreeMap<(String, String), f64> = BTreeMap::new();
    for (row, _) in column("segment").iter().enumerate().filter(|(_, segment)| *segment == "_all") {
        let at = (column("window_start")[row].to_string(), column("stream")[row].as_str().unwrap().to_owned());
        // Latents have a row for each length of session.
        *users.entry(at).or_default() += column("value")[row].as_f64().unwrap();
    }
    let windows: BTreeSet<&String> = users.keys().map(|(window, _)| window).collect();
    let shown = |window: &str, stream: String| users.get(&(window.to_owned(), stream)).copied().unwrap_or(0.0);
    let mut n_shown = 0;
    for family in families {
        for window in &windows {
            let members = family["latents"].as_array().unwrap().iter().map(|latent| shown(window, format!("latent:{latent}")));
            // An entity that shows two members counts twice, so that a family moves as its members do.
            let (sum, counted) = (members.sum::<f64>(), shown(window, format!("family:{}", family["id"])));
            assert_eq!(counted, sum, "{family} in {window}");
            n_shown += usize::from(counted > 0.0);
        }
    }
    println!("{} families in {} windows, {n_shown} times shown", families.len(), windows.len());
    assert!(families.len() >= 5 && windows.len() >= 20 && n_shown > families.len());
    for alert in alerts {
        if let Some(id) = alert["stream"].as_str().unwrap().strip_prefix("family:") {
            let id: u64 = id.parse().unwrap();
            let family = families.iter().find(|family| family["id"] == id).unwrap();
            assert_eq!(alert["concept"], family["name"]);
        }
    }
}

#[test]
fn a_general_and_a_graph_model_go_from_the_topic_to_steered_vectors() {
    let (Some(kafka), Some(data), Some(library)) = (kafka_server::shared(), support::data(), support::onnxruntime()) else { return };
    for model in ["bprmf", "lightgcn"] {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("recsae.toml").display().to_string();
        let chain = Chain { folder, library: library.clone(), data: data.join("ml100k"), config };
        let (topic, config) = (unique(model), chain.config.as_str());
        let (vectors, lists, items) = (
            chain.given(&format!("{model}.user_embeddings.npy")),
            chain.given(&format!("{model}.user_recs.parquet")),
            chain.given("items.parquet"),
        );
        let produce = ["produce", "--embeddings", &vectors, "--by", "user_id", "--fields", &lists, "--entity", "user_id"];
        chain.run(&[&produce[..], &["--items", "recommended", "--topic", &topic, "--brokers", &kafka.brokers]].concat());

        // Record: every user's vector, bit by bit.
        chain.configure(&kafka.brokers, &topic, false);
        let recorded = chain.path("recorded");
        assert_eq!(chain.run(&["record", "-c", config, "--out", &recorded, "--until-end", "--json"])["records"], 938);
        let rows = Dataset::open(&DatasetRequest { embeddings: recorded.clone().into(), ..DatasetRequest::default() }).unwrap();
        let users: Array2<f32> = ndarray_npy::read_npy(&vectors).unwrap();
        for (row, user) in rows.column("entity").unwrap().keys().unwrap().iter().enumerate() {
            assert_eq!(rows.embedding(row), users.row(user.parse().unwrap()).as_slice().unwrap(), "{model}, user {user}");
        }

        // Train twice, evaluate on the recording and on the file it came from.
        let runs = chain.path("runs");
        let (run, other) = (format!("{runs}/k8_d256_seed1"), format!("{runs}/k8_d256_seed2"));
        let train = ["train", "--embeddings", &recorded, "--k", "8", "--scale", "4", "--epochs", "100", "--seed", "1,2", "--out", &runs];
        let report = chain.run(&[&train[..], &["--json"]].concat());
        assert_eq!(report[0]["run"]["held_out"]["entity"], "entity");
        let evaluated = chain.run(&["evaluate", "--sae", &run, "--embeddings", &recorded, "--json"]);
        let given = chain.run(&["evaluate", "--sae", &run, "--embeddings", &vectors, "--by", "user_id", "--fields", &lists, "--json"]);
        let fvu = |of: &Value| of["quality"]["fvu"].as_f64().unwrap();
        println!("{model}: FVU {:.4}, of users never seen {}", fvu(&evaluated), report[0]["run"]["held_out_entities"]["fvu"]);
        assert!(fvu(&evaluated) < 0.3 && (fvu(&evaluated) - fvu(&given)).abs() < 1e-9, "{} {}", fvu(&evaluated), fvu(&given));

        // Label, verify beside the other seed, families, and a reviewer who accepts what is named.
        let concepts = chain.path("concepts.json");
        let named = ["--sae", &run, "--concepts", &concepts];
        let over = [&named[..], &["--embeddings", &recorded, "--items", &items, "--json"]].concat();
        let labels = chain.run(&[&["label", "--tags", "genres,year,year:decade,popularity"], &over[..]].concat());
        assert_eq!(labels["shuffled"], json!(vec![0; 10]), "no label by chance");
        let tested = chain.run(&[&["verify", "--tags", "genres,year,year:decade,popularity", "--other-sae", &other], &over[..]].concat());
        let families = chain.run(&[&["concepts", "families"], &over[..]].concat());
        let n_named = labels["n_named"].as_u64().unwrap();
        println!(
            "{model}: {n_named} of 256 named, {}, {} families, stable {}",
            tested["by_status"],
            families["families"].as_array().unwrap().len(),
            tested["stable"]
        );
        assert!(n_named >= 5 && tested["tests"].as_array().unwrap().len() as u64 == n_named, "{n_named}");
        let sheet_file = chain.path("sheet.json");
        let mut sheet = chain.run(&[&["review", "sheet"], &named[..]].concat());
        sheet["entries"].as_array_mut().unwrap().iter_mut().for_each(|entry| entry["decision"] = json!("accepted"));
        std::fs::write(&sheet_file, sheet.to_string()).unwrap();
        chain.run(&[&["review", "apply", "--reviewer", "ana", &sheet_file], &named[..]].concat());

        // Bundle, and the vectors without the concept that is met most, on a topic of their own.
        let (bundle, onnx, weights) = (chain.path("bundle"), format!("{run}/sae.onnx"), format!("{run}/weights.safetensors"));
        chain.run(&["bundle", "build", "--onnx", &onnx, "--weights", &weights, "--concepts", &concepts, "--out", &bundle]);
        chain.configure(&kafka.brokers, &topic, true);
        let label = labels["labels"].as_array().unwrap().iter().max_by_key(|label| label["n_active"].as_u64()).unwrap();
        let (name, plan, to) = (label["label"].as_str().unwrap(), chain.path("plan.json"), unique("steered"));
        chain.run(&["steer", "plan", "--bundle", &bundle, "--concept", name, "--action", "ablate", "--out", &plan]);
        chain.run(&["steer", "run", "-c", config, "--bundle", &bundle, "--plan", &plan, "--to", &to, "--until-end"]);
        let latents: Vec<usize> = serde_json::from_slice::<Value>(&std::fs::read(&plan).unwrap()).unwrap()["edits"][0]["latents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|latent| usize::try_from(latent.as_u64().unwrap()).unwrap())
            .collect();
        let of_label = labels["labels"].as_array().unwrap().iter().filter(|other| other["label"] == name).count();
        assert_eq!(latents.len(), of_label, "every latent of the name");
        let sae = sae_file::open(Path::new(&run), None).unwrap();
        let by_user = |topic: &str| -> BTreeMap<Vec<u8>, Vec<u8>> {
            messages(kafka, topic).into_iter().map(|message| (message.key, message.payload)).collect()
        };
        let (before, after) = (by_user(&topic), by_user(&to));
        assert_eq!((before.len(), after.len()), (938, 938));
        let mut changed = 0;
        for (user, payload) in &before {
            let (x, found) = (vector(payload), vector(&after[user]));
            // Each latent's part is taken away, in f64.
            let mut expected: Vec<f64> = x.iter().map(|value| f64::from(*value)).collect();
            for part in latents.iter().filter_map(|latent| ablated(&sae, &x, *latent)) {
                expected.iter_mut().zip(part).zip(&x).for_each(|((sum, part), x)| *sum += part - f64::from(*x));
            }
            let worst = expected.iter().zip(&found).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-5, "{model}: {worst}");
            assert_eq!(x == found, *payload == after[user], "what is not moved keeps its bytes");
            changed += usize::from(x != found);
        }
        println!("{model}: {name} ablated, {changed} of 938 vectors changed");
        assert!(changed >= 10);
    }
}
