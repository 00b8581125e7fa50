//! Manifests of bundles: refused in words, or read into what is written and read again as the same.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use readers::bundle::manifest::Manifest;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(readers::folder);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let file = FOLDER.join("manifest.json");
    std::fs::write(&file, bytes).expect("a file can be written");
    let Ok(manifest) = Manifest::read(&FOLDER) else { return };
    std::fs::write(&file, serde_json::to_vec(&manifest).expect("a manifest can be written")).expect("a file can be written");
    let again = Manifest::read(&FOLDER).expect("what was written is read");
    assert_eq!(serde_json::to_value(again).unwrap(), serde_json::to_value(manifest).unwrap());
});
