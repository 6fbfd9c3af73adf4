#!/usr/bin/env bash
# All tests, or with `quick` the inner loop. Every part runs, whatever became of the one before. At the end: what each
# part took, and as the last line the sum over the test runners, in which a part that failed without a failed test counts one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib.sh
source "$root/scripts/lib.sh"
cd "$root"

logs=$(mktemp -d)
at_end "rm -rf $logs"
table=() passed=0 failed=0

# part NAME COMMAND...
part() {
  local name=$1 started=$SECONDS result=ok here
  shift
  say "==> $name"
  "$@" 2>&1 | tee "$logs/$name" || result=FAILED
  here=$(sum failed "$logs/$name")
  passed=$((passed + $(sum passed "$logs/$name")))
  [[ $result == ok ]] || ((here)) || here=1
  failed=$((failed + here))
  table+=("$(printf '%-12s %6d s  %s' "$name" $((SECONDS - started)) "$result")")
}

# sum passed|failed LOG: over the lines "test result: ok. 12 passed; 0 failed; ..." of every test program.
sum() { awk -v what="$1" '/^test result: / {for (i = 2; i <= NF; i++) if ($i == what ";") n += $(i - 1)} END {print n + 0}' "$2"; }

generated() { cargo run --quiet --package helios-crds --bin crdgen -- --check; }

# strace makes the syncs of a real process fail; two tests skip themselves without it.
strace_if_possible() {
  command -v strace >/dev/null && return
  ((EUID == 0)) && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -qqy --no-install-recommends strace && return
  say "strace is not here, and two tests of failing syncs are skipped"
}

# promtool judges the alerts; one test skips itself without it. Unpacked, not installed: the package would start a server.
promtool_if_possible() {
  local dir=$cache_root/promtool
  command -v promtool >/dev/null || [[ -x $dir/usr/bin/promtool ]] && return
  command -v apt-get >/dev/null && mkdir -p "$dir" && (
    cd "$dir" && apt-get download -qq prometheus && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool && rm prometheus_*.deb
  ) 2>/dev/null && return
  say "promtool is not here, and the test of the alerts is skipped"
}

# All but the stories, which are no test target by default.
unit() { cargo test --workspace --no-fail-fast "$@"; }

# The operator's process at a real API server, and what a few settled clusters cost; the count of real interest is 500.
operator() {
  HELIOS_TEST_CLUSTERS=${HELIOS_TEST_CLUSTERS:-20} cargo test --workspace --test kubernetes -- --ignored --test-threads=1
}

lints() {
  cargo clippy --workspace --all-targets -- -D warnings && cargo clippy --workspace --test stories -- -D warnings
}

need_cargo
case "${1:-all}" in
all)
  cluster_is_foreign || part programs e2e/kubernetes/cluster.sh prepare
  part format cargo fmt --all --check
  part lints lints
  part generated generated
  strace_if_possible >/dev/null
  promtool_if_possible
  part tests unit
  cluster_is_foreign || part operator operator
  part stories scripts/stories.sh
  ;;
quick)
  part format cargo fmt --all --check
  part lints lints
  part unit unit --lib --bins
  ;;
*) die "usage: test.sh all|quick" ;;
esac

printf '\n'
printf '%s\n' "${table[@]}"
echo "$passed passed, $failed failed"
((failed == 0))
