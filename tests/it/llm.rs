//! Names from a language model, asked of a local server that speaks the API and misbehaves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use recsae::sae::hold_out::HoldOut;
use recsae::workshop::dataset::table::Table;
use recsae::workshop::dataset::{Dataset, DatasetRequest};
use recsae::workshop::label::gather::{EvidenceKind, GatherRequest, gather};
use recsae::workshop::label::held_out_cases;
use recsae::workshop::label::items::{ItemColumns, Items};
use recsae::workshop::sae_file;
use serde_json::{Value, json};

use crate::support;

/// What the server does with a question.
#[derive(Clone, Copy, Debug)]
enum Does {
    Name(&'static str),
    Status(u16),
    /// Takes the question and says nothing until the client goes.
    Hangs,
    /// Closes in the middle of the answer.
    Cuts,
    /// 200, and no JSON.
    Garbage,
    /// JSON that is no completion.
    OtherJson,
    /// An answer of 3 MB.
    Floods,
}

struct Server {
    url: String,
    /// Requests seen: headers and body.
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

/// A server that does the n-th thing with the n-th question, and `after` with all later ones.
fn server(first: Vec<Does>, after: Does) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, n) = (seen.clone(), AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            // One question a connection: the answers say so.
            answer(stream, &log, |_| first.get(n.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or(after));
        }
    });
    Server { url, seen }
}

fn answer(stream: TcpStream, log: &Mutex<Vec<(String, Value)>>, does: impl Fn(&Value) -> Does) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut headers, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        headers.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let does = does(&body);
    log.lock().unwrap().push((headers, body));
    let mut out = stream;
    let mut reply = |status: u16, text: &str, claimed: usize| {
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {claimed}\r\nConnection: close\r\n\r\n");
        // The client may be gone by now, which is its right.
        drop(out.write_all(head.as_bytes()).and_then(|()| out.write_all(text.as_bytes())));
    };
    match does {
        Does::Name(name) => {
            let text = json!({"choices": [{"message": {"role": "assistant", "content": name}}], "usage": {"prompt_tokens": 90, "completion_tokens": 3}}).to_string();
            reply(200, &text, text.len());
        }
        Does::Status(status) => reply(status, "{}", 2),
        Does::Hangs => {
            // Until the client closes.
            drop(reader.read(&mut [0; 1]));
        }
        Does::Cuts => reply(200, r#"{"choices": [{"mess"#, 500),
        Does::Garbage => reply(200, "busy", 4),
        Does::OtherJson => reply(200, "[]", 2),
        Does::Floods => {
            let text = format!("\"{}\"", "x".repeat(3_000_000));
            reply(200, &text, text.len());
        }
    }
}

/// A server that looks at the prompt.
fn judge(does: impl Fn(&str) -> Does + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            answer(stream, &log, |body| does(body["messages"][0]["content"].as_str().unwrap()));
        }
    });
    Server { url, seen }
}

/// `recsae label` on real data, a few latents.
fn label(server: &Server, folder: &Path, more: &[&str]) -> Option<Output> {
    asking(server, folder, &[&["label", "--shuffles", "0", "--min-cases", "900", "--llm-all"], more].concat())
}

/// A command that asks, on real data.
fn asking(server: &Server, folder: &Path, more: &[&str]) -> Option<Output> {
    let data = support::data()?.join("ml100k");
    std::fs::write(folder.join("key"), "secret-key\n").unwrap();
    let (name, more) = more.split_first()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.args([name, "--llm-model", "m1", "--llm-timeout", "1", "--llm-pause", "5", "--llm", &server.url]);
    if !more.contains(&"--llm-per-minute") {
        command.args(["--llm-per-minute", "600000"]);
    }
    command.arg("--sae").arg(data.join("sasrec.sae_k8_s16.safetensors"));
    command.arg("--embeddings").arg(data.join("sasrec.embeddings.npy"));
    command.arg("--fields").arg(data.join("sasrec.events.parquet"));
    command.arg("--items").arg(data.join("items.parquet"));
    command.arg("--concepts").arg(folder.join("concepts.json"));
    command.arg("--llm-answers").arg(folder.join("answers.jsonl"));
    command.arg("--llm-key-file").arg(folder.join("key"));
    // A proxy of this machine would stand between the test and its own server.
    command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    Some(command.args(more).output().unwrap())
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn catalogue(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("concepts.json")).unwrap()).unwrap()
}

