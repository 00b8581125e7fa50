//! The house keeps its plan: who may use whom, which folder names which crate, how files open and how
//! long they are. One crate with one-way dependencies is what this test buys instead of twenty crates.
//!
//! Every rule is a function from files to faults, and every rule is fed a file that breaks it.
#![expect(clippy::expect_used, reason = "helpers of tests, which the lints' own exception for tests does not reach")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use source::{code_of, crate_paths, has_word, names_crate, without_tests};

#[path = "tidy/source.rs"]
mod source;

/// Module, and what it may use beside itself and `record`, the words everything passes on.
/// `*` = everything but what is named after it.
const LAYERS: &[(&str, &[&str])] = &[
    ("record", &[]),
    ("sae", &[]),
    ("clock", &[]),
    ("task", &[]),
    ("telemetry", &[]),
    ("fault", &[]),
    ("drift", &["sae"]),
    ("snapshot", &["sae", "drift"]),
    ("config", &["sae", "drift"]),
    ("bundle", &["sae", "drift"]),
    ("metrics", &["sae", "drift", "snapshot"]),
    ("decode", &["sae", "config"]),
    ("encode", &["sae", "bundle", "fault"]),
    ("store", &["sae", "drift", "clock", "config", "fault"]),
    ("kafka", &["clock", "config", "metrics", "task"]),
    ("monitor", &["*", "http", "workshop", "simulate", "cli"]),
    ("http", &["*", "monitor", "workshop", "simulate", "cli"]),
    ("workshop", &["sae", "drift", "clock", "config", "bundle", "encode", "decode", "store", "kafka"]),
    ("simulate", &["sae", "drift", "clock", "config", "bundle", "encode", "decode", "store", "kafka"]),
    ("cli", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

/// Crate, and the only places that name it.
const EDGES: &[(&str, &[&str])] = &[
    ("rdkafka", &["src/kafka/"]),
    ("rdkafka_sys", &["src/kafka/"]),
    ("ort", &["src/encode/ort.rs", "src/encode/library.rs"]),
    ("prometheus", &["src/metrics/"]),
    ("rusqlite", &["src/store/"]),
    ("axum", &["src/http/"]),
    ("onnx_protobuf", &["src/bundle/"]),
    ("anyhow", &["src/cli/", "src/workshop/", "src/main.rs"]),
];

/// Files besides the kernels that may hold unsafe code: moves of registers, and what librdkafka offers in C alone.
const UNSAFE: &[&str] = &[
    "src/sae/wide.rs",
    "src/sae/aligned.rs",
    "src/decode/digits.rs",
    "src/kafka/embedded.rs",
    "src/kafka/queue.rs",
    "src/kafka/topic_ids.rs",
];
/// What the mathematics never does: it cannot fail but on its arguments, and gives the same bytes again.
const NOT_MATHEMATICS: &[&str] = &["std::fs", "std::net", "std::thread", "std::env", "std::process", "Instant", "SystemTime"];
const NOT_MATHEMATICS_CRATES: &[&str] = &["tokio", "tracing", "rand"];

const MAX_LINES: usize = 400;
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "Makefile",
    "README.md",
    "LICENSE",
    "src",
    "deploy",
    "config",
    "tests",
    "grafana",
    "benches",
    "clippy.toml",
    "rustfmt.toml",
    "deny.toml",
    "typos.toml",
];

/// One file: its path from the top of the repository, and its text.
type File = (String, String);

/// The module of the layer table that a source file belongs to.
fn module_of(path: &str) -> Option<&str> {
    let inner = path.strip_prefix("src/")?;
    inner.split_once('/').map_or_else(|| inner.strip_suffix(".rs"), |(folder, _)| Some(folder))
}

fn may_use(user: &str, used: &str) -> bool {
    let Some((_, allowed)) = LAYERS.iter().find(|(module, _)| *module == user) else { return false };
    let everything_but = allowed.first() == Some(&"*");
    user == used || used == "record" || allowed.contains(&used) != everything_but
}

fn layer_faults(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.starts_with("src/") && !path.ends_with("/tests.rs")) {
        let Some(user) = module_of(path) else { continue };
        if !LAYERS.iter().any(|(module, _)| *module == user) {
            faults.push(format!("{path}: module {user} is not in the layer table"));
        }
        let code = code_of(without_tests(text));
        let named: BTreeSet<String> = ["crate", "recsae"].iter().flat_map(|root| crate_paths(&code, root)).filter_map(first).collect();
        for used in named.iter().filter(|used| LAYERS.iter().any(|(module, _)| module == used)) {
            if !may_use(user, used) {
                faults.push(format!("{path}: {user} may not use {used}"));
            }
        }
    }
    faults
}

