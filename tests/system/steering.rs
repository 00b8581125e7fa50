//! `recsae steer plan` and `run` on Apache Kafka: what is edited, what keeps its bytes, what is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use std::time::Duration;

use recsae::kafka::admin;
use recsae::kafka::scan::scan;
use recsae::sae::weights::SaeWeights;
use recsae::simulate::setup::write_files;
use serde_json::{Value, json};

use crate::kafka_server::{self, Kafka, unique};
use crate::scene::Scene;

/// One record of a topic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) key: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) headers: BTreeMap<String, String>,
}

/// All records of a topic, by partition in order.
pub(crate) fn messages(kafka: &Kafka, topic: &str) -> Vec<Message> {
    let mut read: BTreeMap<i32, Vec<Message>> = BTreeMap::new();
    scan(&kafka.settings(&[topic]), topic, Duration::from_secs(20), |message| {
        let text = |value: &Option<&[u8]>| String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
        read.entry(message.partition.partition).or_default().push(Message {
            key: message.key.unwrap_or_default().to_vec(),
            payload: message.payload.unwrap_or_default().to_vec(),
            timestamp_ms: message.timestamp_ms,
            headers: message.headers.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect(),
        });
    })
    .unwrap();
    read.into_values().flatten().collect()
}

/// A world on a topic, with its bundle and a configuration.
struct Steering<'a> {
    kafka: &'a Kafka,
    scene: Scene,
    config: PathBuf,
    bundle: String,
}

impl<'a> Steering<'a> {
    fn new(kafka: &'a Kafka) -> Option<Self> {
        let mut scene = Scene::new(kafka, "")?;
        scene.produce(0..1, Duration::ZERO);
        scene.settings.model[0].bundle = named_bundle(&scene);
        let config = scene.folder().join("recsae.toml");
        std::fs::write(&config, toml::to_string(&scene.settings).unwrap()).unwrap();
        let bundle = scene.settings.model[0].bundle.display().to_string();
        Some(Self { kafka, scene, config, bundle })
    }

