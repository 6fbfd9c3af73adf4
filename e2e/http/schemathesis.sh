#!/usr/bin/env bash
# Judges a running node by its own OpenAPI document: schemathesis makes requests of all sorts, good and bad, and looks whether the
# answers are what the document says. e2e/http/schemathesis.sh [more options of `schemathesis run`]
#
# HELIOSD: the binary (default: the debug build). EXAMPLES: requests for each operation (default: 50). SEED: of the requests.
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

# Left out: the stream, which has no end; adding and promoting members, which wait long for a node that is not there.
(cd "$work" && "$venv/bin/schemathesis" --config-file "$root/e2e/http/schemathesis.toml" run "http://127.0.0.1:$((port + 2))/openapi.json" \
  --header "Authorization: Bearer $token" --checks all --phases examples,coverage,fuzzing \
  --max-examples "${EXAMPLES:-50}" --seed "${SEED:-1}" --request-timeout 30 \
  --exclude-path /status/stream --exclude-path /nodes/add --exclude-path /promote "$@") || code=$?
kill -0 "$node" 2>/dev/null || fail "the node ended: $(tail -n 3 "$work/node.log")"
exit "${code:-0}"
