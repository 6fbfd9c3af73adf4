#!/usr/bin/env bash
# The end-to-end stories. A local cluster that was not up before is taken down afterwards.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib.sh
source "$root/scripts/lib.sh"
# shellcheck source=cluster.sh
source "$root/scripts/cluster.sh"
cd "$root"

if ! cluster_is_foreign && ! "$local_cluster" status &>/dev/null; then at_end "$local_cluster down"; fi
use_cluster
images=$("$root/scripts/images.sh")
set -a
eval "$images"
set +a
at_failure diagnose
# The whole workspace is named so that nothing is compiled again with other features.
cargo test --workspace --test stories -- --test-threads=1
