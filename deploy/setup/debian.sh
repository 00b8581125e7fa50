#!/bin/sh
# usage: debian.sh build|test
# Debian's packages: `build` is what compiling and the demo need, `test` is the programs the system
# tests drive. Versions are the release's own (Debian 12). Installs as root; otherwise names the
# command. Missing `build` packages stop; missing `test` programs stop only under
# RECSAE_REQUIRE_DATA=1, else the tests that need them say that they skip.
set -eu
. "$(dirname "$0")/common.sh"

missing=""
need() { # need PACKAGE PROBE...: the package is missing where the probe fails
    package=$1; shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
has() { command -v "$1"; }
has_java() { java -version 2>&1 | grep -Eq 'version "(1[7-9]|[2-9][0-9])'; }
has_openssl_headers() { pkg-config --exists openssl; }
has_venv() { python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'; }

probe() {
    missing=""
    need python3-venv has_venv
    need pkg-config has pkg-config
    need libssl-dev has_openssl_headers
    [ "$1" = test ] || return 0
    need openjdk-17-jre-headless has_java
    need maven has mvn
    need kcat has kcat
    need prometheus has promtool
    need prometheus-alertmanager has prometheus-alertmanager
    need chromium has chromium
    need npm has npm
    need strace has strace
    need nftables has nft
    need openssl has openssl
    need systemd has systemd-analyze
}

group=${1:?usage: debian.sh build|test}
probe "$group"
[ -n "$missing" ] || exit 0

command="apt-get install --no-install-recommends$missing"
if has apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    say "installing$missing"
    apt-get update -qq
    # RUNLEVEL=1: Prometheus and Alertmanager are started by the tests, not as services of this machine.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    probe "$group"
    [ -z "$missing" ] || fail "installed, but still not usable:$missing"
elif [ "$group" = build ]; then
    fail "missing, and only root can install them. Run: sudo $command"
elif [ "${RECSAE_REQUIRE_DATA:-0}" = 1 ]; then
    fail "RECSAE_REQUIRE_DATA=1 and missing:$missing. Run: sudo $command"
else
    say "missing:$missing. Tests that need them will say that they skip. Run: sudo $command"
fi
