# shellcheck shell=bash
# Functions that every script of this project uses. Source it; it starts nothing.
# Progress goes to standard error, so that a script's standard output is its result only.

readonly cache_root="${XDG_CACHE_HOME:-$HOME/.cache}/helios" state_root="${XDG_STATE_HOME:-$HOME/.local/state}/helios"
readonly local_kubeconfig="$state_root/cluster/kubeconfig"

say() { printf '%s\n' "$*" >&2; }

# die SENTENCE: prints one line that says what is needed, and exits with status 1.
die() {
  say "error: $*"
  exit 1
}

# Succeeds if KUBECONFIG names a cluster that is not the local one.
cluster_is_foreign() { [[ -n ${KUBECONFIG:-} && $KUBECONFIG != "$local_kubeconfig" ]]; }

need_cargo() {
  command -v cargo >/dev/null || die "building HeliosDB needs Rust (cargo), which is missing; see https://rustup.rs, rust-toolchain.toml names the version"
}

# build_programs PROGRAM...: builds for release, or with HELIOS_DEV=1 in the development profile, which compiles much faster.
build_programs() {
  local profile=(--release)
  [[ ${HELIOS_DEV:-} != 1 ]] || profile=()
  cargo build --manifest-path "$root/Cargo.toml" "${profile[@]}" "${@/#/--bin=}" >&2
}

# Prints the directory in which build_programs puts the programs.
programs_path() {
  local profile=release
  [[ ${HELIOS_DEV:-} != 1 ]] || profile=debug
  echo "${CARGO_TARGET_DIR:-$root/target}/$profile"
}

# step WHAT COMMAND...: runs the command; prints WHAT, a line every 30 s while it runs, and how long it took. A failure ends
# the script. In a condition COMMAND has to be a program: there bash continues after a failure inside a function.
step() {
  local what=$1 started=$SECONDS status
  shift
  say "==> $what"
  steps+=("$what")
  # The ticker ends at the end of its standard input, whose other end only this shell holds.
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
    say "    still running after $waited s: $1"
  done
}

# at_end COMMAND: runs the command when the script ends, with or without a failure; in reverse order of registration.
at_end() { ends=("$1" "${ends[@]}"); }
ends=()

# at_failure COMMAND: runs the command when the script ends with a failure, before the commands of at_end.
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

# await SECONDS WHAT COMMAND...: retries the command until it succeeds; after SECONDS it reports that WHAT did not happen, and fails.
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
    say "    the whole output is in $log"
    return 1
  }
}
