# shellcheck shell=bash
# The functions that the scripts of the local cluster share. Set kubernetes_dir before.

source "$kubernetes_dir/../../scripts/lib.sh"
readonly state="$state_root/cluster"
source "$kubernetes_dir/lib/preflight.sh"
source "$kubernetes_dir/lib/archive.sh"
source "$kubernetes_dir/lib/parts.sh"
source "$kubernetes_dir/lib/lock.sh"
source "$kubernetes_dir/lib/process.sh"
source "$kubernetes_dir/lib/net.sh"
source "$kubernetes_dir/lib/certs.sh"
source "$kubernetes_dir/lib/control-plane.sh"
source "$kubernetes_dir/lib/node.sh"
source "$kubernetes_dir/lib/delivery.sh"
