# shellcheck shell=bash
# The cluster's network: a bridge on this machine and one network namespace for each node, in a range reserved for tests.
# Nodes have no default route, and the host routes the rest of the range to a black hole, so no packet can leave the machine.

readonly bridge=helios0 all_range=198.18.0.0/15 host_address=198.18.0.1 service_range=198.19.0.0/16
# Every pod is in this range; connections to a Service from other addresses are masqueraded, so that answers are routed back.
readonly pod_ranges=198.18.96.0/19
readonly nodes=(node-1 node-2 node-3)

node_address() { echo "198.18.0.1${1#node-}"; }
node_pods() { echo "198.18.10${1#node-}.0/24"; }
node_netns() { echo "helios-$1"; }
# The host's end of the node's only network link.
node_link() { echo "helios-${1#node-}"; }

# Some VPNs use the same range: fails, since packets of the two could not be distinguished.
net_require_free() {
  local taken
  taken=$(ip -o -4 address | awk '$4 ~ /^198\.1[89]\./ && $2 != "'"$bridge"'" {print $2; exit}')
  [[ -z $taken ]] || die "interface $taken uses addresses of $all_range, which the local cluster needs; stop it, or set KUBECONFIG to a cluster you have"
}

net_up() {
  local node address
  ip link show "$bridge" &>/dev/null || ip link add "$bridge" type bridge
  ip address replace "$host_address/24" dev "$bridge"
  ip link set "$bridge" up
  ip route replace blackhole "$all_range"
  for node in "${nodes[@]}"; do
    net_node_up "$node"
    ip route replace "$(node_pods "$node")" via "$(node_address "$node")"
  done
  address=$(node_address "${nodes[0]}")
  ip route replace "$service_range" via "$address"
}

net_node_up() {
  local node=$1 netns link other
  netns=$(node_netns "$node") link=$(node_link "$node")
  [[ -e /run/netns/$netns ]] || ip netns add "$netns"
  ip link show "$link" &>/dev/null || ip link add "$link" type veth peer name eth0 netns "$netns"
  ip link set "$link" master "$bridge" up
  ip -n "$netns" link set lo up
  ip -n "$netns" address replace "$(node_address "$node")/24" dev eth0
  ip -n "$netns" link set eth0 up
  nsenter --net="/run/netns/$netns" sysctl -qw net.ipv4.ip_forward=1
  for other in "${nodes[@]}"; do
    [[ $other == "$node" ]] || ip -n "$netns" route replace "$(node_pods "$other")" via "$(node_address "$other")"
  done
}

net_down() {
  local node
  for node in "${nodes[@]}"; do
    [[ ! -e /run/netns/$(node_netns "$node") ]] || ip netns delete "$(node_netns "$node")"
    ip link delete "$(node_link "$node")" 2>/dev/null || true
  done
  ip link delete "$bridge" 2>/dev/null || true
  ip route delete blackhole "$all_range" 2>/dev/null || true
}
