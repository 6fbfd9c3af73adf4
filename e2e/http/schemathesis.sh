#!/bin/sh
# Lets schemathesis ask the HTTP gateway of a single node everything that its own OpenAPI document allows, and
# much that it does not. Usage: e2e/http/schemathesis.sh [heliosd] [examples per operation]
# Needs Python 3.10 or later; the tool is installed into a directory that is removed at the end.
set -eu

heliosd=${1:-${CARGO_TARGET_DIR:-target}/debug/heliosd}
examples=${2:-50}
version=4.32.5
gateway=18443
# Calls that take the node's leadership or a member away leave nothing to ask; node/tests/integration/gateway.rs has them.
destructive='^/(leadership/stepdown|leadership/transfer|nodes/remove|nodes/add|status/stream)$'

scratch=$(mktemp -d)
node=
stop() {
    [ -z "$node" ] || kill "$node" 2>/dev/null || true
    [ -z "$node" ] || wait "$node" 2>/dev/null || true
    rm -rf "$scratch"
}
trap stop EXIT INT TERM

python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet "schemathesis==$version"

HELIOS__NODE__BOOTSTRAP=single HELIOS__GATEWAY__TOKEN=s3cret "$heliosd" --raft-node-id node-1 \
    --data-dir "$scratch/data" --listen 127.0.0.1:16379 --raft-addr 127.0.0.1:17000 \
    --grpc-listen 127.0.0.1:15051 --metrics-listen 127.0.0.1:19090 --gateway-listen "127.0.0.1:$gateway" \
    2>"$scratch/log" &
node=$!
tries=0
until curl --silent --fail --output /dev/null "http://127.0.0.1:$gateway/readyz"; do
    tries=$((tries + 1))
    [ "$tries" -lt 150 ] || { cat "$scratch/log" >&2; exit 1; }
    sleep 0.2
done

cd "$scratch"
"$scratch/venv/bin/schemathesis" run "http://127.0.0.1:$gateway/openapi.json" \
    --header 'Authorization: Bearer s3cret' --exclude-path-regex "$destructive" \
    --max-examples "$examples" --seed 1 --workers 1 --generation-database none --request-timeout 30
kill -0 "$node"
