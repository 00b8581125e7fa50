#!/bin/sh
# Crates of the lock file (all platforms: cargo-deny reads them too) and cargo-deny itself, pinned,
# into $RECSAE_CACHE/tools. Its debug build takes a third of the time and runs in a second.
set -eu
. "$(dirname "$0")/common.sh"

cargo_deny=0.20.2

command -v cargo >/dev/null || fail "no cargo: install Rust 1.95 or newer"
if ! is_done crates "$repo_dir/Cargo.lock"; then
    say "crates of Cargo.lock"
    cargo fetch --quiet --locked --manifest-path "$repo_dir/Cargo.toml"
    mark_done crates "$repo_dir/Cargo.lock"
fi
if [ "$("$cache/tools/bin/cargo-deny" --version 2>/dev/null)" != "cargo-deny $cargo_deny" ]; then
    say "cargo-deny $cargo_deny into $cache/tools (a few minutes, once)"
    CARGO_TARGET_DIR=$cache/tools/target cargo install --quiet cargo-deny --version "$cargo_deny" --locked --debug --root "$cache/tools"
    rm -rf "$cache/tools/target"
fi
