#!/usr/bin/env bash
# Judges a running node by its own OpenAPI document: schemathesis makes requests of all sorts, good and bad, and looks whether the
# answers are what the document says. e2e/http/schemathesis.sh [more options of `schemathesis run`]
#
# HELIOSD: the binary (default: the debug build). EXAMPLES: requests for each operation (default: 50). SEED: of the requests.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
heliosd=${HELIOSD:-${CARGO_TARGET_DIR:-$root/target}/debug/heliosd}
venv=${XDG_CACHE_HOME:-$HOME/.cache}/helios/schemathesis
version=4.32.5
token=schemathesis-token
work=$(mktemp -d)
node=

finish() {
  [ -z "$node" ] || { kill "$node" 2>/dev/null && wait "$node" 2>/dev/null; } || true
  rm -rf "$work"
}
trap finish EXIT

fail() {
  echo "schemathesis.sh: $1" >&2
  exit 1
}

[ -x "$heliosd" ] || fail "no heliosd at $heliosd: cargo build -p helios-node, or set HELIOSD"
[ -x "$venv/bin/schemathesis" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q "schemathesis==$version"; } ||
  fail "schemathesis cannot be installed: it needs python3 with venv, and a package index"

port=$(shuf -i 20000-30000 -n 1)
cat >"$work/node.yaml" <<EOT
node: { name: judged, data_dir: $work/data, bootstrap: single }
listen:
  client: 127.0.0.1:$port
  peer: 127.0.0.1:$((port + 1))
  gateway: 127.0.0.1:$((port + 2))
  metrics: 127.0.0.1:$((port + 3))
  grpc: 127.0.0.1:$((port + 4))
gateway: { token: $token }
client: { request_timeout: 1s }
raft: { segment_bytes: 16777216 }
EOT
"$heliosd" --config "$work/node.yaml" 2>"$work/node.log" &
node=$!
ready() { (exec 3<>"/dev/tcp/127.0.0.1/$((port + 2))" && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && grep -q ' 200 ' <&3) 2>/dev/null; }
tries=0
until ready; do
  ((++tries < 100)) && kill -0 "$node" 2>/dev/null || fail "the node did not become ready: $(tail -n 3 "$work/node.log")"
  sleep 0.1
done

# Left out: the stream, which has no end; adding and promoting members, which wait long for a node that is not there.
(cd "$work" && "$venv/bin/schemathesis" --config-file "$root/e2e/http/schemathesis.toml" run "http://127.0.0.1:$((port + 2))/openapi.json" \
  --header "Authorization: Bearer $token" --checks all --phases examples,coverage,fuzzing \
  --max-examples "${EXAMPLES:-50}" --seed "${SEED:-1}" --request-timeout 30 \
  --exclude-path /status/stream --exclude-path /nodes/add --exclude-path /promote "$@") || code=$?
kill -0 "$node" 2>/dev/null || fail "the node ended: $(tail -n 3 "$work/node.log")"
exit "${code:-0}"