fn first(path: Vec<String>) -> Option<String> {
    path.into_iter().next()
}

/// Cycles between files of one folder: a file's imports, followed, must not lead back to it.
fn cycle_faults(files: &[File]) -> Vec<String> {
    let names: BTreeMap<Vec<String>, &str> = files.iter().filter_map(|(path, _)| Some((module_path(path)?, path.as_str()))).collect();
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (path, text) in files.iter().filter(|(path, _)| !path.ends_with("/tests.rs")) {
        let Some(own) = module_path(path) else { continue };
        let code = code_of(without_tests(text));
        let mut named = crate_paths(&code, "crate");
        let parent = own.split_last().map_or(&[][..], |(_, parent)| parent);
        named.extend(crate_paths(&code, "super").into_iter().map(|path| [parent, &path[..]].concat()));
        let targets = named.iter().filter_map(|path| (1..=path.len()).rev().find_map(|n| names.get(&path[..n]))).copied();
        uses.entry(path).or_default().extend(targets.filter(|target| target != path));
    }
    let reached_from = |start: &str| {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = uses.get(start).into_iter().flatten().copied().collect();
        while let Some(file) = next.pop() {
            if reached.insert(file) {
                next.extend(uses.get(file).into_iter().flatten().copied());
            }
        }
        reached
    };
    let mut faults = Vec::new();
    for (start, named) in uses.iter().filter(|(start, _)| reached_from(start).contains(*start)) {
        let through: Vec<&str> = named.iter().copied().filter(|file| reached_from(file).contains(start)).collect();
        faults.push(format!("{start}: is in a cycle of modules, through {}", through.join(", ")));
    }
    faults
}

/// `src/drift/counts.rs` is `["drift", "counts"]`, `src/drift/mod.rs` is `["drift"]`.
fn module_path(path: &str) -> Option<Vec<String>> {
    let inner = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    (!matches!(inner, "lib" | "main")).then(|| inner.split('/').map(str::to_string).collect())
}

fn edge_faults(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.starts_with("src/") && !path.ends_with("/tests.rs")) {
        let code = code_of(without_tests(text));
        for (name, places) in EDGES {
            let own_module = code.contains(&format!("mod {name};"));
            if names_crate(&code, name) && !own_module && !places.iter().any(|place| path.starts_with(place)) {
                faults.push(format!("{path}: only {} may name the crate {name}", places.join(", ")));
            }
        }
        if path.starts_with("src/sae/") || path.starts_with("src/drift/") {
            let words = NOT_MATHEMATICS.iter().filter(|word| has_word(&code, word));
            let crates = NOT_MATHEMATICS_CRATES.iter().filter(|name| names_crate(&code, name));
            faults.extend(words.chain(crates).map(|word| format!("{path}: mathematics does no I/O, reads no clock, never logs: {word}")));
        }
    }
    faults
}

fn file_faults(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| Path::new(path).extension().is_some_and(|extension| extension == "rs")) {
        if !text.starts_with("//!") {
            faults.push(format!("{path}: opens with //! and what it holds"));
        }
        let code = code_of(text);
        for word in ["todo!", "unimplemented!", "dbg!"].iter().filter(|word| code.contains(**word)) {
            faults.push(format!("{path}: {word}"));
        }
        if path.starts_with("src/") && !path.ends_with("/tests.rs") {
            faults.extend(source_faults(path, text));
        }
    }
    faults
}

