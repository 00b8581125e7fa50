//! Where tests find data and programs, and what they say when one is missing.
//!
//! A test whose data or programs are absent prints `skipped: why` and returns, and `make test` counts
//! it as skipped; under `RECSAE_REQUIRE_DATA=1` (continuous integration) it fails instead.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::path::{Path, PathBuf};

/// The repository.
pub(crate) fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Says that a test does not run, and why.
///
/// # Panics
/// Under `RECSAE_REQUIRE_DATA=1`.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var("RECSAE_REQUIRE_DATA").as_deref() != Ok("1"), "RECSAE_REQUIRE_DATA=1, but this test cannot run: {why}");
    println!("skipped: {why}");
}

/// The data folder: `RECSAE_DATA`, else `../shared/data` beside the repository.
pub(crate) fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("RECSAE_DATA").map_or_else(|| repo().join("../shared/data"), PathBuf::from);
    if folder.join("ml100k").is_dir() {
        return Some(folder);
    }
    skip("no data (set RECSAE_DATA)");
    None
}

/// Seeds of a test that draws its worlds: those of the variable `SEEDS` (`SEEDS=7,8`), else `n` of the clock.
///
/// # Panics
/// `SEEDS` holds something else.
pub(crate) fn seeds(n: usize) -> Vec<u64> {
    match std::env::var("SEEDS") {
        Ok(named) if !named.is_empty() => {
            named.split(',').map(|seed| seed.trim().parse().unwrap_or_else(|_| panic!("SEEDS={named}: expected numbers"))).collect()
        }
        _ => (0..n).map(|_| rand::random()).collect(),
    }
}

/// Where `make setup` puts what it fetches.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("RECSAE_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/recsae-monitor"), PathBuf::from)
}

/// The Python of the checking scripts: `RECSAE_PYTHON`, else the one of `make setup`.
pub(crate) fn python() -> Option<PathBuf> {
    let python = std::env::var_os("RECSAE_PYTHON").map_or_else(|| cache().join("python/bin/python"), PathBuf::from);
    if python.exists() {
        return Some(python);
    }
    skip("no Python of the checking scripts (make setup)");
    None
}

/// A program on the path.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("no {name} (make setup)"));
    }
    found
}

/// ONNX Runtime's library: `ORT_DYLIB_PATH`, else the one of `make setup`.
pub(crate) fn onnxruntime() -> Option<PathBuf> {
    let named = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let set_up = || {
        let folders = std::fs::read_dir(cache()).ok()?.flatten().map(|entry| entry.path());
        let folders = folders.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("onnxruntime-")));
        let files = folders.filter_map(|folder| std::fs::read_dir(folder).ok()).flat_map(|files| files.flatten().map(|file| file.path()));
        files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so"))).max()
    };
    let library = named.or_else(set_up).filter(|path| path.is_file());
    if library.is_none() {
        skip("no ONNX Runtime (make setup)");
    }
    library
}