#[test]
fn a_misbehaving_server_is_asked_again_and_every_answer_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let trouble = vec![
        Does::Status(500),
        Does::Hangs,
        Does::Garbage,
        Does::Name("Space opera"),
        Does::Status(429),
        Does::Cuts,
        Does::OtherJson,
        Does::Floods,
    ];
    let first = server(trouble, Does::Name("\"Late-1990s dramas.\""));
    let Some(output) = label(&first, folder.path(), &["--json", "--llm-price-in", "2", "--llm-price-out", "10"]) else { return };
    assert!(output.status.success(), "{}", words(&output));
    assert!(words(&output).contains("questions to m1, 0 answered already: about"), "the estimate comes first");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let n = report["llm"]["n_asked"].as_u64().unwrap();
    assert!(n >= 3 && report["llm"]["n_named"] == n, "{}", report["llm"]);
    let seen = first.seen.lock().unwrap().clone();
    assert_eq!(seen.len() as u64, n + 7, "seven of the questions were asked again");
    assert!(seen.iter().all(|(headers, _)| headers.contains("Bearer secret-key")));
    assert!(seen[0].1["messages"][0]["content"].as_str().unwrap().contains("sparse autoencoder"));
    let names: Vec<String> = catalogue(folder.path())["concepts"]
        .as_object()
        .unwrap()
        .values()
        .filter(|concept| concept["evidence"]["source"] == "llm")
        .map(|concept| concept["label"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.contains(&"Space opera".to_owned()) && names.contains(&"Late-1990s dramas".to_owned()), "{names:?}");
    let kept = std::fs::read_to_string(folder.path().join("answers.jsonl")).unwrap();
    assert_eq!(kept.lines().count() as u64, n);
    assert!(!kept.contains("secret-key") && kept.contains("prompt_hash"), "answers with their hash, never the key");

    // Again: nothing is asked, the same names. Another template: everything is asked anew.
    let silent = server(vec![], Does::Status(500));
    let output = label(&silent, folder.path(), &["--json"]).unwrap();
    assert!(output.status.success() && silent.seen.lock().unwrap().is_empty(), "{}", words(&output));
    std::fs::write(folder.path().join("prompt.txt"), "Name these:\n{{items}}").unwrap();
    let prompt = folder.path().join("prompt.txt");
    let other = server(vec![], Does::Name("NONE"));
    let output = label(&other, folder.path(), &["--json", "--llm-prompt", prompt.to_str().unwrap()]).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["llm"]["n_asked"], &report["llm"]["n_named"]), (&json!(n), &json!(0)), "no name is an answer");
    assert!(other.seen.lock().unwrap()[0].1["messages"][0]["content"].as_str().unwrap().starts_with("Name these:\n- "));
}

#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let first = server(vec![Does::Name("War"), Does::Name("Horror")], Does::Status(401));
    let Some(output) = label(&first, folder.path(), &["--json"]) else { return };
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(words(&output).contains("status 401"), "{}", words(&output));
    assert!(!folder.path().join("concepts.json").exists(), "nothing half is written");
    let second = server(vec![], Does::Name("Drama"));
    let output = label(&second, folder.path(), &["--json"]).unwrap();
    assert!(output.status.success() && words(&output).contains("2 answered already"), "{}", words(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(second.seen.lock().unwrap().len() as u64 + 2, report["llm"]["n_asked"].as_u64().unwrap());
}

#[test]
fn a_server_that_never_answers_ends_the_run_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let Some(output) = label(&server(vec![], Does::Status(503)), folder.path(), &[]) else { return };
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(words(&output).contains("no answer in 5 tries") && words(&output).contains("run again to go on"), "{}", words(&output));
}

#[test]
fn cost_and_rate_are_kept_to() {
    let folder = tempfile::tempdir().unwrap();
    let dear = server(vec![], Does::Name("War"));
    let Some(output) = label(&dear, folder.path(), &["--llm-price-in", "1000", "--llm-most-cost", "0.01"]) else { return };
    assert_eq!(output.status.code(), Some(2));
    assert!(words(&output).contains("nothing was asked") && dear.seen.lock().unwrap().is_empty(), "{}", words(&output));
    let began = std::time::Instant::now();
    let output = label(&dear, folder.path(), &["--json", "--llm-per-minute", "300"]).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let n = report["llm"]["n_asked"].as_u64().unwrap();
    assert!(began.elapsed().as_millis() >= u128::from(n - 1) * 200, "{n} questions in {:?}", began.elapsed());
}

/// Whether a latent of the given SAE is active, by what a question about a held-out case shows.
fn truth(latents: &[usize]) -> HashMap<(usize, String), bool> {
    let data = support::data().unwrap().join("ml100k");
    let sae = sae_file::open(&data.join("sasrec.sae_k8_s16.safetensors"), None).unwrap();
    let items = Items::read(&Table::read(&data.join("items.parquet")).unwrap(), &ItemColumns::default()).unwrap();
    let request = DatasetRequest {
        embeddings: data.join("sasrec.embeddings.npy"),
        fields: Some(data.join("sasrec.events.parquet")),
        ..DatasetRequest::default()
    };
    let request = (Dataset::open(&request).unwrap(), GatherRequest { evidence: EvidenceKind::Served, column: None, entity: None });
    let gathered = gather(&sae, &request.0, &items, &request.1, &|_| ()).unwrap();
    let cases = held_out_cases(&gathered, &items, &HoldOut::default());
    let mut truth = HashMap::new();
    for latent in latents {
        let active: HashSet<u32> = cases.active(*latent).iter().map(|(case, _)| *case).collect();
        for case in 0..cases.len() {
            let shown: Vec<String> = cases.items(case).iter().map(|item| format!("- {}", items.title(*item))).collect();
            let is_active = active.contains(&u32::try_from(case).unwrap());
            // Two cases may show the same: what is said of them is said of both.
            *truth.entry((*latent, shown.join("\n"))).or_insert(false) |= is_active;
        }
    }
    truth
}

