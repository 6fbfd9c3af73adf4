#!/usr/bin/env bash
# Tests a running node against its own OpenAPI document: schemathesis sends valid and invalid requests and
# checks that the responses match the document. e2e/http/schemathesis.sh [more options of `schemathesis run`]
#
# HELIOSD: the binary (default: the debug build). EXAMPLES: requests for each operation (default: 50). SEED:
# seed of the requests.
set -euo pipefail
source "$(dirname "$0")/../redis/node.sh"
venv=${XDG_CACHE_HOME:-$HOME/.cache}/helios/schemathesis
version=4.32.5
token=schemathesis-token

[ -x "$venv/bin/schemathesis" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q "schemathesis==$version"; } ||
  fail "schemathesis cannot be installed: it needs python3 with venv, and a package index"

port=$(free_port)
start_node "$port" "gateway: { token: $token }
client: { request_timeout: 1s }"

# Excluded: the stream, which has no end; adding and promoting members, which wait long for a node that does
# not exist.
(cd "$work" && "$venv/bin/schemathesis" --config-file "$root/e2e/http/schemathesis.toml" run "http://127.0.0.1:$((port + 2))/openapi.json" \
  --header "Authorization: Bearer $token" --checks all --phases examples,coverage,fuzzing \
  --max-examples "${EXAMPLES:-50}" --seed "${SEED:-1}" --request-timeout 30 \
  --exclude-path /status/stream --exclude-path /nodes/add --exclude-path /promote "$@") || code=$?
kill -0 "$node" 2>/dev/null || fail "the node ended: $(tail -n 3 "$work/node.log")"
exit "${code:-0}"
