//! Label, verify, families, review, steer and bundle for a general (BPR-MF), a graph (LightGCN) and a sequential model
//! (SASRec), on their real vectors and given SAEs: what the program finds is what numpy and scipy find.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use recsae::sae::hold_out::HoldOut;
use recsae::workshop::dataset::table::Table;
use serde_json::{Value, json};

use crate::support;

const MODELS: [&str; 3] = ["bprmf", "lightgcn", "sasrec"];
/// One in six users: no class of the test then has more cases than `recsae verify` looks at, so that nothing is drawn.
const HELD_OUT: HoldOut = HoldOut { entities: 0.16, items: 0.3, seed: 0 };
/// Not the words of titles: what a word is numpy need not say again.
const TAGS: &str = "genres,year,year:decade,popularity";

/// A model's rows, one a user, with the items it recommends.
struct Model {
    name: &'static str,
    data: PathBuf,
    folder: tempfile::TempDir,
}

impl Model {
    fn all() -> Option<impl Iterator<Item = Self>> {
        let data = support::data()?.join("ml100k");
        Some(MODELS.into_iter().map(move |name| Self { name, data: data.clone(), folder: tempfile::tempdir().unwrap() }))
    }

    fn file(&self, name: &str) -> String {
        self.data.join(name).display().to_string()
    }

    fn own(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn by_user(&self) -> bool {
        self.name != "sasrec"
    }

    fn sae(&self) -> String {
        self.file(&format!("{}.sae_k8_s16.safetensors", self.name))
    }

    fn vectors(&self) -> String {
        self.file(&format!("{}.{}embeddings.npy", self.name, if self.by_user() { "user_" } else { "" }))
    }

    fn items(&self) -> String {
        self.file("items.parquet")
    }

    fn fields(&self) -> String {
        if self.by_user() { self.file(&format!("{}.user_recs.parquet", self.name)) } else { self.file("sasrec.events.parquet") }
    }

    /// What names the rows: a user's vector with its list, or a user's last event.
    fn rows(&self) -> Vec<String> {
        let mut rows = vec!["--embeddings".into(), self.vectors(), "--fields".into(), self.fields()];
        rows.extend(if self.by_user() { ["--by", "user_id"] } else { ["--where", "split=test"] }.map(str::to_owned));
        rows
    }

    /// The SAE with its catalogue.
    fn named(&self) -> Vec<String> {
        vec!["--sae".into(), self.sae(), "--concepts".into(), self.own("concepts.json")]
    }

    /// A command that succeeds: what it printed, as JSON or null.
    fn run(&self, words: &[&str], more: &[&[String]]) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_recsae")).args(words).args(more.concat()).output().unwrap();
        assert!(output.status.success(), "{}, {words:?}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Labels, and their report.
    fn label(&self) -> Value {
        let (entities, items) = (HELD_OUT.entities.to_string(), HELD_OUT.items.to_string());
        let words = ["label", "--json", "--tags", TAGS, "--hold-out-entities", &entities, "--hold-out-items", &items];
        self.run(&words, &[&self.named(), &self.rows(), &["--items".into(), self.items()]])
    }

    fn catalogue(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.own("concepts.json")).unwrap()).unwrap()
    }

    /// What a script answers about this model.
    fn asked(&self, script: &str, more: Value) -> Option<Value> {
        let mut question = json!({
            "vectors": self.vectors(), "fields": self.fields(), "by_user": self.by_user(), "split": if self.by_user() { "" } else { "test" },
            "sae": self.sae(), "items": self.items(), "item_vectors": self.file(&format!("{}.item_embeddings.npy", self.name)),
            "events": self.file("sasrec.events.parquet"), "tags": TAGS.split(',').collect::<Vec<_>>(),
            "held_out_users": (0..2000).map(|user| user.to_string()).filter(|user| HELD_OUT.has_entity(user)).collect::<Vec<_>>(),
            "held_out_items": (0..2000).map(|item| item.to_string()).filter(|item| HELD_OUT.has_item(item)).collect::<Vec<_>>(),
        });
        question.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let script = support::repo().join("tests/scripts").join(script);
        let mut child = Command::new(support::python()?).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", self.name);
        Some(serde_json::from_slice(&output.stdout).unwrap())
    }
}

/// Equal, or but for rounding.
#[track_caller]
fn close(what: &str, ours: &Value, theirs: &Value, tolerance: f64) {
    let (a, b) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
    assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{what}: {a}, numpy {b}");
}