    fn recsae(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).output().unwrap()
    }

    /// Makes a plan by the program: its file and its hash.
    fn plan(&self, arguments: &[&str]) -> (String, String) {
        let file = self.scene.folder().join(unique("plan")).display().to_string();
        let fixed = ["steer", "plan", "--bundle", &self.bundle, "--out", &file];
        let output = self.recsae(&[&fixed[..], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        (file, said.trim().rsplit_once(' ').unwrap().1.to_owned())
    }

    fn run(&self, plan: &str, to: &str) -> Output {
        let config = self.config.to_str().unwrap();
        self.recsae(&["steer", "run", "-c", config, "--bundle", &self.bundle, "--plan", plan, "--to", to, "--until-end"])
    }

    /// Runs a plan into a topic of its own: what lies there.
    fn steered(&self, plan: &str) -> Vec<Message> {
        let to = unique("steered");
        let output = self.run(plan, &to);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        println!("{}", String::from_utf8_lossy(&output.stdout).trim());
        messages(self.kafka, &to)
    }

    /// What was read, without what the monitor would reject: by key and payload.
    fn good(&self) -> Vec<Message> {
        let all = messages(self.kafka, &self.scene.settings.kafka.topics[0]);
        let is_good = |message: &Message| {
            let json: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            json["embedding"].as_array().is_some_and(|values| values.len() == 64)
        };
        all.into_iter().filter(is_good).collect()
    }
}

/// The scene's SAE with the names of its concepts.
fn named_bundle(scene: &Scene) -> PathBuf {
    let files = write_files(&scene.world, scene.folder()).unwrap();
    let out = scene.folder().join("named");
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.env("ORT_DYLIB_PATH", &scene.library).args(["bundle", "build", "--onnx"]).arg(files.onnx);
    let built = command.arg("--concepts").arg(files.concepts).arg("--out").arg(&out).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    out
}

pub(crate) fn vector(payload: &[u8]) -> Vec<f32> {
    let json: Value = serde_json::from_slice(payload).unwrap();
    serde_json::from_value(json["embedding"].clone()).unwrap()
}

/// The payload around the vector.
fn around(payload: &[u8]) -> (&[u8], &[u8]) {
    let (open, close) = (payload.iter().position(|b| *b == b'[').unwrap(), payload.iter().position(|b| *b == b']').unwrap());
    (&payload[..open], &payload[close..])
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn moved(before: &[f32], after: &[f32]) -> f64 {
    norm(before.iter().zip(after).map(|(a, b)| f64::from(*b) - f64::from(*a))) / norm(before.iter().map(|v| f64::from(*v)))
}

/// `x - z_j W_dec[j]`, in f64: what ablating latent `j` must give.
pub(crate) fn ablated(sae: &SaeWeights, x: &[f32], latent: usize) -> Option<Vec<f64>> {
    let (_, z) = sae.encode(x).into_iter().find(|(at, _)| at.index() == latent)?;
    let row = sae.w_dec().unwrap().row(latent).to_vec();
    Some(x.iter().zip(row).map(|(x, w)| f64::from(*x) - z * f64::from(w)).collect())
}

#[test]
fn a_plan_edits_what_it_names_and_nothing_else() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(steering) = Steering::new(kafka) else { return };
    let good = steering.good();
    let n_future = u64::try_from(good.len()).unwrap() - steering.scene.good.load(Ordering::SeqCst);
    assert!(good.len() > 1000 && n_future < 100);
    let topic = steering.scene.settings.kafka.topics[0].clone();
    let ends = kafka.ends(&topic, 4);
    let sae = steering.scene.world.dictionary().sae().unwrap();
    // The concept that is shown most.
    let mut shown = vec![0; 128];
    good.iter().for_each(|message| sae.encode(&vector(&message.payload)).iter().for_each(|(latent, _)| shown[latent.index()] += 1));
    let concept = (0..128).max_by_key(|latent| shown[*latent]).unwrap();
    let number = concept.to_string();

    // No edit: the same bytes, key and time; the plan's hash in the headers, and that nothing moved.
    let (file, hash) = steering.plan(&["--latents", &number, "--action", "scale", "--amount", "1"]);
    let same = steering.steered(&file);
    let plain = |messages: &[Message]| {
        let mut all: Vec<_> = messages.iter().map(|m| (m.key.clone(), m.payload.clone(), m.timestamp_ms)).collect();
        all.sort();
        all
    };
    assert_eq!(plain(&same), plain(&good));
    let expected = BTreeMap::from([("recsae.steer.plan".to_owned(), hash), ("recsae.steer.moved".to_owned(), "0".to_owned())]);
    assert!(same.iter().all(|message| message.headers == expected), "{:?}", same[0].headers);

    // Ablate by name: what an independent sum in f64 gives, and only where the concept was active.
    let label = recsae::simulate::words::concept_name(concept);
    let (file, hash) = steering.plan(&["--concept", &label.to_uppercase(), "--action", "ablate"]);
    let by_rest = |messages: &[Message]| -> BTreeMap<(Vec<u8>, Vec<u8>), Vec<Message>> {
        let mut map: BTreeMap<(Vec<u8>, Vec<u8>), Vec<Message>> = BTreeMap::new();
        for message in messages {
            let (before, after) = around(&message.payload);
            map.entry((message.key.clone(), [before, after].concat())).or_default().push(message.clone());
        }
        map
    };
    let (steered, originals) = (by_rest(&steering.steered(&file)), by_rest(&good));
    assert_eq!(steered.keys().collect::<Vec<_>>(), originals.keys().collect::<Vec<_>>(), "all but the vector is as it was");
    let (mut changed, mut kept) = (0, 0);
    for (at, messages) in originals.iter().filter(|(_, messages)| messages.len() == 1) {
        let (before, after) = (&messages[0], &steered[at][0]);
        assert_eq!(after.headers["recsae.steer.plan"], hash);
        let x = vector(&before.payload);
        match ablated(&sae, &x, concept) {
            None => {
                assert_eq!(before.payload, after.payload);
                kept += 1;
            }
            Some(expected) => {
                let found = vector(&after.payload);
                let worst = expected.iter().zip(&found).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-5, "{worst}");
                assert!(sae.encode(&found).iter().all(|(latent, _)| latent.index() != concept), "the concept is gone");
                let said: f64 = after.headers["recsae.steer.moved"].parse().unwrap();
                assert!((said - moved(&x, &found)).abs() < 1e-4, "{said}");
                changed += 1;
            }
        }
    }
    println!("{changed} vectors changed, {kept} kept");
    assert!(changed > 50 && kept > 500);

    // A name that is not there is answered with the nearest.
    let plan = ["steer", "plan", "--bundle", &steering.bundle, "--action", "ablate", "--out", "none", "--concept", &label[1..]];
    let refused = steering.recsae(&plan);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("nearest: ") && said.contains(&label.to_lowercase()), "{said}");

    // A cap holds in every record, and is reached.
    let (file, _) = steering.plan(&["--latents", &number, "--action", "add", "--amount", "7", "--cap", "0.1"]);
    let capped = by_rest(&steering.steered(&file));
    for (at, messages) in originals.iter().filter(|(_, messages)| messages.len() == 1) {
        let ratio = moved(&vector(&messages[0].payload), &vector(&capped[at][0].payload));
        assert!((0.0999..0.10001).contains(&ratio), "{ratio}");
    }

    // An amount in the latent's own units is written out by rows, here those of the topic itself.
    let recorded = steering.scene.folder().join("recorded");
    let (config, out) = (steering.config.to_str().unwrap(), recorded.to_str().unwrap());
    assert!(steering.recsae(&["record", "-c", config, "--out", out, "--until-end"]).status.success());
    let relative = ["--latents", &number, "--action", "clamp", "--amount", "0.5", "--unit", "p99"];
    let (file, _) = steering.plan(&[&relative[..], &["--embeddings", out]].concat());
    let plan: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let mut values: Vec<f64> = good
        .iter()
        .filter_map(|m| sae.encode(&vector(&m.payload)).into_iter().find(|(l, _)| l.index() == concept))
        .map(|(_, z)| z)
        .collect();
    values.sort_by(f64::total_cmp);
    // The 99th percentile lies between two neighbours; which of them, or what between, is a matter of definition.
    let (amount, below) = (plan["edits"][0]["action"]["clamp"].as_f64().unwrap(), (values.len() - 1) * 99 / 100);
    let (least, most) = (0.5 * values[below], 0.5 * values[(below + 1).min(values.len() - 1)]);
    println!("half of the 99th percentile, {least:.3} to {most:.3}, is {amount:.3}");
    assert!((least - 1e-5..=most + 1e-5).contains(&amount) && plan["edits"][0]["unit"] == "absolute");
    let clamped = steering.steered(&file);
    assert_eq!(clamped.len(), good.len());

    assert_eq!(kafka.ends(&topic, 4), ends, "the topic that is read was not written to");
}

