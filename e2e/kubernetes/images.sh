#!/usr/bin/env bash
# Makes an image of one program and loads it into every node: `images.sh [--also-tag SUFFIX | --with SHELL] NAME BINARY [TAG]`.
# Prints NAME:TAG. Without TAG the tag is a hash of the content, so that it changes exactly when the image does.
# --with adds a shell, as /bin/sh, with the program in its PATH.
# --also-tag also tags the image NAME:TAG-SUFFIX and prints that on a second line: a new version to
# upgrade to. If KUBECONFIG names another cluster than the local one, the image is pushed to $HELIOS_IMAGE_REGISTRY or loaded into kind;
# `images.sh --check` fails if neither is possible.
set -euo pipefail
kubernetes_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib/all.sh
source "$kubernetes_dir/lib/all.sh"
usage="usage: images.sh [--also-tag SUFFIX | --with SHELL] NAME BINARY [TAG]"

require_way
[[ ${1:-} != --check ]] || exit 0
suffix= shell=
if [[ ${1:-} == --also-tag ]]; then
  suffix=${2:?"$usage"}
  shift 2
elif [[ ${1:-} == --with ]]; then
  shell=${2:?"$usage"}
  shift 2
fi
name=${1:?"$usage"} binary=${2:?"$usage"}
[[ -x $binary ]] || die "$binary is no program; build it first"

work=$(mktemp -d)
at_end "rm -rf $work"
rootfs_of "$binary" "$work/rootfs"
if [[ -n $shell ]]; then
  rootfs_of "$shell" "$work/rootfs"
  mkdir -p "$work/rootfs/bin"
  mv "$work/rootfs/$(basename "$shell")" "$work/rootfs/bin/sh"
  ln -s "/$(basename "$binary")" "$work/rootfs/bin/$(basename "$binary")"
fi
tag=${3:-$(rootfs_hash "$work/rootfs")}
for image in "$name:$tag" ${suffix:+"$name:$tag-$suffix"}; do
  deliver "$work/rootfs" "$(basename "$binary")" "$image"
done
