//! Raw payloads of each number format, with a time and a version in headers: the first byte of the input chooses.
#![no_main]

use readers::config::settings::{Dtype, RecordFormat, RecordSettings};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let (dtype, width) = [(Dtype::F32, 4), (Dtype::F16, 2), (Dtype::Bf16, 2)][usize::from(choice % 3)];
    let (header, payload) = rest.split_at(rest.len().min(usize::from(choice / 3)));
    let settings = RecordSettings { format: RecordFormat::Raw, dtype, ..RecordSettings::default() };
    let headers = [("timestamp", Some(header)), ("entity", Some(header)), ("model_version", Some(header)), ("surface", None)];
    if let Some(record) = readers::decodes(&settings, Some(payload), &headers) {
        assert_eq!(record.embedding.len() * width, payload.len());
    }
});
