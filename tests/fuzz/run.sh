#!/usr/bin/env bash
# libFuzzer over the readers of what strangers send: `make fuzz`, or run.sh SECONDS [TARGET...]. Inputs that reach something
# new, and those that break a reader, are kept in target-fuzz; what breaks one becomes a test beside it.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=$1
shift
[ $# -gt 0 ] || set -- json raw onnx manifest
export CARGO_TARGET_DIR=$PWD/target-fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz sets. The sanitizer is the only flag that stable Rust hides.
flags="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Zsanitizer=address"
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$flag"
done
# For that host: what runs while building is not instrumented.
RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags cargo build --quiet --release --locked --manifest-path tests/fuzz/Cargo.toml --target "$host"

broken=()
for target in "$@"; do
    found=$CARGO_TARGET_DIR/found/$target
    mkdir -p "$found"
    # The inputs' names are those of their bytes, so that a break is found again by its name. One that breaks keeps no other
    # from its turn.
    "$CARGO_TARGET_DIR/$host/release/$target" "$found" "tests/fuzz/corpus/$target" -max_total_time="$seconds" -max_len=65536 \
        -timeout=25 -rss_limit_mb=2048 -artifact_prefix="$CARGO_TARGET_DIR/$target-" -print_final_stats=1 || broken+=("$target")
done
[ ${#broken[@]} -eq 0 ] || { echo "broken: ${broken[*]}; the inputs are in $CARGO_TARGET_DIR"; exit 1; }