fn source_faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let shown = without_tests(text);
    let code = code_of(shown);
    let n_lines = shown.lines().count();
    if n_lines > MAX_LINES {
        faults.push(format!("{path}: {n_lines} lines before its tests, at most {MAX_LINES}: it holds more than one idea"));
    }
    let tests = &text[shown.len()..];
    if tests.find("\n}\n").is_some_and(|end| !tests[end + 3..].trim().is_empty()) {
        faults.push(format!("{path}: tests stand last"));
    }
    for word in ["panic!(", "unreachable!("].iter().filter(|word| code.contains(**word)) {
        faults.push(format!("{path}: {word}) outside tests"));
    }
    let may_be_unsafe = ["_avx2.rs", "_avx512.rs"].iter().chain(UNSAFE).any(|end| path.ends_with(end));
    if !may_be_unsafe && code.lines().any(|line| has_word(line, "unsafe")) {
        faults.push(format!("{path}: unsafe outside the kernels (*_avx2.rs, *_avx512.rs) and {UNSAFE:?}"));
    }
    let lines: Vec<&str> = shown.lines().collect();
    for (i, line) in code.lines().enumerate().filter(|(_, line)| has_word(line, "unsafe")) {
        let argued = lines[i.saturating_sub(6)..=i].iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
        if !argued && !line.trim_start().starts_with("#[") && !line.contains("extern") {
            faults.push(format!("{path}:{}: unsafe without a SAFETY comment", i + 1));
        }
    }
    faults
}

fn test_file_faults(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in files {
        let in_tests = path.starts_with("tests/") || path.ends_with("/tests.rs");
        let tests = if in_tests { text.as_str() } else { &text[without_tests(text).len()..] };
        let code = code_of(tests);
        if has_word(&code, "sleep") && !["tests/system/", "tests/chaos/"].iter().any(|folder| path.starts_with(folder)) {
            faults.push(format!("{path}: a test never sleeps: `now` is an argument"));
        }
        if code.contains("#[ignore") {
            faults.push(format!("{path}: an ignored test proves nothing: delete it or let it run"));
        }
        for (at, _) in code.match_indices("#[test]") {
            let name = code[at..].split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap_or_default();
            if name.matches('_').count() < 2 {
                faults.push(format!("{path}: test {name} is not named after the rule it holds"));
            }
        }
        for binary in ["tests/it/", "tests/system/", "tests/chaos/"] {
            let Some(module) = path.strip_prefix(binary).and_then(|file| file.strip_suffix(".rs")) else { continue };
            let main = files.iter().find(|(path, _)| *path == format!("{binary}main.rs")).map_or("", |(_, text)| text);
            if module != "main" && !module.contains('/') && !main.contains(&format!("mod {module};")) {
                faults.push(format!("{path}: not a `mod` of {binary}main.rs, so it never runs"));
            }
        }
    }
    faults
}

/// Nothing in the repository points at one person's machine.
fn local_path_faults(files: &[File]) -> Vec<String> {
    let homes = ["work", "root", "home", "Users"].map(|folder| format!("/{folder}/"));
    let is_local = |line: &str| {
        let found = |home: &String| {
            line.match_indices(home.as_str()).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}*".contains(c)))
        };
        homes.iter().any(found)
    };
    let mut faults = Vec::new();
    for (path, text) in files {
        faults.extend(
            text.lines()
                .enumerate()
                .filter(|(_, line)| is_local(line))
                .map(|(i, line)| format!("{path}:{}: a path of one machine: {}", i + 1, line.trim())),
        );
    }
    faults
}

fn top_level_faults<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let known = |name: &str| name.starts_with('.') || TOP_LEVEL.contains(&name);
    names.filter(|name| !known(name)).map(|name| format!("{name}: not a place of the plan; see TOP_LEVEL")).collect()
}

/// Every text file of the repository that is not ignored. Tests in a file of their own (`tests.rs`) are
/// left to the rules of tests.
fn files() -> Vec<File> {
    let mut found = Vec::new();
    collect(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut found);
    assert!(found.len() > 20, "the repository was not found");
    found
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("the folder is readable").map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ignored = name == ".git" || name == "__pycache__" || (prefix.is_empty() && name.starts_with("target"));
        if ignored {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{path}/"), found);
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            found.push((path, text));
        }
    }
}

#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

mod the_repository {
    //! The rules on the repository itself.
    use super::*;

    #[test]
    fn uses_only_what_its_layers_allow() {
        assert_none(&layer_faults(&files()));
    }