#[test]
fn labels_tests_and_families_of_three_kinds_of_model_are_numpys() {
    let Some(models) = Model::all() else { return };
    for model in models {
        // An SAE of another size and seed, which the stability of latents is measured against.
        let other = model.own("other");
        let small = ["train", "--json", "--k", "8", "--scale", "4", "--epochs", "20", "--out", &other];
        let trained = model.run(&small, &[&model.rows()]);
        assert_eq!(trained[0]["run"]["held_out"]["entity"], "user_id", "users are held out whole without being asked for");

        let report = model.label();
        assert_eq!(report["shuffled"], json!(vec![0; 10]), "{}: tags dealt anew name nothing", model.name);
        let Some(numpy) = model.asked("workshop_yardstick.py", json!({ "other_sae": format!("{other}/weights.safetensors") })) else {
            return;
        };
        let (labels, expected) = (report["labels"].as_array().unwrap(), numpy["labels"].as_array().unwrap());
        assert!(labels.len() >= 4, "{}: {} labels", model.name, labels.len());
        let key =
            |label: &Value| format!("{} {} {} {} {}", label["latent"], label["source"], label["value"], label["at_least"], label["items"]);
        assert_eq!(labels.iter().map(key).collect::<Vec<_>>(), expected.iter().map(key).collect::<Vec<_>>(), "{}", model.name);
        for (ours, theirs) in labels.iter().zip(expected) {
            for number in ["n_active", "precision", "recall", "lift", "auc", "ln_q_value", "log_odds", "tf_idf"] {
                close(&format!("{} latent {} {number}", model.name, ours["latent"]), &ours[number], &theirs[number], 1e-7);
            }
        }

        let items = ["--items".to_owned(), model.items(), "--tags".into(), TAGS.into()];
        let tests = model.run(&["verify", "--json", "--other-sae", &other], &[&model.named(), &model.rows(), &items]);
        assert_eq!((&tests["n_cases"], tests["tests"].as_array().unwrap().len()), (&numpy["verify"]["n_cases"], labels.len()));
        // Two pairs that are equally alike in f32 may be made in the other order.
        let mut n_other_partners = 0;
        for test in tests["tests"].as_array().unwrap() {
            let (latent, ours) = (test["latent"].to_string(), &test["detection"]);
            let theirs = &numpy["verify"]["tests"][&latent];
            assert_eq!(theirs["whole"], true, "{}: a class is larger than what is looked at", model.name);
            for part in ["recall", "specificity", "specificity_nearest", "by_decile"] {
                assert_eq!(ours[part], theirs[part], "{} latent {latent}: {part}", model.name);
            }
            let other = numpy["stability"][latent.parse::<usize>().unwrap()].as_f64().unwrap();
            n_other_partners += usize::from((test["stability"].as_f64().unwrap() - other).abs() > 1e-5);
            let Some(status) = theirs["status"].as_str() else { continue };
            assert_eq!(ours["status"], status, "{} latent {latent}", model.name);
            close("balanced accuracy", &ours["balanced_accuracy"], &theirs["balanced_accuracy"], 1e-12);
            (0..2).for_each(|end| close("interval", &ours["interval"][end], &theirs["interval"][end], 1e-12));
            let concept = &model.catalogue()["concepts"][&latent];
            assert_eq!(concept["tested"]["status"], status, "it travels with the catalogue");
        }

        assert!(n_other_partners <= 1, "{}: {n_other_partners} latents have other partners", model.name);
        let families = model.run(&["concepts", "families", "--json", "--max-members", "4096"], &[&model.named(), &model.rows(), &items]);
        let ours: Vec<&Value> = families["families"].as_array().unwrap().iter().map(|family| &family["latents"]).collect();
        assert_eq!(json!(ours), numpy["families"], "{}", model.name);
        let first = labels[0]["label"].as_str().unwrap();
        let hits = model.run(&["concepts", "search", first, "--json"], &[&model.named()]);
        assert!(hits[0]["name"].as_str().unwrap().starts_with(first), "{}: {first} finds {}", model.name, hits[0]);
        println!(
            "{}: {} labels, {} held-out cases, {}, {} families, stable {}: as numpy has them",
            model.name,
            labels.len(),
            tests["n_cases"],
            tests["by_status"],
            ours.len(),
            tests["stable"]
        );
    }
}

