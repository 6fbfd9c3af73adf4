# shellcheck shell=bash
# The cluster's processes. Each lives in a control group under /helios, so the kernel itself keeps the list of what is
# ours, children of children included: only what is on that list is ever killed.

readonly cgroup_mount=/sys/fs/cgroup

cgroup_v2() { [[ $(stat -fc %T "$cgroup_mount") == cgroup2fs ]]; }

# cgroup_dir GROUP: where GROUP's members are listed.
cgroup_dir() {
  if cgroup_v2; then echo "$cgroup_mount/helios/$1"; else echo "$cgroup_mount/pids/helios/$1"; fi
}

# group_make GROUP: in each hierarchy, because a kubelet wants its root group in all of them.
group_make() {
  local hierarchy
  if cgroup_v2; then
    hierarchy_make "$cgroup_mount" "$1" controllers_inherit
    return
  fi
  for hierarchy in "$cgroup_mount"/*/; do
    hierarchy=${hierarchy%/}
    case $hierarchy in
    */unified) ;;
    */cpuset) hierarchy_make "$hierarchy" "$1" cpuset_inherit ;;
    *) [[ -L $hierarchy ]] || hierarchy_make "$hierarchy" "$1" true ;;
    esac
  done
}

# hierarchy_make ROOT GROUP INHERIT: makes each level of the group and calls INHERIT PARENT CHILD on it.
hierarchy_make() {
  local parent=$1 name
  for name in helios ${2//\// }; do
    mkdir -p "$parent/$name"
    "$3" "$parent" "$parent/$name"
    parent=$parent/$name
  done
}

# A new cpuset has no processors, and nothing can run in it until it is given some.
cpuset_inherit() {
  local file
  for file in cpuset.cpus cpuset.mems; do
    [[ -n $(<"$2/$file") ]] || cat "$1/$file" >"$2/$file"
  done
}

# On cgroup v2 a group has the controllers that its parent hands down.
controllers_inherit() {
  local controller
  for controller in $(<"$1/cgroup.controllers"); do
    echo "+$controller" >"$1/cgroup.subtree_control"
  done
}

# group_members [GROUP]: the processes of GROUP and of all groups below it.
group_members() { find "$(cgroup_dir "${1:-}")" -name cgroup.procs -exec cat {} + 2>/dev/null || true; }

group_empty() { [[ -z $(group_members "${1:-}") ]]; }

# group_kill [GROUP]: again until nothing is left, since a process may fork while its siblings die.
group_kill() { await 20 "end of all processes in group helios/${1:-}" group_kill_once "${1:-}"; }

group_kill_once() {
  group_members "$1" | xargs -r kill -KILL 2>/dev/null || true
  group_empty "$1"
}

groups_remove() {
  local hierarchy
  for hierarchy in "$cgroup_mount" "$cgroup_mount"/*/; do
    [[ ! -d $hierarchy/helios ]] || find "$hierarchy/helios" -depth -type d -exec rmdir {} +
  done
}

pid_of() { cat "$state/pids/$1" 2>/dev/null; }

# running NAME GROUP: a number left by a dead process, or taken by a stranger, is not in our group.
running() {
  local pid
  pid=$(pid_of "$1") && grep -qsx "$pid" "$(cgroup_dir "$2")/cgroup.procs"
}

# start NAME GROUP COMMAND...: unless it runs already. Output goes to logs/NAME.log.
start() {
  local name=$1 group=$2
  shift 2
  running "$name" "$group" && return
  group_make "$group"
  mkdir -p "$state/pids" "$state/logs"
  (
    echo "$BASHPID" >"$(cgroup_dir "$group")/cgroup.procs"
    # 9 is the lock of this script: a process that kept it would hold the lock for as long as the cluster lives.
    exec setsid "$@" </dev/null &>>"$state/logs/$name.log" 9>&-
  ) &
  echo "$!" >"$state/pids/$name"
}