    #[test]
    fn has_no_cycle_of_modules() {
        assert_none(&cycle_faults(&files()));
    }

    #[test]
    fn names_each_outside_crate_in_one_place() {
        assert_none(&edge_faults(&files()));
    }

    #[test]
    fn has_files_that_say_what_they_hold_and_hold_one_idea() {
        assert_none(&file_faults(&files()));
    }

    #[test]
    fn has_tests_that_run_and_are_named_after_rules() {
        assert_none(&test_file_faults(&files()));
    }

    #[test]
    fn names_no_path_of_one_machine() {
        assert_none(&local_path_faults(&files()));
    }

    #[test]
    fn has_the_planned_top_level() {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR"));
        let names: Vec<String> = fs::read_dir(repo)
            .expect("readable")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        assert_none(&top_level_faults(
            names
                .iter()
                .map(String::as_str)
                .filter(|name| !name.starts_with("target") && !name.contains(".db") && *name != "proptest-regressions"),
        ));
    }

    #[test]
    fn has_a_layer_table_without_cycles() {
        // Modules of the table can be laid in an order in which each uses only earlier ones.
        let mut laid: Vec<&str> = Vec::new();
        while laid.len() < LAYERS.len() {
            let next = LAYERS.iter().map(|(module, _)| *module).filter(|module| !laid.contains(module)).find(|module| {
                LAYERS
                    .iter()
                    .all(|(used, _)| used == module || laid.contains(used) || !may_use(module, used) || LAYERS_ABOVE.contains(module))
            });
            laid.push(next.expect("the table has a cycle"));
        }
    }

    /// Roots of the program: nothing below uses them, which `layer_faults` checks by name.
    const LAYERS_ABOVE: &[&str] = &["cli", "main", "lib", "http", "monitor", "workshop", "simulate"];
}

mod a_broken_file {
    //! Each rule fed what breaks it, and what looks alike and does not.
    use super::*;

    fn file(path: &str, text: &str) -> Vec<File> {
        vec![(path.to_string(), text.to_string())]
    }

    #[test]
    fn is_found_when_a_layer_is_crossed() {
        for text in [
            "//! x\nuse crate::store::Store;\n",
            "//! x\nuse crate::{drift::Window, kafka::{consumer::Consumer}};\n",
            "//! x\nfn f() { let _ = crate::http::page(); }\n",
            "//! x\nfn f() { recsae::monitor::run() }\n",
        ] {
            assert_eq!(
                layer_faults(&file("src/sae/x.rs", text)).len(),
                if text.contains('{') && text.contains("drift") { 2 } else { 1 },
                "{text}"
            );
        }
        assert_eq!(layer_faults(&file("src/monitor/x.rs", "//! x\nuse crate::simulate::World;\n")).len(), 1);
        assert_eq!(layer_faults(&file("src/newcomer/mod.rs", "//! x\n")).len(), 1);
        assert_none(&layer_faults(&file(
            "src/drift/x.rs",
            "//! x\nuse crate::sae::latent::LatentId;\nuse crate::record::Reject;\n// crate::store\n",
        )));
        assert_none(&layer_faults(&file("src/sae/x.rs", "//! x\n#[cfg(test)]\nmod tests {\n use crate::store::Store;\n}\n")));
        assert_none(&layer_faults(&file(
            "src/sae/x.rs",
            "//! x\nconst A: &str = \"crate::store::X\";\nconst B: &str = r#\"crate::store\"#;\n",
        )));
    }

    #[test]
    fn is_found_when_modules_turn_in_a_circle() {
        let circle = vec![
            ("src/drift/a.rs".to_string(), "//! a\nuse crate::drift::b::B;\n".to_string()),
            ("src/drift/b.rs".to_string(), "//! b\nuse super::c::C;\n".to_string()),
            ("src/drift/c.rs".to_string(), "//! c\nuse crate::{sae::X, drift::a::{A, Z}};\n".to_string()),
            ("src/drift/d.rs".to_string(), "//! d\nuse crate::drift::a::A;\n".to_string()),
        ];
        assert_eq!(cycle_faults(&circle).len(), 3, "a, b and c, but not d: {:?}", cycle_faults(&circle));
        assert_none(&cycle_faults(&circle[1..]));
    }

