#!/usr/bin/env bash
# heliosd beside etcd and Redis, or alone (`--parts scale`, `--parts backup`, `--parts sidecar`): builds what is missing, then measures. Arguments go to helios-bench;
# `bench.sh --help` lists them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib.sh
source "$root/scripts/lib.sh"
cd "$root"

need_cargo
case " $* " in
*" --parts scale "* | *" --parts million "* | *" --parts backup "* | *" --parts sidecar "*) ;;
*)
  command -v redis-server >/dev/null || {
    ((EUID == 0)) && command -v apt-get >/dev/null || die "redis-server is missing; install it (Debian: apt-get install redis-server)"
    say "redis-server is missing: installing Debian's package; with systemd, Debian also starts it as a service on port 6379"
    step "installing redis-server" apt-get install -y --no-install-recommends redis-server >/dev/null
  }
  parts=$(e2e/kubernetes/cluster.sh path)
  [[ -x $parts/kube ]] || e2e/kubernetes/cluster.sh prepare
  export HELIOS_BENCH_ETCD=$parts/kube
  ;;
esac
# Built one by one: in one build heliosd's dependencies would get the features that helios-bench enables.
step "building heliosd for release (minutes, the first time)" cargo build --quiet --release --package helios-node --bin heliosd
step "building helios-bench" cargo build --quiet --release --package helios-bench

built=$(realpath "${CARGO_TARGET_DIR:-target}")
export HELIOS_BENCH_HELIOSD=$built/release/heliosd HELIOS_BENCH_DIR=$built
exec "$built/release/helios-bench" "$@"
