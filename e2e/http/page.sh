#!/bin/sh
# Opens the status page of a running cluster in headless Chromium and looks at what it shows.
# Usage: e2e/http/page.sh [heliosd] [picture.png]
set -eu

heliosd=${1:-${CARGO_TARGET_DIR:-target}/debug/heliosd}
picture=${2:-}
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome)

scratch=$(mktemp -d)
node=
stop() {
    [ -z "$node" ] || kill "$node" 2>/dev/null || true
    [ -z "$node" ] || wait "$node" 2>/dev/null || true
    rm -rf "$scratch"
}
trap stop EXIT INT TERM

"$heliosd" dev --port 17379 >"$scratch/out" 2>"$scratch/log" &
node=$!
tries=0
until grep -q 'members are up' "$scratch/out"; do
    tries=$((tries + 1))
    [ "$tries" -lt 150 ] || { cat "$scratch/log" >&2; exit 1; }
    sleep 0.2
done
# The first member's gateway is as far from 8443 as its client port is from 6379.
leader=$(curl --silent --fail http://127.0.0.1:19443/leader | sed 's/.*"leader":"node-\([0-9]\)".*/\1/')
page=http://127.0.0.1:$((19442 + leader))/

open() { "$chromium" --headless --no-sandbox --disable-gpu --user-data-dir="$scratch/profile" "$@" "$page" 2>>"$scratch/chromium"; }
open --timeout=6000 --dump-dom >"$scratch/dom"
for shown in 'All 3 voters are up; 1 may fail' "node-$leader leads" 'node-1' 'node-2' 'node-3' '<polyline'; do
    grep -q "$shown" "$scratch/dom" || { echo "the page does not show: $shown" >&2; cat "$scratch/dom" >&2; exit 1; }
done
[ -z "$picture" ] || open --timeout=6000 --window-size=1000,640 --screenshot="$picture"
echo "the page shows three members, their leader and that one may fail"
