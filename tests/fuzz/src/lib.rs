//! The program's readers of what strangers send, for the fuzzer.
#![allow(dead_code, reason = "only the readers are called")]
#[path = "../../../src/bundle/mod.rs"]
pub mod bundle;
#[path = "../../../src/config/mod.rs"]
pub mod config;
#[path = "../../../src/decode/mod.rs"]
pub mod decode;
#[path = "../../../src/drift/mod.rs"]
pub mod drift;
#[path = "../../../src/record.rs"]
pub mod record;
#[path = "../../../src/sae/mod.rs"]
pub mod sae;

use crate::config::settings::RecordSettings;
use crate::decode::Decoder;
use crate::record::{RawMessage, Record, TopicPartition};

/// Decodes a payload under these settings; whether it became a record.
///
/// # Panics
/// The settings of a target are refused.
pub fn decodes(settings: &RecordSettings, payload: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> Option<Record> {
    let mut decoder = Decoder::new(settings, &["surface".to_owned(), "user.tier".to_owned()], &[7; 16]).expect("settings of a target");
    let partition = TopicPartition { topic: "fuzz".into(), partition: 0 };
    let message = RawMessage { partition: &partition, offset: 1, timestamp_ms: Some(1), key: Some(b"key"), payload, headers };
    let mut record = Record::default();
    decoder.decode(&message, &mut record).ok().map(|()| record)
}

/// A folder of this process in memory, where there is one: files that are written for every input.
///
/// # Panics
/// It cannot be made.
pub fn folder() -> std::path::PathBuf {
    let memory = std::path::Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("recsae-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}
