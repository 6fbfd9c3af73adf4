# shellcheck shell=bash
# Checks the machine for what the local cluster needs. On a failure one line says what is missing and what works without it.

readonly without_it="without it: set KUBECONFIG to a cluster you have, or run three members here with 'cargo run -p helios-node --bin heliosd -- dev'"
readonly oldest_go=1.26

# Each program, and the Debian package that has it.
readonly needed_programs="ip=iproute2 nft=nftables iptables=iptables sysctl=procps curl=curl openssl=openssl nsenter=util-linux
  containerd=containerd ctr=containerd runc=runc buildah=buildah redis-cli=redis-tools objcopy=binutils cc=build-essential"

preflight() {
  [[ $(uname -s) == Linux ]] || die "the local cluster needs Linux; $without_it"
  ((EUID == 0)) || die "the local cluster needs root (network namespaces and mounts); $without_it"
  [[ -w /sys/fs/cgroup/cgroup.procs || -w /sys/fs/cgroup/pids/cgroup.procs ]] ||
    die "the local cluster needs control groups that it may write, at /sys/fs/cgroup; $without_it"
  ((${#state} <= 70)) || die "the path $state is too long for the sockets in it; set XDG_STATE_HOME to a shorter one"
  preflight_programs
  preflight_go
}

preflight_programs() {
  local pair packages=()
  for pair in $needed_programs; do
    command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
  done
  cni_plugins >/dev/null || packages+=(containernetworking-plugins)
  ((${#packages[@]})) || return 0
  command -v apt-get >/dev/null || die "the local cluster needs the programs of these Debian packages: ${packages[*]}; $without_it"
  step "installing Debian packages: ${packages[*]}" quietly "$cache_root/apt.log" install_packages "${packages[@]}"
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update && apt-get install -y --no-install-recommends "$@"
}

preflight_go() {
  local version
  command -v go >/dev/null || die "building Kubernetes needs Go $oldest_go or newer; $without_it"
  version=$(GOTOOLCHAIN=local go env GOVERSION)
  [[ $(printf '%s\n' "go$oldest_go" "$version" | sort -V | head -n 1) == "go$oldest_go" ]] ||
    die "building Kubernetes needs Go $oldest_go or newer, and this is $version; $without_it"
}

# The directory of the distribution's network plugins.
cni_plugins() {
  local place
  for place in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
    [[ ! -x $place/ptp ]] || { echo "$place" && return; }
  done
  return 1
}
