# shellcheck shell=bash
# Builds images from scratch, without a container engine.

readonly pause_image=helios-pause:1

# rootfs_of BINARY DIRECTORY: copies the program and the shared libraries it loads, each to the path at which the loader looks for it.
# glibc resolves host names without NSS libraries, from /etc/resolv.conf.
rootfs_of() {
  local binary=$1 rootfs=$2 library
  mkdir -p "$rootfs"
  # Debug sections are most of a development build; symbols stay for backtraces.
  objcopy --strip-debug "$binary" "$rootfs/$(basename "$binary")"
  { ldd "$binary" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | while read -r library; do
    install -D "$library" "$rootfs$library"
  done
}

rootfs_hash() { (cd "$1" && find . -type f | sort | xargs sha256sum | sha256sum | cut -c1-12); }

# image_build ROOTFS PROGRAM NAME:TAG DESTINATION: builds an image of exactly ROOTFS that starts /PROGRAM without privileges.
# DESTINATION is as for `buildah push`.
image_build() {
  local rootfs=$1 program=$2 image=$3 destination=$4 store status=0
  store=$(mktemp -d)
  printf 'FROM scratch\nCOPY . /\nUSER 65532:65532\nENTRYPOINT ["/%s"]\n' "$program" >"$store/Containerfile"
  image_tool "$store" bud --quiet --timestamp 0 --tag "$image" --file "$store/Containerfile" "$rootfs" >/dev/null &&
    image_tool "$store" push --quiet "$image" "$destination" || status=$?
  rm -rf "$store"
  return "$status"
}

# image_tool STORE ARGUMENTS...: runs buildah on a separate store, not the user's.
image_tool() {
  local store=$1
  shift
  BUILDAH_ISOLATION=chroot buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"
}
