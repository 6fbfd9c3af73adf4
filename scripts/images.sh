#!/usr/bin/env bash
# Builds programs of this workspace and loads their images into the cluster's nodes: `images.sh [PROGRAM...]`.
# Release builds, unless HELIOS_DEV=1. Prints a line NAME=IMAGE for each, to be evaluated; HELIOS_NODE_IMAGE_NEXT is the same node under another tag,
# a version to upgrade to.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib.sh
source "$root/scripts/lib.sh"

programs=("$@")
((${#programs[@]})) || programs=(heliosd helios-operator helios-writer)

# image NAME PROGRAM [OPTION...]
image() { "$root/e2e/kubernetes/images.sh" "${@:3}" "$1" "$(programs_path)/$2"; }

step "building ${programs[*]}" build_programs "${programs[@]}"
for program in "${programs[@]}"; do
  case $program in
  heliosd) image helios-node heliosd --also-tag next | sed '1s/^/HELIOS_NODE_IMAGE=/; 2s/^/HELIOS_NODE_IMAGE_NEXT=/' ;;
  helios-operator) image helios-operator helios-operator | sed 's/^/HELIOS_OPERATOR_IMAGE=/' ;;
  helios-writer) image helios-e2e helios-writer | sed 's/^/HELIOS_E2E_IMAGE=/' ;;
  *) die "there is no image of $program; there are images of heliosd, helios-operator, helios-writer" ;;
  esac
done
