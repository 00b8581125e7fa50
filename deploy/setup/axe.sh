#!/bin/sh
# axe-core, for the tests that look at the pages as a screen reader does: $RECSAE_CACHE/axe-core-VERSION/axe.min.js.
# One file of one package: nothing of it is installed or run here, Chromium runs it.
set -eu
. "$(dirname "$0")/common.sh"

version=4.14.1
sha512=1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5
folder=$cache/axe-core-$version
[ -s "$folder/axe.min.js" ] && exit 0
command -v npm >/dev/null || { say "no npm: axe-core not fetched; on Debian: apt-get install npm"; exit 0; }

say "axe-core $version into $folder"
work=$(mktemp -d "$cache/axe-core.XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "axe-core@$version" >/dev/null) || fail "npm could not fetch axe-core $version (it needs the network once)"
found=$(sha512sum "$work/axe-core-$version.tgz" | cut -d ' ' -f 1)
[ "$found" = "$sha512" ] || fail "axe-core $version: expected SHA-512 $sha512, found $found"
tar -xzf "$work/axe-core-$version.tgz" -C "$work" package/axe.min.js
mkdir -p "$folder"
mv "$work/package/axe.min.js" "$folder/axe.min.js"
