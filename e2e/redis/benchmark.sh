#!/usr/bin/env bash
# The default run of redis-benchmark against a node: e2e/redis/benchmark.sh [redis-benchmark option ...].
# Prints its table, in requests per second. For figures that compare systems see bench/.
#
# HELIOSD: the binary (default: the debug build).
set -euo pipefail
source "$(dirname "$0")/node.sh"

need redis-benchmark
port=$(free_port)
start_node "$port"
redis-benchmark -p "$port" -q "$@" | tr '\r' '\n' | grep 'requests per second'
