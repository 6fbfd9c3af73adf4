#!/usr/bin/env bash
# Runs the tests of Redis 7.0.15 against a node (BSD-3, from Debian's source package; nothing of it is
# kept here), in their external mode: e2e/redis/suite.sh [unit ...]. Prints one line of counts for each unit.
#
# HELIOSD: the binary (default: the debug build). HELIOS_REDIS_CACHE: the directory for the sources. HELIOS_REDIS_LOGS: the
# directory for the output of each unit.
set -euo pipefail

source "$(dirname "$0")/node.sh"

version=7.0.15
cache=${HELIOS_REDIS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/helios/redis-$version}
units=("$@")
if [ ${#units[@]} -eq 0 ]; then
  units=(unit/type/string unit/type/incr unit/expire unit/keyspace unit/scan unit/multi unit/pubsub unit/type/hash
    unit/type/set unit/type/list unit/type/list-2 unit/type/list-3 unit/type/zset unit/sort unit/dump unit/bitops unit/scripting
    unit/protocol unit/querybuf unit/quit unit/auth unit/info-command unit/introspection unit/introspection-2)
fi
# Tests of Redis's internals: replication, files, memory, debugger.
tags="-needs:debug -needs:repl -needs:save -needs:config-maxmemory -needs:config-resetstat -slow"

need tclsh8.6 apt-get

fetch_sources() {
  [ -f "$cache/tests/test_helper.tcl" ] && return
  local apt=$work/apt
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$cache"
  # The machine's package sources, changed to source packages.
  mkdir "$apt/parts"
  sed 's/^Types: .*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$apt/parts/debian.sources" 2>/dev/null || true
  sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$apt/parts/debian.list" 2>/dev/null || true
  local options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/parts"
    -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  (cd "$apt" && apt-get "${options[@]}" update -qq && apt-get "${options[@]}" source -qq --download-only redis)
  [ -f "$apt/redis_$version.orig.tar.gz" ] || fail "this machine's package sources have no Redis $version"
  tar xzf "$apt/redis_$version.orig.tar.gz" -C "$cache" --strip-components 1
}

run_unit() {
  local unit=$1 port log code=0
  port=$(free_port)
  log=$work/$(basename "$unit").log
  start_node "$port"
  (cd "$cache" && timeout 900 tclsh8.6 tests/test_helper.tcl --host 127.0.0.1 --port "$port" --clients 1 --durable \
    --singledb --ignore-encoding --ignore-digest --tags "$tags" --single "$unit") 2>&1 | sed 's/\x1b\[[0-9;]*m//g' >"$log" || code=$?
  stop_node
  # grep fails if it finds nothing: then the count is zero.
  local ok err skip
  ok=$(grep -c '^\[ok\]' "$log" || true)
  err=$(grep -c '^\[err\]\|^\[exception\]' "$log" || true)
  skip=$(grep -c '^\[ignore\]' "$log" || true)
  printf '%-20s ok %4d  failed %3d  ignored %3d  exit %d\n' "$unit" "$ok" "$err" "$skip" "$code"
  if [ -n "${HELIOS_REDIS_LOGS:-}" ]; then
    mkdir -p "$HELIOS_REDIS_LOGS" && cp "$log" "$HELIOS_REDIS_LOGS/"
  fi
}

fetch_sources
# Half of this unit repeats the same tests with FUNCTION LOAD, which a node does not have.
sed -i 's/^foreach is_eval {0 1}/foreach is_eval {1}/' "$cache/tests/unit/scripting.tcl"
for unit in "${units[@]}"; do
  [ -f "$cache/tests/$unit.tcl" ] || fail "no unit $unit: write unit/type/string, say, as in $(basename "$0")"
done
for unit in "${units[@]}"; do
  run_unit "$unit"
done
