# shellcheck shell=bash
# What every script of this project uses. Source it; it starts nothing.
# Progress goes to standard error, so that a script's standard output is its result and nothing else.

readonly cache_root="${XDG_CACHE_HOME:-$HOME/.cache}/helios" state_root="${XDG_STATE_HOME:-$HOME/.local/state}/helios"
readonly local_kubeconfig="$state_root/cluster/kubeconfig"

say() { printf '%s\n' "$*" >&2; }

# die SENTENCE: one line that says what is needed, then the end.
die() {
  say "error: $*"
  exit 1
}

# Whether KUBECONFIG names a cluster that is not the local one.
cluster_is_foreign() { [[ -n ${KUBECONFIG:-} && $KUBECONFIG != "$local_kubeconfig" ]]; }

need_cargo() {
  command -v cargo >/dev/null || die "building HeliosDB needs Rust (cargo) and it is not here; see https://rustup.rs, rust-toolchain.toml names the version"
}

# build_programs PROGRAM...: release builds, or with HELIOS_DEV=1 those of `cargo build`, which are compiled much sooner.
build_programs() {
  local profile=(--release)
  [[ ${HELIOS_DEV:-} != 1 ]] || profile=()
  cargo build --manifest-path "$root/Cargo.toml" "${profile[@]}" "${@/#/--bin=}" >&2
}

# Prints where build_programs puts them.
programs_path() {
  local profile=release
  [[ ${HELIOS_DEV:-} != 1 ]] || profile=debug
  echo "${CARGO_TARGET_DIR:-$root/target}/$profile"
}

# step WHAT COMMAND...: runs the command and says what it does, that it still does, and how long it took. A failure ends
# the script. In a condition COMMAND has to be a program: bash runs on after a failure inside a function there.
step() {
  local what=$1 started=$SECONDS status
  shift
  say "==> $what"
  steps+=("$what")
  # The ticker lives until its standard input ends, and only this shell holds the other side.
  exec 7> >(tick "$what")
  "$@" 7>&-
  status=$?
  exec 7>&-
  unset 'steps[-1]'
  if ((status)); then say "    failed after $((SECONDS - started)) s: $what"; else say "    $((SECONDS - started)) s"; fi
  return "$status"
}
steps=()

tick() {
  local waited=0 status=0
  until read -rt 30 || status=$? && ((status <= 128)); do
    waited=$((waited + 30))
    say "    still at it after $waited s: $1"
  done
}

# at_end COMMAND: run when the script ends, however it ends; the last one given comes first.
at_end() { ends=("$1" "${ends[@]}"); }
ends=()

# at_failure COMMAND: run when the script ends with a failure, before the commands of at_end.
at_failure() { failures+=("$1"); }
failures=()

finish() {
  local status=$? command
  set +e
  if ((status)); then
    for command in "${failures[@]}"; do $command; done
    ((${#steps[@]} == 0)) || say "    failed: ${steps[-1]}"
  fi
  for command in "${ends[@]}"; do $command; done
  exit "$status"
}
trap finish EXIT

# await SECONDS WHAT COMMAND...: tries the command until it succeeds; after SECONDS it says WHAT did not happen and fails.
await() {
  local deadline=$((SECONDS + $1)) limit=$1 what=$2
  shift 2
  until "$@" &>/dev/null; do
    if ((SECONDS >= deadline)); then
      say "error: not within $limit s: $what"
      return 1
    fi
    sleep 0.1
  done
}

# quietly LOG COMMAND...: keeps the command's output in LOG and shows its end only when the command fails.
quietly() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  "$@" &>"$log" || {
    tail -n 40 "$log" >&2
    say "    all of it is in $log"
    return 1
  }
}