#[test]
fn what_cannot_be_meant_is_refused_before_a_record_is_written() {
    let Some(kafka) = kafka_server::shared() else { return };
    let Some(steering) = Steering::new(kafka) else { return };
    let topic = steering.scene.settings.kafka.topics[0].clone();
    let (good, _) = steering.plan(&["--latents", "3", "--action", "ablate"]);
    let plan: Value = serde_json::from_slice(&std::fs::read(&good).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = plan.clone();
        change(&mut changed);
        changed.to_string()
    };
    let garbage: Vec<(String, &str)> = vec![
        (String::new(), "not a steering plan"),
        ("{".into(), "not a steering plan"),
        ("[1,2]".into(), "not a steering plan"),
        ("\u{0}\u{1}\u{2}".into(), "not a steering plan"),
        ("{}".into(), "missing field `fingerprint`"),
        (with(&|p| p["fingerprint"] = "another".into()), "the plan is for SAE another"),
        (with(&|p| p["edits"][0]["latents"] = json!([128])), "this SAE has 128"),
        (with(&|p| p["edits"][0]["latents"] = json!([-1])), "not a steering plan"),
        (with(&|p| p["edits"][0]["latents"] = json!([])), "names no latent"),
        (with(&|p| p["edits"][0]["latents"] = json!([3, 3])), "named twice"),
        (with(&|p| p["edits"][0]["action"] = "destroy".into()), "unknown variant `destroy`"),
        (with(&|p| p["edits"][0]["action"] = json!({ "scale": -1.0 })), "not below zero"),
        (with(&|p| p["edits"][0]["action"] = json!({ "add": 1e300 })), "number out of range"),
        (with(&|p| p["edits"][0]["action"] = json!({ "add": null })), "not a steering plan"),
        (with(&|p| p["edits"][0]["unit"] = "p99".into()), "amounts are absolute"),
        (with(&|p| p["cap"] = 0.into()), "expected a number above zero"),
        (with(&|p| p["cap"] = (-0.5).into()), "expected a number above zero"),
        (with(&|p| p["caps"] = 0.5.into()), "unknown field `caps`"),
    ];
    let (to, file) = (unique("nothing"), steering.scene.folder().join("garbage.json"));
    for (text, words) in garbage {
        std::fs::write(&file, &text).unwrap();
        let output = steering.run(file.to_str().unwrap(), &to);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}: {said}");
        assert!(said.contains(words), "{text}: {said}");
    }
    let listed = admin::inspect(&steering.scene.settings.kafka, Duration::from_secs(10)).unwrap();
    assert!(!listed.topics.iter().any(|(name, _)| *name == to), "a refused plan makes no topic");

    // Never into what is read, by name or by pattern.
    let refused = |config: &str, to: &str, words: &str| {
        let output = steering.recsae(&["steer", "run", "-c", config, "--bundle", &steering.bundle, "--plan", &good, "--to", to]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(words), "{said}");
    };
    refused(steering.config.to_str().unwrap(), &topic, "this topic is read");
    let mut pattern = steering.scene.settings.clone();
    pattern.kafka.topics = vec![format!("^{topic}.*")];
    let config = steering.scene.folder().join("pattern.toml");
    std::fs::write(&config, toml::to_string(&pattern).unwrap()).unwrap();
    refused(config.to_str().unwrap(), &format!("{topic}.steered"), "this topic is read");

    // A plan that f32 cannot follow ends the stream instead of writing what is no number.
    let (file, _) = steering.plan(&["--latents", "3", "--action", "add", "--amount", "3e38"]);
    let output = steering.run(&file, &unique("beyond"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("beyond what f32 holds"), "{said}");
}
