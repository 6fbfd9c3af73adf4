#!/usr/bin/env bash
# Connects to a node with three client libraries as an application does, in clients/: e2e/redis/clients.sh.
# Prints one line of counts for each, and fails if a check of one of them fails.
#
# HELIOSD: the binary (default: the debug build). HELIOS_REDIS_CACHE: the directory for the libraries.
set -euo pipefail
source "$(dirname "$0")/node.sh"

cache=${HELIOS_REDIS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/helios/redis-clients}
need node npm go
mkdir -p "$cache"
cp "$root"/e2e/redis/clients/* "$cache"
cd "$cache"
[ -d node_modules/ioredis ] || npm install --silent --no-fund --no-audit ioredis@6 redis@6
if [ ! -f go.mod ]; then
  go mod init clients 2>/dev/null
  go get -x github.com/redis/go-redis/v9@v9.23.0 >"$work/go.log" 2>&1 || { cat "$work/go.log" >&2; fail "go-redis cannot be fetched"; }
fi
go build -o clients-go .

port=$(free_port)
start_node "$port"
status=0
for program in "node ioredis.mjs" "node node-redis.mjs" ./clients-go; do
  PORT=$port timeout 120 $program || status=1
done
exit $status
