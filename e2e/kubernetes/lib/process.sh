# shellcheck shell=bash
# The cluster's processes. Each is in a control group under /helios, so the kernel keeps the list of all of them,
# with their descendants: only processes on that list are killed.

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

# A new cpuset has no CPUs, and no process can run in it before it is given some.
cpuset_inherit() {
  local file
  for file in cpuset.cpus cpuset.mems; do
    [[ -n $(<"$2/$file") ]] || cat "$1/$file" >"$2/$file"
  done
}

# On cgroup v2 a group has the controllers that its parent enables for it.
controllers_inherit() {
  local controller
  for controller in $(<"$1/cgroup.controllers"); do
    echo "+$controller" >"$1/cgroup.subtree_control"
  done
}

# group_members [GROUP]: prints the processes of GROUP and of all groups below it.
group_members() { find "$(cgroup_dir "${1:-}")" -name cgroup.procs -exec cat {} + 2>/dev/null || true; }

group_empty() { [[ -z $(group_members "${1:-}") ]]; }

# group_kill [GROUP]: kills all processes of GROUP; repeats until none is left, since a process may fork while its siblings die.
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

# running NAME GROUP: succeeds if the process of the pid file is in GROUP; a stale pid, or one reused by another process, is not.
running() {
  local pid
  pid=$(pid_of "$1") && grep -qsx "$pid" "$(cgroup_dir "$2")/cgroup.procs"
}

# start NAME GROUP COMMAND...: starts the command in GROUP, unless it runs already. Its output goes to logs/NAME.log.
start() {
  local name=$1 group=$2
  shift 2
  running "$name" "$group" && return
  group_make "$group"
  mkdir -p "$state/pids" "$state/logs"
  (
    echo "$BASHPID" >"$(cgroup_dir "$group")/cgroup.procs"
    # Descriptor 9 is the lock of this script: a process that inherited it would hold the lock as long as the cluster runs.
    exec setsid "$@" </dev/null &>>"$state/logs/$name.log" 9>&-
  ) &
  echo "$!" >"$state/pids/$name"
}
