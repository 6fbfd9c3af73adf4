#!/usr/bin/env bash
# The end-to-end stories: `stories.sh [all] [--times N] [NAME]`. Without an argument those that CI runs, with `all` every one,
# with NAME those whose name contains it; N times in a row. A local cluster that was not up before is removed afterwards.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib.sh
source "$root/scripts/lib.sh"
# shellcheck source=cluster.sh
source "$root/scripts/cluster.sh"
cd "$root"

which=()
while (($#)); do
  case $1 in
  all) which=(--include-ignored) ;;
  --times) export HELIOS_STORIES_TIMES=${2:?"how often? write --times 3"} && shift ;;
  -*) die "usage: stories.sh [all] [--times N] [NAME]" ;;
  *) which=(--include-ignored "$1") ;;
  esac
  shift
done

if ! cluster_is_foreign && ! "$local_cluster" status &>/dev/null; then at_end "$local_cluster down"; fi
use_cluster
# Development builds, as for the tests, so that nothing is compiled twice.
export HELIOS_DEV=1
images=$("$root/scripts/images.sh")
set -a
eval "$images"
HELIOS_CLIENT_IMAGE=$("$root/e2e/kubernetes/images.sh" --with /bin/sh redis-cli "$(command -v redis-cli)")
set +a
at_failure diagnose
step "building heliosctl" build_programs heliosctl kubectl-helios
# `--workspace`, so that nothing is compiled again with other features.
cargo test --workspace --test stories -- --test-threads=1 "${which[@]}"
