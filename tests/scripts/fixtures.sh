#!/usr/bin/env bash
# Writes tests/fixtures/checkpoints by the libraries whose formats they are, then lets SAELens and sparsify load what we export.
# usage: tests/scripts/fixtures.sh RECSAE        (the program; called by `make fixtures`)
set -euo pipefail
recsae=$(realpath "$1")
cd "$(dirname "$0")"
venv=${RECSAE_CACHE:-$HOME/.cache/recsae-monitor}/checkpoint-libraries
if ! cmp -s checkpoints.txt "$venv/installed.txt"; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet -r checkpoints.txt
  cp checkpoints.txt "$venv/installed.txt"
fi
export CUDA_VISIBLE_DEVICES=
"$venv/bin/python" checkpoints.py write ../fixtures/checkpoints
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for name in sparsify.topk saelens.standard saelens.jumprelu dictionary_learning.gated dictionary_learning.topk; do
  "$recsae" import "../fixtures/checkpoints/$name" --out "$out/$name.safetensors" > "$out/words"
  formats=(--saelens "$out/$name.saelens")
  grep -q "k = " "$out/words" && formats+=(--sparsify "$out/$name.sparsify")
  "$recsae" export --sae "$out/$name.safetensors" "${formats[@]}" > "$out/words"
  "$venv/bin/python" checkpoints.py load "$out/$name.safetensors" "$out/$name.saelens" "$out/$name.sparsify"
done
