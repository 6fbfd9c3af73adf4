# shellcheck shell=bash
# One local cluster on a machine: bridge, address range and control groups have fixed names. The lock is held during
# changes, and the lock file has the directory of the cluster.

readonly lock_file=/run/lock/helios-cluster

lock() {
  local owner
  mkdir -p "$(dirname "$lock_file")"
  exec 9>>"$lock_file"
  flock --nonblock 9 || step "waiting for another start or stop of the local cluster" flock --timeout 600 9 ||
    die "another start or stop of the local cluster holds $lock_file for more than 600 s"
  owner=$(<"$lock_file")
  if [[ -n $owner && $owner != "$state" && -d $owner ]]; then
    die "another local cluster runs already, with its state in $owner; remove it first: XDG_STATE_HOME=${owner%/helios/cluster} make down"
  fi
  echo "$state" >"$lock_file"
}
