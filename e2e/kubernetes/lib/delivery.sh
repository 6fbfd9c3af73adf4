# shellcheck shell=bash
# How an image reaches the nodes: into the local cluster, into kind, or through a registry.

# Fails if images cannot reach the cluster: another cluster than the local one needs a registry or has to be kind.
require_way() {
  cluster_is_foreign && [[ -z ${HELIOS_IMAGE_REGISTRY:-} ]] || return 0
  [[ $(kubectl config current-context) == kind-* ]] ||
    die "the cluster of KUBECONFIG has to pull the images from a registry: set HELIOS_IMAGE_REGISTRY to one that you may push to and its nodes may pull from"
  command -v kind >/dev/null || die "loading images into a kind cluster needs the program kind; or set HELIOS_IMAGE_REGISTRY"
}

# deliver ROOTFS PROGRAM NAME:TAG: builds the image, makes it available to the nodes, and prints the name that pods use.
deliver() {
  if ! cluster_is_foreign; then
    deliver_local "$@"
  elif [[ -n ${HELIOS_IMAGE_REGISTRY:-} ]]; then
    step "pushing $HELIOS_IMAGE_REGISTRY/$3" image_build "$1" "$2" "$3" "docker://$HELIOS_IMAGE_REGISTRY/$3"
    echo "$HELIOS_IMAGE_REGISTRY/$3"
  else
    deliver_kind "$@"
  fi
}

deliver_local() {
  local image=$3 node missing=() archive
  [[ -S $state/${nodes[0]}/containerd.sock ]] || die "the local cluster is not up: run make cluster, or set KUBECONFIG to a cluster you have"
  for node in "${nodes[@]}"; do
    node_has_image "$node" "$image" || missing+=("$node")
  done
  if ((${#missing[@]})); then
    archive=$(mktemp -d)/image.tar
    step "image $image" image_build "$1" "$2" "$image" "docker-archive:$archive:$image"
    for node in "${missing[@]}"; do node_import "$node" "$archive"; done
    rm -rf "$(dirname "$archive")"
  fi
  echo "$image"
}

deliver_kind() {
  local image=$3 context archive
  context=$(kubectl config current-context)
  archive=$(mktemp -d)/image.tar
  image_build "$1" "$2" "$image" "docker-archive:$archive:$image"
  step "image $image into $context" kind load image-archive "$archive" --name "${context#kind-}" >&2
  rm -rf "$(dirname "$archive")"
  echo "$image"
}