#[test]
fn labels_in_free_words_are_tested_case_by_case() {
    let folder = tempfile::tempdir().unwrap();
    let n = AtomicUsize::new(0);
    let namer = judge(move |_| Does::Name(format!("Concept {}", n.fetch_add(1, Ordering::SeqCst)).leak()));
    let few = ["label", "--shuffles", "0", "--min-cases", "4000", "--llm-all", "--json"];
    let Some(output) = asking(&namer, folder.path(), &few) else { return };
    assert!(output.status.success(), "{}", words(&output));
    let names: BTreeMap<String, usize> = catalogue(folder.path())["concepts"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, concept)| concept["evidence"]["source"] == "llm")
        .map(|(latent, concept)| (concept["label"].as_str().unwrap().to_owned(), latent.parse().unwrap()))
        .collect();
    assert!(names.len() >= 3, "{names:?}");
    let report = |output: &Output| -> Value {
        assert!(output.status.success(), "{}", words(output));
        serde_json::from_slice(&output.stdout).unwrap()
    };

    // An oracle, which misbehaves at first: every label that has cases enough is verified.
    let known = truth(&names.values().copied().collect::<Vec<_>>());
    let (asked, of) = (AtomicUsize::new(0), names.clone());
    let oracle = judge(move |prompt| {
        let trouble = [Does::Status(500), Does::Garbage, Does::Cuts, Does::Floods];
        if let Some(trouble) = trouble.get(asked.fetch_add(1, Ordering::SeqCst)) {
            return *trouble;
        }
        let label = prompt.split("concept: ").nth(1).unwrap().lines().next().unwrap();
        let shown: Vec<&str> = prompt.lines().filter(|line| line.starts_with("- ")).collect();
        Does::Name(if known[&(of[label], shown.join("\n"))] { "YES" } else { "**No.**" })
    });
    let tests = report(&asking(&oracle, folder.path(), &["verify", "--json"]).unwrap());
    println!("{} of {} questions: {}", tests["asked"], oracle.seen.lock().unwrap().len(), tests["by_status"]);
    assert_eq!((tests["n_untestable"].as_u64(), tests["asked"]["n_unreadable"].as_u64()), (Some(0), Some(0)));
    let of_model: Vec<&Value> = tests["tests"].as_array().unwrap().iter().filter(|test| test["source"] == "llm").collect();
    assert_eq!(of_model.len(), names.len());
    let mut n_asked = 0;
    for test in of_model {
        let class = |name: &str| {
            let share = &test["detection"][name];
            (share["n_right"].as_u64().unwrap(), share["n"].as_u64().unwrap())
        };
        let (recall, random, nearest) = (class("recall"), class("specificity"), class("specificity_nearest"));
        assert!(recall.0 == recall.1 && recall.1 <= 50 && random.1 == 50 && nearest.1 <= 50, "{test}");
        // Cases that show the same as an active one are all that the oracle cannot tell.
        assert!(2 * random.0 > random.1, "{test}");
        n_asked += recall.1 + random.1 + nearest.1;
        if recall.1 == 50 && random.0 >= 40 && nearest.0 >= 40 {
            assert_eq!(test["detection"]["status"], "verified", "{test}");
            assert_eq!(test["detection"]["recsae_confidence"].as_f64().map(|c| c >= 0.8), Some(true));
        }
        assert_eq!(catalogue(folder.path())["concepts"][test["latent"].to_string()]["tested"]["status"], test["detection"]["status"]);
    }
    assert_eq!(tests["asked"]["n_asked"].as_u64(), Some(n_asked));
    assert!(tests["by_status"]["verified"].as_u64() >= Some(1), "{}", tests["by_status"]);

    // Again: nothing is asked, the same result. Nonsense is no answer, and tests nothing.
    let silent = server(vec![], Does::Status(500));
    assert_eq!(report(&asking(&silent, folder.path(), &["verify", "--json"]).unwrap()), tests);
    assert!(silent.seen.lock().unwrap().is_empty());
    std::fs::write(folder.path().join("prompt.txt"), "Is {{label}} in\n{{items}}\n?").unwrap();
    let (prompt, nonsense) = (folder.path().join("prompt.txt"), server(vec![], Does::Name("perhaps")));
    let own = ["verify", "--json", "--llm-cases", "2", "--llm-prompt", prompt.to_str().unwrap()];
    let unsaid = report(&asking(&nonsense, folder.path(), &own).unwrap());
    assert_eq!(unsaid["asked"]["n_unreadable"], unsaid["asked"]["n_asked"]);
    assert!(
        unsaid["tests"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|test| test["source"] == "llm")
            .all(|test| test["detection"]["status"] == "unverified")
    );
    assert!(
        nonsense.seen.lock().unwrap().iter().all(|(_, body)| body["messages"][0]["content"].as_str().unwrap().starts_with("Is Concept "))
    );
}
