# Starts and stops one node on free ports of loopback, for the scripts here and in ../http. To be sourced.
#
# HELIOSD: the binary (default: the debug build).
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
heliosd=${HELIOSD:-${CARGO_TARGET_DIR:-$root/target}/debug/heliosd}
work=$(mktemp -d)
node=

fail() {
  echo "$(basename "$0"): $1" >&2
  exit 1
}

stop_node() {
  [ -n "$node" ] || return 0
  kill "$node" 2>/dev/null || true
  wait "$node" 2>/dev/null || true
  node=
}

finish() {
  stop_node
  rm -rf "$work"
}
trap finish EXIT

need() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || fail "$program is missing; install it (apt-get install tcl redis-tools, Node.js, Go, Python)"
  done
}

# Prints a port without a listener, $1 if it has none; the four ports above it are likely to be free.
free_port() {
  local port
  for port in "$@" $(shuf -i 20000-30000 -n 50); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  fail "no free port"
}

# Starts a blank node that serves Redis clients on 127.0.0.1:$1, with the lines $2 added to its configuration.
start_node() {
  local port=$1 more=${2:-} tries
  [ -x "$heliosd" ] || fail "no heliosd at $heliosd: cargo build -p helios-node, or set HELIOSD"
  need redis-cli
  cat >"$work/node.yaml" <<EOF
node: { name: judged, data_dir: $work/data-$port, bootstrap: single }
listen:
  client: 127.0.0.1:$port
  peer: 127.0.0.1:$((port + 1))
  gateway: 127.0.0.1:$((port + 2))
  metrics: 127.0.0.1:$((port + 3))
  grpc: 127.0.0.1:$((port + 4))
raft: { segment_bytes: 16777216 }
$more
EOF
  "$heliosd" --config "$work/node.yaml" >"$work/node.log" 2>&1 &
  node=$!
  for tries in $(seq 600); do
    redis-cli -p "$port" SET judged ready 2>/dev/null | grep -q OK && return
    kill -0 "$node" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 5 "$work/node.log" >&2
  fail "the node did not become ready"
}
