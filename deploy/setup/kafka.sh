#!/bin/sh
# Apache Kafka as jars, for the system tests: $RECSAE_CACHE/kafka-VERSION/jars.
set -eu
. "$(dirname "$0")/common.sh"

pom=$setup_dir/kafka-pom.xml
version=$(sed -n '/kafka_2.13/{n;s/.*<version>\(.*\)<.*/\1/p;}' "$pom")
jars=$cache/kafka-$version/jars
is_done kafka "$pom" && [ -s "$jars/kafka_2.13-$version.jar" ] && exit 0
command -v mvn >/dev/null || { say "no mvn: Apache Kafka not fetched; on Debian: apt-get install maven"; exit 0; }

say "Apache Kafka $version into $jars"
mkdir -p "$jars"
mvn -q -B -Dstyle.color=never -f "$pom" dependency:copy-dependencies -DoutputDirectory="$jars" || fail "Maven could not fetch Apache Kafka $version (it needs the network once)"
[ -s "$jars/kafka_2.13-$version.jar" ] || fail "Maven ran, but $jars/kafka_2.13-$version.jar is not there"
mark_done kafka "$pom"
