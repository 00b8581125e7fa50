//! ONNX files: refused in words, or read into a graph that is read again as the same.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use readers::bundle::onnx;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| readers::folder().join("sae.onnx"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    std::fs::write(&*FILE, bytes).expect("a file can be written");
    let Ok(read) = onnx::read(&FILE, None) else { return };
    if let Ok(weights) = onnx::affine_encoder(&read.model, &read.spec) {
        assert_eq!((weights.spec().d_in, weights.spec().d_sae), (read.spec.d_in, read.spec.d_sae));
    }
});