#[test]
fn one_users_vector_is_one_case_however_many_histories_go_with_it() {
    let Some(models) = Model::all() else { return };
    for model in models.filter(Model::by_user) {
        let (vectors, events, own) = (model.vectors(), model.file("sasrec.events.parquet"), ["--items".into(), model.items()]);
        let rows = ["--embeddings", &vectors, "--by", "user_id", "--fields", &events, "--evidence", "history"].map(str::to_owned);
        let report = model.run(&["label", "--json"], &[&model.named(), &rows, &own]);
        assert_eq!(report["shuffled"], json!(vec![0; 10]), "{}: tags dealt anew name nothing", model.name);
        let labels = report["labels"].as_array().unwrap();
        assert!(labels.len() >= 8 && labels.iter().all(|label| label["n_entities"].as_u64() >= Some(10)), "a name is not one user's taste");
        let tests = model.run(&["verify", "--json"], &[&model.named(), &rows, &own]);
        let users = Table::read(&model.data.join("users.parquet")).unwrap();
        let is_out = |user: &&Value| HoldOut::default().has_entity(&user.to_string());
        let held_out = users.column("user_id").unwrap().iter().filter(is_out).count() as u64;
        assert!(tests["n_cases"].as_u64().unwrap() > 10 * held_out, "{}", tests["n_cases"]);
        for test in tests["tests"].as_array().unwrap() {
            let n = |class: &str| test["detection"][class]["n"].as_u64().unwrap();
            assert!(n("recall") + n("specificity") <= held_out, "more cases than users: {test}");
        }
        println!("{}: {} labels, {} by the rule, of {} users at most", model.name, labels.len(), tests["by_status"], held_out);
    }
}

#[test]
fn labels_of_three_kinds_of_model_are_reviewed_by_two_and_go_into_the_bundle() {
    let (Some(models), Some(library)) = (Model::all(), support::onnxruntime()) else { return };
    for model in models {
        let n = model.label()["n_named"].as_u64().unwrap();
        let sheet_file = model.own("sheet.json");
        let sheet = model.run(&["review", "sheet"], &[&model.named()]);
        let entries = sheet["entries"].as_array().unwrap();
        assert_eq!(entries.len() as u64, n);
        // Ann rejects every third label, Bob every second.
        for (reviewer, every) in [("ann", 3), ("bob", 2)] {
            let mut decided = sheet.clone();
            for (at, entry) in decided["entries"].as_array_mut().unwrap().iter_mut().enumerate() {
                entry["decision"] = json!(if at % every == 0 { "rejected" } else { "accepted" });
            }
            std::fs::write(&sheet_file, decided.to_string()).unwrap();
            model.run(&["review", "apply", &sheet_file, "--reviewer", reviewer], &[&model.named()]);
        }
        let share = |of: &dyn Fn(usize) -> bool| (0..entries.len()).filter(|at| of(*at)).count() as f64 / entries.len() as f64;
        let (ann, bob) = (share(&|at| at % 3 == 0), share(&|at| at % 2 == 0));
        let (observed, expected) = (share(&|at| (at % 3 == 0) == (at % 2 == 0)), ann * bob + (1.0 - ann) * (1.0 - bob));
        let agreement = &model.run(&["review", "agreement", "--json"], &[&model.named()])[0];
        assert_eq!((&agreement["reviewers"], agreement["n"].as_u64()), (&json!(["ann", "bob"]), Some(n)));
        close("kappa", &agreement["kappa"], &json!((observed - expected) / (1.0 - expected)), 1e-12);

        let (bundle, onnx, weights) = (model.own("bundle"), model.sae().replace(".safetensors", ".full.onnx"), model.sae());
        let golden = model.sae().replace(".safetensors", ".golden.npz");
        let words = ["bundle", "build", "--onnx", &onnx, "--weights", &weights, "--golden", &golden, "--out", &bundle];
        let library = ["--onnxruntime".to_owned(), library.display().to_string()];
        model.run(&words, &[&library, &["--concepts".into(), model.own("concepts.json")]]);
        model.run(&["bundle", "verify", &bundle], &[&library]);
        let named: Value = serde_json::from_slice(&std::fs::read(format!("{bundle}/concepts.json")).unwrap()).unwrap();
        for (at, entry) in entries.iter().enumerate() {
            let concept = &named["concepts"][entry["latent"].to_string()];
            let state = match (at % 3 == 0, at % 2 == 0) {
                (false, false) => "accepted",
                (true, true) => "rejected",
                _ => "needs_data",
            };
            assert_eq!(concept["state"], state, "{}: {concept}", model.name);
            let of = |review: usize, what: &str| concept["reviews"][review][what].clone();
            assert_eq!((of(0, "reviewer"), of(1, "reviewer")), (json!("ann"), json!("bob")));
            assert_eq!((of(0, "evidence"), of(1, "evidence")), (entry["evidence"].clone(), entry["evidence"].clone()));
            assert!(of(0, "at_ms").as_i64() > Some(1_700_000_000_000));
        }
        println!("{}: {n} labels, kappa {}", model.name, agreement["kappa"]);
    }
}

