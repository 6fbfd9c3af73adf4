# shellcheck shell=bash
# One local cluster on a machine: bridge, address range and control groups have one name each. The lock is held while
# something changes, and the file says in which directory the cluster lives.

readonly lock_file=/run/lock/helios-cluster

lock() {
  local owner
  mkdir -p "$(dirname "$lock_file")"
  exec 9>>"$lock_file"
  flock --nonblock 9 || step "waiting for another start or stop of the local cluster" flock --timeout 600 9 ||
    die "another start or stop of the local cluster holds $lock_file for more than 600 s"
  owner=$(<"$lock_file")
  if [[ -n $owner && $owner != "$state" && -d $owner ]]; then
    die "a local cluster runs already, kept in $owner; take it down first: XDG_STATE_HOME=${owner%/helios/cluster} make down"
  fi
  echo "$state" >"$lock_file"
}
