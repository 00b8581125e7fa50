#!/usr/bin/env bash
# Everything that must hold, cheapest first: called by `make test`, which sets up what this needs.
# Stops at the first broken check of the source; then runs every test, and ends with the counts.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --check
step "spelling"
"$RECSAE_CACHE/python/bin/typos"
step "licences, sources, banned crates"
"$RECSAE_CACHE/tools/bin/cargo-deny" --offline --log-level error check bans licenses sources
step "lints"
cargo clippy --quiet --locked --all-targets -- -D warnings
# Not among "all": they start servers, so plain `cargo test` leaves them out.
cargo clippy --quiet --locked --test system --test chaos -- -D warnings
step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps --document-private-items

# A test without its data or programs prints `skipped: why` and passes; it is counted as skipped
# here, and with RECSAE_REQUIRE_DATA=1 it fails instead.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed_suites=0
suite() {
    step "$1"
    shift
    "$@" 2>&1 | tee -a "$log" || failed_suites=$((failed_suites + 1))
}
suite "tests that need the repository and ONNX Runtime" cargo test --quiet --locked --no-fail-fast -- --show-output --test-threads 4
# Four at a time whatever the cores: they mostly wait for sessions, brokers and scrapes.
suite "tests that need servers" cargo test --quiet --locked --no-fail-fast --test system -- --show-output --test-threads 4
suite "faults, against an oracle" cargo test --quiet --locked --test chaos

# What every test printed is searched for the passwords and tokens that they use.
if grep -q -F -e 'spare the evidence' -e 'a-token-of-the-test' "$log"; then
    printf '\na secret of the tests is in their output:\n'
    grep -n -F -e 'spare the evidence' -e 'a-token-of-the-test' "$log" | head -5
    failed_suites=$((failed_suites + 1))
fi

awk -v failed_suites="$failed_suites" '
    /^test result:/ {
        for (i = 1; i < NF; i++) {
            if ($(i + 1) ~ /^passed/) passed += $i
            if ($(i + 1) ~ /^failed/) failed += $i
            if ($(i + 1) ~ /^ignored/) skipped += $i
        }
    }
    /^skipped: / { skipped++; passed--; why[$0]++ }
    END {
        print ""
        for (reason in why) printf "%s (%d tests)\n", reason, why[reason]
        if (failed_suites > 0 && failed == 0) failed = failed_suites  # did not compile, or died
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit failed > 0 || passed == 0
    }' "$log"
