#!/bin/sh
# The virtual environment of the checking scripts, every version pinned: $RECSAE_CACHE/python.
set -eu
. "$(dirname "$0")/common.sh"

is_done python "$setup_dir/requirements.txt" && [ -x "$cache/python/bin/python" ] && exit 0
say "Python packages into $cache/python"
# Everything is fetched before the environment in use is touched: without the network it stays as it is.
rm -rf "$cache/python.wheels"
python3 -m venv "$cache/python.wheels/venv" || fail "python3 -m venv failed; on Debian: apt-get install python3-venv"
"$cache/python.wheels/venv/bin/python" -m pip download --quiet --disable-pip-version-check --only-binary :all: \
    --dest "$cache/python.wheels" -r "$setup_dir/requirements.txt" ||
    fail "pip could not download $setup_dir/requirements.txt (it needs Python 3.11 or newer and the network once)"
rm -rf "$cache/python"
python3 -m venv "$cache/python"
"$cache/python/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$cache/python.wheels" \
    -r "$setup_dir/requirements.txt" || fail "pip could not install $setup_dir/requirements.txt"
rm -rf "$cache/python.wheels"
mark_done python "$setup_dir/requirements.txt"
