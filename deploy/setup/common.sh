# Sourced by the set-up scripts: where the cache is, stamps, and one way to fail.
# A stamp holds the hash of all that decides a step's result, so that a second run does nothing
# (and needs no network) and a changed pin does the step again.

setup_dir=$(cd "$(dirname "$0")" && pwd)
repo_dir=$(cd "$setup_dir/../.." && pwd)
cache=${RECSAE_CACHE:-$HOME/.cache/recsae-monitor}
mkdir -p "$cache/stamps"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# is_done NAME FILE...: whether step NAME was done with these very files.
is_done() {
    step=$1; shift
    [ "$(cat "$cache/stamps/$step" 2>/dev/null)" = "$(cat "$@" | sha256sum)" ]
}

# mark_done NAME FILE...: remembers that it was.
mark_done() {
    step=$1; shift
    cat "$@" | sha256sum > "$cache/stamps/$step.new"
    mv "$cache/stamps/$step.new" "$cache/stamps/$step"
}