#[test]
fn steering_of_three_kinds_of_model_does_what_numpy_finds() {
    let Some(models) = Model::all() else { return };
    let seed: u64 = rand::random::<u64>() >> 12;
    println!("seed {seed}");
    for model in models {
        let table = Table::read(&model.data.join("users.parquet")).unwrap();
        let of_women = table.column("user_id").unwrap().iter().zip(table.column("gender").unwrap()).filter(|(_, gender)| *gender == "F");
        let women: Vec<&Value> = of_women.map(|(user, _)| user).collect();
        let (items, catalogue, events) =
            (model.file(&format!("{}.item_embeddings.npy", model.name)), model.items(), model.file("sasrec.events.parquet"));
        let (sae, vectors, seed_text, page) = (model.sae(), model.vectors(), seed.to_string(), model.own("steering.html"));
        let mut words =
            vec!["steer", "evaluate", "--json", "--sae", &sae, "--embeddings", &vectors, "--fields", &events, "--items", &items];
        words.extend(["--catalogue", &catalogue, "--entity", "user_id", "--target", "target_item", "--history", "history"]);
        words.extend(["--choose", "split=dev", "--report", "split=test", "--tags", "genres", "--latents", "2", "--seed", &seed_text]);
        // Women's rows: fewer, and numpy's part takes as long.
        let users = format!("{}:user_id", model.file("users.parquet"));
        words.extend(["--join", &users, "--where", "gender=F"]);
        words.extend(["--popularity", "n_events", "--html", &page]);
        if model.by_user() {
            words.extend(["--by", "user_id"]);
        }
        let report = model.run(&words, &[]);
        let Some(numpy) = model.asked("steer_yardstick.py", json!({ "tags": report["tags"], "seed": seed, "users": women })) else {
            return;
        };
        let chosen: Vec<&Value> = report["tags"].as_array().unwrap().iter().filter(|tag| tag["chosen"].is_object()).collect();
        assert_eq!((report["tags"].as_array().unwrap().len(), numpy.as_object().unwrap().len()), (19, chosen.len()));
        let mut n_among = 0;
        for tag in &chosen {
            let (name, ours) = (format!("{} {}", model.name, tag["tag"]), &tag["chosen"]);
            let theirs = &numpy[tag["tag"].as_str().unwrap()];
            // A near tie in f32 may swap a place in one of 273 lists.
            close(&name, &tag["before"]["share"]["mean"], &theirs["before"], 4e-4);
            close(&name, &tag["before"]["lists"]["ndcg"], &theirs["ndcg_before"], 4e-4);
            close(&name, &ours["share"]["mean"], &theirs["share"], 4e-4);
            close(&name, &ours["moved"], &theirs["moved"], 1e-4);
            for number in ["ndcg", "overlap", "gini"] {
                close(&format!("{name} {number}"), &ours["lists"][number], &theirs["lists"][number], 5e-4);
            }
            close(&name, &ours["lists"]["coverage"], &theirs["lists"]["coverage"], 1.1e-3);
            // Both are bootstraps: an end's own error is some 4 % of the interval's half width.
            let number = |value: &Value| value.as_f64().unwrap();
            let (low, high) = (number(&theirs["interval"][0]), number(&theirs["interval"][1]));
            for (ours, theirs) in [(&ours["share"]["low"], low), (&ours["share"]["high"], high)] {
                assert!((number(ours) - theirs).abs() <= 0.15 * (high - low) + 1e-3, "{name}: {ours} {theirs}");
            }
            // A direction drawn here lies among twelve drawn there, in 11 of 13 cases if they are drawn alike.
            let (least, most) = (number(&theirs["random"][0]), number(&theirs["random"][1]));
            n_among += usize::from((least..=most).contains(&number(&ours["random_direction"]["mean"])));
        }
        println!("{}: a random direction moves {n_among} of {} tags as far as one of numpy's", model.name, chosen.len());
        // One direction serves all tags, so that they go astray together.
        assert!(3 * n_among >= chosen.len(), "{}: {n_among} of {}", model.name, chosen.len());
        let moved = chosen.iter().filter(|tag| tag["moved"] == true).count();
        let popularity = &report["popularity"];
        println!("{}: {} of 19 genres have a dose, {moved} moved beyond both controls; shares as numpy has them", model.name, chosen.len());
        for recipe in popularity["recipes"].as_array().unwrap() {
            println!(
                "  {}: coverage {} to {}, raised {}",
                recipe["recipe"], popularity["before"]["coverage"], recipe["lists"]["coverage"], recipe["raised"]
            );
        }
        assert!(3 * moved >= chosen.len() && chosen.len() >= 10, "{}: {moved} of {}", model.name, chosen.len());
        let page = std::fs::read_to_string(&page).unwrap();
        assert!(page.matches("<svg").count() >= 2 * chosen.len());
    }
}
