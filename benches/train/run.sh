#!/usr/bin/env bash
# usage: benches/train/run.sh RECSAE [arguments of run.py]; called by `make bench-train`. Sets JAX up once.
set -euo pipefail
recsae=$(realpath "$1")
shift
cd "$(dirname "$0")"
venv=${RECSAE_CACHE:-$HOME/.cache/recsae-monitor}/python-train
if ! cmp -s requirements.txt "$venv/installed.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r requirements.txt
    cp requirements.txt "$venv/installed.txt"
fi
# PyTorch is some GB: taken where `make fixtures` has put it (or TORCH_PYTHON names one).
torch=${TORCH_PYTHON:-${RECSAE_CACHE:-$HOME/.cache/recsae-monitor}/checkpoint-libraries/bin/python}
if "$torch" -c 'import torch' 2>/dev/null; then set -- --torch "$torch" "$@"; else echo "# no PyTorch here (make fixtures installs it): JAX alone"; fi
exec "$RECSAE_PYTHON" run.py --recsae "$recsae" --jax "$venv/bin/python" "$@"
