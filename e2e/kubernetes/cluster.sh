#!/usr/bin/env bash
# A real Kubernetes of three nodes on this machine: `cluster.sh prepare | up | down | status | kubeconfig | path`.
# `prepare` builds the programs, `path` prints their directory, `kubeconfig` prints the path of the kubeconfig.
# `up` returns at once when the cluster is healthy, and repairs or rebuilds it when it is not. `down` removes everything.
# To break a node on purpose: `cluster.sh cut NODE` disconnects it from the network, `mend NODE` connects it again, `kill NODE`
# disconnects it and kills its processes at once; then `up` restarts the node with its disks.
set -euo pipefail
kubernetes_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib/all.sh
source "$kubernetes_dir/lib/all.sh"

up() {
  preflight
  parts_ensure
  lock
  net_require_free
  local version
  version=$(cluster_version)
  if [[ -e $state/version && $(<"$state/version") == "$version" ]]; then
    pki=$state/pki
    if healthy || step "repairing the local cluster" "$kubernetes_dir/cluster.sh" bring-up; then return; fi
  fi
  tear_down
  step "starting the local cluster (three nodes)" bring_up
}

# A digest of the files and programs that the cluster is made from.
cluster_version() {
  (cd "$kubernetes_dir" && cat lib/{process,net,certs,control-plane,node}.sh storage-class.yaml <(echo "$parts")) | sha256sum | cut -c1-12
}

healthy() {
  local name
  for name in etcd apiserver controller-manager scheduler volumes dns; do
    running "$name" control || return 1
  done
  for name in "${nodes[@]}"; do
    running "$name-kubelet" "$name/daemons" && running "$name-proxy" "$name/daemons" &&
      running "$name-containerd" "$name/daemons" && running "$name-hold" "$name/daemons" || return 1
  done
  api_ready >/dev/null && nodes_ready
}

nodes_ready() { (($(kube get nodes -o 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -cx True) == ${#nodes[@]})); }

kube() { "$parts/kubectl" --kubeconfig "$local_kubeconfig" "$@"; }

bring_up() {
  local node
  mkdir -p "$state/volumes"
  cluster_version >"$state/version"
  net_up
  certs_up
  store_up
  each_node node_up
  await 60 "answer of the API server (its log: $state/logs/apiserver.log)" api_ready
  managers_up
  for node in "${nodes[@]}"; do kubelet_up "$node"; done
  await 30 "cluster DNS (its log: $state/logs/dns.log)" dns_ready
  install -m 600 "$pki/admin.kubeconfig" "$local_kubeconfig"
  kube apply --filename "$kubernetes_dir/storage-class.yaml" >/dev/null
  await 60 "all nodes Ready (their logs: $state/logs)" nodes_ready
  await 20 "service account of the namespace default" kube get serviceaccount default
}

# each_node COMMAND...: runs the command for all nodes at the same time.
each_node() {
  local node pids=() pid
  for node in "${nodes[@]}"; do
    "$@" "$node" &
    pids+=("$!")
  done
  for pid in "${pids[@]}"; do wait "$pid"; done
}

down() {
  if ((EUID)); then
    [[ -d $state ]] || return 0
    die "taking the local cluster down needs root"
  fi
  lock
  step "taking the local cluster down" tear_down
  : >"$lock_file"
}

# Processes are killed, not stopped: no data outlives the cluster, and mounts end with the processes that hold them.
tear_down() {
  group_kill
  groups_remove
  net_down
  rm -rf "${state:?}"
  rmdir --ignore-fail-on-non-empty "${hidden_places[@]}" 2>/dev/null || true
}

require_node() { [[ " ${nodes[*]} " == *" $1 "* ]] || die "there is no node ${1:-without a name}; the nodes are ${nodes[*]}"; }

# The link is cut first, so that no other host sees the node's processes end.
kill_node() {
  ip link set "$(node_link "$1")" down
  group_kill "$1"
}

case "${1:-}" in
prepare) preflight && parts_ensure ;;
up) up ;;
down) down ;;
status) parts=$(parts_path) pki=$state/pki && if healthy; then echo up; else echo down && exit 1; fi ;;
kubeconfig) echo "$local_kubeconfig" ;;
path) parts_path ;;
cut) require_node "${2:-}" && ip link set "$(node_link "$2")" down ;;
mend) require_node "${2:-}" && ip link set "$(node_link "$2")" up ;;
kill) require_node "${2:-}" && kill_node "$2" ;;
bring-up) parts=$(parts_path) && bring_up ;; # Called by `up`, which holds the lock.
*) die "usage: cluster.sh prepare|up|down|status|kubeconfig|path, or cut|mend|kill NODE" ;;
esac
