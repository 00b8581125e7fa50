#!/bin/sh
# ONNX Runtime's shared library, out of its PyPI wheel: $RECSAE_CACHE/onnxruntime-VERSION.
# One wheel and no Python packages: this is all `make demo` needs beside the compiler.
set -eu
. "$(dirname "$0")/common.sh"

pin=$(grep '^onnxruntime==' "$setup_dir/requirements.txt")
version=${pin#onnxruntime==}
folder=$cache/onnxruntime-$version
library=$folder/libonnxruntime.so.$version
[ -s "$library" ] && exit 0

say "ONNX Runtime $version into $folder"
work=$(mktemp -d "$cache/onnxruntime.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || fail "python3 -m venv failed; on Debian: apt-get install python3-venv"
"$work/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" "$pin" ||
    fail "could not download $pin (it needs the network once); any ONNX Runtime >= 1.22 works: set ORT_DYLIB_PATH to its libonnxruntime.so"
python3 - "$work" "$version" <<'PYTHON'
import glob, sys, zipfile
work, version = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(f"{work}/*.whl")[0])
member = next(name for name in wheel.namelist() if name.endswith(f"capi/libonnxruntime.so.{version}"))
with open(f"{work}/library", "wb") as out:
    out.write(wheel.read(member))
PYTHON
mkdir -p "$folder"
mv "$work/library" "$library"
