#!/usr/bin/env bash
# Runs all tests, or with `quick` the inner loop. Every part runs, even after one that failed. At the end it prints the time of
# each part, and as the last line the sum over the test runners, in which a part that failed without a failed test counts as one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib.sh
source "$root/scripts/lib.sh"
# shellcheck source=tools.sh
source "$root/scripts/tools.sh"
cd "$root"

logs=$(mktemp -d)
at_end "rm -rf $logs"
table=() passed=0 failed=0
readonly cargo_deny_version=0.20.2

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

generated() { cargo run --quiet --bin crdgen -- --check; }

# Licences, duplicates and sources of all dependencies. Not the advisories: their database is not in a package registry.
dependencies() {
  local deny
  deny=$(cargo_tool cargo-deny "$cargo_deny_version") || return
  PATH="${deny%/*}:$PATH" cargo deny check licenses bans sources
}

# All tests but the stories, which are not a test target by default.
unit() { cargo test --workspace --no-fail-fast "$@"; }

# The operator's process at a real API server, one for each test, and the cost of a few settled clusters; the figure to publish
# is that of 500. Two tests at once, since they mostly wait.
operator() {
  HELIOS_TEST_CLUSTERS=${HELIOS_TEST_CLUSTERS:-20} cargo test --workspace --test kubernetes -- --ignored --test-threads=2
}

lints() {
  cargo clippy --workspace --all-targets -- -D warnings && cargo clippy --workspace --test stories -- -D warnings &&
    RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --quiet --workspace --no-deps --document-private-items
}

# on_local_cluster PART COMMAND...: a part that needs the local cluster; skipped, or in CI an error, with another one.
on_local_cluster() {
  if ! cluster_is_foreign; then
    part "$@"
  elif [[ -n ${CI:-} ]]; then
    die "CI skips nothing, and '$1' needs the local cluster: unset KUBECONFIG"
  else
    echo "skipped: part $1 (KUBECONFIG names a cluster that is not the local one)" >"$logs/$1"
  fi
}

# The skipped tests and parts that the logs report, each once.
skipped() { sed -n 's/^skipped: //p' "$logs"/* | sort -u; }

need_cargo
check_skips
case "${1:-all}" in
all)
  on_local_cluster programs e2e/kubernetes/cluster.sh prepare
  part format cargo fmt --all --check
  part lints lints
  part generated generated
  part dependencies dependencies
  part book scripts/book.sh
  part tools tools_ensure
  part tests unit
  on_local_cluster operator operator
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
left_out=$(skipped)
if [[ -n $left_out ]]; then
  printf '\nskipped:\n%s\n' "$left_out"
  echo "$passed passed, $failed failed, $(wc -l <<<"$left_out") skipped"
else
  echo "$passed passed, $failed failed"
fi
((failed == 0))