    #[test]
    fn is_found_when_it_names_an_edge_crate() {
        for (name, places) in EDGES {
            let text = format!("//! x\nuse {name}::Thing;\n");
            let place = if places[0].ends_with(".rs") { places[0].to_string() } else { format!("{}x.rs", places[0]) };
            assert_eq!(edge_faults(&file("src/snapshot.rs", &text)).len(), 1, "{name}");
            assert_none(&edge_faults(&file(&place, &text)));
        }
        assert_none(&edge_faults(&file(
            "src/snapshot.rs",
            "//! x\nuse crate::encode::ort::OrtEncoder; // rusqlite::x\nfn sort() { report::x() }\n",
        )));
        assert_eq!(
            edge_faults(&file("src/drift/x.rs", "//! x\nfn f() { std::fs::read(p); tracing::info!(\"x\"); let t = Instant::now(); }\n"))
                .len(),
            3
        );
    }

    #[test]
    fn is_found_when_it_has_no_head_or_too_many_lines_or_a_stub() {
        assert_eq!(file_faults(&file("src/x.rs", "use a;\n")).len(), 1);
        let long = format!("//! x\n{}", "fn f() {}\n".repeat(MAX_LINES));
        assert_eq!(file_faults(&file("src/x.rs", &long)).len(), 1);
        let tested = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "// y\n".repeat(MAX_LINES));
        assert_none(&file_faults(&file("src/x.rs", &tested)));
        for stub in ["todo!()", "unimplemented!()", "dbg!(x)", "panic!(\"x\")", "unreachable!()"] {
            assert_eq!(file_faults(&file("src/x.rs", &format!("//! x\nfn f() {{ {stub} }}\n"))).len(), 1, "{stub}");
        }
        assert_eq!(file_faults(&file("src/x.rs", "//! x\n#[cfg(test)]\nmod tests {\n}\nfn after() {}\n")).len(), 1);
        let argued = "//! x\n// SAFETY: f has no conditions.\nfn f() { unsafe { g() } }\n";
        assert_eq!(file_faults(&file("src/x_avx2.rs", "//! x\nfn f() { unsafe { g() } }\n")).len(), 1);
        assert_none(&file_faults(&file("src/x_avx2.rs", argued)));
        assert_eq!(file_faults(&file("src/x.rs", argued)).len(), 1);
        assert_none(&file_faults(&file(
            "src/x.rs",
            "//! x\nconst A: &str = \"todo!()\"; // todo!()\nconst Q: char = '\"'; const L: &'static str = \"panic!(\";\n",
        )));
    }

    #[test]
    fn is_found_when_its_tests_sleep_or_never_run() {
        let text = "//! x\n#[test]\nfn works() { std::thread::sleep(a); }\n";
        let lone = vec![("tests/it/x.rs".to_string(), text.to_string()), ("tests/it/main.rs".to_string(), "//! x\n".to_string())];
        assert_eq!(test_file_faults(&lone).len(), 3, "{:?}", test_file_faults(&lone));
        assert_eq!(
            test_file_faults(&file("src/x.rs", "//! x\n#[cfg(test)]\nmod tests {\n#[test]\n#[ignore]\nfn a_rule_that_holds() {}\n}\n"))
                .len(),
            1
        );
        assert_none(&test_file_faults(&file(
            "src/x.rs",
            "//! x\nfn pause() { std::thread::sleep(a) }\n#[cfg(test)]\nmod tests {\n#[test]\nfn a_rule_that_holds() {}\n}\n",
        )));
    }

    #[test]
    fn is_found_when_it_names_a_path_of_one_machine() {
        for folder in ["work", "root", "home", "Users"] {
            assert_eq!(local_path_faults(&file("README.md", &format!("cd /{folder}/someone\n"))).len(), 1);
        }
        assert_none(&local_path_faults(&file("README.md", "$HOME/x ./work/x actions/root/x https://host/home-page\n")));
    }

    #[test]
    fn is_found_when_it_lies_at_the_top() {
        assert_eq!(top_level_faults(["src", "Makefile", "scripts", ".ci", "notes.md"].into_iter()).len(), 2);
    }
}
