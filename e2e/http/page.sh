#!/usr/bin/env bash
# Test of the status page of a real three-node cluster in headless Chromium: checks its content before and
# after a member is lost, and takes docs/images/status-page.png with `page.sh picture`.
#
# HELIOSD: the binary (default: the debug build). CHROMEDRIVER: the driver (default: the one in the PATH, or
# Debian's, unpacked).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
heliosd=${HELIOSD:-${CARGO_TARGET_DIR:-$root/target}/debug/heliosd}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/helios/chromedriver
work=$(mktemp -d)
pids=()

finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

fail() {
  echo "page.sh: $1" >&2
  exit 1
}

[ -x "$heliosd" ] || fail "no heliosd at $heliosd: cargo build -p helios-node, or set HELIOSD"
for program in chromium python3; do
  command -v "$program" >/dev/null || fail "$program is missing: apt-get install chromium python3"
done

# The driver must have the same version as the browser.
driver=${CHROMEDRIVER:-$(command -v chromedriver || echo "$cache/usr/bin/chromedriver")}
if [ ! -x "$driver" ]; then
  mkdir -p "$cache"
  (cd "$cache" && apt-get download -qq "chromium-driver=$(dpkg-query -W -f '${Version}' chromium)" &&
    dpkg-deb --fsys-tarfile chromium-driver_*.deb | tar -x ./usr/bin/chromedriver && rm chromium-driver_*.deb) ||
    fail "no chromedriver: apt-get install chromium-driver, or set CHROMEDRIVER"
fi

# A client port with free ports for three nodes around it.
port=$(shuf -i 7000-20000 -n 1)
wait_for() {
  local tries
  for tries in $(seq 150); do
    "${@:2}" && return
    sleep 0.2
  done
  fail "$1 (see below)
$(tail -n 5 "$work"/*.log)"
}
node() {
  local members=() own=$1 other
  for other in 1 2 3; do members+=("{name: node-$other, address: '127.0.0.1:$((port + 10 * other))'}"); done
  printf '%s\n' "node: {name: node-$own, data_dir: $work/node-$own, initial_members: [$(IFS=,; echo "${members[*]}")]}" \
    "listen: {peer: '127.0.0.1:$((port + 10 * own))', client: '127.0.0.1:$((port + 10 * own + 1))', gateway: '127.0.0.1:$((port + 10 * own + 2))', metrics: '127.0.0.1:$((port + 10 * own + 3))', grpc: '127.0.0.1:$((port + 10 * own + 4))'}" \
    'raft: {segment_bytes: 4194304}' >"$work/node-$own.yaml"
  "$heliosd" --config "$work/node-$own.yaml" 2>"$work/node-$own.log" &
  pids+=($!)
}
for number in 1 2 3; do node "$number"; done
"$driver" --port=$((port + 5)) >"$work/driver.log" 2>&1 &
pids+=($!)
"$heliosd" archive --name demo --store "file://$work/store" --flush-interval 100ms --listen "127.0.0.1:$((port + 6))" \
  --members "127.0.0.1:$((port + 14)),127.0.0.1:$((port + 24)),127.0.0.1:$((port + 34))" 2>"$work/archiver.log" &
pids+=($!)
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
wait_for "no node listens" answers $((port + 12))
wait_for "no driver listens" answers $((port + 5))

python3 "$root/e2e/http/page.py" "$((port + 5))" "$port" "${pids[@]:0:3}" "${1:+$root/docs/images/status-page.png}"
