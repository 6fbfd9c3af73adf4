#!/usr/bin/env bash
# Judges a node by the tests of Redis 7.0.15 itself (BSD-3, from Debian's source package; nothing of it is
# kept here), in their external mode: e2e/redis/suite.sh [unit ...]. Prints one line of counts for each unit.
#
# HELIOSD: the binary (default: the debug build). HELIOS_REDIS_CACHE: where the sources are kept.
set -euo pipefail

version=7.0.15
root=$(cd "$(dirname "$0")/../.." && pwd)
heliosd=${HELIOSD:-${CARGO_TARGET_DIR:-$root/target}/debug/heliosd}
cache=${HELIOS_REDIS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/helios/redis-$version}
units=("$@")
if [ ${#units[@]} -eq 0 ]; then
  units=(unit/type/string unit/type/incr unit/expire unit/keyspace unit/scan unit/multi unit/pubsub unit/type/hash
    unit/type/set unit/type/list unit/type/zset unit/auth unit/info-command)
fi
# What asks for Redis's own insides: its replication, its files, its memory, its debugger.
tags="-needs:debug -needs:repl -needs:save -needs:config-maxmemory -needs:config-resetstat -slow"
work=$(mktemp -d)
node=

finish() {
  if [ -n "$node" ]; then
    kill "$node" 2>/dev/null || true
    wait "$node" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap finish EXIT

fail() {
  echo "suite.sh: $1" >&2
  exit 1
}

[ -x "$heliosd" ] || fail "no heliosd at $heliosd: cargo build -p helios-node, or set HELIOSD"
for program in tclsh8.6 redis-cli apt-get; do
  command -v "$program" >/dev/null || fail "$program is missing: apt-get install tcl redis-tools"
done

fetch_sources() {
  [ -f "$cache/tests/test_helper.tcl" ] && return
  local apt=$work/apt
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$cache"
  # The machine's own package sources, asked for sources in place of packages.
  mkdir "$apt/parts"
  sed 's/^Types: .*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$apt/parts/debian.sources" 2>/dev/null || true
  sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$apt/parts/debian.list" 2>/dev/null || true
  local options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/parts"
    -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  (cd "$apt" && apt-get "${options[@]}" update -qq && apt-get "${options[@]}" source -qq --download-only redis)
  [ -f "$apt/redis_$version.orig.tar.gz" ] || fail "this machine's package sources have no Redis $version"
  tar xzf "$apt/redis_$version.orig.tar.gz" -C "$cache" --strip-components 1
}

# A port that nobody listens on, with the four above it.
free_port() {
  local port
  for port in $(shuf -i 20000-30000 -n 50); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  fail "no free port"
}

start_node() {
  local port=$1
  cat >"$work/node.yaml" <<EOF
node: { name: suite, data_dir: $work/data-$port, bootstrap: single }
listen:
  client: 127.0.0.1:$port
  peer: 127.0.0.1:$((port + 1))
  gateway: 127.0.0.1:$((port + 2))
  metrics: 127.0.0.1:$((port + 3))
  grpc: 127.0.0.1:$((port + 4))
raft: { segment_bytes: 16777216 }
EOF
  "$heliosd" --config "$work/node.yaml" >"$work/node.log" 2>&1 &
  node=$!
  local tries
  for tries in $(seq 100); do
    redis-cli -p "$port" SET suite ready 2>/dev/null | grep -q OK && return
    kill -0 "$node" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 5 "$work/node.log" >&2
  fail "the node did not become ready"
}

run_unit() {
  local unit=$1 port log code=0
  port=$(free_port)
  log=$work/$(basename "$unit").log
  start_node "$port"
  (cd "$cache" && timeout 300 tclsh8.6 tests/test_helper.tcl --host 127.0.0.1 --port "$port" --clients 1 --durable \
    --singledb --ignore-encoding --ignore-digest --tags "$tags" --single "$unit") 2>&1 | sed 's/\x1b\[[0-9;]*m//g' >"$log" || code=$?
  kill "$node" && wait "$node" 2>/dev/null || true
  node=
  # No count is zero, not a failure.
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
for unit in "${units[@]}"; do
  run_unit "$unit"
done
