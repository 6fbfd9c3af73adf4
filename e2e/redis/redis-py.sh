#!/usr/bin/env bash
# Runs redis-py's own tests against a node (from its source package; nothing of it is kept here):
# e2e/redis/redis-py.sh [pytest option ...]. The last line is pytest's line of counts.
#
# HELIOSD: the binary (default: the debug build). HELIOS_REDIS_CACHE: the directory for the package and its environment.
set -euo pipefail
source "$(dirname "$0")/node.sh"

version=8.1.0
cache=${HELIOS_REDIS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/helios/redis-py-$version}
files=(tests/test_commands.py tests/test_pipeline.py tests/test_lock.py tests/test_encoding.py)
# Words in the names of tests for commands that a node does not have: these are listed in docs/reference/commands.md.
without="acl or stream or xadd or xread or xgroup or xinfo or xack or xclaim or xautoclaim or xpending or xrange or xrevrange or xtrim
  or xlen or xdel or xcfgset or geo or pfadd or pfcount or pfmerge or hll or bitfield or function or fcall or module or latency or slowlog
  or cluster or replicaof or slaveof or psync or migrate or bgsave or bgrewriteaof or lastsave or debug or monitor or tracking"

need python3
if [ ! -x "$cache/venv/bin/pytest" ]; then
  mkdir -p "$cache"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install -q pytest pytest-asyncio pytest-timeout numpy xxhash opentelemetry-api pybreaker "redis==$version"
fi
if [ ! -d "$cache/redis-$version/tests" ]; then
  "$cache/venv/bin/pip" download -q --no-deps --no-binary :all: -d "$cache" "redis==$version"
  tar xzf "$cache/redis-$version.tar.gz" -C "$cache"
fi

# Two of the tests connect to Redis's default port.
port=$(free_port 6379)
start_node "$port"
cd "$cache/redis-$version"
"$cache/venv/bin/pytest" "${files[@]}" -q -p no:cacheprovider --tb=line --timeout 20 \
  -m 'not redismod and not onlycluster' -k "not ($(echo $without))" --redis-url "redis://127.0.0.1:$port/0" "$@" || true
