# shellcheck shell=bash
# One node: containerd, kubelet and kube-proxy in one network and one mount namespace. The pause program holds
# both open; the mounts of a node end with its processes.

# Directories at fixed paths that the programs write to (/run/containerd, /var/log/containers, ...): hidden by mounts, so that each node
# has its own.
readonly hidden_places=(/run /var/log /var/lib/cni /var/lib/kubelet)

# In the order of the nodes.
readonly zones=(zone-a zone-b zone-c)

node_up() {
  local node=$1
  node_hold "$node"
  containerd_up "$node"
}

in_node() { echo "nsenter --target $(pid_of "$1-hold") --net --mount --"; }

node_hold() {
  local node=$1 home=$state/$1
  running "$node-hold" "$node/daemons" && return
  group_kill "$node"
  group_make "$node/pods"
  rm -f "$home/held"
  mkdir -p "$home" "${hidden_places[@]}"
  start "$node-hold" "$node/daemons" nsenter --net="/run/netns/$(node_netns "$node")" unshare --mount --propagation private \
    sh -ec 'held=$1 pause=$2; shift 2; for place; do mount -t tmpfs tmpfs "$place"; done; touch "$held"; exec "$pause"' \
    sh "$home/held" "$parts/rootfs/pause" "${hidden_places[@]}"
  await 10 "namespaces of $node" test -e "$home/held"
}

containerd_up() {
  local node=$1 home=$state/$1
  node_runtime_config "$node" "$home"
  # shellcheck disable=SC2046 # Words are wanted.
  start "$node-containerd" "$node/daemons" $(in_node "$node") containerd --config "$home/containerd.toml"
  await 20 "containerd of $node" node_ctr "$node" version
  node_has_image "$node" "$pause_image" || node_import "$node" "$parts/pause.tar"
}

kubelet_up() {
  local node=$1 home=$state/$1
  # A running kube-proxy ends when its configuration is rewritten, even with the same content.
  ! running "$node-kubelet" "$node/daemons" || ! running "$node-proxy" "$node/daemons" || return 0
  node_kubelet_config "$node" "$home"
  # shellcheck disable=SC2046
  start "$node-kubelet" "$node/daemons" $(in_node "$node") "$parts/kube" kubelet --config "$home/kubelet.yaml" \
    --kubeconfig "$pki/$node.kubeconfig" --hostname-override "$node" --node-ip "$(node_address "$node")" \
    --root-dir "$home/kubelet" --cert-dir "$home/kubelet-pki" \
    --node-labels "topology.kubernetes.io/region=local,topology.kubernetes.io/zone=${zones[${node#node-} - 1]}"
  # shellcheck disable=SC2046
  start "$node-proxy" "$node/daemons" $(in_node "$node") "$parts/kube" proxy --config "$home/proxy.yaml"
}

node_ctr() { ctr --address "$state/$1/containerd.sock" --namespace k8s.io "${@:2}"; }

# node_has_image NODE NAME:TAG: succeeds if the node has the image, under any prefix that containerd adds to the name.
node_has_image() { [[ -n $(node_ctr "$1" images list --quiet "name~=\"/$2\$\"") ]]; }

# node_import NODE ARCHIVE
node_import() { node_ctr "$1" images import "$2" >/dev/null; }

node_runtime_config() {
  local node=$1 home=$2
  mkdir -p "$home/cni"
  cat >"$home/containerd.toml" <<EOF
version = 2
root = "$home/containerd"
state = "$home/run"
[grpc]
  address = "$home/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$pause_image"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$(cni_plugins)"
    conf_dir = "$home/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
EOF
  cat >"$home/cni/10-pods.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipam": {"type": "host-local", "dataDir": "$home/addresses",
    "ranges": [[{"subnet": "$(node_pods "$node")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
}

node_kubelet_config() {
  local node=$1 home=$2
  : >"$home/resolv.conf"
  cat >"$home/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_address "$node")
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /helios/$node/pods
clusterDNS: [$host_address]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$home/containerd.sock
evictionHard: {memory.available: 1Mi}
failSwapOn: false
featureGates: {KubeletInUserNamespace: true}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
oomScoreAdj: 0
podLogsDir: $home/pod-logs
readOnlyPort: 0
resolvConf: $home/resolv.conf
# Changed Secrets reach their volumes within this time; 1m by default.
syncFrequency: 10s
volumePluginDir: $home/volume-plugins
EOF
  cat >"$home/proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $pki/proxy.kubeconfig}
clusterCIDR: $pod_ranges
conntrack: {maxPerCore: 0, min: 0}
detectLocalMode: ClusterCIDR
hostnameOverride: $node
mode: nftables
oomScoreAdj: 0
EOF
}
